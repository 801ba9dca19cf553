"""Drives of the bounds of `bus` that publishing and the relay keep: pages, pauses, marks, leases, and what is tried again."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import repeat
from typing import Any, NamedTuple

import pytest
from tests.limits.clock import Clock
from tests.limits.drives import BRIEF_S, default, drives
from tests.limits.metered import MeteredLog
from tests.limits.of_schemas import Noted, declared

from truecopy_bus import limits, outage, outbox, publish, relay_pass
from truecopy_bus import relay as relays
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.mark_requests import REQUESTS_TOPIC, request_mark
from truecopy_bus.outage import Outage
from truecopy_bus.record import Appended, Outgoing
from truecopy_bus.registry import Registry
from truecopy_bus.relay import Relay
from truecopy_bus.sql import Database, sqlite
from truecopy_bus.sql.address import connect
from truecopy_bus.store import EventStore
from truecopy_schemas.avro_schema import avro_schema, subject
from truecopy_schemas.codec import encode
from truecopy_schemas.compatibility import Compatibility
from truecopy_schemas.control import CONTROL_KEY
from truecopy_schemas.errors import InvalidEventError
from truecopy_services.config import Settings

TOPIC = Noted.__entity__


class Owner(NamedTuple):
    """A store in memory, a log, and a relay between them."""

    store: EventStore
    log: MeteredLog
    relay: Relay


@asynccontextmanager
async def owner(now: Callable[[], float] = lambda: 0.0, *, partitions: int = 1, **given: Any) -> AsyncIterator[Owner]:
    database = await connect("sqlite::memory:")
    store = EventStore(database, service="limits", partitions=partitions)
    await store.open()
    log = MeteredLog(now)
    try:
        yield Owner(store, log, Relay(store, log, Registry(log), **given))
    finally:
        await database.close()


@drives("bus.PUBLISH_EVENTS_MAX")
def events_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "PUBLISH_EVENTS_MAX", 5)

    assert len(publish.prepare([("k", Noted())] * 5, None)) == 5
    with pytest.raises(InvalidEventError, match="more than 5 events"):
        publish.prepare(repeat(("k", Noted())), None)


@drives("bus.PUBLISH_EVENTS_MAX")
def events_of_a_call_for_real() -> None:
    taken = iter([("k", Noted())] * (limits.PUBLISH_EVENTS_MAX + 2))

    with pytest.raises(InvalidEventError, match=f"more than {limits.PUBLISH_EVENTS_MAX} events"):
        publish.prepare(taken, None)
    assert len(list(taken)) == 1


@drives("bus.RELAY_ROWS_MAX")
async def rows_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_pass, "RELAY_ROWS_MAX", 8)
    async with owner(partitions=2) as (store, _, relay):
        await store.publish_many([(f"k{each}", Noted()) for each in range(40)])

        assert await relay.step() == 8
        assert {held.count for held in relay.status().entities[TOPIC].held.values()} == {4}


@drives("bus.RELAY_ROWS_MAX")
async def rows_that_a_pass_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_pass, "RELAY_ROWS_MAX", 4)
    async with owner() as (store, _, relay):
        await publish_backwards(store, versions=12, first=9)

        assert await relay.step() == 4
        assert relay.status().entities[TOPIC].held[0].waiting == 4


async def publish_backwards(store: EventStore, *, versions: int, first: int, event: Noted | None = None) -> None:
    """Versions 1 to `versions` of one key, of which those from `first` on come first in the outbox."""
    await store.publish_many([("k", event or Noted())] * versions)
    async with store.transaction() as tx:
        await tx.execute("UPDATE truecopy_events SET id = id + 1000000 WHERE version < $1", first)


HUNDRED_BYTES = Noted(text="x" * (100 - len(encode(Noted(text="x" * 64), version=1)) + 64))
"""An event whose body, under a version below 64, has that many."""


@drives("bus.RELAY_BYTES_MAX")
async def bytes_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (outbox, relay_pass):
        monkeypatch.setattr(module, "RELAY_BYTES_MAX", 1_000)
    async with owner() as (store, _, relay):
        await store.publish_many([("k", HUNDRED_BYTES)] * 25)
        assert [await relay.step() for _ in range(3)] == [10, 10, 5]
        # A byte short of the limit, one row more comes: the limit is soft.
        await store.publish_many([("l", Noted(text=HUNDRED_BYTES.text[1:])), *[("l", HUNDRED_BYTES)] * 20])
        assert await relay.step() == 11


@drives("bus.RELAY_BYTES_MAX")
async def a_page_that_is_full_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (outbox, relay_pass):
        monkeypatch.setattr(module, "RELAY_BYTES_MAX", 1_000)
    async with owner() as (store, _, relay):
        await publish_backwards(store, versions=30, first=21, event=HUNDRED_BYTES)
        assert await relay.step() == 30
    for waiting, goes_on in ((9, 0), (10, 1)):
        async with owner() as (store, _, relay):
            await store.publish_many([("k", HUNDRED_BYTES)] * (1 + waiting))
            async with store.transaction() as tx:
                await tx.execute("DELETE FROM truecopy_events WHERE version = 1")
            # None can be sent. There may be more behind a page that is full, and only behind such a one.
            assert await relay.step() == goes_on


@drives("bus.RELAY_POLL_S")
async def pauses_of_an_idle_relay(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with owner(lambda: clock.now_s) as (store, log, relay):
        await store.publish("k", Noted())
        pauses, stop = note_pauses(monkeypatch), asyncio.Event()
        running = asyncio.create_task(relay.run(stop))
        await asyncio.sleep(0.5 + limits.RELAY_POLL_S / 4)
        assert set(pauses) == {limits.RELAY_POLL_S}
        published_at, before = clock.now_s, len(log.appended)
        await EventStore(store.database, service="elsewhere", partitions=1).publish("k", Noted())
        await asyncio.sleep(2 * limits.RELAY_POLL_S)
        [(_, _, sent_at)] = log.appended[before:]
        assert 0 < sent_at - published_at <= limits.RELAY_POLL_S
        stop.set()
        await running


def note_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that relays pause for, as they do."""
    pauses: list[float] = []
    pause = relays._first_of

    async def noted(*events: asyncio.Event, timeout_s: float) -> None:
        pauses.append(timeout_s)
        await pause(*events, timeout_s=timeout_s)

    monkeypatch.setattr(relays, "_first_of", noted)
    return pauses


@drives("bus.RELAY_CHECK_S")
@drives("bus.RELAY_STAYING_ROWS")
async def pauses_where_many_rows_stay(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    many, poll_s = 3 * limits.RELAY_STAYING_ROWS, limits.RELAY_POLL_S
    cases = ((poll_s, many - 1, 3 * poll_s), (poll_s, many, 4 * poll_s), (0.5, many, limits.RELAY_CHECK_S))
    for every_s, staying, expected in cases:
        monkeypatch.setattr(relays, "RELAY_POLL_S", every_s)
        async with owner() as (store, _, relay):
            await store.publish_many([("k", Noted())] * (staying + 1))
            async with store.transaction() as tx:
                await tx.execute("DELETE FROM truecopy_events WHERE version = 1")
            pauses, stop = note_pauses(monkeypatch), asyncio.Event()
            running = asyncio.create_task(relay.run(stop))
            await asyncio.sleep(3.0)
            stop.set()
            await running
            assert set(pauses[1:]) == {expected}
    assert clock.now_s == 3.0 * len(cases)


@drives("bus.RELAY_CHECK_S")
async def looks_at_the_topic(clock: Clock) -> None:
    async with owner(lambda: clock.now_s, lease_s=60.0) as (store, log, relay):
        await store.publish("k", Noted())
        await relay.drain()
        before = len(log.looks(TOPIC))
        await asyncio.sleep(limits.RELAY_CHECK_S - BRIEF_S)
        await relay.step()
        assert len(log.looks(TOPIC)) == before
        await asyncio.sleep(BRIEF_S)
        await relay.step()
        assert len(log.looks(TOPIC)) == before + 1


@drives("bus.RELAY_CHECK_S")
async def answers_who_asks_for_a_mark(clock: Clock) -> None:
    async with owner(lambda: clock.now_s, lease_s=3600.0, mark_idle_s=3600.0) as (store, log, relay):
        await store.publish("k", Noted())
        await relay.drain()
        await relay.mark()
        for round_ in range(1, 3):
            for _ in range(3):
                await request_mark(log, TOPIC, asked_by="drive")
            await marks_at(limits.RELAY_CHECK_S, log, relay)
            assert clock.now_s == round_ * limits.RELAY_CHECK_S


@drives("bus.MARK_REQUESTS_KEPT_MS")
async def requests_that_are_kept() -> None:
    log = MemoryLog()
    await request_mark(log, TOPIC, asked_by="drive")
    kept = await log.settings(REQUESTS_TOPIC)
    assert {kept["retention.ms"], kept["segment.ms"]} == {str(limits.MARK_REQUESTS_KEPT_MS)}


@drives("bus.REFUSED_RETRY_S")
async def a_refused_schema(clock: Clock) -> None:
    refused = declared(entity=TOPIC, text=(int, ...), name="Noted")
    async with owner() as (store, log, relay):
        await store.publish("k", Noted())
        await relay.drain()
        await store.publish("j", refused(text=1))
        assert await relay.drain() == 0
        assert len(relay.status().refused) == 1
        await Registry(log).configure(subject(avro_schema(refused)), Compatibility.NONE)

        await asyncio.sleep(limits.REFUSED_RETRY_S - BRIEF_S)
        assert await relay.drain() == 0
        await asyncio.sleep(BRIEF_S)
        assert await relay.drain() == 1
        assert not relay.status().refused
    assert clock.now_s == limits.REFUSED_RETRY_S


@drives("bus.MARK_WRITING_S")
async def marks_while_written(clock: Clock) -> None:
    assert default(Relay, "mark_writing_s") == Settings.model_fields["mark_writing_s"].default == limits.MARK_WRITING_S
    async with owner() as (store, log, relay):
        await store.publish("k", Noted())
        await relay.step()
        for _ in range(2):
            await marks_at(limits.MARK_WRITING_S, log, relay)
            await store.publish("k", Noted())
            await relay.step()
    assert clock.now_s == 2 * limits.MARK_WRITING_S


@drives("bus.MARK_IDLE_S")
async def marks_while_idle(clock: Clock) -> None:
    assert default(Relay, "mark_idle_s") == Settings.model_fields["mark_idle_s"].default == limits.MARK_IDLE_S
    async with owner() as (store, log, relay):
        await store.publish("k", Noted())
        await relay.drain()
        await relay.mark()
        for _ in range(2):
            await marks_at(limits.MARK_IDLE_S, log, relay)
    assert clock.now_s == 2 * limits.MARK_IDLE_S


async def marks_at(seconds: float, log: MeteredLog, relay: Relay) -> None:
    """In so many seconds there is a mark, and not before."""
    before = len(log.sent(TOPIC))
    await asyncio.sleep(seconds - BRIEF_S)
    await relay.step()
    assert len(log.sent(TOPIC)) == before
    await asyncio.sleep(BRIEF_S)
    await relay.step()
    assert len(log.sent(TOPIC)) == before + 1


@drives("bus.MARK_EVENTS_MAX")
async def marks_by_events(clock: Clock) -> None:
    assert default(Relay, "mark_events") == Settings.model_fields["mark_events"].default == limits.MARK_EVENTS_MAX
    async with owner(mark_events=5) as (store, log, relay):
        await store.publish("k", Noted())
        await relay.drain()
        await relay.mark()
        before = len(log.sent(TOPIC))
        await store.publish_many([("k", Noted())] * 4)
        await relay.step()
        assert log.sent(TOPIC)[before:] == [4]
        await store.publish("k", Noted())
        await relay.step()
        assert log.sent(TOPIC)[before:] == [4, 1, 1]
    assert clock.now_s == 0


class Moment(NamedTuple):
    """The clock of a database, which is a row in it."""

    database: Database

    async def passed(self, milliseconds: float) -> None:
        async with self.database.transaction() as tx:
            await tx.fetch("UPDATE moment SET at_ms = at_ms + $1", int(milliseconds))

    async def lease_ms(self) -> int:
        """Milliseconds until the only lease runs out."""
        async with self.database.snapshot() as read:
            [(left,)] = await read.fetch("SELECT until_ms - at_ms FROM truecopy_leases, moment")
        return int(left)


@asynccontextmanager
async def moments(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Moment]:
    told = replace(sqlite.DIALECT, now_ms="(SELECT at_ms FROM moment)")
    for cls in (sqlite.SqliteConnection, sqlite.SqliteDatabase):
        monkeypatch.setattr(cls, "dialect", told)
    database = await connect("sqlite::memory:")
    await database.install((), ["CREATE TABLE moment (at_ms INTEGER)", "INSERT INTO moment VALUES (5000)"])
    yield Moment(database)
    await database.close()


@drives("bus.LEASE_S")
async def the_lease_of_a_relay(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default(Relay, "lease_s") == Settings.model_fields["lease_s"].default == limits.LEASE_S
    async with moments(monkeypatch) as moment:
        store = EventStore(moment.database, service="limits", partitions=1)
        await store.open()
        await store.publish("k", Noted())
        log, lease_ms = MeteredLog(), int(limits.LEASE_S * 1000)
        first, second = (Relay(store, log, Registry(log), holder=name) for name in ("z", "a"))
        await first.step()
        assert await moment.lease_ms() == lease_ms
        await moment.passed(7)
        await asyncio.sleep(limits.LEASE_S / 3 - BRIEF_S)
        await first.step()
        assert await moment.lease_ms() == lease_ms - 7
        await asyncio.sleep(BRIEF_S)
        await first.step()
        assert await moment.lease_ms() == lease_ms

        await moment.passed(lease_ms - 1)
        await second.step(afresh=True)
        assert not second.status().entities[TOPIC].held
        await moment.passed(1)
        await second.step(afresh=True)
        assert set(second.status().entities[TOPIC].held) == {0}
        assert clock.now_s == limits.LEASE_S / 3


class SlowLog(MeteredLog):
    """Appends of events take `leases` leases, by both clocks; at their end `other` looks for what is free."""

    leases = 0.0
    other: Relay | None = None

    def __init__(self, moment: Moment) -> None:
        super().__init__()
        self.events, self._moment = 0, moment

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        appended = await super().append(topic, partition, records)
        if topic != TOPIC or records[0].key == CONTROL_KEY:
            return appended
        self.events += len(records)
        if self.leases:
            leases, self.leases = self.leases, 0.0  # the other one is not slow
            await asyncio.sleep(leases * limits.LEASE_S)
            await self._moment.passed(leases * limits.LEASE_S * 1000)
            if self.other is not None:
                await self.other.step(afresh=True)
        return appended


@drives("bus.LEASE_STRETCH_MAX")
async def the_lease_of_a_slow_relay(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with moments(monkeypatch) as moment:
        store = EventStore(moment.database, service="limits", partitions=1)
        await store.open()
        log, lease_ms = SlowLog(moment), int(limits.LEASE_S * 1000)
        slow, other = (Relay(store, log, Registry(log), holder=name) for name in ("a", "z"))
        log.other = other
        await store.publish("k", Noted())
        log.leases = 2
        await slow.step(afresh=True)
        assert set(other.status().entities[TOPIC].held) == {0}, "it was taken while the first one appended"
        await other.leave()
        await slow.step(afresh=True)
        assert await moment.lease_ms() == 4 * lease_ms, "twice what its turn took"

        before = len(log.sent(TOPIC))
        await store.publish("k", Noted())
        log.leases = 3
        await slow.step()
        assert not other.status().entities[TOPIC].held
        assert log.events == before + 1, "it was not sent twice"
        assert (await store.pending(TOPIC)).count == 0

        log.other, log.leases = None, limits.LEASE_STRETCH_MAX / 2
        for leases in (limits.LEASE_STRETCH_MAX / 2, limits.LEASE_STRETCH_MAX / 2 + 1):
            await store.publish("k", Noted())
            log.leases = leases
            await slow.step()
            await slow.step(afresh=True)
            assert await moment.lease_ms() == limits.LEASE_STRETCH_MAX * lease_ms
        assert clock.now_s == (2 + 3 + limits.LEASE_STRETCH_MAX + 1) * limits.LEASE_S


def pauses_of(loop_outage: Outage, strikes: int, **given: float) -> list[float]:
    return [loop_outage.strike(ConnectionError("away"), **given) for _ in range(strikes)]


@drives("bus.BACKOFF_FIRST_S")
@drives("bus.BACKOFF_LAST_S")
def pauses_of_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = limits.BACKOFF_FIRST_S, limits.BACKOFF_LAST_S
    longest = [min(first * 2**each, last) for each in range(12)]
    assert longest[-1] == longest[-4] == last

    one = Outage(relays._log, "driven")
    for _ in range(2):
        for pause_s, most_s in zip(pauses_of(one, 12), longest, strict=True):
            assert most_s / 2 <= pause_s <= most_s
        one.over()
    monkeypatch.setattr(outage.random, "uniform", lambda _, high: high)
    assert pauses_of(one, 12) == longest
    one.over()
    assert pauses_of(one, 12) == longest
