"""Proving what was applied since a proof: the tail of the log is folded by itself, from rows that were proven, and compared.

A whole check folds the log from its beginning, and nobody can be held up for so long. But a number that was EQUAL at some
positions, and has since applied a tail of events, can differ only in the keys of that tail. Their rows as of the proof are
kept, the independent fold goes on from them, and rows, heads, counts and digests have to be what it makes of the tail.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truecopy_bus.fold import DIGEST_MODULUS, UNKNOWN
from truecopy_bus.log import Log
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.amendment import Amendments
from truecopy_projections.digest import row_hash
from truecopy_projections.errors import NotCaughtUpError
from truecopy_projections.limits import TAIL_EVENTS_MAX
from truecopy_projections.projection import Projection
from truecopy_projections.reference import Fold, ForeignFold, Rows, fed
from truecopy_projections.replica import Replica, Snapshot
from truecopy_projections.state import KeyState, PartitionState
from truecopy_schemas.control import CONTROL_KEY

__all__ = ["Proven", "proven_at", "wrong_since"]

_Digests = dict[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """A number as it was when it was proven, as far as a tail concerns it: states, and the tail's keys with their rows."""

    states: Mapping[int, PartitionState]
    keys: Mapping[str, tuple[KeyState | None, Rows]]
    amendments: Amendments


async def proven_at(
    projection: Projection[Any], replica: Replica, log: Log, schemas: SchemaSource, *, topic: str, upto: Mapping[int, int]
) -> Proven:
    """What the events from the replica's positions to `upto` will concern, as it is before they are applied.

    Nobody may apply meanwhile. Raises NotCaughtUpError for a tail of more than TAIL_EVENTS_MAX events.
    """
    async with replica.snapshot() as snapshot:
        states = await snapshot.states(projection.id)
        amendments = await snapshot.amendments(projection.id)
        names = _Names()
        fold_one = _fold(projection, amendments, names)
        await fed(fold_one, log, schemas, topic=topic, upto=upto, after={p: s.position for p, s in states.items()})
        if names.events > TAIL_EVENTS_MAX:
            why = f"the tail since the proof has {names.events} events, at most {TAIL_EVENTS_MAX} are folded while all is held"
            raise NotCaughtUpError(projection=projection.id, left=names.events, why=why)
        keys = {key: await _key(projection, snapshot, key) for key in sorted(names.seen)}
    return Proven(states=states, keys=keys, amendments=amendments)


async def wrong_since(
    projection: Projection[Any],
    replica: Replica,
    log: Log,
    schemas: SchemaSource,
    proven: Proven,
    *,
    topic: str,
    upto: Mapping[int, int],
) -> str:
    """What of the number, which is at `upto` by now, is not what the fold makes of the tail; "" if all is."""
    fold_one = _fold(projection, proven.amendments, None)
    for key, (state, rows) in proven.keys.items():
        if state is not None:
            fold_one.found.heads[key], fold_one.found.applied[key] = state.head, state.applied
            fold_one.found.rows[key] = rows
    found = await fed(fold_one, log, schemas, topic=topic, upto=upto, after={p: s.position for p, s in proven.states.items()})
    async with replica.snapshot() as snapshot:
        states = await snapshot.states(projection.id)
        moves: _Digests = {}
        for key, (_, before) in proven.keys.items():
            state, now = await _key(projection, snapshot, key)
            if state is None or state.parked is not None:
                return f"key {key!r} waits: {'nothing of it is applied' if state is None else state.parked}"
            if now != found.rows.get(key, {}) or state.head != found.heads.get(key, UNKNOWN):
                return f"the rows or the history of key {key!r} are not what the fold makes of them"
            p = found.partition[key]
            moves[p] = moves.get(p, 0) + _hashes(projection, key, now) - _hashes(projection, key, before)
    for p, was in proven.states.items():
        seen = states[p]
        expected = (
            upto.get(p, was.position),
            was.count + found.counts.get(p, 0),
            (was.input_digest + found.digests.get(p, 0)) % DIGEST_MODULUS,
            (was.row_digest + moves.get(p, 0)) % DIGEST_MODULUS,
        )
        if (seen.position, seen.count, seen.input_digest, seen.row_digest) != expected:
            return f"position, count or digests of partition {p} are not what the tail makes of those that were proven"
    return ""


class _Names:
    """Takes down whose events come, and folds none of them."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.events = 0

    def wants(self, record: Any) -> bool:
        if record.key is not None and record.key != CONTROL_KEY:
            self.events += 1
            if self.events <= TAIL_EVENTS_MAX:
                self.seen.add(record.key.decode(errors="replace"))
        return False

    def step(self, key: str, version: int, rows: Rows) -> None:
        """Nothing is folded."""


def _fold(projection: Projection[Any], amendments: Amendments, watch: _Names | None) -> Fold:
    return (Fold if projection.foreign is None else ForeignFold)(projection, {}, watch, amendments)


async def _key(projection: Projection[Any], snapshot: Snapshot, key: str) -> tuple[KeyState | None, Rows]:
    state, rows = await snapshot.get(projection, key)
    return state, {projection.sub_key(row.values): row.values for row in rows}


def _hashes(projection: Projection[Any], key: str, rows: Rows) -> int:
    values: Sequence[tuple[Any, ...]] = tuple(rows.values())
    return sum(int.from_bytes(row_hash(projection.id, key, one)) for one in values)
