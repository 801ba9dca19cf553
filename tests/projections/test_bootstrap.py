"""A replica filled from a peer: every pair of databases, a peer that moves, what is inherited, and who is refused."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.projections import bank
from tests.projections.bank import Deposited, balance, entries
from tests.projections.sales import sale
from tests.projections.test_gathered import begin, found, placed
from tests.projections.world import EQUAL, LEASE_S, TOPIC, World, deposit

from truecopy_bus.errors import DatabaseUnavailableError
from truecopy_bus.record import TopicSpec
from truecopy_bus.sql import Database, connect
from truecopy_projections.bootstrap import Bootstrap, Progress, bootstrap
from truecopy_projections.certificate import certify, newest_certificate
from truecopy_projections.check import check
from truecopy_projections.errors import (
    BootstrapRefusedError,
    OtherServiceError,
    ProjectionError,
)
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.replicas import SqlReplica
from truecopy_projections.replicas.landing import Pace
from truecopy_projections.state import MarkVerdict
from truecopy_projections.verdicts import Verdict

KEY = Ed25519PrivateKey.generate()


def public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


@pytest.fixture(params=["sqlite", "postgres"])
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """The database of a replica that is not there yet."""
    if request.param == "sqlite":
        database = await connect(f"sqlite:{tmp_path}/new.db", synchronous="NORMAL")
        yield database
        await database.close()
        return
    server, name = request.getfixturevalue("postgres_server"), f"n{secrets.token_hex(4)}"
    admin = await asyncpg.connect(server.url)
    await admin.execute(f"CREATE DATABASE {name}")
    database = await connect(urlsplit(server.url)._replace(path=f"/{name}").geturl())
    yield database
    await database.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def peer(url: str) -> AsyncIterator[Database]:
    database = await connect(url, synchronous="NORMAL")
    yield database
    await database.close()


ON_EITHER = pytest.mark.parametrize(("url", "target"), [("sqlite", "sqlite"), ("postgres", "postgres")], indirect=True)
ACROSS = pytest.mark.parametrize(("url", "target"), [("sqlite", "postgres"), ("postgres", "sqlite")], indirect=True)
ON_FILES = pytest.mark.parametrize(("url", "target"), [("sqlite", "sqlite")], indirect=True)


async def certified(world: World, projection: Projection[Any] = balance, key: Ed25519PrivateKey = KEY) -> None:
    await world.settle(projection)
    report = await check(projection, world.replica, world.log, world.registry, wait_s=0)
    await certify(projection, world.replica, world.log, report, key)


async def fill(world: World, target: Database, peer: Database, projection: Projection[Any] = balance, **more: Any) -> Bootstrap:
    return await bootstrap(projection, target, peer, world.log, **{"trusted": {public(KEY)}, "lease_s": LEASE_S, **more})


def followed_by(world: World, target: Database) -> World:
    """The world with the new replica in place of the peer."""
    return world._replace(replica=SqlReplica(target, service="other"))


async def rows_of(replica: Replica, projection: Projection[Any]) -> dict[tuple[str, Any], Any]:
    rows = {}
    async with replica.snapshot() as snapshot:
        async for batch in snapshot.rows(projection):
            rows |= {(key, projection.sub_key(row.values)): row for key, _, row in batch}
    return rows


async def is_empty(target: Database) -> bool:
    """Whether nothing of the projection, nor of a try to fill it, is left."""
    async with SqlReplica(target).snapshot() as snapshot:
        states = await snapshot.states(balance.id)
    query = "SELECT name FROM sqlite_schema WHERE name LIKE 'truecopy_landing%' OR name LIKE 'balance%'"
    if target.dialect.name == "postgres":
        query = "SELECT relname FROM pg_class WHERE relname LIKE 'truecopy_landing%' OR relname LIKE 'balance%'"
    async with target.snapshot() as connection:
        return not states and not await connection.fetch(query)


@pytest.mark.parametrize("projection", [balance, entries], ids=["one row per key", "several"])
async def test_a_replica_is_filled_and_follows_the_log(
    world: World, target: Database, peer: Database, projection: Projection[Any]
) -> None:
    await deposit(world)
    await certified(world, projection)
    await deposit(world)
    await world.settle(projection)

    done = await fill(world, target, peer, projection, service="other")

    new = followed_by(world, target)
    assert (done.count, done.applied, done.parked) == (120, True, ())
    assert done.beyond > 60
    assert await rows_of(new.replica, projection) == await rows_of(world.replica, projection)
    assert await new.verdicts(projection, deep=True) == EQUAL
    await deposit(world)
    await new.settle(projection)
    report = await check(projection, new.replica, world.log, world.registry, deep=True, wait_s=0)
    assert report.verdict is Verdict.EQUAL
    assert report.count == 180
    assert report.delivered.facts["duplicates"] == 0
    async with new.replica.snapshot() as snapshot:
        assert {one.verdict for one in await snapshot.checkpoints(projection.id)} == {MarkVerdict.EQUAL}
        [entry] = await snapshot.journal("bootstrap")
        assert await newest_certificate(projection, snapshot) is None
    assert (entry["peer"], entry["certificate"]["public_key"]) == (peer.name, public(KEY))


async def test_a_peer_that_moves_is_copied_as_of_one_moment(
    world: World, target: Database, peer: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truecopy_projections.replicas.landing_file.BOOTSTRAP_PAGES", 1)
    monkeypatch.setattr("truecopy_projections.replicas.landing_beside.BOOTSTRAP_COPY_ROWS", 50)
    await deposit(world, keys=200)
    await certified(world)
    moved = Pace.moved
    steps = 0

    async def while_the_peer_moves(pace: Pace, size: int, total: int | None) -> None:
        nonlocal steps
        steps += 1
        if steps <= 3:
            await deposit(world, keys=200, each=1)
            await world.settle(balance)
        await moved(pace, size, total)

    monkeypatch.setattr(Pace, "moved", while_the_peer_moves)
    done = await fill(world, target, peer)

    new = followed_by(world, target)
    assert steps >= (1 if peer.dialect.name == target.dialect.name == "postgres" else 3)
    assert done.count == 600
    await new.settle(balance)
    assert await new.verdicts(balance, deep=True) == EQUAL
    assert await rows_of(new.replica, balance) == await rows_of(world.replica, balance)
    async with new.replica.snapshot() as snapshot:
        assert sum(state.duplicates for state in (await snapshot.states(balance.id)).values()) == 0


@pytest.mark.parametrize(
    ("url", "target"), [("sqlite", "sqlite"), ("sqlite", "postgres"), ("postgres", "postgres")], indirect=True
)
async def test_gathered_rows_are_folded_anew_from_the_contributions_that_were_proven(
    world: World, target: Database, peer: Database
) -> None:
    await begin(world)
    await certified(world, sale)

    await fill(world, target, peer, sale)

    new = followed_by(world, target)
    assert await found(new) == await found(world) == {"north": (6, Decimal(27)), "south": (3, Decimal(9))}
    assert await new.verdicts(sale, deep=True) == EQUAL
    await world.store.publish_many([("o1", placed("south", 100)), ("o4", placed("west", 2))])
    await new.settle(sale)
    await fill(world, target, peer, sale, replace=True)
    await new.settle(sale)
    assert await new.verdicts(sale, deep=True) == EQUAL
    assert (await found(new))["west"] == (1, Decimal(2))


@ON_EITHER
async def test_what_is_parked_is_inherited_in_order_and_freed_later(
    world: World, target: Database, peer: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deposit(world)
    await certified(world)
    await world.store.publish_many([("k3", Deposited(amount=amount)) for amount in (666, 1, 2)])
    await world.settle(balance)

    done = await fill(world, target, peer)

    new = followed_by(world, target)
    assert done.parked == ("k3",)
    assert (await new.verdicts(balance))[0] is Verdict.PARKED
    async with new.replica.snapshot() as snapshot, world.replica.snapshot() as other:
        waiting = await snapshot.waiting(balance.id)
        assert [one.version for one in waiting] == [4, 5, 6]
        assert waiting == await other.waiting(balance.id)
    monkeypatch.setattr(bank, "refused", set())
    await new.settle(balance)
    assert await new.verdicts(balance, deep=True) == EQUAL
    async with new.replica.snapshot() as snapshot:
        assert await snapshot.waiting(balance.id) == []


@ON_EITHER
async def test_a_replica_that_holds_the_projection_is_replaced_only_when_told_and_not_under_a_worker(
    world: World, target: Database, peer: Database
) -> None:
    await deposit(world)
    await certified(world)
    new = followed_by(world, target)
    await new.settle(balance)
    async with target.transaction() as tx:
        await tx.fetch("UPDATE balance__v1 SET amount = 7")
        await tx.fetch("CREATE VIEW of_a_user AS SELECT amount FROM balance")
    with pytest.raises(BootstrapRefusedError, match="give --replace"):
        await fill(world, target, peer)
    worker = new.worker(balance)
    await worker.step()
    with pytest.raises(BootstrapRefusedError, match="stop the workers"):
        await fill(world, target, peer, replace=True)
    assert Verdict.DIVERGED in await new.verdicts(balance)
    await worker.leave()

    await fill(world, target, peer, replace=True)

    async with target.snapshot() as connection:
        assert len(await connection.fetch("SELECT * FROM of_a_user")) == 20
        left = "SELECT name FROM truecopy_meta WHERE name LIKE '%:balance@1' UNION SELECT DISTINCT scope FROM truecopy_leases"
        assert sorted(await connection.fetch(left)) == [(balance.id,), (f"projection:{balance.id}",)]
    await new.settle(balance)
    assert await new.verdicts(balance, deep=True) == EQUAL


@ACROSS
async def test_a_replica_with_other_projections_gets_one_more(world: World, target: Database, peer: Database) -> None:
    await deposit(world)
    await certified(world, entries)
    await certified(world)
    new = followed_by(world, target)
    await new.settle(entries)

    await fill(world, target, peer)

    await new.settle(balance, entries)
    assert await new.verdicts(balance, deep=True) == EQUAL
    assert await new.verdicts(entries, deep=True) == EQUAL


@ON_FILES
async def test_a_dry_run_proves_the_peer_and_touches_nothing(
    world: World, target: Database, peer: Database, tmp_path: Path
) -> None:
    await deposit(world)
    await certified(world)

    done = await fill(world, target, peer, dry_run=True)

    assert (done.applied, done.rows, done.count) == (False, 20, 60)
    assert not (tmp_path / "new.db").exists()
    await world.execute("UPDATE balance__v1 SET amount = 7 WHERE _key = 'k3'")
    with pytest.raises(BootstrapRefusedError, match="the row of 'k3'"):
        await fill(world, target, peer, dry_run=True)


DAMAGE = {
    "a row's value": ("UPDATE balance__v1 SET amount = 7 WHERE _key = 'k3'", "row of 'k3'"),
    "a row and its hash": ("UPDATE balance__v1 SET (amount, account, mean, events, _hash) = (SELECT amount, account, mean, "
                           "events, _hash FROM balance__v1 WHERE _key = 'k4') WHERE _key = 'k3'", "row of 'k3'"),
    "a row deleted": ("DELETE FROM balance__v1 WHERE _key = 'k3'", "its rows, hashed again"),
    "a row's bucket": ("UPDATE balance__v1 SET _bucket = _bucket + 1 WHERE _key = 'k3'", "'k3' is kept in the bucket"),
    "the vector": ("UPDATE truecopy_partitions SET rows = (SELECT p.rows FROM truecopy_partitions p WHERE p.part = 1) "
                   "WHERE part = 0", "its rows, hashed again"),
    "the row digest": ("UPDATE truecopy_partitions SET row_digest = input_digest WHERE part = 0", "certificate's count"),
    "the input digest": ("UPDATE truecopy_partitions SET input_digest = row_digest WHERE part = 0", "certificate's count"),
    "the count": ("UPDATE truecopy_partitions SET count = count + 1 WHERE part = 0", "versions of its keys"),
    "an element": ("UPDATE balance__v1 SET _element = _previous WHERE _key = 'k3'", "elements of its keys"),
    "a version": ("UPDATE balance__v1 SET _version = _version + 1 WHERE _key = 'k3'", "versions of its keys"),
    "a position set back": ("UPDATE truecopy_partitions SET position = position - 1 WHERE part = 0", "keeps what it read"),
    "a position beyond": ("UPDATE truecopy_partitions SET position = position + 99 WHERE part = 0", "the log holds 0 to"),
    "a mark's place": ("UPDATE truecopy_checkpoints SET log_offset = log_offset - 1 WHERE part = 0", "does not hold mark"),
    "a mark's figures": ("UPDATE truecopy_checkpoints SET mark_count = mark_count + 1 WHERE part = 0", "does not hold mark"),
    "tallies": ("UPDATE truecopy_partitions SET parked = 1 WHERE part = 0", "tallies"),
    "another incarnation": (f"UPDATE truecopy_partitions SET incarnation = '{'0' * 32}'", "follows incarnation 0000"),
    "a halt": ("UPDATE truecopy_partitions SET halted = 'parked: too many' WHERE part = 1", "stands still: parked"),
    "a partition gone": ("DELETE FROM truecopy_partitions WHERE part = 2", "follows partitions [0, 1]"),
    "no certificate": ("DELETE FROM truecopy_journal", "keeps no certificate"),
    "another projection's certificate": ("UPDATE truecopy_journal SET kind = 'certificate balance@2'",
                                         "keeps no certificate"),
    "a forged certificate": ("UPDATE truecopy_journal SET entry = replace(entry, 'repairs\\\":0', 'repairs\\\":1')",
                             "was forged"),
    "a certificate's parts": ("UPDATE truecopy_journal SET entry = '{\"certificate\": \"{}\"}'", "can't be read"),
    "another declaration": ("UPDATE truecopy_meta SET value = replace(value, 'amount', 'sum') WHERE name LIKE 'projection:%'",
                            "declared otherwise"),
}  # fmt: skip


@ON_FILES
@pytest.mark.parametrize("name", DAMAGE)
async def test_a_damaged_peer_is_refused_by_name_and_nothing_is_left(
    world: World, target: Database, peer: Database, tmp_path: Path, name: str
) -> None:
    statement, said = DAMAGE[name]
    await deposit(world)
    await certified(world)
    await world.execute(statement)
    with pytest.raises(BootstrapRefusedError) as refused:
        await fill(world, target, peer)

    assert said in refused.value.seen
    assert [name for name in os.listdir(tmp_path) if name.startswith("new")] == []


BEYOND = {
    "a ghost": ("INSERT INTO balance__v1 SELECT account, amount, mean, events, 'ghost', _part, _hash, _bucket, NULL, NULL, "
                "NULL FROM balance__v1 WHERE _key = 'k3'", "row of 'ghost'"),
    "a mark's row digest": ("UPDATE truecopy_checkpoints SET row_digest = input_digest", "certificate's count"),
    "the marks at the certificate": ("DELETE FROM truecopy_checkpoints WHERE log_offset < (SELECT max(log_offset) FROM "
                                     "truecopy_checkpoints c WHERE c.part = truecopy_checkpoints.part)", "links the two"),
    "a position beyond an event": ("UPDATE truecopy_partitions SET position = position + 1", "lacks version"),
    "a position before an event": ("UPDATE truecopy_partitions SET position = position - 1", "up to its position the"),
    "a mark that diverged": ("UPDATE truecopy_checkpoints SET verdict = 'DIVERGED'", "had DIVERGED"),
    "a parked key forgotten": ("DELETE FROM truecopy_waiting", "tallies"),
}  # fmt: skip
"""At a peer that went on: there are events since its last mark, more that it has not read, and a parked key."""


@ON_FILES
@pytest.mark.parametrize("name", BEYOND)
async def test_a_damaged_peer_beyond_its_certificate_is_refused_too(
    world: World, target: Database, peer: Database, name: str
) -> None:
    statement, said = BEYOND[name]
    await deposit(world)
    await certified(world)
    await world.store.publish("k3", Deposited(amount=666))
    await deposit(world)
    await world.settle(balance)
    await deposit(world, each=1)
    await world.relay.drain()
    await world.worker(balance).step()
    await deposit(world, each=1)
    await world.relay.drain()
    await world.execute(statement)

    with pytest.raises(BootstrapRefusedError) as refused:
        await fill(world, target, peer)

    assert said in refused.value.seen
    assert await is_empty(target)


@ON_FILES
async def test_a_certificate_by_another_key_or_of_another_life_is_refused(
    world: World, target: Database, peer: Database
) -> None:
    await deposit(world)
    await certified(world, key=(other := Ed25519PrivateKey.generate()))

    with pytest.raises(BootstrapRefusedError, match=f"--public-key {public(other)}"):
        await fill(world, target, peer)
    described = await world.log.describe(TOPIC)
    world.log._topics.pop(TOPIC)  # type: ignore[union-attr]
    await world.log.create(TopicSpec(name=TOPIC, partitions=described.partitions))
    with pytest.raises(BootstrapRefusedError, match="the topic was made anew"):
        await fill(world, target, peer, trusted={public(other)})
    assert (await fill_of(world, target, peer, entries)) == "UnknownProjectionError"


async def fill_of(world: World, target: Database, peer: Database, projection: Projection[Any]) -> str:
    try:
        await fill(world, target, peer, projection)
    except Exception as fault:
        return type(fault).__name__
    return ""


async def test_a_replica_is_not_filled_from_itself_nor_from_what_is_not_there(
    world: World, url: str, peer: Database, tmp_path: Path
) -> None:
    await deposit(world)
    await certified(world)
    again, nowhere = await connect(url), await connect(f"sqlite:{tmp_path}/nowhere.db")

    with pytest.raises(BootstrapRefusedError, match="one database"):
        await fill(world, again, peer, replace=True)
    with pytest.raises(DatabaseUnavailableError, match="no such file"):
        await fill(world, again, nowhere)
    await again.close()
    assert not (tmp_path / "nowhere.db").exists()


@ON_EITHER
async def test_two_bootstraps_at_once_are_refused_and_the_first_goes_on(
    world: World, target: Database, peer: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deposit(world)
    await certified(world)
    begun, go = asyncio.Event(), asyncio.Event()
    moved = Pace.moved

    async def held(pace: Pace, size: int, total: int | None) -> None:
        begun.set()
        await go.wait()
        await moved(pace, size, total)

    monkeypatch.setattr(Pace, "moved", held)
    first = asyncio.create_task(fill(world, target, peer))
    await begun.wait()
    with pytest.raises(BootstrapRefusedError, match="at work"):
        await fill(world, target, peer)
    go.set()

    assert (await first).applied
    assert await followed_by(world, target).verdicts(balance) == EQUAL


@ACROSS
async def test_a_worker_that_begins_meanwhile_keeps_what_it_made(
    world: World, target: Database, peer: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deposit(world)
    await certified(world)
    new, moved = followed_by(world, target), Pace.moved

    async def while_a_worker_begins(pace: Pace, size: int, total: int | None) -> None:
        await new.settle(balance)
        await moved(pace, size, total)

    monkeypatch.setattr(Pace, "moved", while_a_worker_begins)
    with pytest.raises(BootstrapRefusedError, match="--replace"):
        await fill(world, target, peer)

    assert await new.verdicts(balance, deep=True) == EQUAL


@ACROSS
async def test_a_bootstrap_that_slept_past_its_lease_adopts_nothing(
    world: World, target: Database, peer: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deposit(world)
    await certified(world)
    moved = Pace.moved
    seized = False

    async def while_another_takes_over(pace: Pace, size: int, total: int | None) -> None:
        nonlocal seized
        if not seized:
            seized = True
            async with target.transaction() as tx:
                other = '["another", "another_keys"]'
                await tx.fetch("UPDATE truecopy_meta SET value = $1 WHERE name = 'bootstrap:balance@1'", other)
        await moved(pace, size, total)

    monkeypatch.setattr(Pace, "moved", while_another_takes_over)
    with pytest.raises(BootstrapRefusedError, match="another bootstrap took over"):
        await fill(world, target, peer)


@ON_FILES
async def test_progress_is_told_and_the_rate_is_kept_to(
    world: World, target: Database, peer: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deposit(world, keys=500, each=1)
    await certified(world)
    heard: list[Progress] = []
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(delay: float) -> None:
        slept.append(delay)
        await sleep(0)

    monkeypatch.setattr("truecopy_projections.replicas.landing.asyncio.sleep", noted)
    done = await fill(world, target, peer, bytes_per_second=1_000_000, told=heard.append)

    copying = [one for one in heard if one.doing == "copying"]
    assert copying[-1].done == copying[-1].total == done.copied_bytes
    assert [one for one in heard if one.doing == "verifying"][-1].done == 500
    assert len(copying) >= 3
    assert sum(delay > 0 for delay in slept) >= len(copying) - 1


@ON_FILES
async def test_another_service_and_another_declaration_at_the_target_are_refused(
    world: World, target: Database, peer: Database
) -> None:
    await deposit(world)
    await certified(world)
    await fill(world, target, peer, service="other")

    with pytest.raises(OtherServiceError):
        await fill(world, target, peer, service="third", replace=True)
    async with target.transaction() as tx:
        await tx.fetch("UPDATE truecopy_meta SET value = replace(value, 'amount', 'sum') WHERE name LIKE 'projection:%'")
    with pytest.raises(ProjectionError, match="'amount'"):
        await fill(world, target, peer, service="other", replace=True)
