"""The suite for logs is worth its name: an adapter that breaks one promise fails it, in the test that is about that promise."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import pytest

from truecopy_bus.errors import PositionLostError, TopicMissingError
from truecopy_bus.genesis import genesis, new_incarnation
from truecopy_bus.limits import READ_WAIT_S
from truecopy_bus.log import Reader
from truecopy_bus.logs import memory
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.record import Appended, Outgoing, Record, TopicSpec, TopicState
from truecopy_bus.testing import LogSuite
from truecopy_schemas.errors import TruecopyError


class PatientReader:
    """Passes through; the mutants below change what they name."""

    def __init__(self, inner: Reader) -> None:
        self.inner = inner

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        return await self.inner.read(positions, records_max=records_max, wait_s=wait_s)

    async def close(self) -> None:
        await self.inner.close()


class DropsARecord(MemoryLog):
    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        kept = records[:-1] if len(records) > 4 else records
        return await super().append(topic, partition, kept)


class WritesARecordTwice(MemoryLog):
    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        return await super().append(topic, partition, [*records, records[-1]])


class SwapsTwoRecords(MemoryLog):
    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        return await super().append(topic, partition, [*records[1:2], records[0], *records[2:]])


class LosesHeaders(MemoryLog):
    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        return await super().append(topic, partition, [record._replace(headers=()) for record in records])


class KeepsOneHeaderOfAName(MemoryLog):
    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        kept = [record._replace(headers=tuple(dict(record.headers).items())) for record in records]
        return await super().append(topic, partition, kept)


class TakesNullForEmpty(MemoryLog):
    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        return await super().append(topic, partition, [record._replace(value=record.value or b"") for record in records])


class StampsItsOwnTime(MemoryLog):
    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        return await super().append(topic, partition, [record._replace(timestamp_ms=5) for record in records])


class SaysAWrongOffset(MemoryLog):
    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        first, count = await super().append(topic, partition, records)
        return Appended(first + count - 1, count)


class AcknowledgesBeforeWriting(MemoryLog):
    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        end = (await self.describe(topic)).bounds.get(partition, (0, 0))[1]
        self.later = asyncio.get_running_loop().call_later(0.01, lambda: self._store(self._topic(topic), partition, records))
        return Appended(end, len(records))


class WritesTheStartOfARefusedBatch(MemoryLog):
    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        first = (await self.describe(topic)).bounds.get(partition, (0, 0))[1]
        for record in records:
            await super().append(topic, partition, [record])
        return Appended(first, len(records))


class MakesTopicsByTouch(MemoryLog):
    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        try:
            return await super().append(topic, partition, records)
        except TopicMissingError:
            await self.create(TopicSpec(name=topic, partitions=1))
            raise


class CreatesAgain(MemoryLog):
    async def create(self, topic: TopicSpec) -> TopicState:
        try:
            await super().describe(topic.name)
        except TopicMissingError:
            return await super().create(topic)
        await super().append(topic.name, 0, [genesis(topic, 0, new_incarnation())])
        return await super().create(topic)


class TakesAnyNumberOfPartitions(MemoryLog):
    async def create(self, topic: TopicSpec) -> TopicState:
        try:
            return await super().describe(topic.name)
        except TopicMissingError:
            return await super().create(topic)


class GivesEachPartitionItsOwnLife(MemoryLog):
    async def create(self, topic: TopicSpec) -> TopicState:
        state = await super().create(topic)
        for number, partition in enumerate(self._topic(topic.name).partitions):
            if partition.end == 1:
                partition.records.clear()
                self._store(self._topic(topic.name), number, [genesis(topic, number, new_incarnation())])
        return state


class LivesOneLifeForEver(MemoryLog):
    lives: ClassVar[dict[str, str]] = {}

    async def describe(self, topic: str) -> TopicState:
        state = await super().describe(topic)
        first = self.lives.setdefault(topic, str(state.incarnation))
        return TopicState(name=topic, partitions=state.partitions, incarnation=first, bounds=state.bounds)


class ForgetsItsLifeWithTheGenesis(MemoryLog):
    async def describe(self, topic: str) -> TopicState:
        state = await super().describe(topic)
        known = state.incarnation if state.bounds[0][0] == 0 else None
        return TopicState(name=topic, partitions=state.partitions, incarnation=known, bounds=state.bounds)


class StaysOpen(MemoryLog):
    async def close(self) -> None:
        pass


class RaisesFromReports(MemoryLog):
    async def report(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        for partition in positions:
            await self.append(topic, partition, [Outgoing(group.encode(), None, 0)])


class JumpingReader(PatientReader):
    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        try:
            return await super().read(positions, records_max=records_max, wait_s=wait_s)
        except PositionLostError as lost:
            resumed = {**positions, lost.partition: lost.start}
            return await self.read(resumed, records_max=records_max, wait_s=wait_s)


class PartialReader(PatientReader):
    """Serves the lowest partition that has something."""

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        for partition in sorted(positions):
            found = await super().read({partition: positions[partition]}, records_max=records_max, wait_s=0)
            if found:
                return found
        return await super().read(positions, records_max=records_max, wait_s=wait_s)


class GreedyReader(PatientReader):
    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        return await super().read(positions, records_max=10 * records_max, wait_s=wait_s)


class ImpatientReader(PatientReader):
    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        return await super().read(positions, records_max=records_max, wait_s=min(wait_s, READ_WAIT_S / 10))


class SleepyReader(PatientReader):
    """Looks once, and then when the time is up."""

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        found = await super().read(positions, records_max=records_max, wait_s=0)
        if not found:
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=wait_s)
            found = await super().read(positions, records_max=records_max, wait_s=0)
        return found


class ReaderOfEverything(PatientReader):
    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        return await super().read({0: 0, **positions}, records_max=records_max, wait_s=wait_s)


class ForgetfulReader(PatientReader):
    """Trusts its own position more than the caller's."""

    def __init__(self, inner: Reader) -> None:
        super().__init__(inner)
        self.at: dict[int, int] = {}

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        found = await super().read({**positions, **self.at}, records_max=records_max, wait_s=wait_s)
        self.at |= {record.partition: record.offset + 1 for record in found}
        return found


def reading_with(reader: Callable[[Reader], Reader]) -> type[MemoryLog]:
    class Mutant(MemoryLog):
        def reader(self, topic: str) -> Reader:  # type: ignore[override]
            return reader(super().reader(topic))

    return Mutant


MUTANTS = [
    pytest.param(DropsARecord, "append_order", id="drops a record"),
    pytest.param(WritesARecordTwice, "append_order", id="writes a record twice"),
    pytest.param(SwapsTwoRecords, "append_order", id="swaps two records"),
    pytest.param(LosesHeaders, "survive_to_the_byte", id="loses headers"),
    pytest.param(KeepsOneHeaderOfAName, "survive_to_the_byte", id="keeps one header of a name"),
    pytest.param(TakesNullForEmpty, "survive_to_the_byte", id="takes null for empty"),
    pytest.param(StampsItsOwnTime, "survive_to_the_byte", id="stamps its own time"),
    pytest.param(SaysAWrongOffset, "tells_where_its_records_lie", id="says a wrong offset"),
    pytest.param(AcknowledgesBeforeWriting, "what_an_append_returned_from", id="acknowledges before writing"),
    pytest.param(WritesTheStartOfARefusedBatch, "an_oversize_record", id="writes half of a refused batch"),
    pytest.param(MakesTopicsByTouch, "appending_to_a_missing_topic", id="makes topics by touch"),
    pytest.param(CreatesAgain, "creating_again", id="create is not idempotent"),
    pytest.param(TakesAnyNumberOfPartitions, "another_number_of_partitions", id="takes any number of partitions"),
    pytest.param(GivesEachPartitionItsOwnLife, "genesis_of_one_incarnation", id="an incarnation for each partition"),
    pytest.param(LivesOneLifeForEver, "made_anew", id="keeps the incarnation of a deleted topic"),
    pytest.param(ForgetsItsLifeWithTheGenesis, "outlives_its_genesis", id="forgets the incarnation with the genesis"),
    pytest.param(StaysOpen, "a_closed_log", id="stays open"),
    pytest.param(RaisesFromReports, "a_report", id="raises from reports"),
    pytest.param(reading_with(JumpingReader), "never_skipped", id="jumps from a lost position"),
    pytest.param(reading_with(PartialReader), "starve", id="starves a partition"),
    pytest.param(reading_with(GreedyReader), "no_more_records", id="returns more than asked for"),
    pytest.param(reading_with(ImpatientReader), "waits_and_returns_nothing", id="does not wait"),
    pytest.param(reading_with(SleepyReader), "returns_when_something_is_appended", id="is not woken"),
    pytest.param(reading_with(ReaderOfEverything), "not_named", id="reads what is not named"),
    pytest.param(reading_with(ForgetfulReader), "go_back", id="holds a position of its own"),
]


async def broken_promises(make: type[MemoryLog]) -> list[str]:
    """The names of the suite's tests that a log fails."""
    suite = LogSuite()
    suite.patience_s = 0.5
    failed = []
    for name in [name for name in dir(suite) if name.startswith("test_")]:
        log = make()
        try:
            async with asyncio.timeout(10):
                await getattr(suite, name)(log)
        except (AssertionError, TruecopyError, TimeoutError, pytest.fail.Exception):
            failed.append(name)
        await MemoryLog.close(log)
    return failed


@pytest.mark.parametrize(("mutant", "promise"), MUTANTS)
async def test_the_suite_fails_a_log_that(mutant: type[MemoryLog], promise: str) -> None:
    assert [name for name in await broken_promises(mutant) if promise in name]


async def test_the_suite_passes_the_log_that_the_mutants_are_made_of() -> None:
    assert await broken_promises(MemoryLog) == []


async def test_the_suite_fails_a_read_without_a_bound_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "READ_BYTES_MAX", 10**12)

    assert await broken_promises(MemoryLog) == ["test_a_read_returns_no_more_bytes_than_the_limit_and_one_record"]
