"""The proof of upcasters over the stored events: that folding upcast events equals folding new ones.

The independent fold goes through the topic, and wherever an event is upcast, it is folded twice on the same rows: as the
upcaster made it, and as the event that comes back when that one is encoded as today's and decoded by today's class. While
both leave the same rows, the next event meets the same rows; so by induction the whole history of a key folds as if its owner
had written it anew. Where they part, the first place of each old type is named.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from truecopy_bus.log import Log
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.amendment import NO_AMENDMENTS
from truecopy_projections.projection import Change, Projection
from truecopy_projections.reference import Fold, Rows, Way, fed, reduced
from truecopy_schemas import Event, TruecopyError, UndecodableError, avro_schema, encode, fingerprint
from truecopy_schemas.codec import Decoder
from truecopy_schemas.upcasting import upcast

__all__ = ["Parting", "UpcastProof", "prove_upcasts"]

_FINGERPRINT_CHARS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """Where an upcast event and the same event written as today's first part: `why` tells what each of them left."""

    key: str
    version: int
    why: str

    def __str__(self) -> str:
        return f"{self.key!r} at version {self.version}: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpcastProof:
    """What was seen of a projection's upcasters, by old type (its full name and the beginning of its schema's fingerprint).

    `events` were folded both ways, `keys` have such events, `partings` are the first of each type. `unproven` are events of any
    type that were not folded, because they wait for one that is missing or behind one that could not be applied.
    """

    projection: str
    events: Mapping[str, int]
    keys: int
    partings: Mapping[str, Parting]
    unproven: int

    @property
    def holds(self) -> bool:
        """Whether all stored events were folded, and none parted."""
        return not self.partings and not self.unproven

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        parted = {name: {"key": one.key, "version": one.version, "why": one.why} for name, one in sorted(self.partings.items())}
        return {
            "projection": self.projection,
            "holds": self.holds,
            "events": dict(sorted(self.events.items())),
            "keys": self.keys,
            "unproven": self.unproven,
            "partings": parted,
        }


async def prove_upcasts(
    projection: Projection[Any], log: Log, schemas: SchemaSource, *, topic: str, upto: Mapping[int, int]
) -> UpcastProof:
    """Fold the topic to before the offsets `upto`, upcast events both ways. It reads the log alone, and raises like replay."""
    folding = _Proving(projection)
    await fed(folding, log, schemas, topic=topic, upto=upto)
    waiting = sum(map(len, folding.pending.values()))
    return UpcastProof(
        projection=projection.id,
        events=folding.events,
        keys=len(folding.keys),
        partings=folding.partings,
        unproven=folding.unproven + waiting,
    )


class _Proving(Fold):
    """A fold that tries the upcast events both ways."""

    def __init__(self, projection: Projection[Any]) -> None:
        super().__init__(projection, {}, None, NO_AMENDMENTS)
        self.events: dict[str, int] = {}
        self.keys: set[str] = set()
        self.partings: dict[str, Parting] = {}
        self.unproven = 0

    def told_by(self, way: Way, rows: Rows, body: bytes, change: Change) -> Rows:
        handler, decoder, steps = way
        if not steps or decoder is None:
            return super().told_by(way, rows, body, change)
        name = f"{steps[0].old.__event_name__} {fingerprint(decoder.schema).hex()[:_FINGERPRINT_CHARS]}"
        self.events[name] = self.events.get(name, 0) + 1
        self.keys.add(change.key)
        try:
            event = upcast(decoder.decode_event(body), steps)
            again = _written_anew(event, change.version)
        except UndecodableError:
            raise
        except TruecopyError as fault:
            self.partings.setdefault(name, Parting(key=change.key, version=change.version, why=str(fault)))
            raise
        one = _left(lambda: reduced(self.projection, rows, handler, event, change))
        other = _left(lambda: reduced(self.projection, rows, handler, again, change))
        if one != other:
            why = f"upcast it leaves {one}, written as {type(event).__event_name__} it leaves {other}"
            self.partings.setdefault(name, Parting(key=change.key, version=change.version, why=why))
        return reduced(self.projection, rows, handler, event, change)

    def reduce(self, key: str, version: int, effect: Callable[[Rows], Rows]) -> None:
        super().reduce(key, version, effect)
        self.unproven += key in self.stuck


def _written_anew(event: Event, version: int) -> Event:
    cls = type(event)
    return Decoder(avro_schema(cls), cls).decode_event(encode(event, version=version))


def _left(fold: Callable[[], Rows]) -> Rows | str:
    """The rows, or what the reducer raised."""
    try:
        return fold()
    except KeyboardInterrupt:
        raise
    except BaseException as fault:  # whatever it is, both ways must raise it
        return f"{type(fault).__name__}: {fault}"
