"""A log that ends at a cut: for whoever is to apply a history up to there, and not a record more. It is read only."""

import asyncio
from collections.abc import Mapping, Sequence

from truecopy_bus.errors import LogUnavailableError
from truecopy_bus.log import Log, Reader
from truecopy_bus.record import Appended, Outgoing, Record, TopicSpec, TopicState

__all__ = ["LogUpTo"]


class LogUpTo:
    """`log`, as if its topics ended before these offsets (partition -> next offset); of other partitions it holds nothing.

    Closing it leaves `log` open.
    """

    def __init__(self, log: Log, ends: Mapping[int, int]) -> None:
        self._log, self._ends = log, ends

    async def create(self, topic: TopicSpec) -> TopicState:
        """Raises LogUnavailableError: nothing is made through it."""
        raise _read_only(topic.name)

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:  # noqa: ARG002
        """Raises LogUnavailableError: nothing is appended through it."""
        raise _read_only(topic)

    async def describe(self, topic: str) -> TopicState:
        state = await self._log.describe(topic)
        bounds = {p: (start, min(end, self._ends.get(p, start))) for p, (start, end) in state.bounds.items()}
        return TopicState(name=state.name, partitions=state.partitions, incarnation=state.incarnation, bounds=bounds)

    def reader(self, topic: str) -> Reader:
        return _Reader(self._log.reader(topic), self._ends)

    async def report(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Nothing: lag tools are not to see who looks back."""

    async def close(self) -> None:
        """Nothing: the log is another's."""


class _Reader:
    def __init__(self, reader: Reader, ends: Mapping[int, int]) -> None:
        self._reader, self._ends = reader, ends

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        left = {p: offset for p, offset in positions.items() if offset < self._ends.get(p, 0)}
        if not left:
            await asyncio.sleep(wait_s)
            return ()
        records = await self._reader.read(left, records_max=records_max, wait_s=wait_s)
        return [record for record in records if record.offset < self._ends[record.partition]]

    async def close(self) -> None:
        await self._reader.close()


def _read_only(topic: str) -> LogUnavailableError:
    return LogUnavailableError(log=topic, seen="it is read up to a cut here, and nothing is written to it")
