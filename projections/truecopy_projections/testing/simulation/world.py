"""The world of one run: an owner's database, a log, a replica's database, and the processes that come, die and come again."""

import asyncio
import contextlib
import copy
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from zlib import crc32

from truecopy_bus.errors import UnavailableError
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.registry import Registry
from truecopy_bus.relay import Relay
from truecopy_bus.store import EventStore
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.replicas.memory import MemoryReplica
from truecopy_projections.replicas.sql import SqlReplica
from truecopy_projections.testing.simulation.database import Disk, SimulatedDatabase
from truecopy_projections.testing.simulation.faults import Fault, Side
from truecopy_projections.testing.simulation.log import SimulatedLog, SimulatedReplica, SimulatedSchemas, is_event
from truecopy_projections.testing.simulation.oracle import Oracle
from truecopy_projections.testing.simulation.process import DOWN_S, Play, Process
from truecopy_projections.worker import Worker
from truecopy_schemas import Event

__all__ = ["Plan", "PoisonError", "World"]

LEASE_S, PUBLISHED_EACH_S = 0.25, 12
MARK_WRITING_S, MARK_IDLE_S = 0.06, 0.3
"""Seconds, short so that a run holds many of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run consists of, apart from its faults."""

    partitions: int
    relays: int
    workers: int
    in_memory: bool
    transactions: Sequence[Sequence[Sequence[tuple[str, Event]]]]
    """For each publisher, its transactions in order. No key is two publishers'."""


class PoisonError(Exception):
    """What a poisoned reducer raises."""


class World:
    """See the module's text. `wrong` collects what must never be, from wherever it shows."""

    def __init__(self, plan: Plan, projections: Sequence[Projection[Any]], play: Play) -> None:
        self.plan, self.play, self.oracle = plan, play, Oracle()
        self.projections = projections
        self.wrong: list[str] = []
        self.store_disk, self.replica_disk, self.log = Disk(), Disk(), MemoryLog()
        self.memory = MemoryReplica(clock=lambda: asyncio.get_running_loop().time() + self.replica_disk.skew_s)
        self._stops: list[tuple[str, asyncio.Event]] = []
        self._stopping: set[str] = set()
        self._beside: list[asyncio.Future[Any]] = []
        self._poisoned = [poisoned(projection, play) for projection in projections]

    @property
    def replica(self) -> Replica:
        """The replica as somebody sees it whom no fault strikes."""
        return self.memory if self.plan.in_memory else SqlReplica(SimulatedDatabase(self.replica_disk, Side.REPLICA))

    def store(self, process: Process | None = None) -> EventStore:
        """The owner's store as a process sees it."""
        database = SimulatedDatabase(self.store_disk, Side.STORE, process)
        return EventStore(database, service="simulated", partitions=self.plan.partitions)

    async def run(self, until: Callable[[], Awaitable[None]], caught_up: Callable[[], Awaitable[None]]) -> None:
        """Let all processes live until `until` has come to its end; then relays end, and after `caught_up` the workers."""
        self._stopping.clear()
        await self.store().open()
        async with asyncio.TaskGroup() as group:
            relays = [group.create_task(self._lives(f"relay{number}", self._relay)) for number in range(self.plan.relays)]
            for number in range(self.plan.workers):
                for projection in self._poisoned:
                    group.create_task(self._lives(f"worker{number} of {projection.id}", self._worker_of(projection)))
            try:
                await until()
                self._end("relay")
                await asyncio.wait(relays)
                await caught_up()
            finally:
                self._end("")

    async def publish(self) -> None:
        """All that the plan has to publish, by all publishers."""
        async with asyncio.TaskGroup() as group:
            for number, transactions in enumerate(self.plan.transactions):
                group.create_task(self._publisher(Process(self.play, f"publisher{number}", mortal=False), transactions))

    def distinct_on_log(self, topic: str) -> set[tuple[bytes, bytes]]:
        """The events that a topic holds, each once: by key and value."""
        found = (self.log._topics or {}).get(topic)
        records = [record for held in found.partitions for record in held.records] if found else []
        return {(r.key or b"", r.value or b"") for r in records if is_event(r)}

    def begin(self, work: Awaitable[Any]) -> None:
        """Have something done beside the processes."""
        self._beside.append(asyncio.ensure_future(work))

    async def done_beside(self) -> None:
        """Wait for all that was begun so."""
        while self._beside:
            await self._beside.pop()

    def restart(self, role: str = "") -> None:
        """Have every process of a role end in good order; unless the role ends, another comes."""
        for name, stop in self._stops:
            if name.startswith(role):
                stop.set()

    def _end(self, role: str) -> None:
        self._stopping.add(role)
        self.restart(role)

    async def _publisher(self, process: Process, transactions: Sequence[Sequence[tuple[str, Event]]]) -> None:
        store, random = self.store(process), Random(self.play.random.random())
        for events in transactions:
            await asyncio.sleep(random.expovariate(PUBLISHED_EACH_S))
            while True:
                try:
                    tokens = await store.publish_many([(key, event, None) for key, event in events])
                    versions = [token.version for token in tokens]
                except UnavailableError:  # committed, or not: the store knows, and nobody else writes these keys
                    if (found := await self._committed(process, events)) is None:
                        continue
                    versions = found
                for (key, event), version in zip(events, versions, strict=True):
                    if why := self.oracle.acknowledged(key, event, version):
                        self.wrong.append(f"publishing: {why}")
                break

    async def _committed(self, process: Process, events: Sequence[tuple[str, Event]]) -> list[int] | None:
        """The versions that a transaction got whose end was not told; None if it was rolled back."""
        known = {key: len(self.oracle.of(type(event).__entity__).get(key, ())) for key, event in events}
        key, event = events[0]
        while True:
            await asyncio.sleep(0.02)
            with contextlib.suppress(UnavailableError):
                if await self.store(process).version(type(event).__entity__, key) == known[key]:
                    return None
                break
        versions = []
        for key, _ in events:
            known[key] += 1
            versions.append(known[key])
        return versions

    async def _lives(self, name: str, life: Callable[[Process, asyncio.Event, str], Awaitable[None]]) -> None:
        """One life of a process after the other, until the world stops."""
        number = 0
        while not any(name.startswith(role) for role in self._stopping):
            process, stop, number = Process(self.play, name), asyncio.Event(), number + 1
            self._stops.append((name, stop))
            process.task = asyncio.create_task(_whole(life, process, stop, f"{name}.{number}"))
            await asyncio.wait([process.task])
            self._stops.remove((name, stop))
            fault = None if process.task.cancelled() else process.task.exception()
            if fault is not None and not isinstance(fault, UnavailableError):
                self.wrong.append(f"{name} ended by {type(fault).__name__}: {fault}")
                return
            if not process.alive:
                await asyncio.sleep(self.play.random.uniform(*DOWN_S))

    async def _relay(self, process: Process, stop: asyncio.Event, holder: str) -> None:
        log = SimulatedLog(self.log, process)
        relay = Relay(
            self.store(process),
            log,
            Registry(log),
            holder=holder,
            lease_s=LEASE_S,
            mark_events=10,
            mark_writing_s=MARK_WRITING_S,
            mark_idle_s=MARK_IDLE_S,
        )
        await relay.run(stop)

    def _worker_of(self, projection: Projection[Any]) -> Callable[[Process, asyncio.Event, str], Awaitable[None]]:
        async def life(process: Process, stop: asyncio.Event, holder: str) -> None:
            log, database = (
                SimulatedLog(self.log, process, meddles=True),
                SimulatedDatabase(self.replica_disk, Side.REPLICA, process),
            )
            replica: Any = SimulatedReplica(self.memory, process) if self.plan.in_memory else SqlReplica(database)
            schemas = SimulatedSchemas(Registry(log), process)
            size = self.play.random.choice([3, 10, 50])
            worker = Worker(projection, replica, log, schemas, holder=holder, lease_s=LEASE_S, records_max=size, durable=False)
            await worker.run(stop)

        return life


async def _whole(
    life: Callable[[Process, asyncio.Event, str], Awaitable[None]], process: Process, stop: asyncio.Event, holder: str
) -> None:
    await life(process, stop, holder)


def poisoned(projection: Projection[Any], play: Play) -> Projection[Any]:
    """The same projection, whose reducers raise for some keys while poison is in force."""
    other = copy.copy(projection)

    def wrapped(reduce: Any) -> Any:
        def raising(row: Any, event: Any, change: Any) -> Any:
            if play.in_force(Fault.POISON) and crc32(change.key.encode()) % 3 == play.drawn[Fault.POISON] % 3:
                raise PoisonError(change.key)
            return reduce(row, event, change)

        return raising

    other.handlers = {name: handler._replace(reduce=wrapped(handler.reduce)) for name, handler in projection.handlers.items()}
    return other
