"""The way of a change, whole: from a write in the owner's database to a replica proven equal, damaged and mended."""

import asyncio
from typing import Any

import pytest
from tests.projections.bank import Closed, Deposited, balance, entries
from tests.projections.world import EQUAL, TOPIC, World, deposit

from truecopy_projections.check import check
from truecopy_projections.digest import bucket_of, row_hash
from truecopy_projections.errors import RepairRefusedError
from truecopy_projections.projection import Projection
from truecopy_projections.repair import repair
from truecopy_projections.state import Reason
from truecopy_projections.verdicts import Kind, Verdict


@pytest.mark.parametrize("projection", [balance, entries], ids=["one row per key", "several"])
async def test_a_write_reaches_the_replica_and_is_proven(world: World, projection: Projection[Any]) -> None:
    await deposit(world)
    await world.settle(projection)

    assert await world.verdicts(projection) == EQUAL
    assert await world.verdicts(projection, deep=True) == EQUAL
    await world.store.publish("k1", Closed())
    await world.settle(projection)
    assert await world.verdicts(projection) == EQUAL


DAMAGE = {
    "a value": ("UPDATE balance__v1 SET amount = 999 WHERE _key = 'k3'", Kind.DIFFERENT, ("amount",)),
    "a row deleted": ("DELETE FROM balance__v1 WHERE _key = 'k3'", Kind.MISSING, ("account", "amount", "mean", "events")),
    "a ghost": (
        "INSERT INTO balance__v1 SELECT account, amount, mean, events, 'k3ghost', _part, _hash, "
        f"{bucket_of('k3ghost')}, _version, _element, _previous FROM balance__v1 WHERE _key = 'k3'",
        Kind.GHOST,
        ("account", "amount", "mean", "events"),
    ),
    "the hash": ("UPDATE balance__v1 SET _hash = (SELECT _hash FROM balance__v1 WHERE _key = 'k4') WHERE _key = 'k3'",
                 Kind.DIFFERENT, ("_hash",)),
    "a copy under another bucket": (
        "INSERT INTO balance__v1 SELECT account, amount, mean, events, _key, _part, _hash, 5, _version, _element, _previous "
        "FROM balance__v1 WHERE _key = 'k3'",
        Kind.GHOST,
        ("_bucket",),
    ),
    "a copy under no bucket": (
        "INSERT INTO balance__v1 SELECT account, amount, mean, events, _key, _part, _hash, 5000, _version, _element, "
        "_previous FROM balance__v1 WHERE _key = 'k3'",
        Kind.GHOST,
        ("_bucket",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
async def test_damage_is_found_by_row_and_field_and_mended(world: World, name: str) -> None:
    statement, kind, fields = DAMAGE[name]
    await deposit(world)
    await world.settle(balance)
    await world.execute(statement)

    found = await check(balance, world.replica, world.log, world.registry, wait_s=0)
    planned = await repair(balance, world.replica, world.log, world.registry)
    still = await check(balance, world.replica, world.log, world.registry, wait_s=0)
    applied = await repair(balance, world.replica, world.log, world.registry, apply=True)

    assert (found.delivered.verdict, found.stored.verdict) == (Verdict.EQUAL, Verdict.DIVERGED)
    (difference,) = found.differences
    assert difference.key.startswith("k3")
    assert (difference.kind, tuple(difference.fields)) == (kind, fields)
    assert list(planned.planned) == [difference]
    assert still.differences == found.differences, "a dry run changes nothing"
    assert applied.applied
    assert await world.verdicts(balance, deep=True) == EQUAL
    async with world.replica.snapshot() as snapshot:
        assert len(await snapshot.journal("repair")) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE truecopy_partitions SET row_digest = input_digest WHERE part = 0",
        "UPDATE truecopy_partitions SET rows = (SELECT p.rows FROM truecopy_partitions p WHERE p.part = 1) WHERE part = 0",
        "UPDATE balance__v1 SET _element = _previous WHERE _key = 'k3'",
        "UPDATE balance__v1 SET _version = _version + 1 WHERE _key = 'k3'",
        "UPDATE truecopy_partitions SET input_digest = row_digest WHERE part = 0",
    ],
    ids=["digest total", "digest vector", "element", "version", "input digest"],
)
async def test_altered_companions_are_found_by_a_deep_check_and_mended(world: World, statement: str) -> None:
    await deposit(world)
    await world.settle(balance)
    await world.execute(statement)

    assert await world.verdicts(balance, deep=True) != EQUAL
    await repair(balance, world.replica, world.log, world.registry, apply=True)
    assert await world.verdicts(balance, deep=True) == EQUAL


async def test_a_forged_row_with_a_right_hash_is_still_found(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    async with world.replica.snapshot() as snapshot:
        _, (row,) = await snapshot.get(balance, "k3")
    forged = row_hash(balance.id, "k3", (row.values[0], 999, *row.values[2:])).hex()
    literal = f"'\\x{forged}'::bytea" if "postgres" in world.replica.name else f"x'{forged}'"
    await world.execute(f"UPDATE balance__v1 SET amount = 999, _hash = {literal} WHERE _key = 'k3'")

    found = await check(balance, world.replica, world.log, world.registry, wait_s=0)

    assert found.stored.verdict is Verdict.DIVERGED
    assert found.differences[0].fields == {"amount": (999, row.values[1])}


async def test_a_rotted_row_is_not_built_upon_and_goes_on_after_repair(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    await world.execute("UPDATE balance__v1 SET amount = 999 WHERE _key = 'k3'")
    await world.store.publish("k3", Deposited(amount=1))
    await world.settle(balance)

    async with world.replica.snapshot() as snapshot:
        state, _ = await snapshot.get(balance, "k3")
    assert state is not None
    assert state.parked is Reason.ROTTEN
    await repair(balance, world.replica, world.log, world.registry, apply=True)
    await world.settle(balance)

    assert await world.verdicts(balance, deep=True) == EQUAL


async def test_a_parked_key_is_never_shown_as_converged(world: World) -> None:
    await deposit(world)
    await world.store.publish_many([("k3", Deposited(amount=666)), ("k3", Deposited(amount=1))])
    await world.settle(balance)

    found = await check(balance, world.replica, world.log, world.registry, wait_s=0)

    assert (found.verdict, found.parked, found.computed.verdict) == (Verdict.PARKED, ["k3"], Verdict.EQUAL)


async def test_what_is_not_applied_yet_is_behind_and_what_is_not_marked_is_unproven(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    await deposit(world)
    await world.relay.drain()

    assert (await world.verdicts(balance))[0] is Verdict.BEHIND


async def test_a_repair_above_its_limit_changes_nothing(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    await world.execute("UPDATE balance__v1 SET amount = 999")

    with pytest.raises(RepairRefusedError, match="20 rows differ"):
        await repair(balance, world.replica, world.log, world.registry, apply=True, rows_max=19)

    assert len((await check(balance, world.replica, world.log, world.registry, wait_s=0)).differences) == 20


async def test_a_log_that_lost_its_beginning_can_no_longer_be_folded(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    await world.log.trim(TOPIC, 0, before_offset=2)

    found = await check(balance, world.replica, world.log, world.registry, wait_s=0)

    assert (found.delivered.verdict, found.computed.verdict) == (Verdict.EQUAL, Verdict.UNPROVEN)
    with pytest.raises(RepairRefusedError, match="no longer begins"):
        await repair(balance, world.replica, world.log, world.registry)


async def test_an_event_lost_on_the_way_shows_at_the_next_mark(world: World) -> None:
    await deposit(world)
    await world.relay.drain()
    partition = world.log._topics[TOPIC].partitions[0]
    lost = partition.records.pop()
    partition.records.append(lost._replace(key=b"\0nobody", value=None))
    await world.settle(balance)

    delivered, _, _ = await world.verdicts(balance)

    assert delivered is Verdict.DIVERGED


async def test_workers_share_partitions_and_end_when_told(world: World) -> None:
    await deposit(world)
    stop = asyncio.Event()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(world.worker(balance).run(stop))
        group.create_task(world.relay.run(stop))
        for i in range(10):
            await world.store.publish(f"k{i}", Deposited(amount=1))
        counts: list[int] = []
        while 70 not in counts:
            found = await check(balance, world.replica, world.log, world.registry, wait_s=15)
            assert found.verdict is Verdict.EQUAL, found.as_json()
            counts.append(found.count)
        stop.set()
