"""The replica in the process's memory: complete, for tests and the first ten lines. What it holds ends with it.

Nothing awaits between the first look of an apply and its last change, so it is atomic for every task of the event loop. What
a snapshot may be reading is copied before it is changed.
"""

import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from truecopy_bus.errors import DataRefusedError
from truecopy_bus.leases import Fence
from truecopy_projections.amendment import NO_AMENDMENTS, Amendments
from truecopy_projections.digest import bucket_of
from truecopy_projections.errors import UnknownProjectionError
from truecopy_projections.gathered import Gathered, GatheredRow, Group, GroupId, GroupRefusedError
from truecopy_projections.limits import CHECKPOINTS_KEPT, QUARANTINE_RECORDS, SCAN_ROWS
from truecopy_projections.projection import Projection, SubKey
from truecopy_projections.replica import JournalEntry, Snapshot, refuse_other_declaration, refuse_other_partitions
from truecopy_projections.replicas.memory_effects import MemoryEffects
from truecopy_projections.replicas.memory_gathered import changes_of, refolded, refused
from truecopy_projections.replicas.memory_leases import MemoryLeases
from truecopy_projections.replicas.memory_refusals import refused_rows
from truecopy_projections.replicas.memory_stages import MemoryStages
from truecopy_projections.scrub_times import ScrubTimes, packed, unpacked
from truecopy_projections.stages import Stage, Staged, live_number
from truecopy_projections.state import (
    Checkpoint,
    KeyState,
    Known,
    MarkVerdict,
    PartitionPlan,
    PartitionState,
    StoredRow,
    Waiting,
    WaitingTally,
    Wanted,
)

__all__ = ["MemoryReplica"]

_Rows = dict[SubKey, tuple[int, StoredRow]]


@dataclass(slots=True, kw_only=True)
class _Contents:
    """What is kept of one projection. `shared` once a snapshot may be reading it: then it is never changed again."""

    declared: Mapping[str, Any]
    states: dict[int, PartitionState] = field(default_factory=dict)
    keys: dict[str, tuple[int, KeyState]] = field(default_factory=dict)
    rows: dict[str, _Rows] = field(default_factory=dict)
    gathered: dict[GroupId, GatheredRow] = field(default_factory=dict)
    waiting: dict[tuple[int, int], Waiting] = field(default_factory=dict)
    checkpoints: dict[int, dict[int, Checkpoint]] = field(default_factory=dict)
    amendments: Amendments = NO_AMENDMENTS
    scrubs: bytes | None = None
    shared: bool = False

    def copied(self) -> "_Contents":
        return _Contents(
            declared=self.declared,
            states=dict(self.states),
            keys=dict(self.keys),
            rows={key: dict(rows) for key, rows in self.rows.items()},
            gathered=dict(self.gathered),
            waiting=dict(self.waiting),
            checkpoints={partition: dict(kept) for partition, kept in self.checkpoints.items()},
            amendments=self.amendments,
            scrubs=self.scrubs,
        )

    def change(self, plan: PartitionPlan) -> None:
        partition = plan.was.partition
        for key, sub in plan.drops:
            self.rows.get(key, {}).pop(sub, None)
        for offset in plan.freed:
            self.waiting.pop((partition, offset), None)
        for (key, sub), row in plan.puts.items():
            self.rows.setdefault(key, {})[sub] = partition, StoredRow(tuple(row.values), row.hash)
        for key in plan.forgotten:
            self.keys.pop(key, None)
        self.keys.update((key, (partition, state)) for key, state in plan.keys.items())
        self.waiting.update(((partition, waiting.offset), waiting) for waiting in plan.waits)
        if plan.amendments:
            self.amendments = self.amendments.and_also(plan.amendments)
        kept = self.checkpoints.setdefault(partition, {})
        kept.update((checkpoint.offset, checkpoint) for checkpoint in plan.checkpoints)
        for offset in (*(plan.undone & kept.keys()), *sorted(kept)[: max(0, len(kept) - CHECKPOINTS_KEPT)]):
            kept.pop(offset, None)
        self.states[partition] = plan.state

    def gather(self, rows: Mapping[GroupId, GatheredRow | None]) -> None:
        for place, row in rows.items():
            self.gathered.pop(place, None)
            if row is not None:
                self.gathered[place] = row


class MemoryReplica(MemoryEffects):
    """A replica without a database. See Replica. `clock` tells seconds, and only leases ask it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._contents: dict[str, _Contents] = {}
        self._leases: dict[str, MemoryLeases] = {}
        self._journal: list[tuple[str, str]] = []
        self._remembered: dict[tuple[str, str], str] = {}
        self._stages = MemoryStages()

    @property
    def name(self) -> str:
        return "memory"

    async def install(self, projection: Projection[Any], *, partitions: int, incarnation: str) -> None:
        contents = self._contents.setdefault(projection.id, _Contents(declared=projection.describe()))
        refuse_other_declaration(projection, contents.declared)
        refuse_other_partitions(projection, len(contents.states), partitions)
        self._leases.setdefault(projection.id, MemoryLeases(self._clock)).prepare(partitions)
        self._stages.enter(projection)
        contents = self._changeable(projection)
        for partition in range(partitions):
            contents.states.setdefault(partition, PartitionState(partition=partition, incarnation=incarnation))

    async def renew(
        self, projection: Projection[Any], holder: str, held: Collection[Fence], *, lease_s: float, seize: bool = False
    ) -> Mapping[int, Fence]:
        return self._leases[projection.id].renew(holder, held, lease_s=lease_s, seize=seize)

    async def leave(self, projection: Projection[Any], holder: str, held: Collection[Fence]) -> None:
        self._leases[projection.id].leave(holder, held)

    async def stage(self, projection: Projection[Any], stage: Stage, *, by: str = "") -> None:
        self._stages.put(projection, stage, by=by)

    async def swap(
        self,
        new: Projection[Any],
        old: Projection[Any],
        fences: Mapping[str, Collection[Fence]],
        *,
        follow_ms: int,
        by: str,
        journal: Sequence[tuple[str, JournalEntry]] = (),
    ) -> None:
        lost = [one.id for one in (new, old) if len(self._leases[one.id].hold(fences[one.id])) < len(fences[one.id])]
        new_at, old_at = ({p: state.position for p, state in self._of(one).states.items()} for one in (new, old))
        self._stages.swap(new, old, lost=lost, at=(old_at, new_at), follow_ms=follow_ms, by=by)
        self._journal += [(kind, json.dumps(entry)) for kind, entry in journal]

    async def drop(self, projection: Projection[Any], *, by: str = "") -> None:
        self._stages.drop(projection)
        self._contents.pop(projection.id, None)
        self._leases.pop(projection.id, None)
        self._journal.append(("drop", json.dumps({"projection": projection.id, "by": by})))

    async def load(self, projection: Projection[Any], wanted: Wanted) -> Known:
        contents = self._of(projection)
        keys = {key: contents.keys[key][1] for key in wanted.keys if key in contents.keys}
        rows = {(key, sub): row for key in wanted.whole for sub, (_, row) in contents.rows.get(key, {}).items()}
        for key, sub in wanted.rows:
            if (found := contents.rows.get(key, {}).get(sub)) is not None:
                rows[key, sub] = found[1]
        hashes = {key: row.hash for key in wanted.hashes for _, row in contents.rows.get(key, {}).values()}
        waiting: dict[str, list[Waiting]] = {}
        if any(state.parked is not None for state in keys.values()):
            for _, one in sorted(contents.waiting.items()):
                if one.key in keys and keys[one.key].parked is not None:
                    waiting.setdefault(one.key, []).append(one)
        return Known(keys=keys, rows=rows, hashes=hashes, waiting=waiting)

    async def apply(
        self,
        projection: Projection[Any],
        plans: Sequence[PartitionPlan],
        *,
        durable: bool = True,  # noqa: ARG002  # nothing here survives anyway
        journal: Sequence[tuple[str, JournalEntry]] = (),
    ) -> frozenset[int]:
        """See Replica. The journal is written unless all of `plans` were dropped."""
        lines = [(kind, json.dumps(entry)) for kind, entry in journal]
        current = [plan.expanded() for plan in self._current(projection, plans)] if plans else []
        for key, reason in refused_rows(projection, current).items():
            raise DataRefusedError(database=self.name, seen=f"{key!r}: {reason}")
        if current:
            contents = self._changeable(projection)
            places = {place for plan in current for place in plan.refolds}
            try:
                gathered = refolded(projection, contents.rows, changes_of(current), places)
            except GroupRefusedError as fault:
                raise DataRefusedError(database=self.name, seen=str(fault)) from fault
            for plan in current:
                contents.change(plan)
            contents.gather(gathered)
            if live_number(self._stages.named(projection.name)) == projection.number:
                self._fire(current)
        if current or not plans:
            self._journal += lines
        return frozenset(plan.was.partition for plan in current)

    async def scrubbed(self, projection: Projection[Any], at_ms: Mapping[int, int] | None) -> None:
        contents = self._changeable(projection)
        contents.scrubs = None if at_ms is None else packed(unpacked(contents.scrubs), at_ms)

    async def remember(self, projection: Projection[Any], what: str, said: JournalEntry) -> None:
        self._remembered[projection.id, what] = json.dumps(said)

    async def culprits(self, projection: Projection[Any], plans: Sequence[PartitionPlan]) -> Mapping[str, str]:
        whole = [plan.expanded() for plan in plans]
        found = refused_rows(projection, whole)
        return found | refused(projection, self._of(projection).rows, changes_of(whole), found)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        for contents in self._contents.values():
            contents.shared = True
        yield _MemorySnapshot(dict(self._contents), tuple(self._journal), dict(self._remembered), self._stages.all)

    async def flush(self) -> None:
        """Nothing to do: no crash takes back a part of it."""

    async def close(self) -> None:
        """Nothing to close: what it holds may still be read."""

    def _of(self, projection: Projection[Any]) -> _Contents:
        if projection.id not in self._contents:
            raise UnknownProjectionError(f"replica {self.name} holds no {projection.id}; install it first")
        return self._contents[projection.id]

    def _changeable(self, projection: Projection[Any]) -> _Contents:
        contents = self._of(projection)
        if contents.shared:
            contents = self._contents[projection.id] = contents.copied()
        return contents

    def _current(self, projection: Projection[Any], plans: Sequence[PartitionPlan]) -> list[PartitionPlan]:
        states = self._of(projection).states
        held = self._leases[projection.id].hold([plan.fence for plan in plans])
        return [
            plan
            for plan in plans
            if plan.fence.partition in held
            and plan.fence.partition == plan.was.partition == plan.state.partition
            and (states[plan.was.partition].incarnation, states[plan.was.partition].position)
            == (plan.was.incarnation, plan.was.position)
        ]


class _MemorySnapshot:
    """See Snapshot. It holds contents that are not changed any more."""

    def __init__(
        self,
        contents: Mapping[str, _Contents],
        journal: Sequence[tuple[str, str]],
        remembered: Mapping[tuple[str, str], str],
        stages: Sequence[Staged],
    ) -> None:
        self._contents, self._journal, self._remembered, self._stages = contents, journal, remembered, stages

    async def states(self, projection: str) -> dict[int, PartitionState]:
        contents = self._contents.get(projection)
        return dict(contents.states) if contents else {}

    async def rows(
        self,
        projection: Projection[Any],
        *,
        buckets: Collection[int] | None = None,
        indexed: bool = True,  # noqa: ARG002  # there is none
    ) -> AsyncIterator[Sequence[tuple[str, int, StoredRow]]]:
        if (contents := self._of(projection)) is not None:
            found = ((key, rows) for key, rows in contents.rows.items() if buckets is None or bucket_of(key) in buckets)
            flat = ((key, part, row) for key, rows in found for part, row in rows.values())
            while batch := list(islice(flat, SCAN_ROWS)):
                yield batch

    async def keys(
        self, projection: Projection[Any], *, buckets: Collection[int] | None = None
    ) -> AsyncIterator[Sequence[tuple[str, int, KeyState]]]:
        if (contents := self._of(projection)) is not None:
            found = ((key, kept) for key, kept in contents.keys.items() if buckets is None or bucket_of(key) in buckets)
            flat = ((key, part, state) for key, (part, state) in found)
            while batch := list(islice(flat, SCAN_ROWS)):
                yield batch

    async def get(self, projection: Projection[Any], key: str) -> tuple[KeyState | None, Sequence[StoredRow]]:
        if (contents := self._of(projection)) is None:
            return None, ()
        _, state = contents.keys.get(key, (0, None))
        return state, [row for _, row in contents.rows.get(key, {}).values()]

    async def unreachable(self, projection: Projection[Any]) -> Sequence[str]:  # noqa: ARG002
        return ()  # no index to be damaged

    async def gathered(self, gathered: Gathered[Any], group: Group | None = None) -> AsyncIterator[Sequence[GatheredRow]]:
        if (contents := self._of(gathered.of)) is not None:
            kept = ((place, row) for place, row in contents.gathered.items() if place[0] == gathered.id)
            flat = (row for place, row in kept if group is None or place[1] == group)
            while batch := list(islice(flat, SCAN_ROWS)):
                yield batch

    async def checkpoints(
        self, projection: str, *, latest: MarkVerdict | None = None, newest: int | None = None
    ) -> Sequence[Checkpoint]:
        if (contents := self._contents.get(projection)) is None:
            return ()
        by_offset = (sorted(kept.items()) for _, kept in sorted(contents.checkpoints.items()))
        found = [one for kept in by_offset for _, one in kept[-newest if newest else 0 :]]
        return found if latest is None else list({one.partition: one for one in found if one.verdict is latest}.values())

    async def waiting(self, projection: str) -> Sequence[Waiting]:
        contents = self._contents.get(projection)
        return [one for _, one in sorted(contents.waiting.items())] if contents else ()

    async def quarantine(self, projection: str, *, key: str | None = None) -> AsyncIterator[Sequence[Waiting]]:
        found = [one for one in await self.waiting(projection) if key in (None, one.key)]
        ordered = iter(sorted(found, key=lambda one: (one.key or "", one.version or 0, one.partition, one.offset)))
        while batch := list(islice(ordered, QUARANTINE_RECORDS)):
            yield batch

    async def tallies(self, projection: str) -> Sequence[WaitingTally]:
        return _tallied(await self.waiting(projection))

    async def amendments(self, projection: str) -> Amendments:
        contents = self._contents.get(projection)
        return contents.amendments if contents else NO_AMENDMENTS

    async def journal(self, kind: str, *, newest: int | None = None) -> Sequence[JournalEntry]:
        return [json.loads(entry) for said, entry in self._journal if said == kind][-newest if newest else 0 :]

    async def scrubs(self, projection: str) -> ScrubTimes:
        contents = self._contents.get(projection)
        return ScrubTimes(time.time_ns() // 1_000_000, unpacked(contents.scrubs if contents else None))

    async def stages(self, name: str) -> Sequence[Staged]:
        return [one for one in self._stages if one.name == name]

    async def remembered(self, projection: str, what: str) -> JournalEntry | None:
        found = self._remembered.get((projection, what))
        return None if found is None else json.loads(found)

    def _of(self, projection: Projection[Any]) -> _Contents | None:
        if (contents := self._contents.get(projection.id)) is not None:
            refuse_other_declaration(projection, contents.declared)
        return contents


def _tallied(waiting: Sequence[Waiting]) -> list[WaitingTally]:
    """How much waits, by partition and reason."""
    found: dict[tuple[int, str], list[Waiting]] = {}
    for one in waiting:
        found.setdefault((one.partition, one.reason.name), []).append(one)
    return [
        WaitingTally(
            partition,
            some[0].reason,
            len(some),
            len({one.key for one in some if one.key is not None}),
            sum(one.size for one in some),
            min(one.timestamp_ms for one in some),
        )
        for (partition, _), some in sorted(found.items())
    ]
