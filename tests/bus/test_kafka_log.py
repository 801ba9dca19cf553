"""KafkaLog on a real broker: the port's suite, and a guard for each way in which Kafka or its client loses data."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from truecopy_bus.errors import (
    LogUnavailableError,
    OversizeRecordError,
    PositionLostError,
    TopicMismatchError,
    TopicMissingError,
)
from truecopy_bus.limits import RECORD_BYTES_MAX
from truecopy_bus.log import Log, Reader
from truecopy_bus.logs.kafka import KafkaLog, KafkaSettings
from truecopy_bus.record import Outgoing, Record, TopicSpec
from truecopy_bus.registry import Registry
from truecopy_bus.testing import LogSuite
from truecopy_services.servers import Server

QUICK = {
    "connect_timeout_s": 3.0,
    "request_timeout_s": 2.0,
    "append_timeout_s": 3.0,
    "stall_timeout_s": 2.0,
}
NOW_MS = 1_700_000_000_000


@pytest.fixture
async def open_log() -> AsyncIterator[Callable[[str], KafkaLog]]:
    """Logs by address, with short limits, closed after the test."""
    opened: list[KafkaLog] = []

    def opening(url: str) -> KafkaLog:
        opened.append(KafkaLog.from_url(url, **QUICK))
        return opened[-1]

    yield opening
    for log in opened:
        await log.close()


@pytest.fixture
def log(open_log: Callable[[str], KafkaLog], kafka_url: str) -> KafkaLog:
    return open_log(kafka_url)


@pytest.fixture
def other(open_log: Callable[[str], KafkaLog], kafka_url: str) -> KafkaLog:
    """Another process's log, as far as the broker can tell."""
    return open_log(kafka_url)


@pytest.fixture
def topic(topic_namespace: str) -> str:
    return f"{topic_namespace}.orders"


def numbered(first: int, count: int) -> list[Outgoing]:
    return [Outgoing(b"key", b"%d" % number, NOW_MS) for number in range(first, first + count)]


async def read_until(reader: Reader, positions: Mapping[int, int], records: int) -> list[Record]:
    found: list[Record] = []
    at = dict(positions)
    async with asyncio.timeout(20):
        while len(found) < records:
            for record in await reader.read(at, records_max=5_000, wait_s=0.5):
                assert record.offset >= at[record.partition]
                at[record.partition] = record.offset + 1
                found.append(record)
    return found


async def read_nothing(reader: Reader, positions: Mapping[int, int]) -> None:
    """Wait at a place where nothing may come, until the reader objects."""
    async with asyncio.timeout(10):
        while True:
            assert not await reader.read(positions, records_max=10, wait_s=0.5)


class TestKafkaLog(LogSuite):
    @pytest.fixture
    def log(self, open_log: Callable[[str], KafkaLog], kafka_url: str) -> KafkaLog:
        self.again = lambda: open_log(kafka_url)
        return self.again()

    async def reopened(self, log: Log) -> Log:
        await log.close()
        return self.again()


class TestNothingIsCreatedByTouch:
    """The broker has `auto.create.topics.enable = true`, and aiokafka asks for it."""

    async def test_a_missing_topic_stays_missing(self, log: KafkaLog, other: KafkaLog, topic: str) -> None:
        reader = log.reader(topic)
        with pytest.raises(TopicMissingError):
            await log.describe(topic)
        with pytest.raises(TopicMissingError):
            await log.append(topic, 0, numbered(0, 1))
        with pytest.raises(TopicMissingError):
            await reader.read({0: 0}, records_max=10, wait_s=0.1)
        await log.report("group", topic, {0: 1})
        await reader.close()
        await log.close()

        with pytest.raises(TopicMissingError):
            await other.describe(topic)

    async def test_a_deleted_topic_is_not_revived_by_its_appender(self, log: KafkaLog, other: KafkaLog, topic: str) -> None:
        await log.create(TopicSpec(name=topic, partitions=1))
        await log.append(topic, 0, numbered(0, 1))
        await other.delete(topic)

        with pytest.raises(TopicMissingError):
            await log.append(topic, 0, numbered(1, 1))
        with pytest.raises(TopicMissingError):
            await other.describe(topic)

    async def test_a_deleted_topic_is_not_revived_by_its_reader(self, log: KafkaLog, other: KafkaLog, topic: str) -> None:
        await log.create(TopicSpec(name=topic, partitions=1))
        reader = log.reader(topic)
        await read_until(reader, {0: 0}, 1)
        await other.delete(topic)

        with pytest.raises((TopicMissingError, LogUnavailableError)):
            await read_nothing(reader, {0: 1})
        with pytest.raises(TopicMissingError):
            await reader.read({0: 1}, records_max=10, wait_s=0.5)
        with pytest.raises(TopicMissingError):
            await other.describe(topic)
        await reader.close()


class TestRefusals:
    async def test_oversize_is_refused_whole_and_the_next_append_works(self, log: KafkaLog, topic: str) -> None:
        await log.create(TopicSpec(name=topic, partitions=1))
        oversize = Outgoing(b"key", bytes(RECORD_BYTES_MAX), NOW_MS)
        with pytest.raises(OversizeRecordError):
            await log.append(topic, 0, [*numbered(0, 3), oversize])

        assert (await log.append(topic, 0, numbered(0, 3))).first == 1
        assert (await log.describe(topic)).bounds == {0: (0, 4)}

    async def test_largest_records_go_through_one_batch_each(self, log: KafkaLog, topic: str) -> None:
        await log.create(TopicSpec(name=topic, partitions=1))
        largest = Outgoing(b"key", bytes(RECORD_BYTES_MAX - 3), NOW_MS)

        assert await log.append(topic, 0, [largest] * 3) == (1, 3)
        reader = log.reader(topic)
        found = await read_until(reader, {0: 1}, 3)
        assert [len(record.value or b"") for record in found] == [RECORD_BYTES_MAX - 3] * 3
        await reader.close()

    async def test_a_broker_that_takes_less_is_no_wedge(self, log: KafkaLog, topic: str) -> None:
        await log.create(TopicSpec(name=topic, partitions=1, settings={"max.message.bytes": "2000"}))
        with pytest.raises(LogUnavailableError, match="MessageSizeTooLarge"):
            await log.append(topic, 0, [Outgoing(b"key", bytes(5_000), NOW_MS)])

        assert await log.append(topic, 0, numbered(0, 3)) == (1, 3)

    async def test_clocks_an_hour_off_stop_nothing(self, log: KafkaLog, topic: str) -> None:
        await log.create(TopicSpec(name=topic, partitions=1))
        tomorrow_ms = time.time_ns() // 1_000_000 + 86_400_000
        await log.append(topic, 0, [Outgoing(None, None, tomorrow_ms), Outgoing(None, b"", 0)])
        reader = log.reader(topic)

        found = await read_until(reader, {0: 1}, 2)
        assert [(record.key, record.value, record.timestamp_ms) for record in found] == [
            (None, None, tomorrow_ms),
            (None, b"", 0),
        ]
        await reader.close()

    async def test_a_partition_that_is_not_there(self, log: KafkaLog, topic: str) -> None:
        await log.create(TopicSpec(name=topic, partitions=2))
        with pytest.raises(TopicMismatchError):
            await log.append(topic, 2, numbered(0, 1))

    @pytest.mark.parametrize(
        "url",
        [
            pytest.param("kafka://127.0.0.1:1", id="nobody listens"),
            pytest.param("kafka://no-such-host.invalid:9092", id="no such host"),
        ],
    )
    async def test_a_wrong_address_is_told_in_time(self, open_log: Callable[[str], KafkaLog], url: str) -> None:
        log = open_log(url)
        reader = log.reader("orders")
        async with asyncio.timeout(15):
            for touching in (
                log.describe("orders"),
                log.append("orders", 0, numbered(0, 1)),
                reader.read({0: 0}, records_max=10, wait_s=0.1),
                log.create(TopicSpec(name="orders", partitions=1)),
            ):
                with pytest.raises(LogUnavailableError, match=url):
                    await touching
            await log.report("group", "orders", {0: 1})

    async def test_credentials_that_the_broker_does_not_want_are_told_without_the_secret(self, kafka_url: str) -> None:
        settings = KafkaSettings.from_url(
            kafka_url, **QUICK, security_protocol="SASL_PLAINTEXT", sasl_username="user", sasl_password="hunter2"
        )
        log = KafkaLog(settings)
        with pytest.raises(LogUnavailableError, match="takes no login") as caught:
            await log.describe("orders")

        assert "hunter2" not in f"{caught.value} {settings!r}"
        await log.close()


class TestPositions:
    async def test_retention_that_ate_unread_events_is_told(self, log: KafkaLog, topic: str) -> None:
        await log.create(TopicSpec(name=topic, partitions=1))
        await log.append(topic, 0, numbered(0, 10))
        reader = log.reader(topic)
        await reader.read({0: 0}, records_max=2, wait_s=1.0)
        await log.trim(topic, 0, 5)

        other = log.reader(topic)
        with pytest.raises(PositionLostError) as caught:
            await other.read({0: 2}, records_max=2, wait_s=1.0)
        assert (caught.value.position, caught.value.start, caught.value.end) == (2, 5, 11)
        assert len(await read_until(other, {0: 5}, 6)) == 6
        await reader.close()
        await other.close()

    async def test_a_reader_that_waits_at_the_end_notices_that_the_end_went_back(
        self, log: KafkaLog, other: KafkaLog, topic: str
    ) -> None:
        first = await log.create(TopicSpec(name=topic, partitions=1))
        await log.append(topic, 0, numbered(0, 9))
        reader = log.reader(topic)
        await read_until(reader, {0: 0}, 10)
        await other.delete(topic)
        second = await other.create(TopicSpec(name=topic, partitions=1))

        with pytest.raises((PositionLostError, LogUnavailableError)):
            await read_nothing(reader, {0: 10})
        with pytest.raises(PositionLostError):
            await reader.read({0: 10}, records_max=10, wait_s=0.5)
        assert first.incarnation != second.incarnation == (await log.describe(topic)).incarnation
        await reader.close()

    async def test_a_longer_topic_of_the_same_name_is_not_read_on(self, log: KafkaLog, other: KafkaLog, topic: str) -> None:
        await log.create(TopicSpec(name=topic, partitions=1))
        await log.append(topic, 0, numbered(0, 9))
        reader = log.reader(topic)
        await read_until(reader, {0: 0}, 10)
        await other.delete(topic)
        await other.create(TopicSpec(name=topic, partitions=1))
        await other.append(topic, 0, numbered(0, 9))

        with pytest.raises(LogUnavailableError):
            await read_nothing(reader, {0: 10})
        await reader.close()


class TestOutages:
    async def test_what_was_acknowledged_before_a_kill_is_there_in_order(
        self, open_log: Callable[[str], KafkaLog], private_kafka: Server, topic: str
    ) -> None:
        log = open_log(private_kafka.url)
        await log.create(TopicSpec(name=topic, partitions=1))
        batch, acknowledged, read = 500, 0, 0
        moved = asyncio.Condition()
        failed_appends = failed_reads = 0

        async def appending() -> None:
            nonlocal acknowledged, failed_appends
            while True:
                try:
                    await log.append(topic, 0, numbered(acknowledged, batch))
                    acknowledged += batch
                except LogUnavailableError:
                    failed_appends += 1
                finally:
                    async with moved:
                        moved.notify_all()

        async def reading() -> None:
            nonlocal read, failed_reads
            reader, position = log.reader(topic), 1
            try:
                while True:
                    try:
                        for record in await reader.read({0: position}, records_max=5_000, wait_s=0.2):
                            position = record.offset + 1
                            read = max(read, int(record.value or b"0") + 1)
                    except LogUnavailableError:
                        failed_reads += 1
                    finally:
                        async with moved:
                            moved.notify_all()
            finally:
                await reader.close()

        async def until(condition: Callable[[], bool]) -> None:
            async with asyncio.timeout(40), moved:
                await moved.wait_for(lambda: condition() or any(task.done() for task in work))
            for task in work:
                assert not task.done(), task.result()

        work = [asyncio.create_task(appending()), asyncio.create_task(reading())]
        await until(lambda: read >= 10_000)
        await asyncio.to_thread(private_kafka.kill)
        await until(lambda: failed_appends > 0 and failed_reads > 0)
        await asyncio.to_thread(private_kafka.restart)
        resumed_at = acknowledged
        await until(lambda: acknowledged >= resumed_at + 10_000 and read >= resumed_at + 10_000)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)

        end = (await log.describe(topic)).bounds[0][1]
        reader = log.reader(topic)
        found = await read_until(reader, {0: 1}, end - 1)
        await reader.close()
        numbers = [int(record.value or b"") for record in found]
        firsts = list(dict.fromkeys(numbers))
        assert firsts == list(range(len(firsts)))
        assert len(firsts) >= acknowledged
        print(f"{acknowledged} acknowledged, {failed_appends} appends failed, {len(numbers) - len(firsts)} duplicates")

    async def test_limits_hold_while_a_broker_is_away(
        self, open_log: Callable[[str], KafkaLog], private_kafka: Server, topic: str
    ) -> None:
        log = open_log(private_kafka.url)
        await log.create(TopicSpec(name=topic, partitions=1))
        reader = log.reader(topic)
        await read_until(reader, {0: 0}, 1)
        await log.append(topic, 0, numbered(0, 1))
        await asyncio.to_thread(private_kafka.kill)

        async with asyncio.timeout(30):
            for _ in range(2):
                with pytest.raises(LogUnavailableError):
                    await log.append(topic, 0, numbered(1, 1))
                with pytest.raises(LogUnavailableError):
                    await read_nothing(reader, {0: 2})
                with pytest.raises(LogUnavailableError):
                    await log.describe(topic)
                await log.report("group", topic, {0: 2})
            await reader.close()
            await log.close()


async def test_throughput_is_printed_not_judged(log: KafkaLog, topic: str) -> None:
    await log.create(TopicSpec(name=topic, partitions=1))
    records = [Outgoing(b"key-%d" % number, bytes(100), NOW_MS) for number in range(5_000)]
    await log.append(topic, 0, records)
    began = time.perf_counter()
    for _ in range(20):
        await log.append(topic, 0, records)
    appended_s = time.perf_counter() - began
    reader = log.reader(topic)
    await reader.read({0: 0}, records_max=1, wait_s=1.0)
    began = time.perf_counter()
    found = await read_until(reader, {0: 1}, 105_000)
    read_s = time.perf_counter() - began
    await reader.close()
    print(f"appended {100_000 / appended_s:,.0f} records/s, read {len(found) / read_s:,.0f} records/s")


class TestSettings:
    async def test_one_setting_is_mended_and_the_others_stay(self, log: KafkaLog, topic: str) -> None:
        spec = TopicSpec(name=topic, partitions=2, settings={"retention.ms": "1000", "max.message.bytes": "2000"})
        await log.create(spec)
        assert log.completed(spec).settings.items() <= (await log.settings(topic)).items()

        await log.mend(topic, {"retention.ms": "-1"})

        settings = await log.settings(topic)
        assert (settings["retention.ms"], settings["max.message.bytes"]) == ("-1", "2000")
        assert await log.copies(topic) == {0: (1, 1), 1: (1, 1)}
        assert all("auto.create.topics.enable" in kept for kept in (await log.brokers()).values())

    @pytest.mark.parametrize("settings", [{"retention.ms": "soon"}, {"frob": "1"}], ids=["value", "name"])
    async def test_a_setting_that_the_broker_refuses_is_told_by_name(
        self, log: KafkaLog, topic: str, settings: dict[str, str]
    ) -> None:
        await log.create(TopicSpec(name=topic, partitions=1))

        with pytest.raises(ValueError, match=next(iter(settings))):
            await log.mend(topic, settings)
        for asking in (log.mend(topic + ".missing", {}), log.copies(topic + ".missing")):
            with pytest.raises(TopicMissingError):
                await asking

    async def test_the_offsets_of_a_time(self, log: KafkaLog, topic: str) -> None:
        await log.create(TopicSpec(name=topic, partitions=2))
        later_ms = (time.time_ns() // 1_000_000) + 3_600_000
        await log.append(topic, 1, [Outgoing(b"key", b"1", later_ms), Outgoing(b"key", b"2", later_ms + 10)])

        assert await log.since(topic, 0) == {0: 0, 1: 0}
        assert await log.since(topic, later_ms + 5) == {0: 1, 1: 2}
        assert await log.since(topic, later_ms + 11) == {0: 1, 1: 3}

    async def test_a_topic_has_the_settings_that_it_was_created_with(self, log: KafkaLog, topic: str) -> None:
        await log.create(TopicSpec(name=topic, partitions=1, settings={"retention.bytes": "-1"}))

        settings = await log.settings(topic)

        wanted = {"cleanup.policy": "delete", "retention.ms": "-1", "message.timestamp.type": "CreateTime"}
        assert wanted.items() <= settings.items()
        with pytest.raises(TopicMissingError):
            await log.settings(topic + ".missing")
        with pytest.raises(TopicMissingError):
            await log.describe(topic + ".missing")

    async def test_a_schema_topic_that_forgets_is_refused(self, log: KafkaLog, topic: str) -> None:
        await log.create(TopicSpec(name=topic, partitions=1, settings={"retention.ms": "1000"}))

        with pytest.raises(TopicMismatchError, match="retention"):
            await Registry(log, topic=topic).ensure()
