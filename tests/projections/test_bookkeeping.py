"""What a replica keeps of single records is held against the log, every row is looked up by its key, and repair mends both."""

from pathlib import Path

import pytest
from tests.corruption.behind import BehindPostgres, BehindSqlite
from tests.projections.bank import Deposited, balance
from tests.projections.world import EQUAL, TOPIC, World, deposit

from truecopy_bus.partitioner import partition_of
from truecopy_bus.record import Outgoing
from truecopy_projections.check import check
from truecopy_projections.repair import repair
from truecopy_projections.state import Reason
from truecopy_projections.verdicts import Report, Verdict

ALTERED = {
    "bytes of a quarantined record": "UPDATE truecopy_waiting SET record_value = {other}",
    "its reason": "UPDATE truecopy_waiting SET reason = 'BEHIND'",
    "its time": "UPDATE truecopy_waiting SET timestamp_ms = 77",
    "a quarantined record removed": "DELETE FROM truecopy_waiting",
    "a mark's digest": "UPDATE truecopy_checkpoints SET mark_digest = {digest} WHERE part = 0",
    "a mark's count": "UPDATE truecopy_checkpoints SET mark_count = mark_count + 1 WHERE part = 0",
    "the replica's count at a mark": 'UPDATE truecopy_checkpoints SET "count" = "count" + 1 WHERE part = 0',
    "a verdict": "UPDATE truecopy_checkpoints SET verdict = 'DIVERGED' WHERE part = 0",
}


async def deep(world: World) -> Report:
    return await check(balance, world.replica, world.log, world.registry, deep=True, wait_s=0)


async def mend(world: World) -> None:
    await repair(balance, world.replica, world.log, world.registry, apply=True)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", ALTERED)
async def test_a_record_that_is_not_the_logs_is_named_and_mended(world: World, name: str) -> None:
    await deposit(world)
    await world.settle(balance)
    stranger = await world.log.append(TOPIC, 0, [Outgoing(None, b"not ours", 5)])
    await world.settle(balance)
    await world.execute(ALTERED[name].format(other="x'00'", digest=f"x'{'ab' * 32}'"))

    found = await deep(world)
    await mend(world)

    assert found.stored.verdict is Verdict.DIVERGED or found.delivered.verdict is Verdict.DIVERGED
    places = found.stored.facts["records_differing"]
    assert places == [(0, stranger.first)] if "checkpoints" not in ALTERED[name] else all(p == 0 for p, _ in places) and places
    assert await world.verdicts(balance, deep=True) == EQUAL
    async with world.replica.snapshot() as snapshot:
        (waiting,) = await snapshot.waiting(balance.id)
    assert (waiting.record_value, waiting.timestamp_ms, waiting.reason) == (b"not ours", 5, Reason.FOREIGN)


async def test_a_conflict_that_an_altered_version_made_is_taken_back(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    await world.execute("UPDATE balance__v1 SET _version = _version + 1 WHERE _key = 'k3'")
    await world.store.publish("k3", Deposited(amount=1))
    await world.settle(balance)

    found = await deep(world)
    await mend(world)

    assert found.parked == ["k3"]
    await deposit(world)
    await world.settle(balance)
    assert await world.verdicts(balance, deep=True) == EQUAL


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_an_event_of_a_parked_key_that_an_altered_position_passed_is_put_into_quarantine(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    await world.execute("UPDATE balance__v1 SET amount = amount + 1 WHERE _key = 'k3'")
    await world.store.publish("k3", Deposited(amount=1))
    await world.settle(balance)
    await world.store.publish("k3", Deposited(amount=2))
    await world.relay.drain()
    part = partition_of("k3", 3)
    end = (await world.log.describe(TOPIC)).bounds[part][1]
    await world.execute(f'UPDATE truecopy_partitions SET "position" = {end} WHERE part = {part}')
    await world.store.publish("k3", Deposited(amount=3))
    await world.settle(balance)

    found = await deep(world)
    await mend(world)
    await world.settle(balance)

    assert found.stored.facts["records_differing"] == [(part, end - 1)]
    assert await world.verdicts(balance, deep=True) == EQUAL


async def test_a_row_that_its_index_does_not_find_is_named_with_the_remedy(world: World, url: str, tmp_path: Path) -> None:
    await deposit(world)
    await world.settle(balance)
    behind = BehindSqlite(tmp_path / "replica.db") if url.startswith("sqlite") else BehindPostgres(url)
    await behind.unindex(balance.table, "k3")

    found = await deep(world)

    assert found.stored.verdict is Verdict.DIVERGED
    assert "'k3'" in found.stored.why
    assert "REINDEX" in found.stored.why
    assert not found.differences
    await behind.reindex(balance.table)
    assert await world.verdicts(balance, deep=True) == EQUAL
