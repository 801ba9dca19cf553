"""An adapter of this project's own: a log that counts what passes through it, around any other."""

from collections import Counter
from collections.abc import Mapping, Sequence

from truecopy_bus import Appended, Log, Outgoing, Reader, Record, TopicSpec, TopicState

__all__ = ["MeteredLog"]


class MeteredLog:
    """The log port over `inner`. `appended` and `read` count records by topic."""

    def __init__(self, inner: Log) -> None:
        self.inner = inner
        self.appended: Counter[str] = Counter()
        self.read: Counter[str] = Counter()

    async def create(self, topic: TopicSpec) -> TopicState:
        return await self.inner.create(topic)

    async def describe(self, topic: str) -> TopicState:
        return await self.inner.describe(topic)

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        appended = await self.inner.append(topic, partition, records)
        self.appended[topic] += len(records)
        return appended

    def reader(self, topic: str) -> Reader:
        return _MeteredReader(self, topic)

    async def report(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        await self.inner.report(group, topic, positions)

    async def close(self) -> None:
        await self.inner.close()


class _MeteredReader:
    def __init__(self, log: MeteredLog, topic: str) -> None:
        self._log, self._topic, self._inner = log, topic, log.inner.reader(topic)

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        records = await self._inner.read(positions, records_max=records_max, wait_s=wait_s)
        self._log.read[self._topic] += len(records)
        return records

    async def close(self) -> None:
        await self._inner.close()
