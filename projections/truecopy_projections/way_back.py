"""The plans that take a replica back: what it holds, compared with what it is to hold.

Both are read in batches, what it is to hold is in memory. Whatever is stored otherwise is put right with it, rotten rows too.
"""

from dataclasses import replace
from typing import Any

from truecopy_projections.cut import Cut
from truecopy_projections.errors import RestoreRefusedError
from truecopy_projections.log_truth import NO_FENCE
from truecopy_projections.projection import Address, Projection
from truecopy_projections.replica import Snapshot
from truecopy_projections.state import RESTORED, KeyState, PartitionPlan, PartitionState, StoredRow, Waiting

__all__ = ["figures", "way_back"]


async def way_back(projection: Projection[Any], snapshot: Snapshot, meant: Snapshot, cut: Cut) -> list[PartitionPlan]:
    """What makes the replica what was `meant` at the cut, without fences. Raises RestoreRefusedError if that is ahead."""
    states, goals = await snapshot.states(projection.id), await meant.states(projection.id)
    for p, mark in sorted(cut.marks.items()):
        if states[p].position < cut.offsets[p]:
            raise RestoreRefusedError(
                f"{projection.id}[{p}] is at offset {states[p].position} by now, and mark {mark.number} is beyond; go forward"
            )
    rows: dict[int, dict[Address, StoredRow]] = {p: {} for p in cut.offsets}
    async for batch in meant.rows(projection):
        for key, p, row in batch:
            if p in rows:
                rows[p][key, projection.sub_key(row.values)] = row
    drops: dict[int, set[Address]] = {p: set() for p in cut.offsets}
    strays: dict[int, set[tuple[int, Address]]] = {p: set() for p in cut.offsets}
    async for batch in snapshot.rows(projection):
        for key, p, row in batch:
            if p not in rows:
                continue
            address = key, projection.sub_key(row.values)
            if row.astray is not None:
                strays[p].add((row.astray, address))
            elif address not in rows[p]:
                drops[p].add(address)
            elif rows[p][address] == row:
                del rows[p][address]
    keys = await _all_keys(projection, meant, cut)
    forgotten: dict[int, set[str]] = {p: set() for p in cut.offsets}
    moved: dict[int, dict[str, KeyState]] = {p: dict(keys[p]) for p in cut.offsets}
    async for states_batch in snapshot.keys(projection):
        for key, p, known in states_batch:
            if p in moved and key not in keys[p]:
                forgotten[p].add(key)
            elif p in moved and keys[p][key] == known:
                del moved[p][key]
    waits, freed = await _waits(projection, snapshot, meant, cut)
    undone = [c for c in await snapshot.checkpoints(projection.id) if c.offset >= cut.offsets.get(c.partition, c.offset + 1)]
    plans = []
    for p, mark in sorted(cut.marks.items()):
        written = {key for key, _ in (*rows[p], *drops[p])}
        stands = f"{RESTORED}: stands at mark {mark.number}, offset {cut.offsets[p]}; "
        plans.append(
            PartitionPlan(
                fence=NO_FENCE,
                was=states[p],
                state=replace(goals[p], halted=f"{stands}`truecopy restore APP {projection.name} --forward` lets it go on"),
                keys={**moved[p], **{key: keys[p][key] for key in written if key in keys[p]}},
                forgotten=frozenset(forgotten[p]),
                puts=rows[p],
                drops=frozenset(drops[p]),
                strays=frozenset(strays[p]),
                waits=waits[p],
                freed=freed[p],
                undone=frozenset(c.offset for c in undone if c.partition == p),
            )
        )
    return plans


async def _all_keys(projection: Projection[Any], meant: Snapshot, cut: Cut) -> dict[int, dict[str, KeyState]]:
    keys: dict[int, dict[str, KeyState]] = {p: {} for p in cut.offsets}
    async for batch in meant.keys(projection):
        for key, p, state in batch:
            if p in keys:
                keys[p][key] = state
    return keys


async def _waits(
    projection: Projection[Any], snapshot: Snapshot, meant: Snapshot, cut: Cut
) -> tuple[dict[int, list[Waiting]], dict[int, frozenset[int]]]:
    """By partition what is to wait and does not so yet, and the offsets of what is to wait no more."""
    known = {(w.partition, w.offset): w for w in await snapshot.waiting(projection.id)}
    goal = {(w.partition, w.offset): w for w in await meant.waiting(projection.id)}
    waits = {p: [w for at, w in goal.items() if at[0] == p and known.get(at) != w] for p in cut.offsets}
    return waits, {p: frozenset(at[1] for at in known.keys() - goal.keys() if at[0] == p) for p in cut.offsets}


def figures(state: PartitionState) -> dict[str, Any]:
    """A partition's state as a journal tells it."""
    return {
        "position": state.position,
        "count": state.count,
        "input_digest": f"{state.input_digest:064x}",
        "row_digest": f"{state.row_digest:064x}",
        "halted": state.halted,
    }
