"""What a log promises to readers: no jump, no starving, a bounded wait and a bounded answer."""

import asyncio

import pytest

from truecopy_bus.errors import PositionLostError
from truecopy_bus.limits import READ_BYTES_MAX, RECORD_BYTES_MAX
from truecopy_bus.log import Log
from truecopy_bus.record import Outgoing
from truecopy_bus.testing.log_steps import AT_MS, LogSteps, content, made, numbered, reading

__all__ = ["ReadingPromises"]


class ReadingPromises(LogSteps):
    """Part of LogSuite."""

    async def test_a_position_beyond_the_end_is_lost(self, log: Log) -> None:
        topic = await made(log)
        end = (await log.append(topic, 0, numbered(5))).first + 5

        async with reading(log, topic) as reader:
            with pytest.raises(PositionLostError) as lost:
                await reader.read({0: end + 1}, records_max=10, wait_s=0.1)

        assert (lost.value.partition, lost.value.position, lost.value.end) == (0, end + 1, end)

    async def test_a_position_before_the_start_is_lost_and_never_skipped(self, log: Log) -> None:
        topic = await made(log, partitions=2)
        sent = await log.append(topic, 1, numbered(10))
        start = sent.first + 4
        await self.trim(log, topic, 1, start)
        async with reading(log, topic) as reader:
            with pytest.raises(PositionLostError) as lost:
                await reader.read({0: 0, 1: start - 1}, records_max=100, wait_s=0.1)

            assert (lost.value.partition, lost.value.position, lost.value.start) == (1, start - 1, start)
            assert content(await self.read(reader, {1: start}, 6)) == numbered(10)[4:]
            assert (await log.describe(topic)).bounds[1] == (start, sent.first + 10)

    async def test_readers_at_different_positions_do_not_disturb_each_other(self, log: Log) -> None:
        topic = await made(log)
        first = (await log.append(topic, 0, numbered(20))).first
        async with reading(log, topic) as ahead, reading(log, topic) as behind:
            for at in range(0, 10, 2):
                late = await self.read(behind, {0: first + at}, 2, records_max=2)
                early = await self.read(ahead, {0: first + 10 + at}, 2, records_max=2)

                assert content(late) == numbered(20)[at : at + 2]
                assert content(early) == numbered(20)[10 + at : 12 + at]

    async def test_a_reader_may_go_back(self, log: Log) -> None:
        topic = await made(log)
        await log.append(topic, 0, numbered(10))
        async with reading(log, topic) as reader:
            once = await self.read(reader, {0: 1}, 10)

            assert await self.read(reader, {0: 1}, 10) == once

    async def test_at_the_end_a_read_waits_and_returns_nothing(self, log: Log) -> None:
        topic = await made(log)
        async with reading(log, topic) as reader:
            clock = asyncio.get_running_loop().time
            began = clock()

            assert list(await reader.read({0: 1}, records_max=10, wait_s=0.2)) == []
            assert clock() - began >= 0.15

    async def test_a_waiting_read_returns_when_something_is_appended(self, log: Log) -> None:
        topic = await made(log, partitions=2)
        async with reading(log, topic) as reader, reading(log, topic) as other:
            clock = asyncio.get_running_loop().time
            began = clock()
            waiting = asyncio.create_task(reader.read({0: 1, 1: 1}, records_max=10, wait_s=self.patience_s))
            assert list(await other.read({0: 1}, records_max=10, wait_s=0.1)) == []
            assert not waiting.done()
            await log.append(topic, 1, numbered(1))

            assert content(await waiting) == numbered(1)
            assert clock() - began < self.patience_s / 2 + 0.1

    async def test_a_read_returns_no_more_records_than_asked_for(self, log: Log) -> None:
        topic = await made(log, partitions=2)
        for partition in (0, 1):
            await log.append(topic, partition, numbered(50))
        async with reading(log, topic) as reader:
            for at in (1, 11, 21):
                got = await reader.read({0: at, 1: at}, records_max=7, wait_s=self.patience_s)
                assert 0 < len(got) <= 7

    async def test_a_read_returns_no_more_bytes_than_the_limit_and_one_record(self, log: Log) -> None:
        topic = await made(log)
        largest = Outgoing(b"k", bytes(RECORD_BYTES_MAX - 1), AT_MS)
        for _ in range(9):
            await log.append(topic, 0, [largest] * 4)
        async with reading(log, topic) as reader:
            got = await reader.read({0: 1}, records_max=1_000, wait_s=self.patience_s)

            assert 0 < sum(len(record.value or b"") for record in got) <= READ_BYTES_MAX + RECORD_BYTES_MAX
            assert len(await self.read(reader, {0: 1}, 36)) == 36

    async def test_a_busy_partition_does_not_starve_a_quiet_one(self, log: Log) -> None:
        topic = await made(log, partitions=3)
        await log.append(topic, 2, numbered(1, of="quiet"))
        await log.append(topic, 0, numbered(500))
        positions, found = {0: 1, 1: 1, 2: 1}, set[int]()
        async with reading(log, topic) as reader:
            for _ in range(40):
                records = await reader.read(positions, records_max=10, wait_s=self.patience_s)
                assert records
                for record in records:
                    positions[record.partition] = record.offset + 1
                    found.add(record.partition)

            assert found == {0, 2}
