"""What knows aiokafka: every option that carries a guarantee, every wait bounded, every name typed.

aiokafka is untyped, and its defaults lose data; two of its habits are cut off here.
- It creates topics by asking about them (its metadata requests allow auto-creation, with no setting against it):
  `_never_create` clears that flag on every request of a client. The broker's `auto.create.topics.enable` is then harmless.
- It never gives up: a batch that can't be sent is tried for ever, `stop` waits for it, and one refused batch wedges its
  partition. A producer that failed once is `abandon`ed: what it holds is dropped, not sent late behind its successor.

Nothing is retried here: refusal and silence are a LogUnavailableError (`connecting`). Private names are used, so aiokafka
is pinned.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final

from truecopy_bus.errors import LogUnavailableError, TopicMissingError
from truecopy_bus.limits import READ_BYTES_MAX
from truecopy_bus.logs.kafka import settings as limits
from truecopy_bus.logs.kafka.closing import closed
from truecopy_bus.logs.kafka.connecting import bounded, explained, started
from truecopy_bus.logs.kafka.noise import quiet
from truecopy_bus.logs.kafka.plain import hand_out_plain, plain
from truecopy_bus.logs.kafka.settings import KafkaSettings
from truecopy_bus.logs.kafka.topic_id import TopicIdRequest
from truecopy_bus.record import Outgoing, Record

try:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
    from aiokafka import errors as kafka_errors
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
    from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
    from aiokafka.protocol.admin import DeleteRecordsRequest
    from aiokafka.protocol.commit import OffsetCommitRequest
    from aiokafka.protocol.fetch import FetchRequest
    from aiokafka.protocol.metadata import MetadataRequest
    from aiokafka.protocol.offset import OffsetRequest
    from aiokafka.record.memory_records import MemoryRecords
except ImportError as error:
    raise ImportError(f"Kafka needs aiokafka ({error}); run: pip install 'truecopy[kafka]'") from error

__all__ = ["Cluster", "Consumer", "Producer"]

EARLIEST: Final = -2
LATEST: Final = -1
NO_LEADER: Final = -1


quiet()


class _Obedient:
    """A connection for metadata requests that may not create what they ask about."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def send(self, request: Any) -> Any:
        if isinstance(request, MetadataRequest):
            request._allow_auto_topic_creation = False
        return self._connection.send(request)


def _never_create(client: Any) -> None:
    """Make one aiokafka client, and no other in the process, ask about topics without creating them.

    aiokafka 0.14 sends `allow_auto_topic_creation = true` from `AIOKafkaClient._metadata_update`, which takes its
    connection from `_get_conn`; everything else goes through `client.send`.
    """
    connect = client._get_conn

    async def obedient(node_id: Any, **options: Any) -> Any:
        connection = await connect(node_id, **options)
        return None if connection is None else _Obedient(connection)

    client._get_conn = obedient


class Cluster:
    """One connection for questions and for operators' verbs. Made at the first need, made anew after any fault."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin: Any = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Bounded; never raises for a broker that is away."""
        admin, self._admin = self._admin, None
        if admin is not None:
            await closed(admin.close(), self._settings)

    async def leaders(self, topic: str) -> dict[int, int]:
        """Partition -> leading broker, -1 for none, as the brokers say now. Raises TopicMissingError."""
        async with self._asking(f"asking for topic {topic}") as admin:
            # One topic, asked by name and with creation forbidden; aiokafka's own call would create it.
            answer = await admin._send_request(MetadataRequest([topic], allow_auto_topic_creation=False))
            [found] = answer.to_object()["topics"]
            error = kafka_errors.for_code(found["error_code"])
            if error is kafka_errors.UnknownTopicOrPartitionError:
                raise TopicMissingError(log=self._settings.name, topic=topic)
            if error is not kafka_errors.NoError and not found["partitions"]:
                raise error(topic)
            return {each["partition"]: each["leader"] for each in found["partitions"]}

    async def topic_id(self, topic: str) -> str:
        """What the brokers call this life of the topic; of none, zeros."""
        async with self._asking(f"asking for the id of topic {topic}") as admin:
            return str(await admin._send_request(TopicIdRequest(topic)))

    async def bounds(self, topic: str, leaders: Mapping[int, int]) -> dict[int, tuple[int, int]]:
        """Partition -> (first stored offset, next offset), for the partitions whose leaders are given.

        The end is the end of what is readable: records of open transactions are not counted.
        """
        by_leader: dict[int, list[int]] = {}
        for partition, leader in leaders.items():
            by_leader.setdefault(leader, []).append(partition)
        async with self._asking(f"asking for the bounds of {topic}") as admin:
            asked = itertools.product((EARLIEST, LATEST), by_leader.items())
            answers = await asyncio.gather(
                *(self._offsets(admin, topic, leader, mine, moment) for moment, (leader, mine) in asked)
            )
        starts = dict(itertools.chain.from_iterable(each.items() for each in answers[: len(by_leader)]))
        ends = dict(itertools.chain.from_iterable(each.items() for each in answers[len(by_leader) :]))
        return {partition: (starts[partition], ends[partition]) for partition in leaders}

    async def _offsets(self, admin: Any, topic: str, leader: int, partitions: Iterable[int], moment: int) -> dict[int, int]:
        if leader == NO_LEADER:
            raise kafka_errors.KafkaConnectionError(f"no leader for {topic}{list(partitions)}")
        request = OffsetRequest(-1, READ_COMMITTED, [(topic, [(each, moment) for each in partitions])])
        answer = await admin._send_request(request, leader)
        offsets = {}
        for partition, code, _timestamp, offset in answer.topics[0][1]:
            if code:
                raise kafka_errors.for_code(code)(f"{topic}[{partition}]")
            offsets[partition] = offset
        return offsets

    async def peek(self, topic: str, partition: int, offset: int, leader: int, *, whole: bool) -> list[Record]:
        """The records of one fetch from `offset` on, a `whole` fetch or its first batch. Raises OutOfRangeError."""
        # However few bytes are asked for, the first batch comes complete (KIP-74).
        size = limits.PARTITION_FETCH_BYTES if whole else 1
        async with self._asking(f"reading {topic}[{partition}]") as admin:
            wanted = [(topic, [(partition, offset, size)])]
            answer = await admin._send_request(FetchRequest(0, 1, size, READ_COMMITTED, wanted, rack_id=""), leader)
            [(_, [(_, code, _end, *rest)])] = answer.topics
            if code:
                raise kafka_errors.for_code(code)(f"{topic}[{partition}]")
            aborted = rest[2] if answer.API_VERSION >= 11 else rest[-2]
            where = TopicPartition(topic, partition)
            # The consumer's own decoder: it checks the CRCs and leaves out what was aborted.
            found = PartitionRecords(where, MemoryRecords(rest[-1]), aborted, offset, None, None, True, READ_COMMITTED)
            return plain(found)

    async def create(self, topic: str, partitions: int, replication: int, settings: Mapping[str, str]) -> None:
        """Create the topic, or find that it exists. Settings that this broker does not know are a ValueError."""
        async with self._asking(f"creating topic {topic}") as admin:
            answer = await admin.create_topics([NewTopic(topic, partitions, replication, topic_configs=dict(settings))])
            for name, code, said in (each[:3] for each in answer.topic_errors):
                error = kafka_errors.for_code(code)
                if error in (kafka_errors.InvalidConfigurationError, kafka_errors.PolicyViolationError):
                    remedy = "create it by hand as the broker allows, its genesis is written into it then"
                    raise ValueError(f"{self._settings.name} refuses the settings of topic {name!r}: {said}; {remedy}")
                if error not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
                    raise error(f"{name}: {said}")

    async def settings(self, topic: str) -> dict[str, str]:
        """The settings of a topic that exists, by their Kafka names; those that are the broker's defaults too."""
        async with self._asking(f"asking for the settings of {topic}") as admin:
            [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
            [(code, _, _, _, entries)] = answer.resources
            if code:
                raise kafka_errors.for_code(code)(topic)
            return {entry[0]: entry[1] or "" for entry in entries}

    async def delete(self, topic: str) -> None:
        """Delete the topic with all that it holds. Raises TopicMissingError."""
        async with self._asking(f"deleting topic {topic}") as admin:
            answer = await admin.delete_topics([topic])
            for name, code in answer.topic_error_codes:
                error = kafka_errors.for_code(code)
                if error is kafka_errors.UnknownTopicOrPartitionError:
                    raise TopicMissingError(log=self._settings.name, topic=name)
                if error is not kafka_errors.NoError:
                    raise error(name)

    async def trim(self, topic: str, partition: int, before_offset: int, leader: int) -> int:
        """Delete what lies before an offset, as retention does. Returns the first stored offset."""
        async with self._asking(f"trimming {topic}[{partition}]") as admin:
            wanted = [(topic, [(partition, before_offset)])]
            timeout_ms = int(self._settings.request_timeout_s * 1000)
            answer = await admin._send_request(DeleteRecordsRequest(wanted, timeout_ms), leader)
            _, start, code = answer.topics[0][1][0][:3]
            if code:
                raise kafka_errors.for_code(code)(f"{topic}[{partition}]")
            return int(start)

    async def commit(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Commit offsets for a group without members, so that lag tools see how far it is."""
        async with self._asking(f"reporting group {group}") as admin:
            coordinator = await admin.find_coordinator(group)
            offsets = [(topic, [(partition, offset, "") for partition, offset in positions.items()])]
            # No generation and no member: what a simple consumer, one with assigned partitions, sends.
            answer = await admin._send_request(OffsetCommitRequest(group, -1, "", -1, offsets), coordinator)
            for _, partitions in answer.topics:
                for partition, code in partitions:
                    if code:
                        raise kafka_errors.for_code(code)(f"{topic}[{partition}]")

    @contextlib.asynccontextmanager
    async def _asking(self, doing: str) -> AsyncIterator[Any]:
        admin = await self._opened()
        try:
            async with bounded(self._settings, doing, self._settings.request_timeout_s):
                yield admin
        except LogUnavailableError as error:
            # A refusal came over a sound connection, which others are using; after silence or a break it is made anew.
            fault = error.__cause__
            refused = isinstance(fault, kafka_errors.BrokerResponseError)
            if self._admin is admin and not (refused and not isinstance(fault, kafka_errors.RequestTimedOutError)):
                await self.close()
            if isinstance(fault, kafka_errors.NodeNotReadyError):  # a broker that was named by the first, and not reached
                raise await explained(self._settings, error, admin._client.cluster.brokers()) from fault
            raise

    async def _opened(self) -> Any:
        async with self._opening:
            if self._admin is None:
                admin = AIOKafkaAdminClient(**self._settings.client_options())
                _never_create(admin._client)
                await started(admin.start(), admin.close, self._settings)
                self._admin = admin
            return self._admin


class Producer:
    """Appends batches with acks=all, idempotently. After the first fault it is of no more use: `abandon` it."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer = AIOKafkaProducer(
            **settings.client_options(),
            acks="all",
            enable_idempotence=True,
            compression_type=settings.compression,
            max_batch_size=limits.BATCH_BYTES_MAX,
            max_request_size=limits.REQUEST_BYTES_MAX,
            linger_ms=0,
        )
        _never_create(self._producer.client)

    async def start(self) -> None:
        await started(self._producer.start(), self._producer.stop, self._settings)

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> int:
        """Returns the first offset once all is durable. Raises LogUnavailableError: perhaps written, in part or whole.

        The next batch is built while the one before is on its way; aiokafka keeps one in flight per partition, so
        order never depends on the broker. The caller lets one append at a time into a partition, and bounds it.
        """
        doing = f"appending to {topic}[{partition}]"
        async with bounded(self._settings, doing, None):
            sent = []
            batch = self._producer.create_batch()
            add = batch.append
            for key, value, at_ms, headers in records:  # the first of a batch always fits
                if add(timestamp=at_ms, key=key, value=value, headers=[*headers]) is None:
                    sent.append(await self._send(batch, topic, partition))
                    batch = self._producer.create_batch()
                    add = batch.append
                    add(timestamp=at_ms, key=key, value=value, headers=[*headers])
            sent.append(await self._send(batch, topic, partition))
            landed = [await future for future in sent]
        if landed[0].offset < 0:
            # A retry whose first answer was lost, on a broker that forgot the batch: it is there, nobody knows where.
            raise LogUnavailableError(log=self._settings.name, seen=f"{doing}: the broker does not say at what offset")
        return int(landed[0].offset)

    async def _send(self, batch: Any, topic: str, partition: int) -> Any:
        future = await self._producer.send_batch(batch, topic, partition=partition)
        # An append that was given up does not wait for its batches; their end is then nobody's news.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

    async def close(self) -> None:
        """Send what is there, bounded; then let go."""
        if not await closed(self._producer.stop(), self._settings):
            await self.abandon()

    async def abandon(self) -> None:
        """Let go without sending what is still held: its append has failed already, and is sent again by another.

        `stop` alone would go on sending: it waits for every batch, for ever when brokers are away.
        """
        accumulator, sending = self._producer._message_accumulator, self._producer._sender.sender_task
        held = [*itertools.chain.from_iterable(accumulator._batches.values()), *accumulator._pending_batches]
        accumulator.fail_all(kafka_errors.KafkaConnectionError("given up after a fault"))
        for batch in held:
            for future in (batch.future, batch._drain_waiter):
                if future.done() and not future.cancelled():
                    future.exception()
        if sending is not None:
            # Twice: the first time it still waits for the answer under way, which never comes once we hang up.
            sending.cancel()
            await closed(self._producer.client.close(), self._settings)
            sending.cancel()
        await closed(self._producer.stop(), self._settings)


class Consumer:
    """Fetches assigned partitions from given offsets on. After the first fault it is of no more use: `close` it."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._consumer = AIOKafkaConsumer(
            **settings.client_options(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            check_crcs=True,
            fetch_min_bytes=1,
            fetch_max_wait_ms=min(limits.FETCH_WAIT_MS, int(settings.request_timeout_s * 500)),
            fetch_max_bytes=READ_BYTES_MAX,
            max_partition_fetch_bytes=limits.PARTITION_FETCH_BYTES,
        )
        _never_create(self._consumer._client)
        self._turn = 0

    async def start(self) -> None:
        await started(self._consumer.start(), self._consumer.stop, self._settings)
        hand_out_plain(self._consumer._fetcher)

    async def close(self) -> None:
        if not await closed(self._consumer.stop(), self._settings):
            await closed(self._consumer._client.close(), self._settings)

    def assign(self, topic: str, partitions: Iterable[int]) -> None:
        """Replace what is fetched; every partition must be sought next, before anything is awaited."""
        self._consumer.assign([TopicPartition(topic, each) for each in partitions])

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self._consumer.seek(TopicPartition(topic, partition), offset)

    def position(self, topic: str, partition: int) -> int:
        """The next offset to fetch: beyond the last record where transaction markers follow it."""
        assignment = self._consumer._subscription.subscription.assignment
        return int(assignment.state_value(TopicPartition(topic, partition)).position)

    async def fetch(self, *, records_max: int, wait_s: float) -> list[Record]:
        """What is there, each partition in order; raises OutOfRangeError, LogUnavailableError."""
        # Partitions take turns in being first: left to itself, getmany empties one before it looks at the next.
        self._turn += 1
        assigned = sorted(self._consumer.assignment())
        turn = self._turn % len(assigned)
        records: list[Record] = []
        room = READ_BYTES_MAX  # what is fetched ahead is bounded by partition, and of those there may be many
        async with bounded(self._settings, "fetching", wait_s + self._settings.request_timeout_s):
            for partition in (*assigned[turn:], *assigned[:turn]):
                if (left := records_max - len(records)) and room >= limits.PARTITION_FETCH_BYTES:
                    found = (await self._consumer.getmany(partition, timeout_ms=0, max_records=left)).get(partition, ())
                    records += found
                    room -= sum(len(each.key or b"") + len(each.value or b"") for each in found)
            if not records:
                came = await self._consumer.getmany(timeout_ms=int(wait_s * 1000), max_records=records_max)
                records = [record for each in came.values() for record in each]
        return records
