"""Planning what some events of a history would make of the rows: a what-if, and no copy of anything. Pure.

Events that were not selected are gaps, and gaps are passed over; so nothing is chained, counted against marks or parked. A
reducer gets each event under its own version. What can't be applied ends it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from truecopy_bus.fold import DIGEST_MODULUS, Head
from truecopy_bus.leases import Fence
from truecopy_projections.arrival import Arrival
from truecopy_projections.digest import shifted
from truecopy_projections.errors import StoppedError
from truecopy_projections.projection import Address, Projection
from truecopy_projections.rows import RottenRowError, Rows
from truecopy_projections.state import NEW_KEY, KeyState, Known, PartitionPlan, PartitionState

__all__ = ["selected_plan"]


def selected_plan(
    projection: Projection[Any],
    states: Mapping[int, PartitionState],
    fences: Mapping[int, Fence],
    arrivals: Sequence[Arrival],
    known: Known,
    positions: Mapping[int, int],
) -> list[PartitionPlan]:
    """One plan for each partition of `positions`, the offsets that were read up to. Raises StoppedError."""
    rows = Rows(projection, known)
    keys: dict[int, dict[str, KeyState]] = {p: {} for p in positions}
    dirty: dict[int, set[Address]] = {p: set() for p in positions}
    applied = dict.fromkeys(positions, 0)
    for arrival in arrivals:
        p, key = arrival.record.partition, arrival.key
        state = keys[p].get(key) or known.keys.get(key, NEW_KEY)
        if arrival.version <= state.applied:
            continue  # a second copy
        try:
            if arrival.fault is not None:
                raise ValueError(f"{arrival.fault[0].name}, {arrival.fault[1]}")
            dirty[p].update(rows.reduce(arrival))
        except (Exception, RottenRowError) as fault:  # the user's reducer; whatever it raises
            raise StoppedError(
                projection=projection.id,
                key=key,
                version=arrival.version,
                partition=p,
                offset=arrival.record.offset,
                why=f"{type(fault).__name__}: {fault}",
            ) from fault
        keys[p][key] = KeyState(Head(arrival.version, b"", b""), arrival.version, None)
        applied[p] += 1
    return [_plan(fences[p], states[p], rows, keys[p], dirty[p], applied[p], at) for p, at in positions.items()]


def _plan(
    fence: Fence,
    was: PartitionState,
    rows: Rows,
    keys: Mapping[str, KeyState],
    dirty: set[Address],
    applied: int,
    position: int,
) -> PartitionPlan:
    moves = rows.moves(dirty)
    puts, drops = rows.outcome(dirty)
    state = replace(
        was,
        position=position,
        count=was.count + applied,
        rows=shifted(was.rows, moves),
        row_digest=(was.row_digest + sum(moves.values())) % DIGEST_MODULUS,
    )
    return PartitionPlan(fence=fence, was=was, state=state, keys=keys, puts=puts, drops=drops, applied=applied)
