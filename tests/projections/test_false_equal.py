"""What must never be called EQUAL though nobody compared it, and repairs that must not take what is right for wrong."""

from pathlib import Path

import pytest
from tests.projections.bank import Deposited, balance
from tests.projections.world import EQUAL, TOPIC, World, deposit

from truecopy_bus.record import Outgoing
from truecopy_bus.relay import Relay
from truecopy_bus.sql import connect
from truecopy_bus.store import EventStore
from truecopy_projections.check import check
from truecopy_projections.digest import bucket_of
from truecopy_projections.errors import RepairRefusedError
from truecopy_projections.repair import repair
from truecopy_projections.state import PartitionState
from truecopy_projections.verdicts import Report, Verdict
from truecopy_schemas.control import CONTROL_HEADER, CONTROL_KEY, MARK, Mark, encode
from truecopy_schemas.framing import frame


async def deep(world: World) -> Report:
    return await check(balance, world.replica, world.log, world.registry, deep=True, wait_s=0)


async def mend(world: World) -> None:
    await repair(balance, world.replica, world.log, world.registry, apply=True)


async def state(world: World, partition: int) -> PartitionState:
    async with world.replica.snapshot() as snapshot:
        return (await snapshot.states(balance.id))[partition]


async def test_a_store_that_was_restored_from_an_older_copy_publishes_nothing(world: World, tmp_path: Path) -> None:
    await deposit(world)
    await world.settle(balance)
    await world.relay.leave()  # the copy must not hold a lease of a relay that went on elsewhere
    older = tmp_path / "older.db"
    older.write_bytes((tmp_path / "store.db").read_bytes())
    wal = tmp_path / "store.db-wal"
    (tmp_path / "older.db-wal").write_bytes(wal.read_bytes() if wal.exists() else b"")
    await deposit(world)
    await world.settle(balance)
    await world.relay.leave()
    ends = (await world.log.describe(TOPIC)).bounds

    database = await connect(f"sqlite:{older}")
    store = EventStore(database, service="bank", partitions=3)
    await store.open()
    token = await store.publish("k3", Deposited(amount=77))
    relay = Relay(store, world.log, world.registry, lease_s=0.001)
    assert await relay.drain() == 0

    assert token.version == 4
    halted = relay.status().entities[TOPIC].halted
    assert halted is not None
    assert "restored from an older copy" in halted
    assert (await world.log.describe(TOPIC)).bounds == ends
    assert (await store.pending(TOPIC)).count >= 1
    await database.close()


async def test_a_newest_mark_that_was_not_judged_is_not_equal(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    here = await state(world, 0)
    said = Mark(
        incarnation=here.incarnation,
        epoch=9,
        number=99,
        count=here.count - 1,
        digest=bytes(32),
        digest_algorithm=1,
        at_ms=0,
    )
    await world.log.append(TOPIC, 0, [Outgoing(CONTROL_KEY, encode(said), 0, ((CONTROL_HEADER, MARK),))])
    worker = world.worker(balance)
    await worker.step()
    await worker.leave()

    found = await deep(world)

    assert found.delivered.verdict is Verdict.UNPROVEN
    assert "two owners" in found.delivered.why


async def test_a_partition_that_only_one_side_has_is_incomparable_and_nothing_is_repaired(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    await world.execute("DELETE FROM truecopy_partitions WHERE part = 1")

    found = await deep(world)

    assert found.delivered.verdict is Verdict.INCOMPARABLE
    with pytest.raises(RepairRefusedError, match="partitions"):
        await mend(world)


TAMPERED = {
    "a key deleted": "UPDATE balance__v1 SET _version = NULL, _element = NULL, _previous = NULL WHERE _key = 'k3'",
    "a key made up": "INSERT INTO balance__v1_keys SELECT 'kx', _part, _version, _version, _element, _previous, '', "
    f"{bucket_of('kx')} FROM balance__v1 WHERE _key = 'k3'",
    "a key called parked": "INSERT INTO balance__v1_keys SELECT _key, _part, _version, _version, _element, _previous, "
    "'REJECTED', _bucket FROM balance__v1 WHERE _key = 'k3'",
    "a key called parked and older": "INSERT INTO balance__v1_keys SELECT _key, _part, _version, 1, _element, _previous, "
    "'REJECTED', _bucket FROM balance__v1 WHERE _key = 'k3'",
    "a row in another partition": "UPDATE balance__v1 SET _part = (_part + 1) % 3 WHERE _key = 'k3'",
    "a row in no partition": "UPDATE balance__v1 SET _part = 77 WHERE _key = 'k3'",
    "a row under another bucket": "UPDATE balance__v1 SET _bucket = (_bucket + 1) % 1024 WHERE _key = 'k3'",
    "a row under no bucket": "UPDATE balance__v1 SET _bucket = -1 WHERE _key = 'k3'",
    "tallies": "UPDATE truecopy_partitions SET parked = 5, uncounted = 7, waiting_bytes = 3 WHERE part = 0",
}


@pytest.mark.parametrize("name", TAMPERED)
async def test_altered_bookkeeping_is_found_and_mended(world: World, name: str) -> None:
    await deposit(world)
    await world.settle(balance)
    await world.execute(TAMPERED[name])

    assert (await deep(world)).verdict is not Verdict.EQUAL
    await mend(world)
    assert await world.verdicts(balance, deep=True) == EQUAL
    await deposit(world)
    await world.settle(balance)
    assert await world.verdicts(balance, deep=True) == EQUAL


async def test_a_deleted_key_that_then_parked_is_mended_with_its_row(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    await world.execute("UPDATE balance__v1 SET _version = NULL, _element = NULL, _previous = NULL WHERE _key = 'k3'")
    await world.store.publish("k3", Deposited(amount=1))
    await world.settle(balance)

    assert (await deep(world)).verdict is not Verdict.EQUAL
    await mend(world)
    await world.settle(balance)

    assert await world.verdicts(balance, deep=True) == EQUAL
    async with world.replica.snapshot() as snapshot:
        known, (row,) = await snapshot.get(balance, "k3")
        assert await snapshot.waiting(balance.id) == []
    assert known is not None
    assert (known.parked, known.applied, row.values[3]) == (None, 4, 4)


async def test_what_waits_for_a_schema_on_a_new_key_is_parked_and_repair_leaves_it(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    stranger = frame(9_999, b"\x02\x00abc")
    await world.log.append(TOPIC, 0, [Outgoing(b"stranger", stranger, 0)])
    await world.settle(balance)

    found = await deep(world)
    await mend(world)

    assert (found.verdict, found.computed.verdict, found.parked) == (Verdict.PARKED, Verdict.EQUAL, ["stranger"])
    assert (await deep(world)).verdict is Verdict.PARKED


async def test_a_stored_value_that_can_not_be_read_is_found_like_any_other_and_mended(world: World) -> None:
    if "sqlite" not in world.replica.name:
        return  # PostgreSQL's columns hold nothing else than their type
    await deposit(world)
    await world.settle(balance)
    await world.execute("UPDATE balance__v1 SET mean = 'never' WHERE _key = 'k3'")
    await world.store.publish_many([("k3", Deposited(amount=1)), ("k4", Deposited(amount=1))])
    await world.settle(balance)

    found = await deep(world)
    (difference,) = found.differences
    assert (difference.key, difference.fields["mean"][0]) == ("k3", "never")
    assert found.parked == ["k3"]
    await mend(world)
    await world.settle(balance)

    assert await world.verdicts(balance, deep=True) == EQUAL
