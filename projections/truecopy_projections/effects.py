"""Effects: what a projection asks the world to do because of one event, each fired once.

An effect is made by a pure function of the row before, the event and the row after, and is written in the transaction that
applies the event. Versions above what a projection's name has fired for the key fire, all others were there before: so records
that come twice, repairs, restores and other numbers of the projection fire nothing again. Who delivers effects takes them in
the order of each key, and may write in the transaction in which they are removed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic_core import PydanticSerializationError, to_json

from truecopy_bus.sql import Connection
from truecopy_projections.errors import EffectRejectedError
from truecopy_projections.limits import EFFECT_BYTES_MAX, EFFECT_KIND_CHARS_MAX, EFFECTS_EVENT_MAX

__all__ = ["Delivery", "Effect", "FiredEffect", "fired"]


class Effect(NamedTuple):
    """What is asked for: a kind, by which it is told from others, and a payload of JSON values or a pydantic model."""

    kind: str
    payload: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class FiredEffect:
    """The n-th effect (from 0) of a version of a key, its payload as JSON."""

    projection: str
    key: str
    version: int
    n: int
    kind: str
    payload: str

    @property
    def id(self) -> str:
        """The same whenever and wherever it is delivered, and no other's: what a receiver tells repetitions by."""
        return f"{self.projection}:{self.key}:{self.version}:{self.n}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Effects that are handed out, in the order of each key. They are removed when the block that was given them ends well.

    `connection` is the transaction in which they are: what is written by it is written exactly once. None in memory. Effects
    whose id the block puts into `left` stay; leave those behind one of the same key too.
    """

    effects: tuple[FiredEffect, ...]
    connection: Connection | None
    left: set[str] = field(default_factory=set)


def fired(projection: str, key: str, version: int, made: Iterable[Effect]) -> list[FiredEffect]:
    """The effects of one event as they are kept. Raises EffectRejectedError."""
    found: list[FiredEffect] = []
    for n, effect in enumerate(made):
        if n == EFFECTS_EVENT_MAX:
            raise EffectRejectedError(projection, key, version, f"more than {EFFECTS_EVENT_MAX} effects of one event")
        if not isinstance(effect, Effect):
            raise EffectRejectedError(projection, key, version, f"{type(effect).__name__} was made, expected an Effect")
        if not 0 < len(effect.kind) <= EFFECT_KIND_CHARS_MAX or "\0" in effect.kind:
            why = f"kind {effect.kind!r:.80} has not 1 to {EFFECT_KIND_CHARS_MAX} characters without U+0000"
            raise EffectRejectedError(projection, key, version, why)
        try:
            payload = to_json(effect.payload)
        except (PydanticSerializationError, ValueError) as fault:
            raise EffectRejectedError(projection, key, version, f"its payload is no JSON: {fault}") from None
        if len(payload) > EFFECT_BYTES_MAX:
            why = f"its payload has {len(payload)} bytes, at most {EFFECT_BYTES_MAX} are taken"
            raise EffectRejectedError(projection, key, version, why)
        told = payload.decode()
        found.append(FiredEffect(projection=projection, key=key, version=version, n=n, kind=effect.kind, payload=told))
    return found
