"""What every log promises, as tests. Bind an adapter to it like this:

    class TestMyLog(LogSuite):
        @pytest.fixture
        async def log(self) -> AsyncIterator[Log]:
            log = MyLog(...)
            yield log
            await log.close()

Test functions are coroutines (pytest-asyncio in auto mode, or anyio's plugin). Topics get names that no other test uses, so
a real server can be shared. Override `reopened`, `delete_topic` and `trim` where the adapter differs.
"""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from truecopy_schemas.control import CONTROL_HEADER, CONTROL_KEY, MARK, Genesis, Mark, encode

from truecopy_bus.errors import (
    LogUnavailableError,
    OversizeRecordError,
    PositionLostError,
    TopicMismatchError,
    TopicMissingError,
)
from truecopy_bus.genesis import control_of
from truecopy_bus.limits import READ_BYTES_MAX, RECORD_BYTES_MAX
from truecopy_bus.log import Log, Reader
from truecopy_bus.record import Outgoing, Record, TopicSpec, TopicState

__all__ = ["LogSuite"]

_AT_MS = 1_700_000_000_123
_ODD_HEADERS = (("a", b""), ("a", bytes(range(256))), ("größe", b"\x00\xff"))
_ODD_RECORDS = [
    Outgoing(b"key", b"value", _AT_MS),
    Outgoing(None, b"value", _AT_MS),
    Outgoing(b"key", None, _AT_MS),
    Outgoing(None, None, 0),
    Outgoing(b"", b"", 1),
    Outgoing(bytes(range(256)), bytes(range(255, -1, -1)) * 9, _AT_MS, _ODD_HEADERS),
    Outgoing(b"key", b"value", _AT_MS - 86_400_000, (("ce_id", b"7"),)),
]


class LogSuite:
    """Every Log passes this unchanged. Subclass it, give a `log` fixture, add nothing."""

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

    # Order and place

    async def test_a_partition_reads_back_in_append_order(self, log: Log) -> None:
        topic = await made(log)
        sent = numbered(30)
        for low in range(0, 30, 10):
            await log.append(topic, 0, sent[low : low + 10])

        records = await self.read(log.reader(topic), {0: 1}, 30)

        assert content(records) == sent

    async def test_an_append_tells_where_its_records_lie(self, log: Log) -> None:
        topic = await made(log)
        first = await log.append(topic, 0, numbered(3))
        second = await log.append(topic, 0, numbered(4))

        records = await self.read(log.reader(topic), {0: second.first}, 4)

        assert (first.count, second.count) == (3, 4)
        assert second.first >= first.first + 3
        assert [record.offset for record in records] == list(range(second.first, second.first + 4))

    async def test_a_record_keeps_its_offset(self, log: Log) -> None:
        topic = await made(log)
        await log.append(topic, 0, numbered(10))
        reader = log.reader(topic)
        before = await self.read(reader, {0: 1}, 10)
        await log.append(topic, 0, numbered(10))

        assert await self.read(reader, {0: before[5].offset}, 5, records_max=5) == before[5:]
        assert (await self.read(reader, {0: 1}, 20))[:10] == before

    async def test_partitions_do_not_mix(self, log: Log) -> None:
        topic = await made(log, partitions=3)
        sent = {partition: numbered(20, of=f"p{partition}-") for partition in range(3)}
        for low in range(0, 20, 5):
            for partition in range(3):
                await log.append(topic, partition, sent[partition][low : low + 5])

        records = await self.read(log.reader(topic), dict.fromkeys(range(3), 1), 60)

        for partition in range(3):
            assert content([r for r in records if r.partition == partition]) == sent[partition]

    async def test_a_partition_that_is_not_named_is_not_read(self, log: Log) -> None:
        topic = await made(log, partitions=2)
        await log.append(topic, 0, numbered(5, of="not this "))
        await log.append(topic, 1, numbered(5, of="this "))

        records = await log.reader(topic).read({1: 1}, records_max=100, wait_s=self.patience_s)

        assert content(records) == numbered(5, of="this ")

    async def test_appenders_who_race_lose_nothing_and_keep_their_own_order(self, log: Log) -> None:
        topic = await made(log)

        async def appender(name: int) -> None:
            sent = numbered(50, of=f"{name}-")
            for low in range(0, 50, 10):
                await log.append(topic, 0, sent[low : low + 10])

        await asyncio.gather(*map(appender, range(6)))
        records = await self.read(log.reader(topic), {0: 1}, 300)

        assert len({record.offset for record in records}) == 300
        for name in range(6):
            own = [record for record in records if (record.value or b"").startswith(b"%d-" % name)]
            assert content(own) == numbered(50, of=f"{name}-")

    async def test_a_batch_of_thousands_is_one_append(self, log: Log) -> None:
        topic = await made(log)
        sent = numbered(5_000)
        appended = await log.append(topic, 0, sent)

        records = await self.read(log.reader(topic), {0: appended.first}, 5_000)

        assert content(records) == sent
        assert records[-1].offset == appended.first + 4_999

    # Bytes

    async def test_keys_values_headers_and_times_survive_to_the_byte(self, log: Log) -> None:
        topic = await made(log)
        await log.append(topic, 0, _ODD_RECORDS)
        for record in _ODD_RECORDS:
            await log.append(topic, 0, [record])

        records = await self.read(log.reader(topic), {0: 1}, 2 * len(_ODD_RECORDS))

        assert content(records) == [*_ODD_RECORDS, *_ODD_RECORDS]

    async def test_a_record_of_the_largest_size_is_taken(self, log: Log) -> None:
        topic = await made(log)
        largest = Outgoing(b"key", bytes(RECORD_BYTES_MAX - 3), _AT_MS)
        await log.append(topic, 0, [largest])

        assert content(await self.read(log.reader(topic), {0: 1}, 1)) == [largest]

    async def test_an_oversize_record_is_refused_with_all_of_its_batch_and_does_no_harm(self, log: Log) -> None:
        topic = await made(log)
        oversize = Outgoing(b"key", bytes(RECORD_BYTES_MAX), _AT_MS)
        with pytest.raises(OversizeRecordError):
            await log.append(topic, 0, [*numbered(2), oversize, *numbered(2)])
        await log.append(topic, 0, numbered(3))

        assert content(await self.read(log.reader(topic), {0: 1}, 3)) == numbered(3)

    # Durable

    async def test_what_an_append_returned_from_is_there(self, log: Log) -> None:
        topic = await made(log)
        appended = await log.append(topic, 0, numbered(7))

        assert (await log.describe(topic)).bounds[0][1] >= appended.first + 7

    async def test_what_was_appended_is_there_for_another_handle(self, log: Log) -> None:
        topic = await made(log, partitions=2)
        known = await log.describe(topic)
        await log.append(topic, 1, numbered(9))

        other = await self.reopened(log)

        assert (await other.describe(topic)).incarnation == known.incarnation
        assert content(await self.read(other.reader(topic), {1: 1}, 9)) == numbered(9)

    # Topics

    async def test_every_partition_begins_with_a_genesis_of_one_incarnation(self, log: Log) -> None:
        state = await log.create(spec(partitions=4))

        records = await self.read(log.reader(state.name), dict.fromkeys(range(4), 0), 4)

        assert state.incarnation
        assert sorted(record.partition for record in records) == [0, 1, 2, 3]
        for record in records:
            said = control_of(record)
            assert isinstance(said, Genesis)
            assert (record.offset, said.partition, said.partitions) == (0, record.partition, 4)
            assert (said.topic, said.incarnation) == (state.name, state.incarnation)

    async def test_creating_again_changes_nothing(self, log: Log) -> None:
        wanted = spec(partitions=2)
        created = await log.create(wanted)
        await log.append(wanted.name, 1, numbered(3))
        before = await log.describe(wanted.name)

        assert await log.create(wanted) == before
        assert before.incarnation == created.incarnation

    async def test_creators_who_race_agree(self, log: Log) -> None:
        wanted = spec(partitions=3)

        states = await asyncio.gather(*(log.create(wanted) for _ in range(5)))
        after = await log.describe(wanted.name)

        assert {state.incarnation for state in states} == {after.incarnation}
        genesis = await self.read(log.reader(wanted.name), dict.fromkeys(range(3), 0), 3)
        at_zero = [control_of(record) for record in genesis if record.offset == 0]
        assert {said.incarnation for said in at_zero if said is not None} == {after.incarnation}
        assert len(at_zero) == 3

    async def test_another_number_of_partitions_is_refused_and_changes_nothing(self, log: Log) -> None:
        before = await log.create(spec(partitions=2))

        for partitions in (1, 3):
            with pytest.raises(TopicMismatchError):
                await log.create(TopicSpec(name=before.name, partitions=partitions))

        assert await log.describe(before.name) == before

    async def test_a_partition_that_the_topic_does_not_have_is_refused(self, log: Log) -> None:
        topic = await made(log, partitions=2)

        with pytest.raises(TopicMismatchError):
            await log.append(topic, 2, numbered(1))

    async def test_describing_a_missing_topic_does_not_make_it(self, log: Log) -> None:
        for _ in range(2):
            with pytest.raises(TopicMissingError):
                await log.describe("missing." + uuid.uuid4().hex)

    async def test_appending_to_a_missing_topic_does_not_make_it(self, log: Log) -> None:
        missing = spec().name
        with pytest.raises(TopicMissingError):
            await log.append(missing, 0, numbered(1))

        with pytest.raises(TopicMissingError):
            await log.describe(missing)

    async def test_reading_a_missing_topic_does_not_make_it(self, log: Log) -> None:
        missing = spec().name
        with pytest.raises(TopicMissingError):
            await log.reader(missing).read({0: 0}, records_max=10, wait_s=0.1)

        with pytest.raises(TopicMissingError):
            await log.describe(missing)

    async def test_a_topic_made_anew_is_empty_and_has_another_incarnation(self, log: Log) -> None:
        wanted = spec(partitions=2)
        before = await log.create(wanted)
        await log.append(wanted.name, 0, numbered(20))
        await self.delete_topic(log, wanted.name)
        with pytest.raises(TopicMissingError):
            await log.describe(wanted.name)

        after = await log.create(wanted)

        assert after.incarnation not in (None, before.incarnation)
        assert after.bounds == before.bounds
        with pytest.raises(PositionLostError):
            await log.reader(wanted.name).read({0: 21}, records_max=10, wait_s=0.1)

    async def test_the_incarnation_outlives_its_genesis_in_a_mark(self, log: Log) -> None:
        state = await log.create(spec())
        await log.append(state.name, 0, numbered(5))
        mark = await log.append(state.name, 0, [marking(state)])
        await self.trim(log, state.name, 0, mark.first)

        found = await (await self.reopened(log)).describe(state.name)

        assert found.incarnation == state.incarnation
        assert found.bounds[0] == (mark.first, mark.first + 1)

    # Positions

    async def test_a_position_beyond_the_end_is_lost(self, log: Log) -> None:
        topic = await made(log)
        end = (await log.append(topic, 0, numbered(5))).first + 5

        with pytest.raises(PositionLostError) as lost:
            await log.reader(topic).read({0: end + 1}, records_max=10, wait_s=0.1)

        assert (lost.value.partition, lost.value.position, lost.value.end) == (0, end + 1, end)

    async def test_a_position_before_the_start_is_lost_and_never_skipped(self, log: Log) -> None:
        topic = await made(log, partitions=2)
        sent = await log.append(topic, 1, numbered(10))
        start = sent.first + 4
        await self.trim(log, topic, 1, start)
        reader = log.reader(topic)

        with pytest.raises(PositionLostError) as lost:
            await reader.read({0: 0, 1: start - 1}, records_max=100, wait_s=0.1)

        assert (lost.value.partition, lost.value.position, lost.value.start) == (1, start - 1, start)
        assert content(await self.read(reader, {1: start}, 6)) == numbered(10)[4:]
        assert (await log.describe(topic)).bounds[1] == (start, sent.first + 10)

    async def test_readers_at_different_positions_do_not_disturb_each_other(self, log: Log) -> None:
        topic = await made(log)
        first = (await log.append(topic, 0, numbered(20))).first
        ahead, behind = log.reader(topic), log.reader(topic)

        for at in range(0, 10, 2):
            late = await self.read(behind, {0: first + at}, 2, records_max=2)
            early = await self.read(ahead, {0: first + 10 + at}, 2, records_max=2)

            assert content(late) == numbered(20)[at : at + 2]
            assert content(early) == numbered(20)[10 + at : 12 + at]

    async def test_a_reader_may_go_back(self, log: Log) -> None:
        topic = await made(log)
        await log.append(topic, 0, numbered(10))
        reader = log.reader(topic)

        once = await self.read(reader, {0: 1}, 10)

        assert await self.read(reader, {0: 1}, 10) == once

    # Waiting and bounds

    async def test_at_the_end_a_read_waits_and_returns_nothing(self, log: Log) -> None:
        topic = await made(log)
        reader = log.reader(topic)
        clock = asyncio.get_running_loop().time
        began = clock()

        assert list(await reader.read({0: 1}, records_max=10, wait_s=0.2)) == []
        assert clock() - began >= 0.15

    async def test_a_waiting_read_returns_when_something_is_appended(self, log: Log) -> None:
        topic = await made(log, partitions=2)
        reader, other = log.reader(topic), log.reader(topic)
        clock = asyncio.get_running_loop().time
        began = clock()
        reading = asyncio.create_task(reader.read({0: 1, 1: 1}, records_max=10, wait_s=self.patience_s))
        assert list(await other.read({0: 1}, records_max=10, wait_s=0.1)) == []
        assert not reading.done()
        await log.append(topic, 1, numbered(1))

        assert content(await reading) == numbered(1)
        assert clock() - began < self.patience_s / 2 + 0.1

    async def test_a_read_returns_no_more_records_than_asked_for(self, log: Log) -> None:
        topic = await made(log, partitions=2)
        for partition in (0, 1):
            await log.append(topic, partition, numbered(50))
        reader = log.reader(topic)

        for at in (1, 11, 21):
            got = await reader.read({0: at, 1: at}, records_max=7, wait_s=self.patience_s)
            assert 0 < len(got) <= 7

    async def test_a_read_returns_no_more_bytes_than_the_limit_and_one_record(self, log: Log) -> None:
        topic = await made(log)
        largest = Outgoing(b"k", bytes(RECORD_BYTES_MAX - 1), _AT_MS)
        for _ in range(9):
            await log.append(topic, 0, [largest] * 4)
        reader = log.reader(topic)

        got = await reader.read({0: 1}, records_max=1_000, wait_s=self.patience_s)

        assert 0 < sum(len(record.value or b"") for record in got) <= READ_BYTES_MAX + RECORD_BYTES_MAX
        assert len(await self.read(reader, {0: 1}, 36)) == 36

    async def test_a_busy_partition_does_not_starve_a_quiet_one(self, log: Log) -> None:
        topic = await made(log, partitions=3)
        await log.append(topic, 2, numbered(1, of="quiet"))
        await log.append(topic, 0, numbered(500))
        reader, positions, found = log.reader(topic), {0: 1, 1: 1, 2: 1}, set[int]()

        for _ in range(40):
            records = await reader.read(positions, records_max=10, wait_s=self.patience_s)
            assert records
            for record in records:
                positions[record.partition] = record.offset + 1
                found.add(record.partition)

        assert found == {0, 2}

    # Manners

    async def test_a_report_raises_nothing_even_about_nothing(self, log: Log) -> None:
        topic = await made(log)

        await log.report("group", topic, {0: 1})
        await log.report("group", topic, {7: 1_000_000})
        await log.report("group", "missing." + uuid.uuid4().hex, {0: 1})

    async def test_a_closed_log_says_so_and_may_be_closed_again(self, log: Log) -> None:
        topic = await made(log)
        await log.close()
        await log.close()

        with pytest.raises(LogUnavailableError):
            await log.describe(topic)
        with pytest.raises(LogUnavailableError):
            await log.append(topic, 0, numbered(1))

    async def test_a_closed_reader_says_so_and_may_be_closed_again(self, log: Log) -> None:
        topic = await made(log)
        reader = log.reader(topic)
        await self.read(reader, {0: 0}, 1)
        await reader.close()
        await reader.close()

        with pytest.raises(LogUnavailableError):
            await reader.read({0: 0}, records_max=1, wait_s=0)

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


def spec(partitions: int = 1) -> TopicSpec:
    return TopicSpec(name="suite." + uuid.uuid4().hex, partitions=partitions)


async def made(log: Log, partitions: int = 1) -> str:
    return (await log.create(spec(partitions))).name


def numbered(count: int, *, of: str = "value ") -> list[Outgoing]:
    return [Outgoing(b"key", f"{of}{number}".encode(), _AT_MS + number, (("n", b"%d" % number),)) for number in range(count)]


def content(records: Sequence[Record]) -> list[Outgoing]:
    return [Outgoing(record.key, record.value, record.timestamp_ms, record.headers) for record in records]


def marking(state: TopicState) -> Outgoing:
    """A mark of the topic's incarnation."""
    mark = Mark(
        incarnation=str(state.incarnation), epoch=1, number=1, count=0, digest=bytes(32), digest_algorithm=1, at_ms=_AT_MS
    )
    return Outgoing(CONTROL_KEY, encode(mark), _AT_MS, ((CONTROL_HEADER, MARK),))
