"""Faults that a worker meets: data that the database refuses, topics that change their life, databases that go away."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from tests.projections.bank import Deposited, balance
from tests.projections.world import EQUAL, LEASE_S, TOPIC, World, deposit

from truecopy_bus.errors import DatabaseUnavailableError, TopicLostError, TopicMismatchError
from truecopy_bus.record import Outgoing, TopicSpec, TopicState
from truecopy_bus.sql import connect
from truecopy_projections.check import check
from truecopy_projections.replicas import open_replica
from truecopy_projections.state import PartitionState, Reason
from truecopy_projections.verdicts import Report, Verdict
from truecopy_projections.worker import Worker
from truecopy_schemas.errors import NewerFormatError


class Said(logging.Handler):
    """A signal: something was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.event = asyncio.Event()

    def emit(self, _: logging.LogRecord) -> None:
        self.event.set()


async def states(world: World) -> dict[int, PartitionState]:
    async with world.replica.snapshot() as snapshot:
        return await snapshot.states(balance.id)


async def parked(world: World) -> dict[str, Reason]:
    async with world.replica.snapshot() as snapshot:
        return {w.key or "": w.reason for w in await snapshot.waiting(balance.id) if w.reason is not Reason.BEHIND}


async def test_a_value_that_the_database_refuses_parks_its_key_alone(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    sqlite = "sqlite" in world.replica.name
    condition = "NEW.amount > 500" if sqlite else "amount <= 500"
    await world.execute(
        f"CREATE TRIGGER refuses BEFORE INSERT ON balance__v1 WHEN {condition} BEGIN SELECT RAISE(ABORT, 'too rich'); END"
        if sqlite
        else f"ALTER TABLE balance__v1 ADD CONSTRAINT poor CHECK ({condition})"
    )
    await world.store.publish_many(
        [(f"k{i}", Deposited(amount=1000 if i in (3, 11) else 1)) for i in range(20)] + [("k3", Deposited(amount=1))]
    )
    await world.settle(balance)

    assert await parked(world) == {"k3": Reason.REFUSED, "k11": Reason.REFUSED}
    found = await check(balance, world.replica, world.log, world.registry, wait_s=0)
    assert (found.verdict, found.parked, found.computed.verdict) == (Verdict.PARKED, ["k11", "k3"], Verdict.EQUAL)

    await world.execute("DROP TRIGGER refuses" if sqlite else "ALTER TABLE balance__v1 DROP CONSTRAINT poor")
    await world.settle(balance)
    assert await world.verdicts(balance, deep=True) == EQUAL
    assert await parked(world) == {}


async def test_a_topic_made_anew_halts_the_worker_by_name_and_applies_nothing(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    before = await states(world)
    await world.log.delete(TOPIC)
    await world.log.create(TopicSpec(name=TOPIC, partitions=3))
    for partition in range(3):
        await world.log.append(TOPIC, partition, [Outgoing(b"k", b"stranger", 0)] * 500)

    worker = world.worker(balance)
    for _ in range(5):
        await worker.step()
    await worker.leave()

    after = await states(world)
    assert [s.position for s in after.values()] == [s.position for s in before.values()]
    assert all(s.halted.startswith("incarnation") for s in after.values())
    found = await check(balance, world.replica, world.log, world.registry, wait_s=0)
    assert (found.delivered.verdict, found.computed.verdict) == (Verdict.INCOMPARABLE, Verdict.UNPROVEN)


async def test_a_topic_made_anew_under_a_running_worker_is_noticed_before_anything_is_applied(world: World) -> None:
    await deposit(world)
    await world.relay.drain()
    worker = world.worker(balance)
    while await worker.step():
        pass
    before = await states(world)
    await world.log.delete(TOPIC)
    await world.log.create(TopicSpec(name=TOPIC, partitions=3))
    for partition in range(3):
        await world.log.append(TOPIC, partition, [Outgoing(b"k", b"stranger", 0)] * 500)
    worker._check_at = 0.0

    await worker.step()
    await worker.step()
    await worker.leave()

    after = await states(world)
    assert all(s.halted.startswith("incarnation") for s in after.values())
    assert [(s.position, s.count) for s in after.values()] == [(s.position, s.count) for s in before.values()]


async def test_retention_that_ate_unread_events_halts_by_name_and_the_others_flow(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    await deposit(world)
    await world.relay.drain()
    at = (await states(world))[0].position
    await world.log.trim(TOPIC, 0, before_offset=at + 1)
    await world.settle(balance)

    after = await states(world)
    assert after[0].position == at
    assert "position lost" in after[0].halted
    assert not after[1].halted
    assert after[1].count > 0


@pytest.mark.parametrize("lost", ["the topic", "its beginning"])
async def test_a_topic_that_was_followed_and_is_gone_is_told_from_one_that_never_was(
    world: World, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    await deposit(world)
    await world.settle(balance)
    if lost == "the topic":
        await world.log.delete(TOPIC)
    else:
        state = replace(await world.log.describe(TOPIC), incarnation=None)

        async def beheaded(_: str) -> TopicState:
            return state

        monkeypatch.setattr(world.log, "describe", beheaded)  # as on Kafka, once retention took genesis and marks
    seen = "it was deleted from the log, and balance@1 holds" if lost == "the topic" else "neither genesis nor mark is left"

    with pytest.raises(TopicLostError, match=seen):
        await world.worker(balance).step()
    with pytest.raises(TopicLostError, match=seen):
        await check(balance, world.replica, world.log, world.registry)


async def test_a_partition_that_was_halted_flows_again_when_the_log_is_restored(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    topics = dict(world.log._topics)
    await world.log.delete(TOPIC)
    await world.log.create(TopicSpec(name=TOPIC, partitions=3))
    worker = world.worker(balance)
    await worker.step()
    await worker.leave()
    assert all(s.halted for s in (await states(world)).values())
    world.log._topics.update(topics)
    await deposit(world)

    await world.settle(balance)

    assert await world.verdicts(balance) == EQUAL


async def test_a_topic_with_other_partitions_is_not_taken_for_the_same(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    before = await states(world)
    await world.log.delete(TOPIC)
    await world.log.create(TopicSpec(name=TOPIC, partitions=7))
    worker = world.worker(balance)

    with pytest.raises(TopicMismatchError, match="7"):
        await worker.step()

    assert await states(world) == before


async def test_a_replica_of_a_newer_truecopy_is_refused_by_name(world: World, url: str) -> None:
    await deposit(world)
    await world.settle(balance)
    await world.execute("UPDATE truecopy_meta SET value = '99' WHERE name = 'format'")
    other = await open_replica(url)
    worker = Worker(balance, other, world.log, world.registry, lease_s=LEASE_S, wait_s=0.02)
    try:
        with pytest.raises(NewerFormatError, match="99"):
            await worker.run(asyncio.Event())
    finally:
        await other.close()


async def test_a_locked_replica_is_waited_for_and_work_goes_on_without_help(
    tmp_path: Path, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    if "sqlite" not in world.replica.name:
        return await _a_replaced_database(world)
    await deposit(world)
    await world.relay.drain()
    locker = await connect(f"sqlite:{tmp_path}/replica.db", timeout_s=5)
    impatient = await open_replica(f"sqlite:{tmp_path}/replica.db", timeout_s=0.1)
    worker = Worker(balance, impatient, world.log, world.registry, lease_s=LEASE_S, wait_s=0.02)
    stop = asyncio.Event()
    said_so = Said()
    logging.getLogger("truecopy.worker").addHandler(said_so)
    with caplog.at_level(logging.WARNING, "truecopy.worker"):
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            async with locker.transaction() as tx:
                await tx.fetch("CREATE TABLE held (a INTEGER)")
                group.create_task(worker.run(stop))
                await said_so.event.wait()
            await world.relay.mark()
            found = await check(balance, world.replica, world.log, world.registry, wait_s=10)
            stop.set()
    logging.getLogger("truecopy.worker").removeHandler(said_so)
    await impatient.close()
    await locker.close()

    assert found.verdict is Verdict.EQUAL
    said = [r.getMessage() for r in caplog.records if "balance@1" in r.getMessage()]
    assert len(said) == 2, "says so once, and once when it works again"
    return None


async def _a_replaced_database(world: World) -> None:
    """On PostgreSQL the cut of all connections stands for the lock."""
    await deposit(world)
    await world.relay.drain()
    worker = world.worker(balance)
    await worker.step()
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await world.execute(cut)
    stop = asyncio.Event()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(worker.run(stop))
        await world.relay.mark()
        found = await check_when_back(world)
        stop.set()
    assert found.verdict is Verdict.EQUAL


async def check_when_back(world: World) -> Report:
    while True:
        try:
            return await check(balance, world.replica, world.log, world.registry, wait_s=10)
        except DatabaseUnavailableError:
            continue
