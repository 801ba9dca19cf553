"""A log that delivers as a bad day does, again and again the same: another order of keys, records twice, odd batches.

What it does is what the guarantees allow. Relays that overlap interleave the keys of a partition differently and send records
again; readers get the partitions in any turn, and any number of records at a time. The order within a key is kept, and so is
the place of a mark behind what it states. Everything is drawn from the seed and the name of what it is drawn for, so a seed
gives the same delivery again, whatever runs beside it.

What came in is kept in order beside it, in a log in memory: the delivery to compare with.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from random import Random

from truecopy_bus.errors import TopicMissingError
from truecopy_bus.log import Log, Reader
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.mark_requests import REQUESTS_TOPIC
from truecopy_bus.record import Appended, Outgoing, Record, TopicSpec, TopicState
from truecopy_bus.registry import SCHEMAS_TOPIC
from truecopy_projections.amendments_topic import AMENDMENTS_TOPIC
from truecopy_projections.certificates_topic import CERTIFICATES_TOPIC
from truecopy_schemas.control import CONTROL_KEY
from truecopy_services.errors import UsageError

__all__ = ["ShufflingLog", "interleaved", "repeated"]

READ_RECORDS_MAX = 7
"""Records that one read gives at most: few, so that batches end between any two events of a small test."""


class ShufflingLog:
    """The log port over `inner`, whose topics must all be new. `duplicates` is the share of records that come twice.

    `untouched` are topics that are delivered as they are: a foreign one promises no more, and a record in it counts each time.
    """

    def __init__(self, inner: Log, *, seed: int, shuffle: bool, duplicates: float) -> None:
        self.inner, self.ordered = inner, MemoryLog()
        self.untouched = {SCHEMAS_TOPIC, REQUESTS_TOPIC, CERTIFICATES_TOPIC, AMENDMENTS_TOPIC}
        self._seed, self._shuffle, self._duplicates = seed, shuffle, duplicates
        self._appends: dict[tuple[str, int], Random] = {}
        self._late: dict[tuple[str, int], list[Outgoing]] = {}
        self._readers = 0

    async def create(self, topic: TopicSpec) -> TopicState:
        """Raises UsageError for a topic that was there before: nobody kept its order."""
        if topic.name not in self.untouched and not await _has(self.ordered, topic.name):
            if await _has(self.inner, topic.name):
                raise _not_new(topic.name)
            await self.ordered.create(topic)
        return await self.inner.create(topic)

    async def describe(self, topic: str) -> TopicState:
        return await self.inner.describe(topic)

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        if topic in self.untouched or any(record.key == CONTROL_KEY for record in records):
            return await self.inner.append(topic, partition, records)
        place = topic, partition
        random = self._appends.setdefault(place, Random(f"{self._seed}/append/{topic}/{partition}"))
        sent, late = repeated(self._late.get(place, ()), records, self._duplicates, random)
        appended = await self.inner.append(topic, partition, interleaved(sent, random) if self._shuffle else sent)
        if not await _has(self.ordered, topic):
            raise _not_new(topic)
        await self.ordered.append(topic, partition, records)
        self._late[place] = late
        return appended

    def reader(self, topic: str) -> Reader:
        inner = self.inner.reader(topic)
        if not self._shuffle or topic in self.untouched:
            return inner
        self._readers += 1
        return _ShufflingReader(inner, Random(f"{self._seed}/reader/{self._readers}"))

    async def report(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        await self.inner.report(group, topic, positions)

    async def close(self) -> None:
        await self.inner.close()
        await self.ordered.close()


class _ShufflingReader:
    def __init__(self, inner: Reader, random: Random) -> None:
        self._inner, self._random = inner, random

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        most = self._random.randint(1, min(records_max, READ_RECORDS_MAX))
        some = self._random.sample(sorted(positions), self._random.randint(1, len(positions))) if positions else []
        turn = {partition: positions[partition] for partition in some}
        records = await self._inner.read(turn, records_max=most, wait_s=0) if turn else ()
        return records or await self._inner.read(positions, records_max=most, wait_s=wait_s)

    async def close(self) -> None:
        await self._inner.close()


async def _has(log: Log, topic: str) -> bool:
    try:
        await log.describe(topic)
    except TopicMissingError:
        return False
    return True


def _not_new(topic: str) -> UsageError:
    return UsageError(
        f"the log held topic {topic!r} before; shuffled delivery needs one whose order it knows: use an empty log"
    )


def repeated(
    late: Sequence[Outgoing], records: Sequence[Outgoing], share: float, random: Random
) -> tuple[list[Outgoing], list[Outgoing]]:
    """What is sent now, and what is sent once more the next time. Each of `records` is sent, some twice, now or later.

    `late` are those that an earlier call put off. A second copy comes after its first one, anywhere.
    """
    places = list(enumerate(map(float, range(len(records)))))
    put_off: list[Outgoing] = []
    for number, record in enumerate(records):
        if random.random() < share:
            if random.random() < 0.5:
                put_off.append(record)
            else:
                places.append((number, random.uniform(number, len(records))))
    found = [(place, records[number]) for number, place in places]
    found += [(random.uniform(0, len(records)), record) for record in late]
    return [record for _, record in sorted(found, key=lambda one: one[0])], put_off


def interleaved(records: Sequence[Outgoing], random: Random) -> list[Outgoing]:
    """The records in another order of keys; those of one key keep theirs."""
    queues: dict[bytes | None, deque[Outgoing]] = {}
    for record in records:
        queues.setdefault(record.key, deque()).append(record)
    turns = [record.key for record in records]
    random.shuffle(turns)
    return [queues[key].popleft() for key in turns]
