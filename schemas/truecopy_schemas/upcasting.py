"""Upcasters: pure functions by which events that were written as an old type are read as today's.

    @upcasts(PricedInCents, Priced)
    def priced(old: PricedInCents) -> Priced:
        return Priced(amount=Decimal(old.cents) / 100)

Avro's own resolution reads fields that were added with a default. An upcaster is for what it can't know: a meaning that
changed, a name, a unit. The old class may have a full name of its own, or that of the new one: then it reads exactly the
events whose schema is its own, and the new class all others of the name. Upcasters chain, one step for each change.

Bytes on the log are never rewritten, so counts, hash chains and digests stay what they are. What reads the log asks for the
types that it handles, and a type that it handles itself is not upcast any further.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from truecopy_schemas.avro_schema import AvroSchema, avro_schema, canonical, full_name
from truecopy_schemas.codec import Decoder
from truecopy_schemas.errors import InvalidSchemaError, UpcastError
from truecopy_schemas.event import Event

__all__ = ["Upcaster", "UpcastingDecoder", "decoder_of", "upcast", "upcast_classes", "upcaster_of", "upcasts"]

_Old = TypeVar("_Old", bound=Event)
_New = TypeVar("_New", bound=Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upcaster:
    """One step: what makes an event of `new` from one of `old`."""

    old: type[Event]
    new: type[Event]
    function: Callable[[Any], Event]


_DECLARED: dict[type[Event], Upcaster] = {}
"""By old class. Like classes, upcasters are declared where a module is imported, and never taken back."""


def upcasts(old: type[_Old], new: type[_New]) -> Callable[[Callable[[_Old], _New]], Callable[[_Old], _New]]:
    """Register what makes an event of today's type from one of an old type. It must depend on the old event alone.

    Raises InvalidSchemaError when the two are of another entity or kind, or only one of them deletes; when `old` has an
    upcaster already, or comes again further on; and when both have one schema, so that nothing tells them apart.
    """
    _refuse_unlike(old, new)
    if old in _DECLARED:
        problem = f"it is upcast to {_DECLARED[old].new.__name__} already"
        raise InvalidSchemaError(where=old.__name__, problem=problem, remedy="let one upcaster lead to the other's type")
    further: list[type[Event]] = [new, *(step.new for step in _steps(new))]
    for later in further:
        if later is old or _same(avro_schema(later), old):
            problem = f"{later.__name__}, to which {new.__name__} leads, can't be told from it"
            raise InvalidSchemaError(where=old.__name__, problem=problem, remedy="upcast to a type that came later")

    def register(function: Callable[[_Old], _New]) -> Callable[[_Old], _New]:
        _DECLARED[old] = Upcaster(old=old, new=new, function=function)
        return function

    return register


def upcaster_of(old: type[Event]) -> Upcaster | None:
    """The step that leads on from a type."""
    return _DECLARED.get(old)


def upcast_classes() -> tuple[type[Event], ...]:
    """All types from which a step leads on."""
    return tuple(_DECLARED)


def upcast(event: Event, steps: Iterable[Upcaster]) -> Event:
    """The event after these steps. Raises UpcastError."""
    for step in steps:
        name = step.old.__event_name__
        try:
            event = step.function(event)
        except KeyboardInterrupt:
            raise
        except BaseException as fault:  # the user's function; whatever it raises, an exit too, is about this event
            raise UpcastError(event_name=name, problem=f"its upcaster raised {type(fault).__name__}: {fault}") from fault
        if type(event) is not step.new:
            problem = f"its upcaster returned {type(event).__name__}, expected {step.new.__name__}"
            raise UpcastError(event_name=name, problem=problem)
    return event


class UpcastingDecoder(Decoder[Event]):
    """Decodes the bodies of one writer's schema as events of an old class, and hands out today's."""

    def __init__(self, schema: AvroSchema, steps: tuple[Upcaster, ...]) -> None:
        super().__init__(schema, steps[0].old)
        self.steps = steps

    def decode_event(self, body: bytes) -> Event:
        """The event in a body, as the last step makes it. Raises UndecodableError, UpcastError."""
        return upcast(super().decode_event(body), self.steps)


def decoder_of(schema: AvroSchema, handled: Collection[type[Event]]) -> tuple[type[Event], Decoder[Event]] | None:
    """What reads a writer's events as one of the types `handled`, and which of them; None if they are none of those.

    A handled class reads its own schema; else a class whose schema it is and that leads to a handled one; else the handled
    class of that name, by Avro's resolution; else the last class of that name that leads to one. Raises InvalidSchemaError
    like Decoder, and when two classes of the name lead to handled ones and neither leads to the other.
    """
    name = full_name(schema)
    own = [cls for cls in handled if cls.__event_name__ == name]
    paths = [path for old in _DECLARED if old.__event_name__ == name and (path := _path(old, handled))]
    exact = [path for path in paths if _same(schema, path[0].old)]
    if own and (not exact or any(_same(schema, cls) for cls in own)):
        return own[0], Decoder(schema, own[0])
    last = exact or [path for path in paths if all(step.new.__event_name__ != name for step in path)]
    if len(last) > 1:
        told = " and ".join(path[0].old.__name__ for path in last)
        problem = f"both {told} are called {name}, and neither is upcast to the other"
        raise InvalidSchemaError(where=name, problem=problem, remedy="declare an upcaster from the earlier to the later one")
    if not last:
        return None
    return last[0][-1].new, UpcastingDecoder(schema, last[0])


def _same(schema: AvroSchema, cls: type[Event]) -> bool:
    return canonical(schema) == canonical(avro_schema(cls))


def _path(old: type[Event], handled: Collection[type[Event]]) -> tuple[Upcaster, ...]:
    """The steps from a class to the first handled one; none if it is handled itself or leads to none."""
    path: list[Upcaster] = []
    if old not in handled:
        for step in _steps(old):
            path.append(step)
            if step.new in handled:
                return tuple(path)
    return ()


def _steps(old: type[Event]) -> Iterator[Upcaster]:
    while (step := _DECLARED.get(old)) is not None:
        yield step
        old = step.new


def _refuse_unlike(old: type[Event], new: type[Event]) -> None:
    pairs = {
        "entity": (old.__entity__, new.__entity__),
        "kind": (old.__kind__, new.__kind__),
        "deletes": (old.__deletes__, new.__deletes__),
    }
    for what, (was, now) in pairs.items():
        if was != now or not old.__entity__:
            problem = f"its {what} is {was!r}, that of {new.__name__} is {now!r}"
            remedy = "an upcaster changes what an event says, not what it is: declare both for one entity, kind and deletes"
            raise InvalidSchemaError(where=old.__name__, problem=problem, remedy=remedy)
