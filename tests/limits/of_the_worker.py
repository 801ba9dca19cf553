"""Drives of the bounds that a worker keeps: batches, leases, what it looks at again and when, what it plans in which way."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError
from tests.limits.clock import Clock
from tests.limits.drives import BRIEF_S, default, drives
from tests.limits.history import TOPIC, copied, deposited, history, summed
from tests.limits.metered import MeteredLog, MeteredReplica, steps
from tests.projections.bank import Deposited, reading, record

from truecopy_bus import limits as bus
from truecopy_bus import outage
from truecopy_bus.leases import Fence
from truecopy_projections import batch_size, columnar_work, limits, worker
from truecopy_projections.columnar_plan import Planned
from truecopy_projections.columnar_work import ColumnarWork
from truecopy_projections.projection import Projection
from truecopy_projections.state import PartitionState
from truecopy_projections.worker import Worker
from truecopy_services.config import Settings

INCARNATION = "a" * 32
FENCE = Fence(partition=0, epoch=1, claim=b"c" * 16)


class Bench:
    """One worker before a metered log and a metered replica, all on the clock."""

    def __init__(self, clock: Clock) -> None:
        clock.rule(outage)
        self.clock, self.replica = clock, MeteredReplica(clock.monotonic)

    async def fill(self, *keys: str) -> None:
        self.log, self.registry = await history(deposited(keys), now=lambda: self.clock.now_s)

    def worker(self, projection: Projection[Any] = copied, **given: Any) -> Worker:
        return Worker(projection, self.replica, self.log, self.registry, **given)

    def reads(self) -> Sequence[Any]:
        return [one for one in self.log.asked if one.topic == TOPIC]


@drives("projections.BATCH_RECORDS_FIRST")
async def the_first_batch(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(clock)
    await bench.fill()
    await bench.worker().step()
    assert [one.records_max for one in bench.reads()] == [limits.BATCH_RECORDS_FIRST]

    # It is also the fewest: batches that take too long, and one that is not full, leave it as it is.
    monkeypatch.setattr(batch_size, "BATCH_RECORDS_FIRST", 10)
    assert await batches(bench, seconds_each=[3.0, 3.0, 3.0]) == [10, 10, 10]


@drives("projections.BATCH_LEASE_SHARE")
async def batches_that_grow_and_shrink(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "BATCH_RECORDS_FIRST", 10)
    share_s = bus.LEASE_S * limits.BATCH_LEASE_SHARE

    took = [share_s / 4, share_s / 2, share_s, share_s / 1.5, 2 * share_s, 1]
    assert await batches(Bench(clock), seconds_each=took) == [10, 40, 80, 80, 120, 60]


@drives("projections.BATCH_GROWTH_MAX")
async def a_batch_after_one_that_took_no_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "BATCH_RECORDS_FIRST", 10)

    assert await batches(Bench(clock), seconds_each=[0.001, 1.0]) == [10, 10 * limits.BATCH_GROWTH_MAX]


@drives("bus.READ_RECORDS_MAX")
async def the_largest_batch(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default(Worker, "records_max") == Settings.model_fields["batch_records"].default == bus.READ_RECORDS_MAX
    assert Settings(batch_records=bus.READ_RECORDS_MAX).batch_records == bus.READ_RECORDS_MAX
    with pytest.raises(ValidationError, match=f"less than or equal to {bus.READ_RECORDS_MAX}"):
        Settings(batch_records=bus.READ_RECORDS_MAX + 1)
    monkeypatch.setattr(batch_size, "BATCH_RECORDS_FIRST", 10)
    assert await batches(Bench(clock), seconds_each=[0.1, 0.1, 0.1, 0.1], records_max=35) == [10, 35, 35, 35]
    assert await batches(Bench(clock), seconds_each=[0.1], records_max=7) == [7]


async def batches(bench: Bench, *, seconds_each: list[float], **given: Any) -> list[int]:
    """How many records a worker asks for, one batch after the other, each of which takes so long."""
    await bench.fill(*(f"k{each}" for each in range(400)))
    bench.replica = MeteredReplica(bench.clock.monotonic)
    one = bench.worker(**given)
    for bench.log.slow_s in seconds_each:
        await one.step()
    return [each.records_max for each in bench.reads()]


@drives("bus.READ_WAIT_S")
async def the_wait_of_a_worker(clock: Clock) -> None:
    assert default(Worker, "wait_s") == Settings.model_fields["read_wait_s"].default == bus.READ_WAIT_S
    bench = Bench(clock)
    await bench.fill()
    one = bench.worker()
    await one.step()
    before = clock.now_s
    await one.step()
    assert clock.now_s - before == bus.READ_WAIT_S
    await bench.worker(lease_s=0.6).step()
    assert [each.wait_s for each in bench.reads()[:2]] == [bus.READ_WAIT_S] * 2


@drives("bus.LEASE_S")
async def the_lease_of_a_worker(clock: Clock) -> None:
    assert default(Worker, "lease_s") == bus.LEASE_S
    bench = Bench(clock)
    await bench.fill("k")
    frozen, other = (bench.worker(holder=name, wait_s=BRIEF_S) for name in ("z", "a"))
    await frozen.step()
    assert frozen.applied == 1
    await bench.log.append(TOPIC, 0, deposited(["k"], 2))
    await clock.reaches(bus.LEASE_S - bus.LEASE_S / 3)  # it will look again after a third of a lease: at the very end
    await other.step()
    await clock.reaches(bus.LEASE_S - BRIEF_S)
    await other.step()
    assert other.applied == 0
    await clock.reaches(bus.LEASE_S)
    await other.step()
    await other.step()
    assert other.applied == 1
    await frozen.step()
    assert frozen.applied == 1


class Planner:
    """Plans batches by columns, each on the state that the one before leaves."""

    def __init__(self, replica: MeteredReplica) -> None:
        self.work = ColumnarWork(copied, replica, reading(copied))
        self.state = PartitionState(partition=0, incarnation=INCARNATION)

    async def plan(self, name: str, keys: int, *, version: int = 1) -> Planned | None:
        at = self.state.position
        some = [record(at + each, f"{name}{each}", version, Deposited(amount=1)) for each in range(keys)]
        made = await self.work.plan(some, {0: self.state}, {0: FENCE})
        if made is not None:
            self.work.took(made)
            self.state = made.plans[0].state
        return made


async def planner() -> tuple[Planner, MeteredReplica]:
    replica = MeteredReplica()
    await replica.install(copied, partitions=1, incarnation=INCARNATION)
    return Planner(replica), replica


@drives("projections.COLUMN_RECORDS_MIN")
async def records_of_a_batch_by_columns(clock: Clock) -> None:
    one, _ = await planner()
    assert await one.plan("few", limits.COLUMN_RECORDS_MIN - 1) is None
    assert await one.plan("enough", limits.COLUMN_RECORDS_MIN) is not None
    assert clock.hops == 0


@drives("projections.THREAD_RECORDS_MIN")
async def records_of_a_batch_beside_the_loop(clock: Clock) -> None:
    one, _ = await planner()
    assert await one.plan("few", limits.THREAD_RECORDS_MIN - 1) is not None
    assert clock.hops == 0
    assert await one.plan("many", limits.THREAD_RECORDS_MIN) is not None
    assert clock.hops == 2


@drives("projections.WARM_KEYS_MAX")
async def keys_that_are_kept_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    most, few = 2 * limits.COLUMN_RECORDS_MIN, limits.COLUMN_RECORDS_MIN
    monkeypatch.setattr(columnar_work, "WARM_KEYS_MAX", most)
    for keys, loaded_again in ((most, 0), (most + 1, keys_of("first", few))):
        one, replica = await planner()
        await one.plan("first", keys)
        await one.plan("other", few)
        before = len(replica.loads)
        await one.plan("first", few, version=2)
        assert [each.keys for each in replica.loads[before:]] == ([loaded_again] if loaded_again else [])


def keys_of(name: str, keys: int) -> frozenset[str]:
    return frozenset(f"{name}{each}" for each in range(keys))


@drives("projections.INCARNATION_CHECK_S")
async def looks_at_the_topic(clock: Clock) -> None:
    bench = Bench(clock)
    await bench.fill()
    one = bench.worker(lease_s=60.0, wait_s=BRIEF_S)
    await one.step()
    before = len(bench.log.looks(TOPIC))
    await clock.reaches(limits.INCARNATION_CHECK_S - BRIEF_S)
    await one.step()
    assert len(bench.log.looks(TOPIC)) == before
    await clock.reaches(limits.INCARNATION_CHECK_S)
    await one.step()
    assert len(bench.log.looks(TOPIC)) == before + 1


@drives("projections.PARKED_RETRY_S")
async def parked_keys_are_tried_again(clock: Clock) -> None:
    for seconds, freed in ((limits.PARKED_RETRY_S - 2 * BRIEF_S, 0), (limits.PARKED_RETRY_S, 1)):
        faults = ["not yet"]
        began = clock.now_s
        bench = Bench(clock)
        await bench.fill("k")
        one = bench.worker(summed(lambda _, faults=faults: faults[0]), lease_s=600.0, wait_s=BRIEF_S)  # type: ignore[misc]
        await one.step()
        assert one.applied == 0
        faults[0] = ""
        await clock.reaches(began + seconds)
        await one.step()
        assert one.applied == freed


class Told(logging.Handler):
    """When something was said."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.at = clock, list[float]()

    def emit(self, _: logging.LogRecord) -> None:
        self.at.append(self.clock.now_s)


@drives("projections.TOPIC_POLL_S")
@drives("projections.TOPIC_QUIET_S")
async def a_topic_that_is_not_there(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage.random, "uniform", lambda _, high: high)
    bench = Bench(clock)
    bench.log = MeteredLog(lambda: clock.now_s)
    await bench.fill()
    await bench.log.delete(TOPIC)
    told, stop = Told(clock), asyncio.Event()
    worker._log.addHandler(told)
    began = clock.now_s
    running = asyncio.create_task(bench.worker().run(stop))
    await clock.reaches(began + limits.TOPIC_QUIET_S)
    assert not told.at
    await clock.reaches(began + limits.TOPIC_QUIET_S + limits.TOPIC_POLL_S)
    assert len(told.at) == 1
    await clock.reaches(began + 10 * limits.TOPIC_QUIET_S)
    stop.set()
    await running
    worker._log.removeHandler(told)
    assert len(told.at) == 1
    looks = bench.log.looks(TOPIC)
    assert max(steps(looks)) == limits.TOPIC_POLL_S
    assert steps(looks[-10:]) == {limits.TOPIC_POLL_S}


@drives("projections.WATCHDOG_S")
async def a_reader_that_brings_nothing(clock: Clock) -> None:
    assert default(Worker, "watchdog_s") == limits.WATCHDOG_S
    bench = Bench(clock)
    await bench.fill("k")
    bench.log.silent.add(TOPIC)
    one = bench.worker(lease_s=600.0, wait_s=0.25)
    while clock.now_s < 2 * limits.WATCHDOG_S:
        await one.step()
    first, again = (at for name, at in bench.log.opened if name == TOPIC)
    assert limits.WATCHDOG_S < again - first <= limits.WATCHDOG_S + limits.INCARNATION_CHECK_S + 0.25

    bench.log.silent.clear()
    await one.step()
    assert one.applied == 1
    while clock.now_s < 4 * limits.WATCHDOG_S:  # nothing more is there: no stall
        await one.step()
    assert len([at for name, at in bench.log.opened if name == TOPIC]) == 2
