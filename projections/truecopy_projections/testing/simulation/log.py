"""The simulated log and replica, as each process sees them: complete adapters in memory, with faults on the way to them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, TypeVar

from truecopy_bus.log import Reader
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.record import Appended, Outgoing, Record, TopicSpec, TopicState
from truecopy_bus.registry import SCHEMAS_TOPIC, Registry
from truecopy_projections.replica import Snapshot
from truecopy_projections.replicas.memory import MemoryReplica
from truecopy_projections.testing.simulation.faults import Fault, Side, Step
from truecopy_projections.testing.simulation.process import Process
from truecopy_schemas.control import CONTROL_KEY
from truecopy_schemas.errors import UnknownSchemaError
from truecopy_schemas.registry import Registered

__all__ = ["SimulatedLog", "SimulatedReplica", "SimulatedSchemas", "bit_flipped", "is_event"]

T = TypeVar("T")
_FRAME_BYTES = 5


class SimulatedLog:
    """A MemoryLog as one process sees it. See Log. `meddles`: what it reads may be lost or altered on the way."""

    def __init__(self, log: MemoryLog, process: Process, *, meddles: bool = False) -> None:
        self._log, self._process, self._meddles = log, process, meddles

    async def create(self, topic: TopicSpec) -> TopicState:
        return await self._perform(Step.COMMIT, lambda _: self._log.create(topic))

    async def describe(self, topic: str) -> TopicState:
        return await self._perform(Step.READ, lambda _: self._log.describe(topic))

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        return await self._process.perform(
            Side.LOG, Step.APPEND, lambda landing: self._log.append(topic, partition, records[:landing]), records=len(records)
        )

    async def settings(self, topic: str) -> Mapping[str, str]:
        return await self._perform(Step.READ, lambda _: self._log.settings(topic))

    def reader(self, topic: str) -> Reader:
        return _Reader(self._log.reader(topic), self._process, meddles=topic != SCHEMAS_TOPIC and self._meddles)

    async def report(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Nobody looks at lag here."""

    async def close(self) -> None:
        """Nothing: the log stays."""

    async def _perform(self, step: Step, effect: Callable[[int], Awaitable[T]]) -> T:
        return await self._process.perform(Side.LOG, step, effect)


class _Reader:
    def __init__(self, reader: Reader, process: Process, *, meddles: bool) -> None:
        self._reader, self._process, self._meddles = reader, process, meddles

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        records = await self._process.perform(
            Side.LOG, Step.READ, lambda _: self._reader.read(positions, records_max=records_max, wait_s=wait_s)
        )
        return self._meddled(records) if self._meddles else records

    def _meddled(self, records: Sequence[Record]) -> Sequence[Record]:
        play, events = self._process.play, [at for at, record in enumerate(records) if is_event(record)]
        if play.meddling is None or not events:
            return records
        strike, play.meddling = play.meddling, None
        play.struck[strike.fault] += 1
        random = Random(strike.draw)
        at = random.choice(events)
        lost = strike.fault is Fault.LOST_ON_THE_WAY
        other = () if lost else (records[at]._replace(value=bit_flipped(records[at].value or b"", random)),)
        return [*records[:at], *other, *records[at + 1 :]]

    async def close(self) -> None:
        await self._reader.close()


class SimulatedSchemas:
    """A registry that for a while does not find a schema. See SchemaSource."""

    def __init__(self, registry: Registry, process: Process) -> None:
        self._registry, self._process = registry, process

    async def refresh(self) -> None:
        await self._registry.refresh()

    async def schema(self, schema_id: int) -> Registered:
        if self._process.play.in_force(Fault.SCHEMA_MISSING):
            raise UnknownSchemaError(schema_id)
        return await self._registry.schema(schema_id)


class SimulatedReplica:
    """A MemoryReplica as one process sees it: each call of the port is one operation. See Replica."""

    def __init__(self, replica: MemoryReplica, process: Process) -> None:
        self._replica, self._process = replica, process

    def __getattr__(self, name: str) -> Any:
        step = Step.READ if name in ("load", "culprits", "flush") else Step.COMMIT

        async def perform(*args: Any, **options: Any) -> Any:
            return await self._process.perform(Side.REPLICA, step, lambda _: getattr(self._replica, name)(*args, **options))

        return perform

    @property
    def name(self) -> str:
        return self._replica.name

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        async def opened(_: int) -> None: ...

        await self._process.perform(Side.REPLICA, Step.READ, opened)
        async with self._replica.snapshot() as snapshot:
            yield snapshot


def bit_flipped(value: bytes, random: Random) -> bytes:
    """The same bytes but for one bit."""
    at = random.randrange(len(value))
    return value[:at] + bytes([value[at] ^ 1 << random.randrange(8)]) + value[at + 1 :]


def is_event(record: Record) -> bool:
    return record.key is not None and record.key != CONTROL_KEY and len(record.value or b"") > _FRAME_BYTES
