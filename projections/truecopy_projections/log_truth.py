"""The truth of a repair from the log: what the fold says that each partition should hold.

It leaves parked keys parked, at the version that was applied: what may have been mended is tried again when a worker takes the
partition back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from truecopy_bus.fold import UNKNOWN
from truecopy_bus.leases import Fence
from truecopy_bus.log import Log
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.claims import wrong_keys
from truecopy_projections.digest import row_hash, total
from truecopy_projections.errors import RepairRefusedError
from truecopy_projections.evidence import Evidence, gather, is_waiting, tallied
from truecopy_projections.gathered_check import gathered_differences, refolding
from truecopy_projections.projection import Address, Projection
from truecopy_projections.replica import Replica
from truecopy_projections.state import Checkpoint, KeyState, PartitionPlan, PartitionState, Reason, StoredRow, Waiting
from truecopy_projections.verdicts import Difference

__all__ = ["NO_FENCE", "Truth", "log_truth"]

NO_FENCE = Fence(partition=-1, epoch=0, claim=b"")
"""Of a plan that nobody may apply yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What a repair would change: the differing rows, the keys whose state is wrong, and the plans, still without their fences.

    `rows` are all there are, on the side that has more; `source` is who says so; `left` tells what can't be said now.
    `records` are partitions and offsets of quarantined records and checkpoints that are not what the log holds.
    """

    source: str
    differences: Sequence[Difference]
    keys: Sequence[str]
    plans: Sequence[PartitionPlan]
    rows: int
    left: str = ""
    records: Sequence[tuple[int, int]] = ()


async def log_truth(projection: Projection[Any], replica: Replica, log: Log, schemas: SchemaSource, *, topic: str) -> Truth:
    """Fold the log and compare everything. Raises RepairRefusedError where it can't be folded, and like check."""
    found = await gather(projection, replica, log, schemas, topic=topic, deep=True)
    if (reference := found.reference) is None:
        raise RepairRefusedError(f"{projection.id}: nothing to repair from: {found.why_none}")
    if found.bookkeeping is not None:  # what waits decides what is parked
        found = replace(found, waiting=found.bookkeeping.mended(found.waiting))
    # Counts become the log's, and so do the heads of keys that wait and were not counted.
    uncounted = {key for key, state in found.keys.items() if state.head != reference.heads.get(key, UNKNOWN)}
    wrong = sorted({*wrong_keys(found, reference), *uncounted})
    differences = [*found.differences, *gathered_differences(found.gathered)]
    plans = refolding(projection, _plans(projection, found, wrong), differences)
    rows = max(found.stored_rows, found.meant_rows) + sum(one.rows for one in found.gathered)
    records = found.bookkeeping.places if found.bookkeeping is not None else ()
    return Truth(source="log", differences=differences, keys=wrong, plans=plans, rows=rows, records=records)


def _meant(found: Evidence, key: str) -> KeyState | None:
    """What the log says of a key; that it is parked, only if the quarantine bears it out. None: the log knows no such key."""
    reference, known = found.reference, found.keys.get(key)
    assert reference is not None
    parked = known.parked if known is not None and is_waiting(key, known, found.waiting) else None
    if parked is Reason.CONFLICT and key not in reference.conflicts:
        parked = None  # the replica's version was altered, and the next event met it
    head = reference.heads.get(key)
    if head is None:
        return known if parked else None
    applied = reference.applied.get(key, 0)
    return KeyState(head, applied, parked or (None if applied == head.version else Reason.REJECTED))


def _freed(found: Evidence) -> dict[int, frozenset[int]]:
    """The offsets, by partition, of what waits though the log says that its key goes on, and of strangers yet to be read."""
    going = {
        w.key for w in found.waiting if w.key is not None and ((meant := _meant(found, w.key)) is None or not meant.parked)
    }
    return {
        p: frozenset(
            w.offset
            for w in found.waiting
            if w.partition == p and (w.key in going or (w.key is None and w.offset >= state.position))
        )
        for p, state in found.states.items()
    }


def _mended(found: Evidence, state: PartitionState) -> PartitionState:
    """A partition's state with the figures that the log gives it."""
    reference, p = found.reference, state.partition
    assert reference is not None
    known = {*found.keys, *reference.heads}
    keys = {key: meant for key in known if (meant := _meant(found, key)) is not None}
    homes = {**found.homes, **reference.partition}
    freed = _freed(found)
    kept = [w for w in found.waiting if w.offset not in freed.get(w.partition, ())]
    return replace(
        tallied(state, keys, homes, kept),
        rows=found.folded[p],
        row_digest=total(found.folded[p]),
        count=reference.counts.get(p, 0),
        input_digest=reference.digests.get(p, 0),
        relay_epoch=found.bookkeeping.relay_epoch(p) if found.bookkeeping is not None else state.relay_epoch,
    )


def _plans(projection: Projection[Any], found: Evidence, wrong: Sequence[str]) -> list[PartitionPlan]:
    reference = found.reference
    assert reference is not None
    puts: dict[int, dict[Address, StoredRow]] = {p: {} for p in found.states}
    drops: dict[int, set[Address]] = {p: set() for p in found.states}
    keys: dict[int, dict[str, KeyState]] = {p: {} for p in found.states}
    forgotten: dict[int, set[str]] = {p: set() for p in found.states}
    strays: dict[int, set[tuple[int, Address]]] = {p: set() for p in found.states}
    somewhere = next(iter(found.states))
    for one in found.differences:
        # A ghost's key may be unknown to the log: any held partition can then delete it.
        p = reference.partition.get(one.key, somewhere)
        values = reference.rows.get(one.key, {}).get(one.row)
        if "_bucket" in one.fields:
            strays[p].add((one.fields["_bucket"][0], (one.key, one.row)))
        elif values is None:
            drops[p].add((one.key, one.row))
        else:
            puts[p][(one.key, one.row)] = StoredRow(values, row_hash(projection.id, one.key, values))
    for key in wrong:
        p = reference.partition.get(key, somewhere)
        if (meant := _meant(found, key)) is not None:
            keys[p][key] = meant
        else:
            forgotten[p].add(key)
    freed = _freed(found)
    waits: list[Waiting] = []
    checkpoints: list[Checkpoint] = []
    if (right := found.bookkeeping) is not None:
        waits = [w for w in right.waiting.values() if w is not None and w.offset not in freed.get(w.partition, ())]
        checkpoints = list(right.checkpoints.values())
        for p, offset in [at for at, w in right.waiting.items() if w is None]:
            freed[p] |= {offset}
    return [
        PartitionPlan(
            fence=NO_FENCE,
            was=state,
            state=_mended(found, state),
            puts=puts[p],
            drops=frozenset(drops[p]),
            keys=keys[p],
            forgotten=frozenset(forgotten[p]),
            strays=frozenset(strays[p]),
            freed=freed[p],
            waits=[w for w in waits if w.partition == p],
            checkpoints=[c for c in checkpoints if c.partition == p],
        )
        for p, state in found.states.items()
    ]
