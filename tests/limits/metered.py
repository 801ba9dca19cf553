"""A log and a replica that note what they are asked for and when, and can be slow or silent: real adapters underneath."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, NamedTuple

from truecopy_bus.log import Reader
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.record import Appended, Outgoing, Record, TopicState
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Snapshot
from truecopy_projections.replicas import MemoryReplica
from truecopy_projections.state import Known, Wanted

__all__ = ["Asked", "MeteredLog", "MeteredReplica", "steps"]


def steps(times: Sequence[float]) -> set[float]:
    """The pauses between three moments or more, in seconds."""
    assert len(times) > 2
    return {round(later - earlier, 6) for earlier, later in pairwise(times)}


class Asked(NamedTuple):
    """One read."""

    topic: str
    positions: Mapping[int, int]
    records_max: int
    wait_s: float


class MeteredLog(MemoryLog):
    """`now` tells the seconds that are noted. A read takes `slow_s` seconds more. Topics of `silent` give no records.

    With `reads` it falls silent after so many.
    """

    def __init__(self, now: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__()
        self.now = now
        self.slow_s = 0.0
        self.silent: set[str] = set()
        self.reads: int | None = None
        self.asked: list[Asked] = []
        self.described: list[tuple[str, float]] = []
        self.appended: list[tuple[str, int, float]] = []
        self.opened: list[tuple[str, float]] = []

    async def describe(self, topic: str) -> TopicState:
        self.described.append((topic, self.now()))
        return await super().describe(topic)

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        self.appended.append((topic, len(records), self.now()))
        return await super().append(topic, partition, records)

    def reader(self, topic: str) -> Any:
        self.opened.append((topic, self.now()))
        return _MeteredReader(self, topic, super().reader(topic))

    def looks(self, topic: str) -> list[float]:
        """When the topic was described."""
        return [at for name, at in self.described if name == topic]

    def sent(self, topic: str) -> list[int]:
        """How many records each append to the topic had."""
        return [records for name, records, _ in self.appended if name == topic]


class _MeteredReader:
    def __init__(self, log: MeteredLog, topic: str, inner: Reader) -> None:
        self._log, self._topic, self._inner = log, topic, inner

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        self._log.asked.append(Asked(self._topic, dict(positions), records_max, wait_s))
        if self._topic in self._log.silent or self._log.reads == 0:
            await asyncio.sleep(wait_s)
            return []
        if self._log.reads is not None:
            self._log.reads -= 1
        if self._log.slow_s:
            await asyncio.sleep(self._log.slow_s)
        return await self._inner.read(positions, records_max=records_max, wait_s=wait_s)

    async def close(self) -> None:
        await self._inner.close()


class MeteredReplica(MemoryReplica):
    """Leases go by `now` as well. `looking` is called at each snapshot."""

    def __init__(self, now: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__(clock=now)
        self.now = now
        self.looks: list[float] = []
        self.loads: list[Wanted] = []
        self.looking: Callable[[], Awaitable[Any]] | None = None

    async def load(self, projection: Projection[Any], wanted: Wanted) -> Known:
        self.loads.append(wanted)
        return await super().load(projection, wanted)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        self.looks.append(self.now())
        if self.looking is not None:
            await self.looking()
        async with super().snapshot() as it:
            yield it
