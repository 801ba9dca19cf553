"""What a log promises of the records in it: their order, their place, their bytes, and that they stay."""

import asyncio

import pytest

from truecopy_bus.errors import OversizeRecordError
from truecopy_bus.limits import RECORD_BYTES_MAX
from truecopy_bus.log import Log
from truecopy_bus.record import Outgoing
from truecopy_bus.testing.log_steps import AT_MS, LogSteps, content, made, numbered, reading

__all__ = ["RecordPromises"]

ODD_HEADERS = (("a", b""), ("a", bytes(range(256))), ("größe", b"\x00\xff"))
ODD_RECORDS = [
    Outgoing(b"key", b"value", AT_MS),
    Outgoing(None, b"value", AT_MS),
    Outgoing(b"key", None, AT_MS),
    Outgoing(None, None, 0),
    Outgoing(b"", b"", 1),
    Outgoing(bytes(range(256)), bytes(range(255, -1, -1)) * 9, AT_MS, ODD_HEADERS),
    Outgoing(b"key", b"value", AT_MS - 86_400_000, (("ce_id", b"7"),)),
]


class RecordPromises(LogSteps):
    """Part of LogSuite."""

    async def test_a_partition_reads_back_in_append_order(self, log: Log) -> None:
        topic = await made(log)
        sent = numbered(30)
        for low in range(0, 30, 10):
            await log.append(topic, 0, sent[low : low + 10])

        records = await self.stored(log, topic, {0: 1}, 30)

        assert content(records) == sent

    async def test_an_append_tells_where_its_records_lie(self, log: Log) -> None:
        topic = await made(log)
        first = await log.append(topic, 0, numbered(3))
        second = await log.append(topic, 0, numbered(4))

        records = await self.stored(log, topic, {0: second.first}, 4)

        assert (first.records, second.records) == (3, 4)
        assert second.first >= first.first + 3
        assert [record.offset for record in records] == list(range(second.first, second.first + 4))

    async def test_a_record_keeps_its_offset(self, log: Log) -> None:
        topic = await made(log)
        await log.append(topic, 0, numbered(10))
        async with reading(log, topic) as reader:
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

        records = await self.stored(log, topic, dict.fromkeys(range(3), 1), 60)

        for partition in range(3):
            assert content([r for r in records if r.partition == partition]) == sent[partition]

    async def test_a_partition_that_is_not_named_is_not_read(self, log: Log) -> None:
        topic = await made(log, partitions=2)
        await log.append(topic, 0, numbered(5, of="not this "))
        await log.append(topic, 1, numbered(5, of="this "))

        async with reading(log, topic) as reader:
            records = await reader.read({1: 1}, records_max=100, wait_s=self.patience_s)

        assert content(records) == numbered(5, of="this ")

    async def test_appenders_who_race_lose_nothing_and_keep_their_own_order(self, log: Log) -> None:
        topic = await made(log)

        async def appender(name: int) -> None:
            sent = numbered(50, of=f"{name}-")
            for low in range(0, 50, 10):
                await log.append(topic, 0, sent[low : low + 10])

        await asyncio.gather(*map(appender, range(6)))
        records = await self.stored(log, topic, {0: 1}, 300)

        assert len({record.offset for record in records}) == 300
        for name in range(6):
            own = [record for record in records if (record.value or b"").startswith(b"%d-" % name)]
            assert content(own) == numbered(50, of=f"{name}-")

    async def test_a_batch_of_thousands_is_one_append(self, log: Log) -> None:
        topic = await made(log)
        sent = numbered(5_000)
        appended = await log.append(topic, 0, sent)

        records = await self.stored(log, topic, {0: appended.first}, 5_000)

        assert content(records) == sent
        assert records[-1].offset == appended.first + 4_999

    async def test_keys_values_headers_and_times_survive_to_the_byte(self, log: Log) -> None:
        topic = await made(log)
        await log.append(topic, 0, ODD_RECORDS)
        for record in ODD_RECORDS:
            await log.append(topic, 0, [record])

        records = await self.stored(log, topic, {0: 1}, 2 * len(ODD_RECORDS))

        assert content(records) == [*ODD_RECORDS, *ODD_RECORDS]

    async def test_a_record_of_the_largest_size_is_taken(self, log: Log) -> None:
        topic = await made(log)
        largest = Outgoing(b"key", bytes(RECORD_BYTES_MAX - 3), AT_MS)
        await log.append(topic, 0, [largest])

        assert content(await self.stored(log, topic, {0: 1}, 1)) == [largest]

    async def test_an_oversize_record_is_refused_with_all_of_its_batch_and_does_no_harm(self, log: Log) -> None:
        topic = await made(log)
        oversize = Outgoing(b"key", bytes(RECORD_BYTES_MAX), AT_MS)
        with pytest.raises(OversizeRecordError):
            await log.append(topic, 0, [*numbered(2), oversize, *numbered(2)])
        await log.append(topic, 0, numbered(3))

        assert content(await self.stored(log, topic, {0: 1}, 3)) == numbered(3)

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
        assert content(await self.stored(other, topic, {1: 1}, 9)) == numbered(9)
