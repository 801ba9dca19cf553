"""What the tests of a log are made of: topics of their own, records that tell themselves apart, reading on."""

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from truecopy_bus.log import Log, Reader
from truecopy_bus.record import Outgoing, Record, TopicSpec, TopicState
from truecopy_schemas.control import CONTROL_HEADER, CONTROL_KEY, MARK, Mark, encode

__all__ = ["AT_MS", "LogSteps", "content", "made", "marking", "numbered", "reading", "spec"]

AT_MS = 1_700_000_000_123


class LogSteps:
    """The hooks of the suite: override those in which an adapter differs."""

    patience_s = 10.0
    """Seconds that an answer may take before it counts as missing."""

    async def reopened(self, log: Log) -> Log:
        """Another handle on what `log` stored, as another process would have it; closed by whoever made `log`."""
        return log

    async def delete_topic(self, log: Any, topic: str) -> None:
        """Delete a topic from outside, as an operator does."""
        await log.delete(topic)

    async def trim(self, log: Any, topic: str, partition: int, before_offset: int) -> None:
        """Delete the records before an offset, as retention does."""
        await log.trim(topic, partition, before_offset)

    async def stored(self, log: Log, topic: str, positions: Mapping[int, int], count: int) -> list[Record]:
        """What a reader of its own reads."""
        async with reading(log, topic) as reader:
            return await self.read(reader, positions, count)

    async def read(self, reader: Reader, positions: Mapping[int, int], count: int, *, records_max: int = 5_000) -> list[Record]:
        """Read on until `count` records came, or nothing more does."""
        at, found = dict(positions), list[Record]()
        while len(found) < count:
            records = await reader.read(at, records_max=records_max, wait_s=self.patience_s)
            if not records:
                break
            for record in records:
                assert record.partition in positions, "a partition came that was not named"
                assert record.offset >= at[record.partition], "a record came again, or out of order"
                at[record.partition] = record.offset + 1
            found += records
        return found


@asynccontextmanager
async def reading(log: Log, topic: str) -> AsyncIterator[Reader]:
    """A reader that is closed in the end."""
    reader = log.reader(topic)
    try:
        yield reader
    finally:
        await reader.close()


def spec(partitions: int = 1) -> TopicSpec:
    return TopicSpec(name="suite." + uuid.uuid4().hex, partitions=partitions)


async def made(log: Log, partitions: int = 1) -> str:
    return (await log.create(spec(partitions))).name


def numbered(count: int, *, of: str = "value ") -> list[Outgoing]:
    return [Outgoing(b"key", f"{of}{number}".encode(), AT_MS + number, (("n", b"%d" % number),)) for number in range(count)]


def content(records: Sequence[Record]) -> list[Outgoing]:
    return [Outgoing(record.key, record.value, record.timestamp_ms, record.headers) for record in records]


def marking(state: TopicState) -> Outgoing:
    """A mark of the topic's incarnation."""
    mark = Mark(
        incarnation=str(state.incarnation), epoch=1, number=1, count=0, digest=bytes(32), digest_algorithm=1, at_ms=AT_MS
    )
    return Outgoing(CONTROL_KEY, encode(mark), AT_MS, ((CONTROL_HEADER, MARK),))
