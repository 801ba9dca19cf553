"""The log port on Kafka: what is asked of a cluster, in which order, and what is dropped after a fault."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from truecopy_bus.errors import LogUnavailableError, TopicMismatchError, TopicMissingError
from truecopy_bus.genesis import absent, incarnation_in, new_incarnation
from truecopy_bus.limits import BACKOFF_FIRST_S, BACKOFF_LAST_S, MARK_EVENTS_MAX
from truecopy_bus.logs.chunk import checked_sizes
from truecopy_bus.logs.kafka.reader import KafkaReader
from truecopy_bus.logs.kafka.settings import REQUEST_BYTES_MAX, KafkaSettings
from truecopy_bus.logs.kafka.upkeep import KeptCluster
from truecopy_bus.logs.kafka.wire import Cluster, Producer
from truecopy_bus.points import Point, reached
from truecopy_bus.record import Appended, Incarnation, Outgoing, TopicSpec, TopicState

__all__ = ["KafkaLog"]

TOPIC_SETTINGS = {
    "cleanup.policy": "delete",
    "compression.type": "producer",
    "max.message.bytes": str(REQUEST_BYTES_MAX),
    "message.timestamp.after.max.ms": str(2**63 - 1),
    "message.timestamp.before.max.ms": str(2**63 - 1),
    "message.timestamp.type": "CreateTime",
    "retention.bytes": "-1",
    "retention.ms": "-1",
    "unclean.leader.election.enable": "false",
}
"""What a topic of ours is created with, defaults included: a broker's own may be others. An owner's clock that is
wrong by an hour stops nothing (Kafka's default refuses such records): timestamps are for people."""
SCAN_RECORDS_MAX = 2 * MARK_EVENTS_MAX
"""Records that are searched for a mark once offset 0 is gone. A mark comes every MARK_EVENTS_MAX events."""

log = logging.getLogger(__name__)


class KafkaLog:
    """The log port on Apache Kafka 3.6 or later. Connects at the first need; for one event loop.

    Beyond the port: what Upkeep says, `foreign`; and `delete` and `trim`, for operators and tests.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._cluster = KeptCluster(settings)
        self._reporter = Cluster(settings)  # its own connection: nobody's read waits behind a report, or fails with it
        self._producer: Producer | None = None
        self._starting = asyncio.Lock()
        self._appending: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._partitions: dict[str, int] = {}
        self._reports: dict[tuple[str, str], dict[int, int]] = {}
        self._report_not_before = 0.0
        self._reporting: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    def from_url(cls, url: str, **more: Any) -> Self:
        """A log at `kafka://host:port,host2:port?option=value`; see KafkaSettings.from_url for what it raises."""
        return cls(KafkaSettings.from_url(url, **more))

    async def create(self, topic: TopicSpec) -> TopicState:
        """As the port says. Raises ValueError for settings that the broker refuses.

        A topic gets `min.insync.replicas` of a majority: with acks=all, an acknowledged record survives a lost copy.
        """
        try:
            await self._cluster.leaders(topic.name)
        except TopicMissingError:
            whole = self.completed(topic)
            await self._cluster.create(topic.name, topic.partitions, whole.replication, whole.settings)
            await reached(Point.RELAY_TOPIC_EMPTY, topic.partitions)
        candidate, deadline = new_incarnation(), time.monotonic() + self._settings.request_timeout_s
        while True:
            try:
                state = await self.describe(topic.name)
                missing = absent(topic, state, candidate=candidate)
                if not missing:
                    return state
                for partition, record in missing:
                    await self.append(topic.name, partition, [record])
            except (TopicMissingError, LogUnavailableError):
                # A topic that was just made is not known to every broker yet, and has no leaders.
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(BACKOFF_FIRST_S)

    async def describe(self, topic: str) -> TopicState:
        self._expect_open()
        leaders = await self._cluster.leaders(topic)
        bounds = await self._cluster.bounds(topic, leaders)
        self._partitions[topic] = len(leaders)
        return TopicState(
            name=topic,
            partitions=len(leaders),
            incarnation=await self._incarnation(topic, leaders[0], *bounds[0]),
            bounds=bounds,
        )

    async def foreign(self, topic: str) -> TopicState:
        """`describe` for a topic of others: its incarnation is the id that the brokers gave it. See ForeignTopics."""
        self._expect_open()
        leaders = await self._cluster.leaders(topic)
        bounds = await self._cluster.bounds(topic, leaders)
        incarnation = f"{await self._cluster.topic_id(topic)}/{len(leaders)}"
        return TopicState(name=topic, partitions=len(leaders), incarnation=incarnation, bounds=bounds)

    async def _incarnation(self, topic: str, leader: int, start: int, end: int) -> Incarnation | None:
        """From the genesis, which is a batch of its own, or by searching what retention left for a mark."""
        searched_until = min(end, 1 if start == 0 else start + SCAN_RECORDS_MAX)
        while start < searched_until:
            records = await self._cluster.peek(topic, 0, start, leader, whole=start > 0)
            found = incarnation_in(records)
            if found is not None or not records:
                return found
            start = records[-1].offset + 1
        return None

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        """As the port says. Also TopicMismatchError for a partition that the topic does not have.

        Appends to one partition through this log do not interleave. After a fault the connection is dropped with all
        that it still held, and appends to other partitions that were under way fail with it: perhaps written.
        """
        if not records:
            raise ValueError("an append needs at least one record")
        self._expect_open()
        checked_sizes(topic, records)
        producer = None
        try:
            async with asyncio.timeout(self._settings.append_timeout_s), self._appending[topic, partition]:
                await self._expect(topic, partition)
                producer = await self._started()
                first = await producer.append(topic, partition, records)
                return Appended(first, len(records))
        except (TimeoutError, LogUnavailableError) as error:
            self._abandon(producer)
            self._partitions.pop(topic, None)
            # A topic that is gone shows as silence: the producer looks for its leader until time is up.
            await self._cluster.leaders(topic)
            if isinstance(error, LogUnavailableError):
                raise
            seen = f"appending to {topic}[{partition}]: no answer in {self._settings.append_timeout_s:g} s"
            raise LogUnavailableError(log=self._settings.name, seen=seen) from error

    def _expect_open(self) -> None:
        if self._closed:
            raise LogUnavailableError(log=self._settings.name, seen="this handle was closed; open another")

    async def _expect(self, topic: str, partition: int) -> None:
        if topic not in self._partitions:
            self._partitions[topic] = len(await self._cluster.leaders(topic))
        if not 0 <= partition < self._partitions[topic]:
            raise TopicMismatchError(
                topic=topic, seen=f"{self._partitions[topic]} partitions", expected=f"a partition {partition}"
            )

    async def _started(self) -> Producer:
        async with self._starting:
            if self._producer is None:
                producer = Producer(self._settings)
                await producer.start()
                self._producer = producer
            return self._producer

    def _abandon(self, producer: Producer | None) -> None:
        if producer is not None and producer is self._producer:
            self._producer = None
            self._later(producer.abandon())

    def reader(self, topic: str) -> KafkaReader:
        return KafkaReader(self._cluster, self._settings, topic)

    async def report(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """As the port says. Returns at once; the latest positions are committed behind it, all waiting ones in a row."""
        self._reports.setdefault((group, topic), {}).update(positions)
        idle = self._reporting is None or self._reporting.done()
        if idle and time.monotonic() >= self._report_not_before:
            self._reporting = self._later(self._report())

    async def _report(self) -> None:
        while self._reports:
            (group, topic), positions = self._reports.popitem()
            try:
                await self._reporter.commit(group, topic, positions)
            except (LogUnavailableError, TopicMissingError) as error:
                # Advisory, and the next report says more; but not at the price of a wait for each.
                log.info("lag of group %s on %s is not reported: %s", group, topic, error)
                self._report_not_before = time.monotonic() + BACKOFF_LAST_S
                self._reports.clear()

    async def close(self) -> None:
        """Bounded. Readers are closed by their owners."""
        self._closed = True
        if self._background:
            await asyncio.wait(self._background, timeout=self._settings.request_timeout_s)
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.close()
        await self._reporter.close()
        await self._cluster.close()

    def completed(self, topic: TopicSpec) -> TopicSpec:
        """See Upkeep."""
        copies = max(topic.replication, self._settings.replication)
        settings = {**TOPIC_SETTINGS, "min.insync.replicas": str(copies // 2 + 1), **topic.settings}
        return replace(topic, replication=copies, settings=settings)

    async def settings(self, topic: str) -> dict[str, str]:
        """A topic's settings as the broker has them. Not part of the port. Raises TopicMissingError, LogUnavailableError."""
        await self._cluster.leaders(topic)
        return await self._cluster.settings(topic)

    async def copies(self, topic: str) -> dict[int, tuple[int, int]]:
        """See Upkeep."""
        return await self._cluster.copies(topic)

    async def mend(self, topic: str, settings: Mapping[str, str]) -> None:
        """See Upkeep."""
        await self._cluster.leaders(topic)
        await self._cluster.mend(topic, settings)

    async def since(self, topic: str, at_ms: int) -> dict[int, int]:
        """See Upkeep."""
        leaders = await self._cluster.leaders(topic)
        bounds = await self._cluster.bounds(topic, leaders)
        found = await self._cluster.since(topic, leaders, at_ms)
        return {partition: found.get(partition, end) for partition, (_, end) in bounds.items()}

    async def brokers(self) -> dict[int, dict[str, str]]:
        """See Upkeep."""
        return await self._cluster.brokers()

    async def delete(self, topic: str) -> None:
        """Delete a topic with all that it holds; returns when it is gone. Not part of the port.

        Raises TopicMissingError, LogUnavailableError.
        """
        await self._cluster.delete(topic)
        self._partitions.pop(topic, None)
        deadline = time.monotonic() + self._settings.request_timeout_s
        try:
            while time.monotonic() < deadline:
                await self._cluster.leaders(topic)
                await asyncio.sleep(BACKOFF_FIRST_S)
        except TopicMissingError:
            return
        raise LogUnavailableError(log=self._settings.name, seen=f"topic {topic} is still there after its deletion")

    async def trim(self, topic: str, partition: int, before_offset: int) -> int:
        """Delete what lies before an offset, as retention does. Returns the first stored one. Not part of the port.

        Raises TopicMissingError, LogUnavailableError.
        """
        leaders = await self._cluster.leaders(topic)
        return await self._cluster.trim(topic, partition, before_offset, leaders[partition])

    def _later(self, doing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(doing)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task
