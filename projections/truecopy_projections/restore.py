"""Restore: a live replica back to the state at a mark, proven by the figures recorded there; and forward again.

What the replica held at the mark is made anew: the worker's way applies the log up to there, in memory. Before anything is
written it is held against two others: the figures that the replica's checkpoint (or the mark alone) recorded, and the
independent fold. Then all leases are seized, so that nothing moves, and what differs is written in one durable transaction,
with a journal entry of who, why, and the figures before. The partitions then stand in a state with a name, which no worker
releases.

`forward` takes that state back. The checkpoints beyond the mark leave with the restore and their figures stay in its journal
entry, so that `retraced` can tell whether the way forward leads past the same figures as before. Rulings
about single events stay.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from truecopy_bus.errors import LogUnavailableError
from truecopy_bus.log import Log, identified
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.amendment import Amendments
from truecopy_projections.cut import AtMark, Cut, Recorded, find_cut, recorded_by
from truecopy_projections.errors import RestoreRefusedError
from truecopy_projections.evidence import FOLDED_ALIKE, held
from truecopy_projections.folding import fold_log
from truecopy_projections.limits import MARKS_LOOKED_MAX, REPAIR_LEASE_S, REPLAY_STALL_S
from truecopy_projections.log_upto import LogUpTo
from truecopy_projections.plan import PARKED, halted
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica, Snapshot
from truecopy_projections.replicas.memory import MemoryReplica
from truecopy_projections.state import MarkVerdict, PartitionPlan, PartitionState, stands_restored
from truecopy_projections.way_back import figures, way_back
from truecopy_projections.worker import Worker

__all__ = ["Restore", "Retraced", "forward", "restore", "retraced"]

JOURNAL = "restore"
"""The kind of a restore's entry, and of a way forward's, in the replica's journal."""
_HOLDER = "truecopy restore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """What a restore plans, or did. `before` are the partitions' states before it, `waiting` records that then wait.

    `proven` tells by partition what was recorded there; where it has no row digest, only the log knew the mark.
    """

    projection: str
    cut: Cut
    before: Mapping[int, PartitionState]
    rows_put: int
    rows_dropped: int
    keys: int
    waiting: int
    applied: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "projection": self.projection,
            **self.cut.as_json(),
            "before": {str(p): figures(state) for p, state in sorted(self.before.items())},
            "rows_put": self.rows_put,
            "rows_dropped": self.rows_dropped,
            "keys": self.keys,
            "waiting": self.waiting,
            "applied": self.applied,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraced:
    """Of the marks that restores took back: those passed again with the same figures, with others, and not passed again yet."""

    equal: int = 0
    ahead: int = 0
    differing: Sequence[tuple[Recorded, Recorded]] = field(default_factory=tuple)
    """What was recorded before, and what is now."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        told = [{"before": before.as_json(), "now": now.as_json()} for before, now in self.differing]
        return {"equal": self.equal, "ahead": self.ahead, "differing": told}


async def restore(
    projection: Projection[Any],
    replica: Replica,
    log: Log,
    schemas: SchemaSource,
    *,
    topic: str,
    to: AtMark,
    apply: bool = False,
    by: str = "",
    why: str = "",
) -> Restore:
    """Plan, and with `apply` carry out, the way back to the marks `to`, in the partitions that it names or in all.

    Raises RestoreRefusedError (a topic of others; a log whose beginning is gone; a mark where the replica was no true copy, or
    whose figures are not those of the log; a partition that stands for another reason, or was taken meanwhile), CutError (no
    such mark at or before where the replica is), UnknownProjectionError, and like replay.
    """
    if projection.foreign is not None:
        raise RestoreRefusedError(
            f"{projection.id}: {topic} is a topic of others, which has no marks to go back to; rebuild it"
        )
    async with replica.snapshot() as snapshot:
        states = await held(projection, replica, snapshot)
        checkpoints = await snapshot.checkpoints(projection.id)
        amendments = await snapshot.amendments(projection.id)
    ends = {p: state.position for p, state in states.items()}
    cut = await find_cut(to, log, topic=topic, checkpoints=checkpoints, ends=ends)
    await _refuse_lost(projection, log, topic, cut, states)
    target = await _made_anew(projection, log, schemas, topic, cut, amendments)
    async with target.snapshot() as meant:
        await _prove(projection, log, schemas, topic, cut, meant)
        if not apply:
            async with replica.snapshot() as snapshot:
                plans = await way_back(projection, snapshot, meant, cut)
            return _told(projection, cut, plans, applied=False)
        fences = await replica.renew(projection, _HOLDER, (), lease_s=REPAIR_LEASE_S, seize=True)
        try:
            async with replica.snapshot() as snapshot:
                plans = await way_back(projection, snapshot, meant, cut)
                entry = await _entry(projection, snapshot, cut, plans, by=by, why=why)
            plans = [replace(one, fence=fences[one.was.partition]) for one in plans]
            committed = await replica.apply(projection, plans, durable=True, journal=[(JOURNAL, entry)])
            _refuse_missed(projection, plans, committed)
        finally:
            await replica.leave(projection, _HOLDER, fences.values())
    return _told(projection, cut, plans, applied=True)


async def forward(projection: Projection[Any], replica: Replica, *, by: str = "", why: str = "") -> list[int]:
    """Let the partitions go on that a restore made stand; those that there were. Raises RestoreRefusedError, like restore."""
    fences = await replica.renew(projection, _HOLDER, (), lease_s=REPAIR_LEASE_S, seize=True)
    try:
        async with replica.snapshot() as snapshot:
            states = await held(projection, replica, snapshot)
        plans = [halted(fences[p], state, "") for p, state in sorted(states.items()) if stands_restored(state)]
        if plans:
            said = {"projection": projection.id, "by": by, "why": why, "at_ms": _now_ms(), "forward": True}
            before = {str(one.was.partition): figures(one.was) for one in plans}
            journal = [(JOURNAL, {**said, "before": before, "marks": []})]
            _refuse_missed(projection, plans, await replica.apply(projection, plans, durable=True, journal=journal))
        return [one.was.partition for one in plans]
    finally:
        await replica.leave(projection, _HOLDER, fences.values())


async def retraced(projection: Projection[Any], replica: Replica) -> Retraced:
    """Hold the checkpoints that the replica keeps now against those that restores of it took back."""
    async with replica.snapshot() as snapshot:
        entries = [one for one in await snapshot.journal(JOURNAL) if one["projection"] == projection.id]
        now = {(c.partition, c.offset): recorded_by(c) for c in await snapshot.checkpoints(projection.id)}
        states = await snapshot.states(projection.id)
    equal, ahead, differing = set[tuple[int, int]](), set[tuple[int, int]](), dict[tuple[int, int], tuple[Recorded, Recorded]]()
    for entry in entries:
        for before in map(Recorded.read, entry["marks"]):
            place = before.partition, before.offset
            state, there = states.get(before.partition), now.get(place)
            if state is None or state.incarnation != entry["incarnation"]:
                continue
            if before.offset >= state.position:
                ahead.add(place)
            elif there is not None:
                same = (there.count, there.input_digest, there.row_digest) == (
                    before.count,
                    before.input_digest,
                    before.row_digest,
                )
                equal.add(place) if same else differing.setdefault(place, (before, there))
    return Retraced(
        equal=len(equal - differing.keys()), ahead=len(ahead), differing=tuple(one for _, one in sorted(differing.items()))
    )


async def _refuse_lost(
    projection: Projection[Any], log: Log, topic: str, cut: Cut, states: Mapping[int, PartitionState]
) -> None:
    """Raises RestoreRefusedError unless these partitions can be applied anew from their beginning."""
    bounds = (await identified(log, topic)).bounds
    for p, mark in sorted(cut.marks.items()):
        state, name = states[p], f"{projection.id}[{p}]"
        if state.incarnation != cut.incarnation:
            seen = f"the replica follows incarnation {state.incarnation}, the log is {cut.incarnation}"
            raise RestoreRefusedError(f"{name}: {seen}; rebuild the replica")
        if state.halted and not stands_restored(state) and not state.halted.startswith(PARKED):
            raise RestoreRefusedError(f"{name} stands still: {state.halted}; mend that first")
        if bounds[p][0] > 0:
            seen = f"the log no longer begins at its beginning (first stored offset {bounds[p][0]})"
            raise RestoreRefusedError(f"{name}: {seen}, so the state at mark {mark.number} can't be made; rebuild from a peer")
        if mark.verdict is MarkVerdict.DIVERGED:
            raise RestoreRefusedError(
                f"{name}: at mark {mark.number} the replica was no true copy of what the owner states; name another mark"
            )


async def _made_anew(
    projection: Projection[Any], log: Log, schemas: SchemaSource, topic: str, cut: Cut, amendments: Amendments
) -> MemoryReplica:
    """A replica in memory that has applied the log up to the cut, by the same rulings."""
    target, short = MemoryReplica(), LogUpTo(log, cut.offsets)
    partitions = (await short.describe(topic)).partitions
    await target.install(projection, partitions=partitions, incarnation=cut.incarnation)
    await _rule(projection, target, amendments)
    worker = Worker(projection, target, short, schemas, topic=topic, holder=_HOLDER)
    stalls_at, last = time.monotonic() + REPLAY_STALL_S, -1
    try:
        while True:
            await worker.step()
            async with target.snapshot() as snapshot:
                states = await snapshot.states(projection.id)
            if stuck := [states[p].halted for p in cut.offsets if states[p].halted]:
                raise RestoreRefusedError(f"{projection.id}: the log can't be applied up to there: {stuck[0]}")
            at = sum(states[p].position for p in cut.offsets)
            if all(states[p].position >= offset for p, offset in cut.offsets.items()):
                return target
            if at > last:
                stalls_at, last = time.monotonic() + REPLAY_STALL_S, at
            elif time.monotonic() > stalls_at:
                seen = f"no record for {REPLAY_STALL_S:.0f} s below offsets {dict(cut.offsets)}"
                raise LogUnavailableError(log=topic, seen=seen)
    finally:
        await worker.leave()


async def _rule(projection: Projection[Any], target: MemoryReplica, amendments: Amendments) -> None:
    if not len(amendments):
        return
    fences = await target.renew(projection, _HOLDER, (), lease_s=REPAIR_LEASE_S, seize=True)
    async with target.snapshot() as snapshot:
        states = await snapshot.states(projection.id)
    rulings = {p: [one for one in amendments.all if one.partition == p] for p in states}
    plans = [PartitionPlan(fence=fences[p], was=s, state=s, amendments=rulings[p]) for p, s in states.items()]
    await target.apply(projection, plans)
    await target.leave(projection, _HOLDER, fences.values())


async def _prove(projection: Projection[Any], log: Log, schemas: SchemaSource, topic: str, cut: Cut, meant: Snapshot) -> None:
    """Raises RestoreRefusedError unless what was made is what was recorded at the marks, and what the fold makes."""
    every = await meant.states(projection.id)
    states = {p: every[p] for p in cut.offsets}
    parked = {key: state async for batch in meant.keys(projection) for key, _, state in batch if state.parked}
    stops = {key: state.applied for key, state in parked.items() if state.parked not in FOLDED_ALIKE}
    amendments = await meant.amendments(projection.id)
    fold = await fold_log(
        projection, log, schemas, topic=topic, states=states, stops=stops, keys=(), places=(), amendments=amendments
    )
    for p, mark in sorted(cut.marks.items()):
        state = states[p]
        was, made = (mark.count, mark.input_digest, mark.row_digest), (state.count, state.input_digest, state.row_digest)
        if was != (made if mark.row_digest is not None else (*made[:2], None)):
            raise RestoreRefusedError(
                f"{projection.id}[{p}]: at mark {mark.number} {_shown(*was)} were recorded, the log applied up to there gives "
                f"{_shown(*made)}; nothing was changed: check the replica, or name another mark"
            )
        folded = fold.reference.counts.get(p, 0), fold.reference.digests.get(p, 0)
        if fold.vectors[p] != state.rows or folded != made[:2]:
            raise RestoreRefusedError(
                f"{projection.id}[{p}]: the independent fold up to mark {mark.number} gives other rows than the worker's way; "
                "nothing was changed: `truecopy check` tells why they part"
            )


async def _entry(
    projection: Projection[Any], snapshot: Snapshot, cut: Cut, plans: Sequence[PartitionPlan], *, by: str, why: str
) -> dict[str, Any]:
    """The journal's entry: who, why, from where to where, and the figures of the newest marks that are taken back."""
    undone = {one.was.partition: one.undone for one in plans}
    marks = [
        recorded_by(c).as_json()
        for c in await snapshot.checkpoints(projection.id, newest=MARKS_LOOKED_MAX)
        if c.offset in undone.get(c.partition, ())
    ]
    said = {"projection": projection.id, "by": by, "why": why, "at_ms": _now_ms(), "incarnation": cut.incarnation}
    before = {str(one.was.partition): figures(one.was) for one in plans}
    return {**said, "forward": False, "to": cut.as_json(), "before": before, "marks": marks}


def _told(projection: Projection[Any], cut: Cut, plans: Sequence[PartitionPlan], *, applied: bool) -> Restore:
    return Restore(
        projection=projection.id,
        cut=cut,
        before={one.was.partition: one.was for one in plans},
        rows_put=sum(len(one.puts) for one in plans),
        rows_dropped=sum(len(one.drops) + len(one.strays) for one in plans),
        keys=sum(len(one.keys) + len(one.forgotten) for one in plans),
        waiting=sum(one.state.parked for one in plans),
        applied=applied,
    )


def _refuse_missed(projection: Projection[Any], plans: Sequence[PartitionPlan], committed: frozenset[int]) -> None:
    if missed := {one.was.partition for one in plans} - committed:
        raise RestoreRefusedError(f"{projection.id}: partitions {sorted(missed)} were taken meanwhile; do it again")


def _shown(count: int, input_digest: int, row_digest: int | None) -> str:
    rows = "" if row_digest is None else f" and row digest {row_digest:064x}"[:28] + "..."
    return f"{count} events with digest {f'{input_digest:064x}'[:12]}...{rows}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
