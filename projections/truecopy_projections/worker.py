"""The worker: the one loop that does the I/O of applying. Fetch, decode, load, plan, apply; each once for a batch.

It takes its fair share of a projection's partitions by leases in the replica's own database, and starts each from the position
kept there. It decides nothing: the plan does. What is away is waited for, without end and without help; what can't be right
(another incarnation, a lost position) halts that partition in a state with a name, which stays to be read in the replica.

While it catches up, the next batch is read and planned as the one before is being committed, on the states which that will
leave. A plan holds only if those came true: the replica compares its position and fence, as ever, and so does the worker first.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from truecopy_bus.errors import DataRefusedError, PositionLostError, TopicMissingError, UnavailableError
from truecopy_bus.leases import Fence
from truecopy_bus.limits import LEASE_S, READ_RECORDS_MAX, READ_WAIT_S
from truecopy_bus.log import Log, Passing, Reader
from truecopy_bus.outage import Outage
from truecopy_bus.points import Point, reached
from truecopy_bus.record import Record, TopicState
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.arrival import Reading
from truecopy_projections.batch_size import BatchSize
from truecopy_projections.columnar_plan import Planned
from truecopy_projections.columnar_work import ColumnarWork
from truecopy_projections.following import followed, halt_kind, standstill
from truecopy_projections.limits import (
    INCARNATION_CHECK_S,
    PARKED_RETRY_S,
    TOPIC_POLL_S,
    TOPIC_QUIET_S,
    WATCHDOG_S,
)
from truecopy_projections.plan import halted, passed
from truecopy_projections.projection import Projection
from truecopy_projections.records_work import RecordsWork, Task
from truecopy_projections.replica import Replica
from truecopy_projections.state import PartitionPlan, PartitionState, stands_restored
from truecopy_schemas.errors import TruecopyError

__all__ = ["Worker"]

_log = logging.getLogger("truecopy.worker")


class Worker:
    """Applies one projection to one replica. Any number of them share its partitions.

    `topic` is the entity's topic as the log names it, `group` the name under which lag tools see this replica. `lease_s`,
    `wait_s` and `watchdog_s` are seconds. With `durable` off, a PostgreSQL replica may acknowledge a commit before its flush:
    rows and position can then rewind together.
    """

    def __init__(
        self,
        projection: Projection[Any],
        replica: Replica,
        log: Log,
        registry: SchemaSource,
        *,
        topic: str | None = None,
        group: str | None = None,
        holder: str | None = None,
        lease_s: float = LEASE_S,
        wait_s: float = READ_WAIT_S,
        watchdog_s: float = WATCHDOG_S,
        records_max: int = READ_RECORDS_MAX,
        durable: bool = True,
    ) -> None:
        self.projection, self.replica = projection, replica
        self.topic = topic or projection.entity
        self.group = group or projection.id
        self.holder = holder or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.applied = 0
        """Events whose effect this worker has committed."""
        self.outage = Outage(_log, projection.id, about=self._about())
        """What it waits for, and when it last came round."""
        self._log, self._registry, self._durable = log, registry, durable
        self._lease_s, self._wait_s, self._watchdog_s = lease_s, min(wait_s, lease_s / 3), watchdog_s
        reading = Reading(projection)
        self._records = RecordsWork(projection, replica, registry, reading)
        self._columns = ColumnarWork(projection, replica, reading)
        self._by_records = False
        self._size = BatchSize(records_max=records_max, lease_s=lease_s)
        self._commit: asyncio.Task[None] | None = None
        self._ahead: dict[int, PartitionState] = {}
        self._reader: Reader | None = None
        self._topic_state: TopicState | None = None
        self._member = False
        self._fences: Mapping[int, Fence] = {}
        self._states: dict[int, PartitionState] = {}
        self._upkeep_at = self._check_at = self._retry_at = 0.0
        self._progress_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; finish the batch at hand; give the partitions back.

        Raises what is wrong with the declaration or the code (ProjectionError, NewerFormatError); never for what is away.
        """
        try:
            while not stop.is_set():
                try:
                    await self._turn()
                    self.outage.over()
                except TopicMissingError as fault:
                    # A topic comes into being with its owner's first event, and somebody may wait to read that one.
                    pause_s = self.outage.strike(fault, longest_s=TOPIC_POLL_S, quiet_s=TOPIC_QUIET_S)
                    await self._rest(stop, pause_s)
                except UnavailableError as fault:
                    await self._rest(stop, self.outage.strike(fault))
        finally:
            await self.leave()

    def held(self) -> dict[int, str]:
        """The partitions that it holds, each with why it stands still; "" where it flows."""
        return {p: self._states[p].halted if p in self._states else "" for p in sorted(self._fences)}

    async def step(self) -> int:
        """One round: heartbeat when due, one batch, committed. Returns the records read. Raises what `run` waits for."""
        read = await self._turn()
        await self._land()
        return read

    async def _turn(self) -> int:
        """One round, of which the commit may be left under way."""
        if self._topic_state is None:
            self._topic_state = await followed(self._log, self.topic, self.replica, self.projection)
            self._progress_at = _now()
            await self._install(self._topic_state)
            await self._upkeep()
        began = _now()
        flowing = self._flowing()
        records = await self._read(flowing) if flowing else await self._idle()
        if records:
            await reached(Point.WORKER_READ, len(records))
        planned = await self._planned(records)
        if planned is not None and self._commit is not None:
            await reached(Point.WORKER_AHEAD, len(records))
        await self._land()
        if began >= min(self._upkeep_at, self._check_at):
            await self._upkeep()
        if planned is not None:
            self._start([one for one in planned.plans if self._holds(one)], planned)
            if len(records) < self._size.records:
                await self._land()
        elif held := [record for record in records if self._flowing().get(record.partition) == flowing.get(record.partition)]:
            await self._work_by_records(held)
        elif self.projection.foreign is not None and isinstance(self._reader, Passing):
            await self._pass(flowing, self._reader.passed())
        self._size.adapt(len(records), _now() - began)
        return len(records)

    async def _upkeep(self) -> None:
        """Renew the leases, look at the topic, try what is parked; each when it is due, and with no commit under way."""
        now = _now()
        await self._renew()
        self._upkeep_at = now + self._lease_s / 3
        if now >= self._check_at:
            await self._check(list(self._fences))
        if now >= self._retry_at:
            await self._retry(list(self._fences))
            self._retry_at = now + PARKED_RETRY_S

    async def _pass(self, read: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Move on where a read from `read` on found no record: a foreign topic may end with markers of transactions."""
        quiet = [p for p, at in self._flowing().items() if read.get(p) == at < ends.get(p, 0)]
        if quiet:
            await self._apply([passed(self._fences[p], self._states[p], ends[p]) for p in quiet])

    async def _idle(self) -> Sequence[Record]:
        await asyncio.sleep(self._wait_s)
        return ()

    def _flowing(self) -> dict[int, int]:
        """Where to read on: the partitions that this worker holds and that do not stand still, by their next offset."""
        states = {p: self._ahead.get(p) or self._states[p] for p in self._fences}
        return {p: state.position for p, state in states.items() if not state.halted}

    async def _install(self, topic: TopicState) -> None:
        await self.replica.install(self.projection, partitions=topic.partitions, incarnation=topic.incarnation or "")
        await self._registry.refresh()
        await reached(Point.WORKER_INSTALLED, topic.partitions)

    async def _renew(self) -> None:
        self._member = True
        fences = await self.replica.renew(self.projection, self.holder, self._fences.values(), lease_s=self._lease_s)
        taken = [p for p, fence in fences.items() if self._fences.get(p) != fence]
        self._fences = fences
        if taken:
            await reached(Point.WORKER_LEASED, len(taken))
            self._columns.forget()
            await self._records.renew()
        missing = [p for p in fences if p in taken or p not in self._states]
        if missing:
            async with self.replica.snapshot() as snapshot:
                stored = await snapshot.states(self.projection.id)
            self._states |= {p: stored[p] for p in missing}
            await self._check(missing)
            await self._retry(missing)

    async def _check(self, partitions: Collection[int]) -> None:
        """Whether the topic is still the one that these partitions' positions are about; halt or release them by that."""
        topic = self._topic_state = await followed(self._log, self.topic, self.replica, self.projection)
        self._check_at = _now() + INCARNATION_CHECK_S
        for p in partitions:
            await self._begin(p, topic.bounds.get(p, (0, 0))[0])
            if (state := self._states.get(p)) is None or stands_restored(state):
                continue
            why = standstill(state, topic, self.topic)
            if halt_kind(why) != halt_kind(state.halted) and (why or halt_kind(state.halted) != "parked"):
                await self._apply([halted(self._fences[p], state, why)])
                if why:
                    _log.error("%s[%d] halts: %s", self.projection.id, p, why, extra=self._about(p))
                else:
                    _log.warning("%s[%d] flows again", self.projection.id, p, extra=self._about(p))
        flowing = self._flowing()
        if any(topic.bounds[p][1] > flowing[p] for p in partitions if p in flowing):
            if _now() - self._progress_at > self._watchdog_s:
                _log.warning("%s: no progress; opening the reader anew", self.projection.id, extra=self._about())
                await self._close_reader()
                self._progress_at = _now()
        else:
            self._progress_at = _now()

    async def _begin(self, p: int, start: int) -> None:
        """Who has read nothing of a foreign topic's partition begins where that does now."""
        state = self._states[p]
        if self.projection.foreign is not None and state.position == 0 < start:
            await self._apply([passed(self._fences[p], state, start)])
            _log.warning("%s[%d] begins at offset %d: what %s held before is gone", self.projection.id, p, start, self.topic)

    async def _read(self, positions: Mapping[int, int]) -> Sequence[Record]:
        self._reader = self._reader or self._log.reader(self.topic)
        try:
            return await self._reader.read(positions, records_max=self._size.records, wait_s=self._wait_s)
        except PositionLostError as fault:
            await self._close_reader()
            await self._land()
            plan = halted(self._fences[fault.partition], self._states[fault.partition], f"position lost: {fault}")
            await self._apply([plan])
            _log.error("%s[%d] halts: %s", self.projection.id, fault.partition, fault, extra=self._about(fault.partition))
            return ()

    async def _planned(self, records: Sequence[Record]) -> Planned | None:
        """The plan of a batch by columns, on the states that the commit under way will leave. None: plan it by records."""
        held = [record for record in records if record.partition in self._fences]
        if not held or self._by_records or self.projection.foreign is not None or self.projection.gathers:
            return None
        planned = await self._columns.plan(held, states := {**self._states, **self._ahead}, self._fences)
        if planned is None and await self._records.learn(held):
            planned = await self._columns.plan(held, states, self._fences)
        return planned

    def _holds(self, plan: PartitionPlan) -> bool:
        """Whether what a plan was made on is what came true."""
        p = plan.was.partition
        return self._fences.get(p) == plan.fence and self._states.get(p) == plan.was and not plan.was.halted

    def _start(self, plans: Sequence[PartitionPlan], planned: Planned) -> None:
        """Begin to commit these of the plans."""
        if len(plans) < len(planned.plans):
            self._columns.forget()
        else:
            self._columns.took(planned)
        if not plans:
            return
        self._ahead = {one.was.partition: one.state for one in plans}
        self._commit = asyncio.create_task(self._commit_columns(plans))

    async def _commit_columns(self, plans: Sequence[PartitionPlan]) -> None:
        await reached(Point.WORKER_COLUMNS, len(plans))
        await self._applying(plans)
        try:
            await self._apply(plans)
        except DataRefusedError:  # which row it is, the way by records finds out
            self._by_records = True
            self._columns.forget()
        else:
            await self._applied_all()

    async def _land(self) -> None:
        """Wait for the commit under way. Raises what it raises."""
        commit, self._commit = self._commit, None
        try:
            if commit is not None:
                await commit
        finally:
            self._ahead = {}

    async def _applied_all(self) -> None:
        self._progress_at = _now()
        await self._log.report(self.group, self.topic, {p: self._states[p].position for p in self._states})
        await reached(Point.WORKER_REPORTED, self.applied)

    async def _work_by_records(self, records: Sequence[Record]) -> None:
        self._columns.forget()
        task = await self._records.batch(records, self._states)
        while True:
            plans = self._records.plan(task, self._states, self._fences)
            await self._applying(plans)
            if await self._commits(task, plans):
                break
        self._by_records = False
        await self._applied_all()

    async def _applying(self, plans: Sequence[PartitionPlan]) -> None:
        await reached(Point.WORKER_APPLYING, sum(s.count for s in self._states.values()) + sum(p.applied for p in plans))

    async def _commits(self, task: Task, plans: Sequence[PartitionPlan]) -> bool:
        """Apply, or learn which keys the database refuses, to plan without them."""
        try:
            await self._apply(plans)
        except DataRefusedError:
            if not await self._records.blame(task, plans):
                raise  # no single row is to blame: a constraint over several, which parking can't mend
            return False
        return True

    async def _apply(self, plans: Sequence[PartitionPlan]) -> None:
        stays = any(one.state.position == one.was.position for one in plans)  # nothing would tell if a crash took that back
        committed = await self.replica.apply(self.projection, plans, durable=self._durable or stays)
        await reached(Point.WORKER_APPLIED, sum(p.state.count for p in plans))
        for one in plans:
            p = one.state.partition
            if p in committed:
                self._states[p] = one.state
                self.applied += one.applied
            else:  # taken by another: what was read is theirs to apply
                self._columns.forget()
                self._states.pop(p, None)
                self._fences = {q: fence for q, fence in self._fences.items() if q != p}

    async def _retry(self, partitions: Collection[int]) -> None:
        """Try the parked keys of these partitions again."""
        if not any(self._states[p].parked for p in partitions if p in self._states):
            return
        task = await self._records.parked(partitions)
        while True:
            changed = [one for one in self._records.plan(task, self._states, self._fences) if one.freed or one.waits]
            if not changed:
                return
            await reached(Point.WORKER_RETRYING, sum(len(one.freed) for one in changed))
            if await self._commits(task, changed):
                await reached(Point.WORKER_RETRIED)
                return

    async def _rest(self, stop: asyncio.Event, pause_s: float) -> None:
        """After a fault nothing that is remembered can be trusted: a commit may or may not have happened."""
        await self._abandon()
        self._topic_state, self._check_at = None, 0.0
        self._states.clear()
        self._columns.forget()
        await self._close_reader()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await stop.wait()

    async def _abandon(self) -> None:
        """Let go of the commit under way, if there is one: whether it happened is read from the replica."""
        commit, self._commit, self._ahead = self._commit, None, {}
        if commit is not None:
            commit.cancel()
            await asyncio.wait([commit])
            if not commit.cancelled():
                commit.exception()

    def _about(self, partition: int | None = None) -> dict[str, object]:
        """The fields of what it logs."""
        about: dict[str, object] = {"projection": self.projection.id, "topic": self.topic, "holder": self.holder}
        return about if partition is None else about | {"partition": partition}

    async def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    async def leave(self) -> None:
        """Give the partitions back, within the time of a lease; after that they run out by themselves. `run` ends with it."""
        await self._close_reader()
        if not self._member:
            await self._abandon()
            return
        try:
            async with asyncio.timeout(self._lease_s):
                await self._land()
                await self.replica.leave(self.projection, self.holder, self._fences.values())
        except (TruecopyError, TimeoutError) as fault:
            _log.warning("%s: leases not given back, they run out: %s", self.projection.id, fault, extra=self._about())
        await self._abandon()
        self._fences, self._member = {}, False


def _now() -> float:
    return asyncio.get_running_loop().time()
