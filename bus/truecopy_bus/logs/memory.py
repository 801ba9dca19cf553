"""A complete log in the memory of one event loop: for users' tests, for examples, and as the port's plainest reading.

Records go through the same bytes as on disk. Nothing is shared with another process or kept at the end of this one.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from truecopy_bus.errors import LogUnavailableError, TopicMismatchError, TopicMissingError
from truecopy_bus.genesis import genesis, new_incarnation
from truecopy_bus.limits import READ_BYTES_MAX
from truecopy_bus.logs.chunk import checked_size, framed, pack, pieces, unpack
from truecopy_bus.logs.positions import refuse_lost, rotated
from truecopy_bus.record import Appended, Incarnation, Outgoing, Record, TopicSpec, TopicState

__all__ = ["MemoryLog"]

_NAME = "memory"


@dataclass(slots=True)
class _Partition:
    """Records `start` to `start + len(records) - 1`."""

    start: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + len(self.records)


@dataclass(slots=True)
class _Topic:
    spec: TopicSpec
    incarnation: Incarnation
    partitions: list[_Partition]
    waiting: set[asyncio.Event] = field(default_factory=set)

    def bounds(self) -> dict[int, tuple[int, int]]:
        return {number: (held.start, held.end) for number, held in enumerate(self.partitions)}


class MemoryLog:
    """The log port in memory. Not safe across threads or event loops."""

    def __init__(self) -> None:
        self._topics: dict[str, _Topic] | None = {}

    async def create(self, topic: TopicSpec) -> TopicState:
        topics = self._open()
        found = topics.get(topic.name)
        if found is None:
            incarnation = new_incarnation()
            found = topics[topic.name] = _Topic(topic, incarnation, [_Partition() for _ in range(topic.partitions)])
            for partition in range(topic.partitions):
                self._store(found, partition, [genesis(topic, partition, incarnation)])
        elif len(found.partitions) != topic.partitions:
            raise TopicMismatchError(
                topic=topic.name, seen=f"{len(found.partitions)} partitions", expected=f"{topic.partitions}"
            )
        return await self.describe(topic.name)

    async def describe(self, topic: str) -> TopicState:
        await asyncio.sleep(0)
        found = self._topic(topic)
        return TopicState(
            name=topic,
            partitions=len(found.partitions),
            incarnation=found.incarnation,
            bounds=found.bounds(),
        )

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        await asyncio.sleep(0)
        return self._store(self._topic(topic), partition, records)

    def _store(self, topic: _Topic, partition: int, records: Sequence[Outgoing]) -> Appended:
        if partition not in range(len(topic.partitions)):
            raise TopicMismatchError(
                topic=topic.spec.name, seen=f"{len(topic.partitions)} partitions", expected=f"partition {partition}"
            )
        stored = topic.partitions[partition]
        first = at = stored.end
        for piece in pieces(topic.spec.name, records):
            blob = framed(at, *pack(piece))
            part, _ = unpack(blob, partition=partition, start=at, records_max=len(piece), bytes_max=len(blob))
            stored.records += part
            at = stored.end
        _wake(topic)
        return Appended(first, len(records))

    def reader(self, topic: str) -> "_Reader":
        return _Reader(self, topic)

    async def report(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Nothing: no lag tool looks into another process's memory."""

    async def close(self) -> None:
        topics, self._topics = self._topics or {}, None
        for topic in topics.values():
            _wake(topic)

    async def delete(self, topic: str) -> None:
        """Remove a topic, as an operator might. Not part of the port. Raises TopicMissingError."""
        gone = self._topic(topic)
        del self._open()[topic]
        _wake(gone)

    async def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """Drop the records before an offset, as retention does. Not part of the port. Raises TopicMissingError."""
        stored = self._topic(topic).partitions[partition]
        start = max(stored.start, min(before_offset, stored.end))
        del stored.records[: start - stored.start]
        stored.start = start

    async def settings(self, topic: str) -> Mapping[str, str]:
        """What the topic was created with. Not part of the port. Raises TopicMissingError."""
        return self._topic(topic).spec.settings

    def _open(self) -> dict[str, _Topic]:
        if self._topics is None:
            raise LogUnavailableError(log=_NAME, seen="closed")
        return self._topics

    def _topic(self, name: str) -> _Topic:
        found = self._open().get(name)
        if found is None:
            raise TopicMissingError(log=_NAME, topic=name)
        return found

    def _fetch(self, name: str, positions: Sequence[tuple[int, int]], records_max: int) -> tuple[_Topic, list[Record]]:
        topic = self._topic(name)
        refuse_lost(name, dict(positions), topic.bounds())
        records: list[Record] = []
        bytes_left = READ_BYTES_MAX
        for partition, position in positions:
            stored = topic.partitions[partition]
            low = position - stored.start
            for record in islice(stored.records, low, low + records_max - len(records)):
                if bytes_left <= 0:
                    break
                records.append(record)
                bytes_left -= checked_size(name, record)
        return topic, records


class _Reader:
    def __init__(self, log: MemoryLog, topic: str) -> None:
        self._log: MemoryLog | None = log
        self._topic = topic
        self._turn = 0

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        await asyncio.sleep(0)
        deadline = asyncio.get_running_loop().time() + wait_s
        order = rotated(positions, self._turn)
        self._turn += 1
        while True:
            if self._log is None:
                raise LogUnavailableError(log=_NAME, seen="the reader is closed")
            topic, records = self._log._fetch(self._topic, order, records_max)
            if records or asyncio.get_running_loop().time() >= deadline:
                return records
            written = asyncio.Event()
            topic.waiting.add(written)
            try:
                async with asyncio.timeout_at(deadline):
                    await written.wait()
            except TimeoutError:
                return []
            finally:
                topic.waiting.discard(written)

    async def close(self) -> None:
        self._log = None


def _wake(topic: _Topic) -> None:
    for written in topic.waiting:
        written.set()
