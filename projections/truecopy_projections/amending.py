"""Amending: rulings about what waits in quarantine, and what waits behind it tried again, in one transaction.

Whoever rules takes all partitions' leases first, as a repair does: a worker's batch in flight fails its fence, and workers read
the amendments anew when they take the partitions back. A ruling is written only together with the rows that it leads to; one
that would not let its record go is refused, and nothing is changed. So the order of a key is kept: all goes through the plan.

With `dry_run` nothing is taken and nothing written, and everything else is the same.
"""

import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from truecopy_bus.errors import DataRefusedError
from truecopy_bus.leases import Fence
from truecopy_bus.points import Point, reached
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.amendment import Amendment, Ruling, event_of, foreign_of
from truecopy_projections.arrival import Arrival, Reading
from truecopy_projections.errors import AmendmentRefusedError, UnknownProjectionError
from truecopy_projections.limits import AMENDMENTS_MAX, BECAUSE_CHARS_MAX, REPAIR_LEASE_S
from truecopy_projections.log_truth import NO_FENCE
from truecopy_projections.plan import PARKED, overfull
from truecopy_projections.projection import Address, Projection
from truecopy_projections.quarantine import remedy_of
from truecopy_projections.records_work import RecordsWork, Task, record_of
from truecopy_projections.replica import Replica
from truecopy_projections.state import KeyState, PartitionPlan, PartitionState, Reason, StoredRow, Waiting

__all__ = ["JOURNAL", "Amending", "Held", "Treated", "amending"]

JOURNAL = "amendment"
"""The kind of a ruling's entry in the replica's journal."""
_HOLDER = "truecopy quarantine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A record that waits, whole, and what it was read as; None for a foreign one."""

    waiting: Waiting
    arrival: Arrival | None

    @property
    def event(self) -> bytes | None:
        """The hash that names it; None while its schema is unknown."""
        if self.arrival is None:
            return foreign_of(record_of(self.waiting))
        key, version, fingerprint, body = self.arrival[1:5]
        return None if fingerprint is None else event_of(key, version, fingerprint, body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Treated:
    """What came of it: how many records went on, the keys' states, why those that are parked are, and their rows."""

    freed: int
    keys: Mapping[str, KeyState]
    why: Mapping[str, str]
    rows: Mapping[Address, StoredRow | None]


@asynccontextmanager
async def amending(
    projection: Projection[Any], replica: Replica, schemas: SchemaSource, *, by: str, dry_run: bool = False
) -> AsyncIterator["Amending"]:
    """Hold the projection for rulings by `by`. Raises UnknownProjectionError."""
    await schemas.refresh()
    async with replica.snapshot() as snapshot:
        if not (states := await snapshot.states(projection.id)):
            raise UnknownProjectionError(
                f"replica {replica.name} holds no projection {projection.id}; start a worker for it once, or check the name"
            )
    fences: Mapping[int, Fence] = dict.fromkeys(states, NO_FENCE)
    if not dry_run:
        fences = await replica.renew(projection, _HOLDER, (), lease_s=REPAIR_LEASE_S, seize=True)
    try:
        work = RecordsWork(projection, replica, schemas, Reading(projection))
        await work.renew()
        async with replica.snapshot() as snapshot:
            states = await snapshot.states(projection.id)
        yield Amending(projection, replica, work, states, fences, by=by, dry_run=dry_run)
    finally:
        if not dry_run:
            await replica.leave(projection, _HOLDER, fences.values())


class Amending:
    """Rulings of one person, while all leases are held. `amending` makes one."""

    def __init__(
        self,
        projection: Projection[Any],
        replica: Replica,
        work: RecordsWork,
        states: Mapping[int, PartitionState],
        fences: Mapping[int, Fence],
        *,
        by: str,
        dry_run: bool,
    ) -> None:
        self._projection, self._replica, self._work = projection, replica, work
        self._states, self._fences, self._by, self._dry_run = dict(states), fences, by, dry_run

    async def look(self, key: str) -> tuple[KeyState | None, list[Held]]:
        """A key's state, and what waits of it, by version."""
        task = await self._work.retried([key])
        arrivals = {(a.record.partition, a.record.offset): a for a in task.revived.get(key, ())}
        waiting = sorted(task.known.waiting.get(key, ()), key=lambda one: (one.version or 0, one.offset))
        return task.known.keys.get(key), [Held(waiting=w, arrival=arrivals.get((w.partition, w.offset))) for w in waiting]

    async def read(self, waiting: Waiting) -> Held:
        """One record that waits, by itself."""
        if waiting.key is None:
            return Held(waiting=waiting, arrival=None)
        (item,) = await self._work.again([waiting])
        return Held(waiting=waiting, arrival=item if isinstance(item, Arrival) else None)

    def ruled(self, event: bytes) -> Amendment | None:
        """What was ruled about an event already."""
        return next((one for one in self._work.amendments.all if one.event == event), None)

    async def foreign(self, partition: int, offset: int) -> Held | None:
        """A foreign record that waits."""
        async with self._replica.snapshot() as snapshot:
            async for batch in snapshot.quarantine(self._projection.id):
                for one in batch:
                    if one.key is not None:
                        return None  # foreign ones come first
                    if (one.partition, one.offset) == (partition, offset):
                        return Held(waiting=one, arrival=None)
        return None

    def ruling(self, held: Held, why: str, *, schema: str = "", body: bytes = b"") -> Amendment | None:
        """A ruling about it: a skip, or with a schema another body. None if just that was ruled before.

        Raises AmendmentRefusedError for one that contradicts an older one, has no reason, or is one too many.
        """
        waiting, event = held.waiting, held.event
        for what, said in (("a reason", why), ("somebody who makes it, by a name", self._by)):
            if not said.strip() or len(said) > BECAUSE_CHARS_MAX:
                raise AmendmentRefusedError(f"a ruling has {what} of 1 to {BECAUSE_CHARS_MAX} characters, seen {len(said)}")
        if event is None:
            raise AmendmentRefusedError(f"{waiting.key!r} version {waiting.version}: {remedy_of(Reason.SCHEMA)}")
        made = Amendment(
            projection=self._projection.id,
            replica=self._replica.name,
            partition=waiting.partition,
            offset=waiting.offset,
            key=waiting.key,
            version=waiting.version,
            event=event,
            reason=waiting.reason.name,
            ruling=Ruling.REPLACED if schema else Ruling.SKIPPED,
            by=self._by,
            why=why,
            at_ms=time.time_ns() // 1_000_000,
            schema=schema,
            body=body,
        )
        made.canonical()
        known = self._work.amendments
        if before := [one for one in known.all if one.event == event]:
            if before[0].effect == made.effect:
                return None
            raise AmendmentRefusedError(f"{before[0]}: that holds; let the owner publish a new version instead")
        if len(known) >= AMENDMENTS_MAX:
            raise AmendmentRefusedError(
                f"{self._projection.id} has {len(known)} amendments, the limit is {AMENDMENTS_MAX}: mend the reducer, and give "
                "the projection the next number"
            )
        return made

    async def treat(self, keys: Collection[str], rulings: Sequence[Amendment] = ()) -> Treated:
        """Try these keys again, by these rulings about events of theirs. Raises AmendmentRefusedError."""
        before = self._work.amendments
        self._work.amendments = before.and_also(rulings)
        try:
            task = await self._work.retried(keys)
            return await self._treated(task, rulings)
        except BaseException:
            self._work.amendments = before
            raise
        finally:
            if self._dry_run:
                self._work.amendments = before

    async def _treated(self, task: Task, rulings: Sequence[Amendment]) -> Treated:
        while True:
            plans = [one for one in self._work.plan(task, self._states, self._fences) if one.freed or one.waits]
            freed = {(one.was.partition, offset) for one in plans for offset in one.freed}
            treated = _treated(plans, task, len(freed))
            if stuck := [one for one in rulings if (one.partition, one.offset) not in freed]:
                first = stuck[0]
                why = treated.why.get(first.key or "", "it does not wait any more")
                raise AmendmentRefusedError(f"{first.key!r} version {first.version} does not go on by that: {why}")
            if self._dry_run:
                refused = await self._replica.culprits(self._projection, plans)
                if refused.keys() - task.refused.keys():
                    task.refused.update(refused)
                    continue
                return treated
            ruled = {p: [one for one in rulings if one.partition == p] for p in self._states}
            try:
                await self._write([replace(one, amendments=ruled[one.was.partition]) for one in plans], rulings)
            except DataRefusedError:
                if not await self._work.blame(task, plans):
                    raise
                continue
            return treated

    async def dismiss(self, rulings: Sequence[Amendment], sizes: Sequence[int]) -> None:
        """Let go of these foreign records, which take so many bytes each."""
        plans = []
        for p in sorted({one.partition for one in rulings}):
            was, own = self._states[p], [one for one in rulings if one.partition == p]
            left = was.waiting_bytes - sum(size for one, size in zip(rulings, sizes, strict=True) if one.partition == p)
            halted = overfull(was.parked, left) if was.halted.startswith(PARKED) else was.halted
            state = replace(was, waiting_bytes=left, halted=halted)
            gone = frozenset(one.offset for one in own)
            plans.append(PartitionPlan(fence=self._fences[p], was=was, state=state, freed=gone, amendments=own))
        if not self._dry_run:
            await self._write(plans, rulings)

    async def _write(self, plans: Sequence[PartitionPlan], rulings: Sequence[Amendment]) -> None:
        if not plans:
            return
        journal = [(JOURNAL, one.as_json()) for one in rulings]
        committed = await self._replica.apply(self._projection, plans, durable=True, journal=journal)
        if missed := {one.was.partition for one in plans} - committed:
            raise AmendmentRefusedError(
                f"{self._projection.id}: partitions {sorted(missed)} were taken meanwhile, by a worker or another operator; "
                "look again, and do it again"
            )
        self._states |= {one.was.partition: one.state for one in plans}
        if rulings:
            await reached(Point.AMEND_RULED, len(rulings))


def _treated(plans: Sequence[PartitionPlan], task: Task, freed: int) -> Treated:
    states = {**task.known.keys, **{key: state for one in plans for key, state in one.keys.items()}}
    restated = {(w.partition, w.offset): w for one in plans for w in one.waits}
    why: dict[str, str] = {}
    for key, waiting in task.known.waiting.items():
        if (state := states[key]).parked is not None:
            now = [restated.get((w.partition, w.offset), w) for w in waiting]
            head = next((w for w in now if w.version == state.applied + 1), now[0])
            detail = next((w.detail for w in now if w.reason is state.parked), head.detail)
            why[key] = f"version {state.applied + 1}: {state.parked.name}: {detail}"
    rows: dict[Address, StoredRow | None] = {address: row for one in plans for address, row in one.puts.items()}
    rows |= {address: None for one in plans for address in one.drops}
    return Treated(freed=freed, keys={key: states[key] for key in task.known.waiting}, why=why, rows=rows)
