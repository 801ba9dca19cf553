"""Repair: bring a replica's rows back to what the log yields, row by row, with a journal of before and after.

A dry run plans and changes nothing. An applied repair takes all partitions' leases first, so that nothing moves under it and
a worker's batch in flight fails its fence; then it looks again, and writes in one durable transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from truecopy_bus.leases import Fence
from truecopy_bus.log import Log
from truecopy_bus.registry import Registry
from truecopy_projections.digest import row_hash, total
from truecopy_projections.errors import RepairRefusedError
from truecopy_projections.evidence import Evidence, gather
from truecopy_projections.limits import REPAIR_LEASE_S, REPAIR_ROWS_MAX
from truecopy_projections.projection import Address, Projection
from truecopy_projections.replica import Replica
from truecopy_projections.state import KeyState, PartitionPlan, PartitionState, StoredRow
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
    registry: Registry,
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
        found = await gather(projection, replica, log, registry, topic=name, deep=True)
        return _planned(projection, found, rows_max)
    fences = await replica.renew(projection, _HOLDER, (), lease_s=REPAIR_LEASE_S, seize=True)
    try:
        found = await gather(projection, replica, log, registry, topic=name, deep=True)
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
    if len(found.differences) > rows_max:
        raise RepairRefusedError(
            f"{projection.id}: {len(found.differences)} rows differ, the limit is {rows_max}; rebuild, or raise the limit"
        )
    return Repair(
        projection=projection.id,
        planned=found.differences,
        digests=sorted(p for p, state in found.states.items() if _mended(found, state) != state),
        keys=sorted(
            key for key in found.keys.keys() | found.reference.heads.keys() if _meant(found, key) != found.keys.get(key)
        ),
        applied=False,
    )


def _meant(found: Evidence, key: str) -> KeyState | None:
    """What the log says of a key, keeping the replica's word about its being parked."""
    reference = found.reference
    assert reference is not None
    if key not in reference.heads:
        return None
    known = found.keys.get(key)
    parked = known.parked if known else None
    head = reference.heads[key]
    return KeyState(head, reference.applied.get(key, 0) if parked else head.version, parked)


def _mended(found: Evidence, state: PartitionState) -> PartitionState:
    """A partition's state with the figures that the log gives it."""
    reference, p = found.reference, state.partition
    assert reference is not None
    return replace(
        state,
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
    for one in planned.planned:
        # A ghost's key may be unknown to the log: any held partition can then delete it.
        p = reference.partition.get(one.key, next(iter(found.states)))
        values = reference.rows.get(one.key, {}).get(one.row)
        if values is None:
            drops[p].add((one.key, one.row))
        else:
            puts[p][(one.key, one.row)] = StoredRow(values, row_hash(projection.id, one.key, values))
    for key in planned.keys:
        if (meant := _meant(found, key)) is not None:
            keys[reference.partition[key]][key] = meant
    return [
        PartitionPlan(
            fence=fences[p],
            was=state,
            state=_mended(found, state),
            puts=puts[p],
            drops=frozenset(drops[p]),
            keys=keys[p],
        )
        for p, state in found.states.items()
    ]
