"""Reading one topic: the caller says where it is, this keeps a consumer at that place and mistrusts it.

The consumer is only believed while it moves as told. Positions are compared with the partitions' bounds when partitions
are assigned, when a position jumps, and every second: Kafka's fetch would wait in silence beyond the end. The topic's
first record is compared as often: a topic that was deleted and made again would be read on at the old offset. After any
fault the consumer is dropped, and the next read makes a new one from the caller's positions. The incarnation is the
caller's to check, whenever a read has failed.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from truecopy_bus.errors import LogUnavailableError, PositionLostError
from truecopy_bus.logs.kafka.connecting import OutOfRangeError
from truecopy_bus.logs.kafka.settings import KafkaSettings
from truecopy_bus.logs.kafka.wire import Cluster, Consumer
from truecopy_bus.record import Record

__all__ = ["KafkaReader"]

VERIFY_S = 1.0
"""Seconds between looks at the bounds: for so long at most a position beyond the end goes unnoticed."""

log = logging.getLogger(__name__)


class KafkaReader:
    """The port's Reader. For one loop at a time."""

    def __init__(self, cluster: Cluster, settings: KafkaSettings, topic: str) -> None:
        self._cluster, self._settings, self._topic = cluster, settings, topic
        self._consumer: Consumer | None = None
        self._next: dict[int, int] = {}  # where the consumer is, as the caller saw it
        self._ends: dict[int, int] = {}
        self._genesis: bytes | None = None
        self._verified_at = 0.0
        self._stalled_s: dict[int, float] = {}
        self._closed = False

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        if self._closed:
            raise LogUnavailableError(log=self._settings.name, seen="this reader was closed; open another")
        if not positions:
            await asyncio.sleep(wait_s)
            return []
        try:
            return await self._read(positions, records_max, wait_s)
        except OutOfRangeError:
            await self._drop()
            self._check(positions, await self._bounds(positions, await self._cluster.leaders(self._topic)))
            seen = f"{self._topic}: a position was refused, and is in range now"
            raise LogUnavailableError(log=self._settings.name, seen=seen) from None
        except BaseException:
            # Cancelled as well: what the consumer handed out meanwhile is lost, so its place is not to be believed.
            await self._drop()
            raise

    def passed(self) -> Mapping[int, int]:
        """See Passing: beyond the last record lie markers of transactions, and what was aborted or compacted."""
        return {} if self._consumer is None else {p: self._consumer.position(self._topic, p) for p in self._next}

    async def close(self) -> None:
        self._closed = True
        await self._drop()

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._next, self._ends, self._stalled_s, self._genesis = {}, {}, {}, None
        if consumer is not None:
            await consumer.close()

    async def _read(self, positions: Mapping[int, int], records_max: int, wait_s: float) -> list[Record]:
        if self._next != positions or time.monotonic() - self._verified_at >= VERIFY_S:
            await self._verify(positions)
        consumer = await self._placed(positions)
        began = time.monotonic()
        records = await consumer.fetch(records_max=records_max, wait_s=wait_s)
        for record in records:
            self._next[record.partition] = record.offset + 1
        self._watch(consumer, records, time.monotonic() - began, full=len(records) >= records_max)
        if self._is_stalled():
            log.warning(
                "%s: nothing came for %g s though there is more; connecting anew", self._topic, self._settings.stall_timeout_s
            )
            await self._drop()
        return records

    async def _placed(self, positions: Mapping[int, int]) -> Consumer:
        """The consumer, at these positions."""
        if self._consumer is None:
            consumer = Consumer(self._settings)
            await consumer.start()
            self._consumer = consumer
        if self._next.keys() != positions.keys():
            self._consumer.assign(self._topic, positions)
            self._next = {}
        for partition, position in positions.items():
            if self._next.get(partition) != position:
                self._consumer.seek(self._topic, partition, position)
        self._next = dict(positions)
        return self._consumer

    async def _verify(self, positions: Mapping[int, int]) -> None:
        leaders = await self._cluster.leaders(self._topic)
        bounds = await self._bounds(positions, leaders)
        self._check(positions, bounds)
        known, self._genesis = self._genesis, await self._first_record(leaders)
        if known is not None and self._genesis not in (None, known):
            raise LogUnavailableError(log=self._settings.name, seen=f"{self._topic} was deleted and made again")
        for partition, (_, end) in bounds.items():
            if end < self._ends.get(partition, 0):
                seen = f"{self._topic}[{partition}] went back from offset {self._ends[partition]} to {end}"
                raise LogUnavailableError(log=self._settings.name, seen=seen)
        self._ends = {partition: end for partition, (_, end) in bounds.items()}
        self._verified_at = time.monotonic()

    async def _bounds(self, positions: Mapping[int, int], leaders: Mapping[int, int]) -> dict[int, tuple[int, int]]:
        """Of those of the partitions that exist."""
        mine = {partition: leader for partition, leader in leaders.items() if partition in positions}
        return await self._cluster.bounds(self._topic, mine)

    async def _first_record(self, leaders: Mapping[int, int]) -> bytes | None:
        """What tells one life of a topic from the next; None once retention has deleted it."""
        try:
            records = await self._cluster.peek(self._topic, 0, 0, leaders[0], whole=False)
        except OutOfRangeError:
            return None
        return records[0].value if records else None

    def _check(self, positions: Mapping[int, int], bounds: Mapping[int, tuple[int, int]]) -> None:
        for partition, position in positions.items():
            start, end = bounds.get(partition, (0, 0))
            if partition not in bounds or not start <= position <= end:
                raise PositionLostError(topic=self._topic, partition=partition, position=position, start=start, end=end)

    def _watch(self, consumer: Consumer, records: Sequence[Record], spent_s: float, *, full: bool) -> None:
        """Count the seconds for which a partition gave nothing, though it had something and there was room."""
        came = {record.partition for record in records}
        for partition, end in self._ends.items():
            if partition in came or consumer.position(self._topic, partition) >= end:
                self._stalled_s[partition] = 0.0
            elif not full:
                self._stalled_s[partition] = self._stalled_s.get(partition, 0.0) + spent_s

    def _is_stalled(self) -> bool:
        return any(seconds > self._settings.stall_timeout_s for seconds in self._stalled_s.values())
