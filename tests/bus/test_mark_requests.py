"""Marks on request: answered within one look of the relay, by who holds the partition, and by nobody else."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from truecopy_bus.errors import LogAccessError
from truecopy_bus.log import Log
from truecopy_bus.logs.kafka import KafkaLog
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.mark_requests import REQUEST_FORMAT, REQUESTS_TOPIC, MarkRequests, request_mark, requests_spec
from truecopy_bus.record import Outgoing, TopicState
from truecopy_bus.registry import SCHEMAS_TOPIC, Registry
from truecopy_bus.relay import Relay
from truecopy_bus.relay_tail import last_marks
from truecopy_bus.sql.address import connect
from truecopy_bus.store import EventStore
from truecopy_schemas.control import Mark
from truecopy_schemas.event import Event

ENTITY = "shop.customer"
HOUR_S = 3600.0


class Bought(Event, entity=ENTITY, kind="delta"):
    cents: int


ASKER = """
import asyncio, sys
from truecopy_bus.log import Log
from truecopy_bus.logs.kafka import KafkaLog
from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.mark_requests import request_mark

async def main(where, entity, namespace):
    log = KafkaLog.from_url(where) if where.startswith("kafka:") else SQLiteLog(where)
    await request_mark(log, entity, asked_by="another process", namespace=namespace)
    await log.close()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def store() -> AsyncIterator[EventStore]:
    database = await connect("sqlite::memory:")
    store = EventStore(database, service="shop", partitions=2)
    await store.open()
    await store.publish_many([(f"k{each}", Bought(cents=each)) for each in range(20)])
    yield store
    await database.close()


def relay_of(store: EventStore, registry: Registry, log: Log, holder: str, *, namespace: str = "") -> Relay:
    """One that marks by itself once an hour."""
    return Relay(store, log, registry, holder=holder, namespace=namespace, mark_writing_s=HOUR_S, mark_idle_s=HOUR_S)


async def marks(log: Log, topic: str = ENTITY) -> dict[int, list[Mark]]:
    bounds = (await log.describe(topic)).bounds
    return {part: await last_marks(log, topic, part, each) for part, each in bounds.items()}


@pytest.mark.parametrize("kind", ["sqlite", "kafka"])
async def test_another_process_asks_and_every_partition_is_marked(
    kind: str, store: EventStore, tmp_path: Path, topic_namespace: str, request: pytest.FixtureRequest
) -> None:
    where = str(tmp_path / "log.db") if kind == "sqlite" else str(request.getfixturevalue("kafka_url"))
    log = SQLiteLog(where) if kind == "sqlite" else KafkaLog.from_url(where)
    prefix, stop = f"{topic_namespace}.", asyncio.Event()
    registry = Registry(log, topic=prefix + SCHEMAS_TOPIC)
    relay = relay_of(store, registry, log, "one", namespace=prefix)
    await relay.drain()
    running = asyncio.create_task(relay.run(stop))
    for _ in range(2):  # the first makes the topic
        asker = await asyncio.create_subprocess_exec(sys.executable, "-c", ASKER, where, ENTITY, prefix)
        assert await asker.wait() == 0
    stated = await log.describe(prefix + ENTITY)
    reader = log.reader(prefix + ENTITY)
    ends = {part: end for part, (_, end) in stated.bounds.items()}
    answered: set[int] = {part for part, found in (await marks(log, prefix + ENTITY)).items() if found}
    while answered != ends.keys():  # the test's time limit bounds it
        answered |= {record.partition for record in await reader.read(ends, records_max=10, wait_s=5.0)}
    stop.set()
    await running

    found = await marks(log, prefix + ENTITY)
    assert sum(each[-1].count for each in found.values()) == 20
    if isinstance(log, KafkaLog):
        kept = await log.settings(prefix + REQUESTS_TOPIC)
        assert kept.items() >= requests_spec(REQUESTS_TOPIC).settings.items()
    await reader.close()
    await registry.close()
    await log.close()


async def test_each_request_is_answered_once_by_whoever_holds_the_partition(store: EventStore) -> None:
    log = MemoryLog()
    first, second = relay_of(store, Registry(log), log, "first"), relay_of(store, Registry(log), log, "second")
    for _ in range(3):  # until each has its half
        await first.drain()
        await second.drain()
    assert [len(relay.status().entities[ENTITY].held) for relay in (first, second)] == [1, 1]

    for expected in (1, 2):
        await request_mark(log, ENTITY, asked_by="test")
        for relay in (first, second, first, second):
            await relay.drain()
        assert {part: len(each) for part, each in (await marks(log)).items()} == {0: expected, 1: expected}


async def test_a_relay_that_holds_nothing_does_not_answer(store: EventStore) -> None:
    log = MemoryLog()
    holder, idle = relay_of(store, Registry(log), log, "holder"), relay_of(store, Registry(log), log, "idle")
    await holder.drain()
    await idle.drain()
    await idle.leave()
    await holder.step(afresh=True)
    assert len(holder.status().entities[ENTITY].held) == 2
    await request_mark(log, ENTITY, asked_by="test")

    await idle._check()
    assert not any((await marks(log)).values())


async def test_what_was_asked_before_a_relay_began_is_not_answered_again(store: EventStore) -> None:
    log = MemoryLog()
    await request_mark(log, ENTITY, asked_by="test")
    assert await MarkRequests(log).asked([ENTITY]) == set()
    relay = relay_of(store, Registry(log), log, "late")
    await relay.drain()
    await relay.drain()
    assert not any((await marks(log)).values())

    await request_mark(log, ENTITY, asked_by="test")
    await request_mark(log, "shop.parcel", asked_by="test")
    await relay.drain()
    assert [len(each) for each in (await marks(log)).values()] == [1, 1]


MALFORMED = [
    pytest.param(None, id="null"),
    pytest.param(b"\xff", id="no JSON"),
    pytest.param(b"[]", id="no object"),
    pytest.param(b'{"format": 1}', id="no entity"),
    pytest.param(b'{"format": 1, "entity": 7}', id="another type"),
    pytest.param(orjson.dumps({"format": REQUEST_FORMAT + 1, "entity": ENTITY}), id="a newer format"),
]


@pytest.mark.parametrize("value", MALFORMED)
async def test_a_malformed_request_is_left_out_and_said_once(value: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    log = MemoryLog()
    await log.create(requests_spec(REQUESTS_TOPIC))
    requests = MarkRequests(log)
    assert await requests.asked([ENTITY]) == set()
    await log.append(REQUESTS_TOPIC, 0, [Outgoing(None, value, 0)] * 3)

    assert await requests.asked([ENTITY]) == set()
    await log.append(REQUESTS_TOPIC, 0, [Outgoing(None, value, 0)])
    await request_mark(log, ENTITY, asked_by="test")
    assert await requests.asked([ENTITY]) == {ENTITY}
    assert [one.levelno for one in caplog.records if one.levelno >= logging.WARNING] == [logging.WARNING]
    assert "is no request for a mark" in caplog.text


async def test_a_topic_that_forgot_or_was_made_anew_is_read_on() -> None:
    log = MemoryLog()
    requests = MarkRequests(log)
    assert await requests.asked([ENTITY]) == set()
    await request_mark(log, ENTITY, asked_by="test")
    assert await requests.asked([ENTITY]) == {ENTITY}
    for _ in range(3):
        await request_mark(log, ENTITY, asked_by="test")
    await log.trim(REQUESTS_TOPIC, 0, 4)
    assert await requests.asked([ENTITY]) == {ENTITY}
    assert await requests.asked([ENTITY]) == set()

    await log.delete(REQUESTS_TOPIC)
    await request_mark(log, ENTITY, asked_by="test")
    assert await requests.asked([ENTITY]) == {ENTITY}


class Refusing(MemoryLog):
    """A log that keeps us from the requests, as an authorizer does."""

    async def describe(self, topic: str) -> TopicState:
        if topic == REQUESTS_TOPIC:
            raise LogAccessError(log="memory", seen="Describe is not allowed", remedy="grant it")
        return await super().describe(topic)


async def test_a_relay_without_the_right_to_read_requests_relays_all_the_same(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    log = Refusing()
    relay = relay_of(store, Registry(log), log, "one")

    assert await relay.drain() == 20
    await relay.drain()
    await relay.mark()
    assert [len(each) for each in (await marks(log)).values()] == [1, 1]
    assert caplog.text.count("requests for marks are not answered") == 1
