"""The relay against real databases and logs: whatever is killed, frozen or away, what lies on the log is judged from outside.

The judge folds the log as a replica does and compares at every mark by count: equal counts must have equal digests, a
replica ahead of a mark is late, one behind it lacks something, and marks of a lower epoch than one seen mean nothing.
"""

import asyncio
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from truecopy_bus.errors import DatabaseUnavailableError, LogUnavailableError
from truecopy_bus.fold import UNKNOWN, Head, Verdict, fold, moved
from truecopy_bus.genesis import control_of
from truecopy_bus.limits import RELAY_ROWS_MAX
from truecopy_bus.log import Log, Reader
from truecopy_bus.logs.kafka import KafkaLog
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.partitioner import partition_of
from truecopy_bus.points import HELD_LINE, HOLD_VARIABLE
from truecopy_bus.record import Appended, Outgoing, Record, TopicSpec, TopicState
from truecopy_bus.registry import Registry
from truecopy_bus.relay import Relay
from truecopy_bus.relay_halts import halts
from truecopy_bus.sql.address import connect
from truecopy_bus.store import EventStore
from truecopy_schemas.avro_schema import fingerprint
from truecopy_schemas.codec import read_version
from truecopy_schemas.compatibility import Compatibility
from truecopy_schemas.control import CONTROL_KEY, Mark
from truecopy_schemas.event import Event
from truecopy_schemas.framing import unframe

ENTITY = "shop.customer"
BRIEF_LEASE_S = 0.15


class Bought(Event, entity=ENTITY, kind="delta"):
    cents: int


class Renamed(Event, entity=ENTITY):
    name: str


class BoughtInText(Event, entity=ENTITY, kind="delta", name="Bought"):
    """Bought again, as somebody broke it."""

    cents: str


class Shipped(Event, entity="shop.parcel", kind="delta"):
    carrier: str


@dataclass
class Judge:
    """A reader of one topic who knows nothing of the relay: folds every partition, compares at every mark."""

    log: Log
    registry: Registry
    topic: str
    heads: dict[str, Head] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    digests: Counter[int] = field(default_factory=Counter)
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    numbers: dict[int, list[int]] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=dict)

    async def read_until(self, done: Callable[["Judge"], bool]) -> "Judge":
        """Follow the log until `done`; the test's time limit bounds it."""
        reader = self.log.reader(self.topic)
        for part in range((await self.log.describe(self.topic)).partitions):
            self.positions.setdefault(part, 0)
        while not done(self):
            for record in await reader.read(self.positions, records_max=5_000, wait_s=5.0):
                await self.judge(record)
        await reader.close()
        return self

    async def read_all(self) -> "Judge":
        bounds = (await self.log.describe(self.topic)).bounds
        return await self.read_until(lambda self: all(self.positions[part] >= end for part, (_, end) in bounds.items()))

    async def judge(self, record: Record) -> None:
        part = record.partition
        self.positions[part] = record.offset + 1
        if record.key == CONTROL_KEY:
            control = control_of(record)
            if isinstance(control, Mark):
                self.judge_mark(part, control)
            return
        assert record.key is not None
        schema_id, body = unframe(record.value)
        key, mark = record.key.decode(), fingerprint((await self.registry.schema(schema_id)).schema)
        known = self.heads.get(key, UNKNOWN)
        verdict, head = fold(known, key, read_version(body), mark, body)
        self.verdicts[verdict] += 1
        self.heads[key] = head
        if verdict is Verdict.APPLY:
            self.counts[part] += 1
            self.digests[part] = moved(self.digests[part], old=known.element, new=head.element)

    def judge_mark(self, part: int, mark: Mark) -> None:
        self.numbers.setdefault(part, []).append(mark.number)
        if mark.epoch < self.epochs.get(part, 0):
            self.marks["ignored"] += 1
            return
        self.epochs[part] = mark.epoch
        if self.counts[part] > mark.count:
            self.marks["late"] += 1
        elif self.counts[part] == mark.count and self.digests[part].to_bytes(32) == mark.digest:
            self.marks["equal"] += 1
        else:
            self.marks["diverged"] += 1

    @property
    def applied(self) -> int:
        return self.verdicts[Verdict.APPLY]

    @property
    def duplicates(self) -> int:
        return self.verdicts[Verdict.DUPLICATE]

    def assert_true(self, events: int) -> None:
        """Every version once and in order but for duplicates, and no mark that says otherwise."""
        assert self.applied == events
        assert self.verdicts[Verdict.GAP] == self.verdicts[Verdict.CONFLICT] == 0
        assert self.marks["diverged"] == 0
        assert self.marks["equal"] >= 1
        for numbers in self.numbers.values():
            assert len(set(numbers)) == len(numbers)


class Valve:
    """A log whose answers a test can hold back after they were given, or refuse."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.away = False
        self.holds: Callable[[Sequence[Outgoing]], bool] = lambda _: False
        self.holding, self.released, self.refused = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        self._answer()
        appended = await self._log.append(topic, partition, records)
        if self.holds(records):
            self.holding.set()
            await self.released.wait()
        return appended

    async def create(self, topic: TopicSpec) -> TopicState:
        self._answer()
        return await self._log.create(topic)

    async def describe(self, topic: str) -> TopicState:
        self._answer()
        return await self._log.describe(topic)

    def reader(self, topic: str) -> Reader:
        return self._log.reader(topic)

    async def report(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        await self._log.report(group, topic, positions)

    async def close(self) -> None:
        await self._log.close()

    def _answer(self) -> None:
        if self.away:
            self.refused.set()
            raise LogUnavailableError(log="valve", seen="shut")


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/owner.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[EventStore]:
    database = await connect(database_url)
    store = EventStore(database, service="shop")
    await store.open()
    yield store
    await database.close()


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    log: Log = MemoryLog() if request.param == "memory" else SQLiteLog(tmp_path / "log.db")
    yield log
    await log.close()


@pytest.fixture
async def memory() -> AsyncIterator[MemoryLog]:
    log = MemoryLog()
    yield log
    await log.close()


def judge(log: Log, topic: str = ENTITY) -> Judge:
    return Judge(log, Registry(log), topic)


def purchases(count: int, keys: int = 20) -> list[tuple[str, Event]]:
    return [(f"k{each % keys}", Bought(cents=each)) for each in range(count)]


async def test_all_that_is_published_lies_on_the_log_once_and_in_order(store: EventStore, log: Log) -> None:
    relay = Relay(store, log, Registry(log))
    await store.publish_many([*purchases(100), ("p", Shipped(carrier="post"))])

    assert await relay.drain() == 101
    await store.publish_many([("k1", Renamed(name="Ada")), ("k1", Bought(cents=1))])
    assert await relay.drain() == 2
    await relay.mark()

    judged = await judge(log).read_all()
    judged.assert_true(102)
    assert judged.duplicates == 0
    assert judged.marks == {"equal": 4}
    assert (await store.pending(ENTITY)).count == 0
    assert await relay.drain() == 0


async def test_a_record_has_its_key_its_partition_and_the_owners_time(store: EventStore, memory: MemoryLog) -> None:
    await store.publish("Jürgen", Bought(cents=1))
    await Relay(store, memory, Registry(memory)).drain()

    part = partition_of("Jürgen", 4)
    records = await memory.reader(ENTITY).read({part: 1}, records_max=10, wait_s=0)
    async with store.database.snapshot() as read:
        [(at_ms,)] = await read.fetch("SELECT at_ms FROM truecopy_events")

    assert [(record.key, record.timestamp_ms, record.headers) for record in records] == [("Jürgen".encode(), at_ms, ())]


async def test_a_namespace_precedes_the_topic(store: EventStore, memory: MemoryLog) -> None:
    await store.publish("a", Bought(cents=1))

    await Relay(store, memory, Registry(memory), namespace="test.").drain()

    assert (await memory.describe(f"test.{ENTITY}")).partitions == 4


async def test_a_running_relay_wakes_at_a_commit_and_marks(store: EventStore, log: Log) -> None:
    relay = Relay(store, log, Registry(log), mark_events=1)
    stop = asyncio.Event()
    await log.create(TopicSpec(name=ENTITY, partitions=4))
    running = asyncio.create_task(relay.run(stop))
    await store.publish_many(purchases(10, keys=1))

    judged = await judge(log).read_until(lambda judged: judged.applied == 10 and judged.marks["equal"] > 0)
    await store.publish("k0", Bought(cents=1))
    await judged.read_until(lambda judged: judged.applied == 11 and judged.marks["equal"] > 1)
    stop.set()
    await running

    judged.assert_true(11)
    assert all(not entity.held for entity in relay.status().entities.values())


async def test_a_transaction_that_commits_late_with_early_ids_is_not_left_out(postgres_url: str, memory: MemoryLog) -> None:
    database = await connect(postgres_url)
    store = EventStore(database, service="shop")
    await store.open()
    relay = Relay(store, memory, Registry(memory))
    await store.publish("x", Bought(cents=0))

    async with store.transaction() as first:
        await first.publish_many([("a", Bought(cents=1)), ("b", Bought(cents=1))])
        async with store.transaction() as second:
            await second.publish_many([("c", Bought(cents=1)), ("d", Bought(cents=1))])
            await store.publish("e", Bought(cents=1))
            assert await relay.drain() == 2
        assert await relay.drain() == 2
        await relay.mark()
    assert await relay.drain() == 2
    await relay.mark()

    async with store.database.snapshot() as read:
        ids = dict(await read.fetch("SELECT key, id FROM truecopy_events"))
    assert ids["a"] < ids["c"] < ids["e"]
    (await judge(memory).read_all()).assert_true(6)
    await database.close()


async def test_pages_full_of_gaps_do_not_stand_still(store: EventStore, memory: MemoryLog) -> None:
    # Ids that were allotted long before: of each key the version 3 has the lowest, in more rows than a page takes.
    keys = RELAY_ROWS_MAX // 2
    store.partitions = 1
    await store.publish_many([(f"k{each}", Bought(cents=version)) for version in range(3) for each in range(keys)])
    async with store.transaction() as tx:
        await tx.execute("UPDATE truecopy_events SET id = id + 1000000 * (4 - version)")
    relay = Relay(store, memory, Registry(memory))

    assert await relay.step(afresh=True) == 3 * keys
    await relay.mark()

    judged = await judge(memory).read_all()
    judged.assert_true(3 * keys)
    assert judged.duplicates == 0


async def test_a_refused_type_waits_and_the_others_flow(
    store: EventStore, memory: MemoryLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "truecopy.relay")
    store.partitions = 1
    relay = Relay(store, memory, Registry(memory))
    await store.publish("a", Bought(cents=1))
    await relay.drain()

    await store.publish_many([(f"broken{each}", BoughtInText(cents="1")) for each in range(RELAY_ROWS_MAX + 1)])
    await store.publish_many([("broken0", Bought(cents=2)), ("a", Renamed(name="Ada")), ("b", Bought(cents=3))])
    assert await relay.drain() == 2
    assert await relay.drain() == 0
    await relay.mark()

    (await judge(memory).read_all()).assert_true(3)
    assert len(relay.status().refused) == 1
    assert sum("events of one type wait" in record.message for record in caplog.records) == 1

    await Registry(memory).configure(f"{ENTITY}-{ENTITY}.Bought", Compatibility.NONE)
    await relay.leave()
    successor = Relay(store, memory, Registry(memory))
    assert await successor.drain() == RELAY_ROWS_MAX + 2
    await successor.mark()
    (await judge(memory).read_all()).assert_true(RELAY_ROWS_MAX + 5)


async def test_what_is_on_the_log_is_not_sent_again_because_the_store_is_full(tmp_path: Path, memory: MemoryLog) -> None:
    store = EventStore(await connect(f"sqlite:{tmp_path / 'store.db'}"), service="shop")
    await store.open()
    relay = Relay(store, memory, Registry(memory), lease_s=60)
    await store.publish_many(purchases(1))
    await relay.drain()
    await store.publish_many(purchases(5_000, keys=5_000))
    async with store.database.transaction() as tx:
        [(pages,)] = await tx.fetch("PRAGMA page_count")
        await tx.fetch(f"PRAGMA max_page_count = {pages}")
    for _ in range(3):
        with pytest.raises(DatabaseUnavailableError, match="free space on its disk"):
            await relay.drain()
    with pytest.raises(DatabaseUnavailableError, match="free space on its disk"):
        await relay.mark()
    async with store.database.transaction() as tx:
        await tx.fetch("PRAGMA max_page_count = 1000000")
    await relay.drain()
    await relay.mark()

    judged = await judge(memory).read_all()
    judged.assert_true(5_001)
    assert judged.duplicates == 0
    await store.database.close()


async def test_publishing_goes_on_while_the_log_is_away_and_the_relay_comes_back(
    store: EventStore, memory: MemoryLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "truecopy.relay")
    valve = Valve(memory)
    relay = Relay(store, valve, Registry(valve), mark_events=1)
    await store.publish("k0", Bought(cents=0))
    await relay.drain()
    valve.away = True
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))

    await store.publish_many(purchases(50))
    await valve.refused.wait()
    valve.refused.clear()
    await valve.refused.wait()
    assert (await store.pending(ENTITY)).count == 50
    assert relay.status().away is not None
    valve.away = False

    judged = await judge(memory).read_until(lambda judged: judged.applied == 51 and judged.marks["equal"] > 0)
    stop.set()
    await running
    (await judged.read_all()).assert_true(51)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


async def test_a_topic_that_was_made_anew_halts_its_entity_alone(
    store: EventStore, memory: MemoryLog, caplog: pytest.LogCaptureFixture
) -> None:
    relay = Relay(store, memory, Registry(memory))
    await store.publish_many([("a", Bought(cents=1)), ("a", Shipped(carrier="post"))])
    await relay.drain()
    await memory.delete(ENTITY)
    await memory.create(TopicSpec(name=ENTITY, partitions=4))

    await store.publish_many([("a", Bought(cents=2)), ("a", Shipped(carrier="rail"))])
    assert await relay.drain() == 1
    assert await relay.drain() == 0
    await relay.mark()

    status = relay.status().entities
    assert "was re-created" in str(status[ENTITY].halted)
    assert status["shop.parcel"].halted is None
    assert sum("is halted" in record.message for record in caplog.records) == 1
    assert {end for _, end in (await memory.describe(ENTITY)).bounds.values()} == {1}
    assert (await store.pending(ENTITY)).count == 1
    (await judge(memory, "shop.parcel").read_all()).assert_true(2)


async def test_a_topic_that_is_gone_is_not_made_again(store: EventStore, memory: MemoryLog) -> None:
    await store.publish("a", Bought(cents=1))
    await Relay(store, memory, Registry(memory), holder="first").drain()
    await memory.delete(ENTITY)
    successor = Relay(store, memory, Registry(memory), holder="second")
    await store.publish("a", Bought(cents=2))

    assert await successor.drain() == 0
    said = str(successor.status().entities[ENTITY].halted)
    assert "it was deleted from the log, after 1 events had been put into it" in said
    assert "start the owner's relay" not in said, "that is who says it"
    async with store.database.snapshot() as read:
        assert await halts(read) == {ENTITY: said}


class Beheaded:
    """A log as Kafka is once retention took the genesis and every mark: nobody can say which life of a topic it holds."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def describe(self, topic: str) -> TopicState:
        return replace(await self._log.describe(topic), incarnation=None)


async def test_a_topic_that_lost_its_beginning_is_told_so(store: EventStore, memory: MemoryLog) -> None:
    store.partitions = 1
    await store.publish("a", Bought(cents=1))
    await Relay(store, memory, Registry(memory), holder="first").drain()
    successor = Relay(store, Beheaded(memory), Registry(memory), holder="second")

    assert await successor.drain() == 0
    assert "neither genesis nor mark is left in it" in str(successor.status().entities[ENTITY].halted)


async def test_what_a_relay_halts_at_is_told_while_it_lasts(store: EventStore, memory: MemoryLog) -> None:
    """Also the event type whose schema the registry refuses; and a relay that is gone says nothing any more."""
    first, second = (Relay(store, memory, Registry(memory), holder=holder) for holder in ("first", "second"))
    await store.publish("a", Bought(cents=1))
    await first.drain()
    await store.publish("b", BoughtInText(cents="1"))
    await first.drain()
    kept = memory._topics.pop(ENTITY)
    await first.step(afresh=True)

    async def said() -> list[str]:
        async with store.database.snapshot() as read:
            return sorted(await halts(read))

    assert await said() == [ENTITY, f"{ENTITY}-{ENTITY}.Bought"]
    memory._topics[ENTITY] = kept
    await first.step(afresh=True)
    assert await said() == [f"{ENTITY}-{ENTITY}.Bought"]
    await first.leave()
    assert await said() == []
    await second.drain()
    assert await said() == [f"{ENTITY}-{ENTITY}.Bought"]
    async with store.database.transaction() as tx:
        await tx.fetch("UPDATE truecopy_members SET until_ms = 0")
    assert await said() == []


async def test_a_relay_frozen_between_append_and_record_records_nothing(store: EventStore, memory: MemoryLog) -> None:
    store.partitions = 1
    valve = Valve(memory)
    valve.holds = lambda records: records[0].key != CONTROL_KEY and len(records) == 30
    zombie = Relay(store, valve, Registry(memory), holder="zombie", lease_s=BRIEF_LEASE_S)
    await store.publish_many(purchases(30, keys=3))
    frozen = asyncio.create_task(zombie.drain())
    await valve.holding.wait()

    stop = asyncio.Event()
    successor = Relay(store, memory, Registry(memory), holder="successor", mark_events=1)
    running = asyncio.create_task(successor.run(stop))
    judged = await judge(memory).read_until(lambda judged: judged.duplicates == 30 and judged.marks["equal"] > 0)
    async with store.database.snapshot() as read:
        before = await read.fetch("SELECT * FROM truecopy_ledger ORDER BY key")
    valve.released.set()
    await frozen
    await zombie.mark()
    await store.publish_many(purchases(6, keys=3))
    await judged.read_until(lambda judged: judged.applied == 36 and judged.marks["equal"] > 1)
    stop.set()
    await running

    assert [version for _, _, version, _, _ in before] == [10, 10, 10]
    (await judged.read_all()).assert_true(36)
    assert judged.epochs == {0: 2}


async def test_a_relay_whose_lease_was_taken_marks_nothing(store: EventStore, memory: MemoryLog) -> None:
    store.partitions = 1
    await store.publish_many(purchases(9, keys=3))
    idle = Relay(store, memory, Registry(memory), holder="idle", lease_s=BRIEF_LEASE_S)
    await idle.drain()
    epoch = idle.status().entities[ENTITY].held[0].epoch  # above 1 where a slow turn lost its lease to nobody
    stop = asyncio.Event()
    running = asyncio.create_task(Relay(store, memory, Registry(memory), mark_events=1).run(stop))
    judged = await judge(memory).read_until(lambda judged: judged.epochs.get(0, 0) > epoch)

    await idle.mark()
    stop.set()
    await running

    assert not idle.status().entities[ENTITY].held
    (await judged.read_all()).assert_true(9)
    assert judged.marks["ignored"] == 0


async def test_a_mark_of_a_frozen_relay_comes_late_and_is_ignored(store: EventStore, memory: MemoryLog) -> None:
    store.partitions = 1
    await store.publish_many(purchases(30, keys=3))
    late: list[Sequence[Outgoing]] = []
    gate, reached = asyncio.Event(), asyncio.Event()

    class HeldBefore(Valve):
        async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
            if records[0].key == CONTROL_KEY and topic == ENTITY:
                late.append(records)
                reached.set()
                await gate.wait()
            return await super().append(topic, partition, records)

    zombie = Relay(store, HeldBefore(memory), Registry(memory), holder="zombie", lease_s=BRIEF_LEASE_S, mark_events=1)
    frozen = asyncio.create_task(zombie.step())
    await reached.wait()
    stop = asyncio.Event()
    successor = Relay(store, memory, Registry(memory), holder="successor", mark_events=1)
    running = asyncio.create_task(successor.run(stop))
    await store.publish_many(purchases(10, keys=3))
    judged = await judge(memory).read_until(lambda judged: judged.applied == 40 and judged.marks["equal"] > 0)
    gate.set()
    await frozen
    await judged.read_until(lambda judged: judged.marks["ignored"] == 1)
    stop.set()
    await running

    assert len(late) == 1
    (await judged.read_all()).assert_true(40)


async def test_two_relays_share_the_partitions(store: EventStore, memory: MemoryLog) -> None:
    relays = [Relay(store, memory, Registry(memory), holder=name) for name in ("one", "two")]
    await store.publish_many(purchases(40))
    for _ in range(3):
        for relay in relays:
            await relay.drain()

    await store.publish_many(purchases(40))
    assert sum([await relay.drain() for relay in relays]) == 40
    for relay in relays:
        await relay.mark()

    held = [set(relay.status().entities[ENTITY].held) for relay in relays]
    assert [len(each) for each in held] == [2, 2]
    assert held[0] | held[1] == {0, 1, 2, 3}
    (await judge(memory).read_all()).assert_true(80)


VICTIM = """
import asyncio, sys
from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.registry import Registry
from truecopy_bus.relay import Relay
from truecopy_bus.sql.address import connect
from truecopy_bus.store import EventStore

async def main(database_url, log_path):
    store = EventStore(await connect(database_url), service="shop")
    await store.open()
    log = SQLiteLog(log_path)
    relay = Relay(store, log, Registry(log), holder="victim", lease_s=0.15, mark_events=1)
    await relay.run(asyncio.Event())

asyncio.run(main(*sys.argv[1:]))
"""


async def kill_at(point: str, database_url: str, log_path: Path) -> None:
    """Run a relay in another process, kill it with SIGKILL where it is held."""
    victim = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        VICTIM,
        database_url,
        str(log_path),
        env={**os.environ, HOLD_VARIABLE: point},
        stderr=asyncio.subprocess.PIPE,
    )
    assert victim.stderr is not None
    async for line in victim.stderr:
        if line.decode().startswith(f"{HELD_LINE} {point.split('@')[0]}"):
            break
    victim.send_signal(signal.SIGKILL)
    await victim.wait()


async def test_relays_killed_again_and_again_while_events_are_published(postgres_url: str, tmp_path: Path) -> None:
    database = await connect(postgres_url)
    store = EventStore(database, service="shop")
    await store.open()
    points = ["relay.appended@1", "relay.marked@1", "relay.recorded@50", "relay.appended@60"]
    for point in points:
        await store.publish_many(purchases(150))
        await kill_at(point, postgres_url, tmp_path / "log.db")
    log = SQLiteLog(tmp_path / "log.db")
    stop = asyncio.Event()
    relay = Relay(store, log, Registry(log), mark_events=1)
    running = asyncio.create_task(relay.run(stop))

    judged = await judge(log).read_until(lambda judged: judged.applied == 600 and len(judged.epochs) == 4)
    await judged.read_until(lambda judged: set(judged.epochs.values()) == {5})
    stop.set()
    await running

    (await judged.read_all()).assert_true(600)
    assert judged.duplicates > 0
    await log.close()
    await database.close()


async def test_kafka_holds_what_was_published(store: EventStore, kafka_url: str, topic_namespace: str) -> None:
    log = KafkaLog.from_url(kafka_url)
    topic = f"{topic_namespace}.{ENTITY}"
    registry = Registry(log, topic=f"{topic_namespace}._truecopy.schemas")
    relay = Relay(store, log, registry, namespace=f"{topic_namespace}.")
    await store.publish_many(purchases(3_000))
    assert await relay.drain() == 3_000
    await relay.mark()

    judged = await Judge(log, registry, topic).read_all()
    judged.assert_true(3_000)
    assert judged.duplicates == 0
    await registry.close()
    await log.close()
