"""Repair: bring a replica's rows back to what the log yields, or a certified peer holds, with a journal of before and after.

A dry run plans and changes nothing. An applied repair takes all partitions' leases first, so that nothing moves under it and
a worker's batch in flight fails its fence; then it looks again, and writes in one durable transaction. Too many rows, or too
large a share of them, are refused: then something else is wrong, and has to be found first.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from truecopy_bus.log import Log
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.errors import RepairRefusedError
from truecopy_projections.limits import REPAIR_LEASE_S, REPAIR_ROWS_FREE, REPAIR_ROWS_MAX, REPAIR_SHARE_MAX
from truecopy_projections.log_truth import Truth, log_truth
from truecopy_projections.peer_truth import peer_truth
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.verdicts import Difference, difference_json

__all__ = ["Repair", "repair"]

_HOLDER = "truecopy repair"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What a repair plans, and what it did. `digests` are the partitions whose count or digests are written anew.

    `keys` are source keys whose version or element was wrong, `records` partitions and offsets of quarantined records and
    checkpoints that were not what the log holds; `source` is "log" or the peer's name; `left` says what could not
    be mended from there now. Nothing was written unless `applied`.
    """

    projection: str
    planned: Sequence[Difference]
    digests: Sequence[int]
    keys: Sequence[str]
    applied: bool
    source: str = "log"
    left: str = ""
    records: Sequence[tuple[int, int]] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "projection": self.projection,
            "planned": [difference_json(one) for one in self.planned],
            "digests": list(self.digests),
            "keys": list(self.keys),
            "records": [list(one) for one in self.records],
            "applied": self.applied,
            "source": self.source,
            "left": self.left,
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
    share_max: float = REPAIR_SHARE_MAX,
    peer: Replica | None = None,
    trusted: Collection[str] | None = None,
    by: str = "",
) -> Repair:
    """Plan, and with `apply` carry out, the repair of one projection in one replica, from the fold of the log or from `peer`.

    A peer's certificate has to be of one of the `trusted` public keys, None for any. `by` is who the journal says did it.
    Raises RepairRefusedError (more than `rows_max` rows, or than `share_max` of all where these are more than a few; no whole
    log to fold; a peer that is not proven right), and like check.
    """
    name = topic or projection.entity

    async def truth() -> Truth:
        if peer is None:
            return await log_truth(projection, replica, log, schemas, topic=name)
        return await peer_truth(projection, replica, peer, log, topic=name, trusted=trusted)

    if not apply:
        return _planned(projection, await truth(), rows_max, share_max)
    fences = await replica.renew(projection, _HOLDER, (), lease_s=REPAIR_LEASE_S, seize=True)
    try:
        found = await truth()
        planned = _planned(projection, found, rows_max, share_max)
        if planned.planned or planned.digests or planned.keys or planned.records:
            plans = [replace(one, fence=fences[one.was.partition]) for one in found.plans]
            said = {"projection": projection.id, "source": found.source, "by": by, "at_ms": time.time_ns() // 1_000_000}
            journal = [("repair", {**said, **difference_json(one)}) for one in planned.planned]
            committed = await replica.apply(projection, plans, durable=True, journal=journal)
            if missed := {one.fence.partition for one in plans} - committed:
                raise RepairRefusedError(f"{projection.id}: partitions {sorted(missed)} were taken meanwhile; repair again")
        return replace(planned, applied=True)
    finally:
        await replica.leave(projection, _HOLDER, fences.values())


def _planned(projection: Projection[Any], found: Truth, rows_max: int, share_max: float) -> Repair:
    rows = len(found.differences)
    if rows > rows_max:
        raise RepairRefusedError(
            f"{projection.id}: {rows} rows differ, the limit is {rows_max}; rebuild, or raise the limit (--rows-max)"
        )
    if rows > max(REPAIR_ROWS_FREE, share_max * found.rows):
        raise RepairRefusedError(
            f"{projection.id}: {rows} of {found.rows} rows differ, the limit is a share of {share_max:g}; find out why first "
            "(`truecopy check` explains the first of them), or raise the limit (--share-max)"
        )
    return Repair(
        projection=projection.id,
        planned=found.differences,
        digests=sorted(one.was.partition for one in found.plans if one.state != one.was),
        keys=found.keys,
        applied=False,
        source=found.source,
        left=found.left,
        records=found.records,
    )
