"""What certificates, those who verify them, and replicas that are filled from a peer make of rulings."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.projections.bank import Deposited, balance
from tests.projections.crm import CUSTOMER, Crm, customer, customers
from tests.projections.test_certificate_form import KEY, OWN
from tests.projections.world import World

from truecopy_bus.partitioner import partition_of
from truecopy_bus.record import Outgoing, Record
from truecopy_bus.sql import Database, connect
from truecopy_projections.amendment import Amendment
from truecopy_projections.amendments_topic import AMENDMENTS_TOPIC, publish_missing, published_amendments
from truecopy_projections.bootstrap import bootstrap
from truecopy_projections.certificate import Certificate, certify, verify
from truecopy_projections.certificate_chain import Standing
from truecopy_projections.check import check
from truecopy_projections.errors import AmendmentRefusedError, BootstrapRefusedError, InvalidAmendmentError
from truecopy_projections.replicas import MemoryReplica, SqlReplica
from truecopy_projections.state import Reason
from truecopy_projections.statements import read_back
from truecopy_projections.verdicts import Report, Verdict
from truecopy_schemas.codec import encode
from truecopy_schemas.errors import NewerFormatError
from truecopy_schemas.framing import frame
from truecopy_services.errors import UsageError
from truecopy_services.quarantine import Quarantine

BAD = 666


async def report_of(world: World, replica: MemoryReplica | SqlReplica | None = None) -> Report:
    return await check(balance, replica or world.replica, world.log, world.registry, wait_s=0)  # type: ignore[arg-type]


def bench(world: World, by: str = "ops") -> Quarantine:
    return Quarantine(balance, world.replica, world.log, world.registry, topic=AMENDMENTS_TOPIC, by=by)


async def ruled(world: World) -> Certificate:
    """A history with a skip and an edit, certified."""
    await world.store.publish_many([(key, Deposited(amount=amount)) for key in "ab" for amount in (1, BAD, 10)])
    await world.settle(balance)
    await bench(world).skip("a", why="a test")
    await bench(world).edit("b", ["amount=5"], why="another test")
    await world.settle(balance)
    return await certify(balance, world.replica, world.log, await report_of(world), KEY)


async def on_the_topic(world: World) -> list[Amendment]:
    found: list[Amendment] = []

    def take(record: Record) -> None:
        found.append(Amendment.read(record.value or b""))

    await read_back(world.log, take, topic=AMENDMENTS_TOPIC)
    return found


async def test_a_certificate_states_rulings_and_the_log_alone_proves_it(world: World) -> None:
    certificate = await ruled(world)

    assert {(one.key, one.ruling) for one in certificate.amendments} == {("a", "SKIPPED"), ("b", "REPLACED")}
    assert {one.id for one in await on_the_topic(world)} == {one.id for one in certificate.amendments}
    found = await verify(certificate, world.log, world.registry, trusted={OWN}, projection=balance)
    assert found.standing is Standing.VALID, found
    amended = next(one for one in found.findings if one.about == "amendments")
    assert "'a' version 2 was skipped by ops: a test" in amended.why


async def test_a_certificate_whose_rulings_are_not_on_the_log_is_not_proven(world: World) -> None:
    certificate = await ruled(world)
    other = await _without_rulings(world)

    found = await verify(certificate, other.log, world.registry, trusted={OWN}, projection=balance)

    standings = {one.about: one.standing.name for one in found.findings}
    assert (standings["amendments"], standings["computed"]) == ("UNPROVEN", "UNPROVEN")
    # What anybody writes there under another name is no ruling of the certificate's.
    forged = next(one for one in await on_the_topic(world) if one.key == "a")
    await publish_missing(other.log, [forged], topic=AMENDMENTS_TOPIC)
    await other.log.append(AMENDMENTS_TOPIC, 0, [Outgoing(b"balance@1", text, 0) for text in (b"{", b'{"format": 2}', b"")])
    again = await verify(certificate, other.log, world.registry, trusted={OWN}, projection=balance)
    assert {one.about: one.standing.name for one in again.findings}["amendments"] == "UNPROVEN"
    assert len(await published_amendments(other.log, {one.id for one in certificate.amendments}, topic=AMENDMENTS_TOPIC)) == 1


async def _without_rulings(world: World) -> World:
    """The same log without the topic of rulings."""
    log = type(world.log)()
    for topic in ("bank.account", "_truecopy.schemas", "_truecopy.certificates"):
        log._topics[topic] = world.log._topics[topic]
    return world._replace(log=log)


@pytest.mark.parametrize(("text", "error"), [(b"{}", InvalidAmendmentError), (b'{"format": 2}', NewerFormatError)])
def test_what_is_no_ruling_is_refused_by_name(text: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        Amendment.read(text)


@pytest.fixture
async def filled(url: str, tmp_path: Path) -> AsyncIterator[tuple[Database, Database]]:
    """The peer's database, and that of a new replica, which is a file."""
    peer, target = await connect(url, synchronous="NORMAL"), await connect(f"sqlite:{tmp_path}/new.db", synchronous="NORMAL")
    yield peer, target
    await peer.close()
    await target.close()


async def test_a_replica_that_is_filled_from_a_peer_takes_over_its_rulings(
    world: World, filled: tuple[Database, Database]
) -> None:
    certificate = await ruled(world)
    peer, target = filled

    await bootstrap(balance, target, peer, world.log, trusted={OWN})

    new = SqlReplica(target)
    stated = {one.id for one in certificate.amendments}
    async with new.snapshot() as snapshot:
        assert {one.id for one in (await snapshot.amendments(balance.id)).all} == stated
    async with target.transaction() as tx:
        await tx.fetch("UPDATE truecopy_amendments SET event = CAST('another' AS BLOB) WHERE entry LIKE '%SKIPPED%'")
    await bootstrap(balance, target, peer, world.log, trusted={OWN}, replace=True)
    async with new.snapshot() as snapshot:
        assert {one.id for one in (await snapshot.amendments(balance.id)).all} == stated
    async with target.snapshot() as read:
        assert len(await read.fetch("SELECT entry FROM truecopy_amendments")) == len(stated)
    report = await report_of(world, new)
    assert (report.computed.verdict, report.stored.verdict) == (Verdict.EQUAL, Verdict.EQUAL)


@pytest.mark.parametrize(
    ("sql", "seen"),
    [
        ("DELETE FROM truecopy_amendments", "keeps no such ruling"),
        ("UPDATE truecopy_amendments SET entry = replace(entry, 'a test', 'a lie')", "keeps no such ruling"),
    ],
    ids=["lost", "altered"],
)
async def test_a_peer_whose_rulings_are_not_the_certified_ones_is_refused(
    world: World, filled: tuple[Database, Database], sql: str, seen: str
) -> None:
    await ruled(world)
    await world.execute(sql)
    peer, target = filled

    with pytest.raises(BootstrapRefusedError, match=seen):
        await bootstrap(balance, target, peer, world.log, trusted={OWN})


async def test_a_partition_that_stood_still_flows_again_once_less_waits(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("truecopy_projections.waiting_alarm.KEYS_PARKED_MAX", 1)
    monkeypatch.setattr("truecopy_projections.plan.KEYS_PARKED_MAX", 1)
    keys = [f"k{at}" for at in range(40)]
    await world.store.publish_many([(key, Deposited(amount=BAD)) for key in keys])
    await world.settle(balance)
    assert "balance@1[0]: " in caplog.text
    assert "wait in quarantine" in caplog.text
    async with world.replica.snapshot() as snapshot:
        assert all(state.halted.startswith("parked: ") for state in (await snapshot.states(balance.id)).values())
    await world.store.publish_many([(key, Deposited(amount=1)) for key in keys])
    await world.settle(balance)

    for key in keys:
        await bench(world).skip(key, why="a test")
    await world.settle(balance)

    assert (await report_of(world)).verdict is Verdict.EQUAL
    async with world.replica.snapshot() as snapshot:
        assert [state.halted for state in (await snapshot.states(balance.id)).values()] == ["", "", ""]


async def test_of_a_topic_of_others_records_are_skipped_and_edited_too(tmp_path: Path) -> None:
    crm = Crm(tmp_path, MemoryReplica())
    await crm.begin(CUSTOMER)
    await crm.write(("a", customer("Ann")), ("a", customer("Eve")), ("a", customer("Ann", 5)), ("b", b"\0\0\0\0\x08zzz"))
    await crm.write(("b", customer("Bob", 3)), ("c", customer("Eve")), (None, b"nobody's"))
    await crm.apply()
    bench = Quarantine(customers, crm.replica, crm.log, crm.schemas(), topic=AMENDMENTS_TOPIC, by="ops")
    found = await bench.listing()
    assert {reason: [one.key for one in keys] for reason, keys in found.keys.items()} == {
        Reason.REJECTED: ["a", "c"],
        Reason.SCHEMA: ["b"],
    }

    with pytest.raises(UsageError, match="spent"):
        await bench.edit("a", ["spent=much"], why="a test")
    await bench.edit("a", ["name=Ann", "spent=7"], why="a test")
    await bench.skip("b", why="nobody knows its schema")
    await bench.skip("c", why="a test")
    [stranger] = found.foreign
    await bench.dismiss(stranger.partition, stranger.offset, why="a test")

    assert await crm.rows("a") == (3, [customers.restored(("Ann", 13, 3))])
    assert await crm.rows("b") == (2, [customers.restored(("Bob", 3, 1))])
    assert await crm.rows("c") == (1, [])
    report = await crm.check()
    assert (report.computed.verdict, report.stored.verdict) == (Verdict.EQUAL, Verdict.EQUAL), report
    assert await crm.waiting() == []


async def test_one_of_several_events_that_the_database_refuses_is_skipped_and_the_next_waits(world: World) -> None:
    await world.store.publish_many([("a", Deposited(amount=1))])
    await world.settle(balance)
    sqlite = "sqlite" in world.replica.name
    condition = "NEW.amount > 500" if sqlite else "amount <= 500"
    await world.execute(
        f"CREATE TRIGGER refuses BEFORE INSERT ON balance__v1 WHEN {condition} BEGIN SELECT RAISE(ABORT, 'too rich'); END"
        if sqlite
        else f"ALTER TABLE balance__v1 ADD CONSTRAINT poor CHECK ({condition})"
    )
    await world.store.publish_many([("a", Deposited(amount=amount)) for amount in (1000, 2000, 10)])
    await world.settle(balance)

    with pytest.raises(AmendmentRefusedError, match=r"version 2 does not go on by that: version 2: REFUSED"):
        await bench(world).edit("a", ["amount=3000"], why="a test", dry_run=True)
    first = await bench(world).skip("a", why="a test")
    assert (first.applied, first.parked.partition(":")[0]) == (2, "version 3")
    assert (await bench(world).listing()).counts == {Reason.REFUSED: 1}
    last = await bench(world).skip("a", why="a test")

    assert (last.applied, last.parked, last.rows_after[0]["amount"]) == (4, "", 11)
    await world.settle(balance)
    assert (await report_of(world)).verdict is Verdict.EQUAL


async def second(world: World, key: str, version: int, amount: int, schema_id: int | None = None) -> None:
    """An event of somebody else than the owner, by the schema that is registered, or under another id."""
    [subject] = [one for one in world.registry.state.subjects if one.endswith("Deposited")]
    known = world.registry.state.versions(subject)[-1].id
    value = frame(schema_id or known, encode(Deposited(amount=amount), version=version))
    await world.log.append("bank.account", partition_of(key, 3), [Outgoing(key.encode(), value, 0)])


async def test_what_nobody_can_rule_about_is_refused_with_what_to_do(world: World) -> None:
    await world.store.publish_many([(key, Deposited(amount=1)) for key in ("gap", "schema", "twice")])
    await world.settle(balance)
    await second(world, "gap", 3, 1)
    await second(world, "schema", 2, 1, schema_id=99)
    await second(world, "twice", 1, 50)
    await world.settle(balance)
    found = await bench(world).listing()
    assert {reason.name: [one.key for one in keys] for reason, keys in found.keys.items()} == {
        "GAP": ["gap"],
        "SCHEMA": ["schema"],
        "CONFLICT": ["twice"],
    }

    with pytest.raises(AmendmentRefusedError, match=r"never delivered.*; let the owner's relay send"):
        await bench(world).skip("gap", why="a test")
    with pytest.raises(AmendmentRefusedError, match=r"neither counted.*; register its schema"):
        await bench(world).skip("schema", why="a test")
    with pytest.raises(AmendmentRefusedError, match="register its schema"):
        await bench(world).edit("schema", body={"amount": 1}, kind="Deposited", why="a test")
    with pytest.raises(AmendmentRefusedError, match="the first stands; skip the second one"):
        await bench(world).edit("twice", ["amount=1"], why="a test")
    assert (await bench(world).retry(["twice"])).why["twice"].startswith("version 2: CONFLICT")
    assert (await bench(world).skip("twice", why="a test")).parked == ""

    assert sorted(reason.name for reason in (await bench(world).listing()).keys) == ["GAP", "SCHEMA"]


async def test_all_of_a_second_writers_versions_of_one_event_go_with_one_skip(world: World) -> None:
    await world.store.publish_many([("a", Deposited(amount=1))])
    await world.settle(balance)
    for amount in (50, 60):
        await second(world, "a", 1, amount)
    await world.settle(balance)

    await bench(world).skip("a", why="a test")

    assert (await bench(world).listing()).records == 0
    await world.settle(balance)
    assert (await report_of(world)).verdict is Verdict.EQUAL
