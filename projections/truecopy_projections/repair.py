"""Repair: bring a replica's rows back to what the log yields, row by row, with a journal of before and after.

A dry run plans and changes nothing. An applied repair takes all partitions' leases first, so that nothing moves under it and
a worker's batch in flight fails its fence; then it looks again, and writes in one durable transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from truecopy_bus.leases import Fence
from truecopy_bus.log import Log
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.check import wrong_keys
from truecopy_projections.digest import row_hash, total
from truecopy_projections.errors import RepairRefusedError
from truecopy_projections.evidence import Evidence, gather, is_waiting, tallied
from truecopy_projections.gathered_check import gathered_differences, refolds_of
from truecopy_projections.limits import REPAIR_LEASE_S, REPAIR_ROWS_MAX
from truecopy_projections.projection import Address, Projection
from truecopy_projections.replica import Replica
from truecopy_projections.state import KeyState, PartitionPlan, PartitionState, Reason, StoredRow
from truecopy_projections.verdicts import Difference, difference_json

__all__ = ["Repair", "repair"]

_HOLDER = "truecopy repair"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What a repair plans, and what it did. `digests` are the partitions whose count or digests are written anew.

    `keys` are source keys whose version or element was wrong. Nothing was written unless `applied`.
    """

    projection: str
    planned: Sequence[Difference]
    digests: Sequence[int]
    keys: Sequence[str]
    applied: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "projection": self.projection,
            "planned": [difference_json(one) for one in self.planned],
            "digests": list(self.digests),
            "keys": list(self.keys),
            "applied": self.applied,
        }


async def repair(
    projection: Projection[Any],
    replica: Replica,
    log: Log,
    schemas: SchemaSource,
    *,
    topic: str | None = None,
    apply: bool = False,
    rows_max: int = REPAIR_ROWS_MAX,
) -> Repair:
    """Plan, and with `apply` carry out, the repair of one projection in one replica from the fold of the log.

    Raises RepairRefusedError (more than `rows_max` rows, or no whole log to fold), and like check.
    """
    name = topic or projection.entity
    if not apply:
        found = await gather(projection, replica, log, schemas, topic=name, deep=True)
        return _planned(projection, found, rows_max)
    fences = await replica.renew(projection, _HOLDER, (), lease_s=REPAIR_LEASE_S, seize=True)
    try:
        found = await gather(projection, replica, log, schemas, topic=name, deep=True)
        planned = _planned(projection, found, rows_max)
        if planned.planned or planned.digests or planned.keys:
            plans = _plans(projection, found, planned, fences)
            journal = [("repair", {"projection": projection.id, **difference_json(one)}) for one in planned.planned]
            committed = await replica.apply(projection, plans, durable=True, journal=journal)
            if missed := {one.fence.partition for one in plans} - committed:
                raise RepairRefusedError(f"{projection.id}: partitions {sorted(missed)} were taken meanwhile; repair again")
        return replace(planned, applied=True)
    finally:
        await replica.leave(projection, _HOLDER, fences.values())


def _planned(projection: Projection[Any], found: Evidence, rows_max: int) -> Repair:
    if found.reference is None:
        raise RepairRefusedError(f"{projection.id}: nothing to repair from: {found.why_none}")
    differences = [*found.differences, *gathered_differences(found.gathered)]
    if len(differences) > rows_max:
        raise RepairRefusedError(
            f"{projection.id}: {len(differences)} rows differ, the limit is {rows_max}; rebuild, or raise the limit"
        )
    return Repair(
        projection=projection.id,
        planned=differences,
        digests=sorted(p for p, state in found.states.items() if _mended(found, state) != state),
        keys=wrong_keys(found, found.reference),
        applied=False,
    )


def _meant(found: Evidence, key: str) -> KeyState | None:
    """What the log says of a key; that it is parked, only if the quarantine bears it out. None: the log knows no such key."""
    reference, known = found.reference, found.keys.get(key)
    assert reference is not None
    parked = known.parked if known is not None and is_waiting(key, known, found.waiting) else None
    head = reference.heads.get(key)
    if head is None:
        return known if parked else None
    applied = reference.applied.get(key, 0)
    return KeyState(head, applied, parked or (None if applied == head.version else Reason.REJECTED))


def _freed(found: Evidence) -> dict[int, frozenset[int]]:
    """The offsets, by partition, of what waits though the log says that its key goes on."""
    going = {
        w.key for w in found.waiting if w.key is not None and ((meant := _meant(found, w.key)) is None or not meant.parked)
    }
    return {p: frozenset(w.offset for w in found.waiting if w.partition == p and w.key in going) for p in found.states}


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
    )


def _plans(projection: Projection[Any], found: Evidence, planned: Repair, fences: Mapping[int, Fence]) -> list[PartitionPlan]:
    reference = found.reference
    assert reference is not None
    puts: dict[int, dict[Address, StoredRow]] = {p: {} for p in found.states}
    drops: dict[int, set[Address]] = {p: set() for p in found.states}
    keys: dict[int, dict[str, KeyState]] = {p: {} for p in found.states}
    forgotten: dict[int, set[str]] = {p: set() for p in found.states}
    strays: dict[int, set[tuple[int, Address]]] = {p: set() for p in found.states}
    somewhere = next(iter(found.states))
    refolds = refolds_of(projection, planned.planned)
    for one in planned.planned:
        if one.gathered:
            continue
        # A ghost's key may be unknown to the log: any held partition can then delete it.
        p = reference.partition.get(one.key, somewhere)
        values = reference.rows.get(one.key, {}).get(one.row)
        if "_bucket" in one.fields:
            strays[p].add((one.fields["_bucket"][0], (one.key, one.row)))
        elif values is None:
            drops[p].add((one.key, one.row))
        else:
            puts[p][(one.key, one.row)] = StoredRow(values, row_hash(projection.id, one.key, values))
    for key in planned.keys:
        p = reference.partition.get(key, somewhere)
        if (meant := _meant(found, key)) is not None:
            keys[p][key] = meant
        else:
            forgotten[p].add(key)
    freed = _freed(found)
    return [
        PartitionPlan(
            fence=fences[p],
            was=state,
            state=_mended(found, state),
            puts=puts[p],
            drops=frozenset(drops[p]),
            refolds=refolds if p == somewhere else frozenset(),
            keys=keys[p],
            forgotten=frozenset(forgotten[p]),
            strays=frozenset(strays[p]),
            freed=freed[p],
        )
        for p, state in found.states.items()
    ]
