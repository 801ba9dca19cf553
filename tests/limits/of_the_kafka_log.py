"""Drives of the bounds of `bus` that the log on Kafka keeps, on a real broker, or before one that is silent on the clock."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from tests.limits.clock import Clock
from tests.limits.drives import drives
from tests.limits.metered import steps
from tests.limits.of_databases import nobody_answers
from tests.limits.of_the_log import HEADER, mark, sized

from truecopy_bus import limits
from truecopy_bus.errors import LogUnavailableError, OversizeRecordError, TopicMissingError
from truecopy_bus.logs.kafka import KafkaLog, KafkaSettings, wire
from truecopy_bus.logs.kafka import log as kafka_log
from truecopy_bus.logs.kafka import reader as kafka_reader
from truecopy_bus.logs.kafka.closing import closed
from truecopy_bus.logs.kafka.reader import KafkaReader
from truecopy_bus.logs.kafka.settings import PARTITION_FETCH_BYTES
from truecopy_bus.record import Record, TopicSpec, TopicState
from truecopy_services.config import Settings

SETTINGS = KafkaSettings(servers=("127.0.0.1:1",))
PATIENT = {"connect_timeout_s": 1_000.0, "request_timeout_s": 1_000.0, "append_timeout_s": 1_000.0}
TOPIC = "limits.note"


class Told:
    """A cluster of one broker, as far as anybody asks: what it says of the topic is set."""

    def __init__(self, now: Callable[[], float], *, exists: bool = True) -> None:
        self._now, self.exists = now, exists
        self.looks: list[float] = []
        self.end = 10
        self.records: dict[int, Record] = {}

    async def leaders(self, topic: str) -> dict[int, int]:
        self.looks.append(round(self._now(), 6))
        if not self.exists:
            raise TopicMissingError(log="told", topic=topic)
        return {0: 0}

    async def bounds(self, _: str, leaders: Mapping[int, int]) -> dict[int, tuple[int, int]]:
        return {partition: (1, self.end) for partition in leaders}

    async def peek(self, _: str, partition: int, offset: int, __: int, *, whole: bool) -> list[Record]:
        """One record each 1,000 offsets, to come to the end of many soon."""
        beyond = min((at for at in self.records if at >= offset), default=self.end)
        found = self.records.get(min(beyond, offset + 999 if whole else offset))
        return [found or Record(partition, min(beyond - 1, offset + 999), b"k", b"v", 0, ())]

    async def create(self, *_: Any) -> None: ...

    async def delete(self, *_: Any) -> None: ...


def told(settings: KafkaSettings, cluster: Told) -> KafkaLog:
    log = KafkaLog(settings)
    log._cluster = cluster  # type: ignore[assignment]
    return log


@drives("bus.RECORD_BYTES_MAX")
async def records_on_a_broker(kafka_url: str, topic_namespace: str) -> None:
    log, topic = KafkaLog.from_url(kafka_url), f"{topic_namespace}.note"
    await log.create(TopicSpec(name=topic, partitions=1))

    assert await log.append(topic, 0, [sized(limits.RECORD_BYTES_MAX, HEADER)]) == (1, 1)
    with pytest.raises(OversizeRecordError, match=f"takes {limits.RECORD_BYTES_MAX}"):
        await log.append(topic, 0, [sized(limits.RECORD_BYTES_MAX + 1, HEADER)])
    # A batch takes what one record may have, and no more: a broker bounds batches.
    await log.append(topic, 0, [sized(limits.RECORD_BYTES_MAX // 4 - 100)] * 5)
    leaders = await log._cluster.leaders(topic)
    assert len(await log._cluster.peek(topic, 0, 2, leaders[0], whole=False)) == 4
    assert (await log.describe(topic)).bounds[0] == (0, 7)
    await log.close()


class Fetched:
    """aiokafka's consumer with one fetch of each partition in its buffers."""

    def __init__(self, partitions: int, records: Sequence[Record]) -> None:
        self.buffers = {wire.TopicPartition(TOPIC, number): list(records) for number in range(partitions)}

    def assignment(self) -> set[Any]:
        return set(self.buffers)

    async def getmany(self, partition: Any, *, timeout_ms: int, max_records: int) -> dict[Any, list[Record]]:
        assert timeout_ms == 0
        taken, self.buffers[partition] = self.buffers[partition][:max_records], []
        return {partition: taken}


@drives("bus.READ_BYTES_MAX")
async def reads_of_many_partitions() -> None:
    consumer = wire.Consumer(SETTINGS)
    await consumer.close()
    held = Record(0, 1, b"k" * 1_024, bytes(PARTITION_FETCH_BYTES // 8 - 1_024), 0, ())
    partitions = limits.READ_BYTES_MAX // PARTITION_FETCH_BYTES + 1
    consumer._consumer = Fetched(partitions, [held] * 8)

    assert len(await consumer.fetch(records_max=10_000, wait_s=0)) == 8 * (partitions - 1)
    assert len(await consumer.fetch(records_max=10_000, wait_s=0)) == 8


@drives("bus.READ_BYTES_MAX")
async def what_a_broker_is_asked_for() -> None:
    consumer = wire.Consumer(SETTINGS)
    assert consumer._consumer._fetch_max_bytes == limits.READ_BYTES_MAX
    await consumer.close()


@drives("bus.CONNECT_TIMEOUT_S")
async def a_broker_that_says_nothing(clock: Clock) -> None:
    assert SETTINGS.connect_timeout_s == Settings.model_fields["timeout_s"].default == limits.CONNECT_TIMEOUT_S
    clock.listens(to_silence=True)
    with nobody_answers() as place:
        log = KafkaLog(KafkaSettings(servers=(place,), request_timeout_s=1_000.0))
        with pytest.raises(LogUnavailableError, match=f"connecting: no answer in {limits.CONNECT_TIMEOUT_S} s"):
            await log.describe(TOPIC)
        assert limits.CONNECT_TIMEOUT_S <= clock.now_s <= limits.CONNECT_TIMEOUT_S + 2 * limits.BACKOFF_LAST_S
        await log.close()


class Silent:
    """Stands for a producer, or a connection for questions, that was opened, and from then on hears nothing."""

    def __init__(self) -> None:
        self.abandoned = 0

    async def append(self, *_: Any) -> int:
        await asyncio.Event().wait()
        raise AssertionError

    async def _send_request(self, *_: Any) -> Any:
        await asyncio.Event().wait()

    async def abandon(self) -> None:
        self.abandoned += 1

    async def close(self) -> None: ...


@drives("bus.APPEND_TIMEOUT_S")
async def an_append_that_nobody_acknowledges(clock: Clock) -> None:
    assert SETTINGS.append_timeout_s == limits.APPEND_TIMEOUT_S
    log, silent = told(SETTINGS, Told(clock.monotonic)), Silent()
    log._producer = silent  # type: ignore[assignment]

    with pytest.raises(LogUnavailableError, match=f"no answer in {limits.APPEND_TIMEOUT_S:g} s"):
        await log.append(TOPIC, 0, [sized(20)])
    assert clock.now_s == limits.APPEND_TIMEOUT_S
    await asyncio.sleep(0)
    assert silent.abandoned == 1


@drives("bus.REQUEST_TIMEOUT_S")
async def a_question_that_nobody_answers(clock: Clock) -> None:
    assert SETTINGS.request_timeout_s == limits.REQUEST_TIMEOUT_S
    cluster = wire.Cluster(SETTINGS)
    cluster._admin = Silent()

    with pytest.raises(LogUnavailableError, match=f"asking for topic {TOPIC}: no answer in {limits.REQUEST_TIMEOUT_S} s"):
        await cluster.leaders(TOPIC)
    assert clock.now_s == limits.REQUEST_TIMEOUT_S


class Deaf:
    """Stands for a consumer whose fetches bring nothing."""

    made = 0

    def __init__(self, _: KafkaSettings) -> None:
        type(self).made += 1

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def assign(self, *_: Any) -> None: ...

    def seek(self, *_: Any) -> None: ...

    def position(self, *_: Any) -> int:
        return 1

    async def fetch(self, *, records_max: int, wait_s: float) -> list[Record]:
        assert records_max
        await asyncio.sleep(wait_s)
        return []


@drives("bus.STALL_TIMEOUT_S")
async def fetches_that_bring_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SETTINGS.stall_timeout_s == limits.STALL_TIMEOUT_S
    clock.rule(kafka_reader)
    monkeypatch.setattr(kafka_reader, "Consumer", Deaf)
    monkeypatch.setattr(Deaf, "made", 0)
    cluster = Told(clock.monotonic)
    reader = KafkaReader(cluster, SETTINGS, TOPIC)  # type: ignore[arg-type]

    async def read(seconds: float) -> None:
        await reader.read({0: 1}, records_max=10, wait_s=seconds)

    await read(limits.STALL_TIMEOUT_S)
    assert Deaf.made == 1
    await read(0.001)
    await read(0.001)
    assert Deaf.made == 2
    cluster.end = 1  # nothing is there: no stall, however long
    await reader.close()
    reader = KafkaReader(cluster, SETTINGS, TOPIC)  # type: ignore[arg-type]
    for _ in range(3):
        await read(limits.STALL_TIMEOUT_S)
    assert Deaf.made == 3


@drives("bus.BACKOFF_FIRST_S")
async def looks_for_a_topic_that_is_being_made_or_deleted(clock: Clock) -> None:
    clock.rule(kafka_log)
    settings = KafkaSettings(servers=SETTINGS.servers, request_timeout_s=0.5)
    making = Told(clock.monotonic, exists=False)
    with pytest.raises(TopicMissingError):
        await told(settings, making).create(TopicSpec(name=TOPIC, partitions=1))
    assert steps(making.looks[1:]) == {limits.BACKOFF_FIRST_S}
    deleting = Told(clock.monotonic)
    with pytest.raises(LogUnavailableError, match="still there"):
        await told(settings, deleting).delete(TOPIC)
    assert steps(deleting.looks) == {limits.BACKOFF_FIRST_S}


class Refusing(Told):
    """Knows no group's coordinator."""

    async def commit(self, *_: Any) -> None:
        raise LogUnavailableError(log="told", seen="away")


@drives("bus.BACKOFF_LAST_S")
async def reports_while_nobody_takes_them(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, kafka_log.__name__)
    clock.rule(kafka_log)
    log = KafkaLog(SETTINGS)
    log._reporter = Refusing(clock.monotonic)  # type: ignore[assignment]

    async def reported() -> int:
        await log.report("group", TOPIC, {0: 1})
        await asyncio.sleep(0.0001)
        return len(caplog.records)

    assert await reported() == 1
    await asyncio.sleep(limits.BACKOFF_LAST_S - 0.0002)
    assert await reported() == 1
    await asyncio.sleep(0.0001)
    assert await reported() == 2


@drives("bus.BACKOFF_LAST_S")
async def a_connection_that_does_not_close(clock: Clock) -> None:
    assert not await closed(asyncio.sleep(1_000.0), KafkaSettings(servers=SETTINGS.servers, **PATIENT))
    assert clock.now_s == limits.BACKOFF_LAST_S
    assert not await closed(asyncio.sleep(1_000.0), KafkaSettings(servers=SETTINGS.servers, connect_timeout_s=1.0))
    assert clock.now_s == limits.BACKOFF_LAST_S + 1.0


@drives("bus.MARK_EVENTS_MAX")
async def a_mark_in_a_topic_that_lost_its_beginning() -> None:
    searched = 2 * limits.MARK_EVENTS_MAX
    for first_beyond, found in ((1 + searched - 1, True), (1 + searched, False)):
        cluster = Told(lambda: 0.0)
        cluster.end = 10 * searched
        state = TopicState(name=TOPIC, partitions=1, incarnation="a" * 32, bounds={})
        key, value, at_ms, headers = mark(state)
        cluster.records = {first_beyond: Record(0, first_beyond, key, value, at_ms, headers)}

        described = await told(SETTINGS, cluster).describe(TOPIC)
        assert (described.incarnation == state.incarnation) is found
