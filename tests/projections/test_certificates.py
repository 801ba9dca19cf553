"""Certificates from a check to whoever verifies them: kept, published, completed after a crash, and held against the log."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.projections.bank import Balance, Closed, Deposited, balance, entries
from tests.projections.test_certificate_form import KEY, ONE, OTHER, OWN
from tests.projections.world import TOPIC, World, deposit

from truecopy_bus.errors import LogUnavailableError, TopicMismatchError
from truecopy_bus.logs.kafka import KafkaLog
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.record import Appended, Outgoing, TopicSpec
from truecopy_bus.registry import SCHEMAS_TOPIC, Registry
from truecopy_bus.relay import Relay
from truecopy_bus.sql.address import connect
from truecopy_bus.store import EventStore
from truecopy_projections.certificate import (
    Certificate,
    Standing,
    Verification,
    certificates,
    certify,
    newest_certificate,
    verify,
)
from truecopy_projections.certificate_form import sign
from truecopy_projections.certificates_topic import CERTIFICATES_TOPIC, publish, published
from truecopy_projections.check import check
from truecopy_projections.errors import NotEqualError, SigningKeyError
from truecopy_projections.projection import Change, Projection
from truecopy_projections.reference import replay
from truecopy_projections.replicas import MemoryReplica, open_replica
from truecopy_projections.retracing import retrace
from truecopy_projections.signing_keys import pin, public_key, signing_key, trusted_keys
from truecopy_projections.verdicts import Report, Verdict
from truecopy_projections.worker import Worker
from truecopy_schemas.codec import encode
from truecopy_schemas.framing import frame


class Flaky(MemoryLog):
    """A log whose appends of certificates can fail, before or after they were written."""

    fails: str = ""

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        if topic != CERTIFICATES_TOPIC or not self.fails or records[0].key == b"\0truecopy":
            return await super().append(topic, partition, records)
        when, self.fails = self.fails, ""
        if when == "after":
            await super().append(topic, partition, records)
        raise LogUnavailableError(log="flaky", seen="no answer")


@pytest.fixture
async def near() -> AsyncIterator[World]:
    """A world in memory, whose log can fail."""
    database = await connect("sqlite::memory:")
    store = EventStore(database, service="bank", partitions=2)
    await store.open()
    log = Flaky()
    registry = Registry(log)
    await registry.ensure()

    async def execute(sql: str) -> None:
        raise NotImplementedError(sql)

    yield World(store, log, registry, Relay(store, log, registry), MemoryReplica(), execute)
    await database.close()


async def equal(world: World, projection: Projection[Any] = balance) -> Report:
    return await check(projection, world.replica, world.log, world.registry, wait_s=0)


async def more(world: World, projection: Projection[Any] = balance) -> Report:
    """Some events, applied, and what a check says then."""
    await deposit(world)
    await world.settle(projection)
    return await equal(world, projection)


async def certified(world: World, report: Report | None = None, key: Ed25519PrivateKey = KEY, **given: Any) -> Certificate:
    return await certify(balance, world.replica, world.log, report or await more(world), key, **given)


async def verified(world: World, certificate: Certificate, **given: Any) -> Verification:
    return await verify(certificate, world.log, world.registry, **({"trusted": {OWN}} | given))


async def on_the_log(world: World) -> list[Certificate]:
    return list((await published(world.log, lambda _: True, topic=CERTIFICATES_TOPIC)).found)


def told(found: Verification) -> dict[str, str]:
    return {one.about: one.standing.name for one in found.findings}


ALL_VALID = dict.fromkeys(("signature", "signer", "published", "chain", "delivered"), "VALID")


async def test_each_names_the_one_before_it_and_the_log_alone_proves_it(world: World) -> None:
    first = await certified(world)
    await world.store.publish("k1", Closed())
    second = await certified(world)

    assert (first.previous, second.previous, second.chain) == ("", first.id, first.chain)
    assert (first.count, second.count) == (60, 121)
    assert await on_the_log(world) == await certificates(balance, world.replica) == [first, second]
    async with world.replica.snapshot() as snapshot:
        assert await newest_certificate(balance, snapshot) == second
        assert await newest_certificate(entries, snapshot) is None
    for one in (first, second):
        assert told(await verified(world, one)) == ALL_VALID
        assert told(await verified(world, one, projection=balance)) == ALL_VALID | {"computed": "VALID"}


async def test_many_who_certify_at_once_make_one_chain(world: World) -> None:
    report = await more(world)
    issued = await asyncio.gather(*(certified(world, report) for _ in range(5)))

    kept = await certificates(balance, world.replica)
    # Two who state the same after the same certificate in one millisecond state one certificate: signatures are deterministic.
    assert {one.id for one in kept} == {one.id for one in issued}
    assert [one.previous for one in kept] == ["", *(one.id for one in kept[:-1])]
    assert {one.id for one in await on_the_log(world)} == {one.id for one in kept}
    assert told(await verified(world, kept[-1])) == ALL_VALID


async def test_only_what_is_equal_is_certified(world: World) -> None:
    await more(world)
    await world.execute("UPDATE balance__v1 SET amount = 999 WHERE _key = 'k3'")

    with pytest.raises(NotEqualError, match="DIVERGED"):
        await certified(world, await equal(world))
    assert await certificates(balance, world.replica) == []


async def test_a_quick_check_is_not_certified(near: World) -> None:
    await more(near)
    quick = await check(balance, near.replica, near.log, near.registry, quick=True, wait_s=0)

    assert quick.verdict is Verdict.EQUAL
    with pytest.raises(NotEqualError, match="was checked quickly"):
        await certified(near, quick)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_a_crash_left_unpublished_is_published_by_the_next(near: World, when: str) -> None:
    first = await certified(near)
    near.log.fails = when  # type: ignore[attr-defined]
    with pytest.raises(LogUnavailableError):
        await certified(near)
    assert len(await on_the_log(near)) == 1 + (when == "after")
    third = await certified(near)

    chain = await certificates(balance, near.replica)
    assert (chain[0], chain[2], len(chain)) == (first, third, 3)
    assert await on_the_log(near) == chain
    assert told(await verified(near, third)) == ALL_VALID


async def test_a_replica_that_goes_on_from_an_older_copy_forks_its_chain(near: World, caplog: pytest.LogCaptureFixture) -> None:
    replica: Any = near.replica
    await certified(near)
    older = list(replica._journal)
    lost = await certified(near)
    replica._journal = older
    forked = await certified(near)

    assert "so the chain forks" in caplog.text
    for one in (lost, forked):
        found = await verified(near, one)
        assert told(found) == ALL_VALID | {"chain": "REFUTED"}
        assert all(name in found.findings[3].why for name in (lost.id[:12], forked.id[:12]))

    healed = await certified(near, because="restored from Monday's backup")
    assert healed.previous == forked.id
    assert told(await verified(near, healed)) == ALL_VALID


async def test_told_why_it_goes_on_from_the_newest_instead(near: World, caplog: pytest.LogCaptureFixture) -> None:
    replica: Any = near.replica
    first = await certified(near)
    older = list(replica._journal)
    lost = [await certified(near), await certified(near)]
    replica._journal = older
    healed = await certified(near, because="restored from Monday's backup")

    assert await certificates(balance, near.replica) == await on_the_log(near) == [first, *lost, healed]
    assert told(await verified(near, healed)) == ALL_VALID
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


async def test_positions_do_not_go_back_unless_something_says_why(near: World) -> None:
    report = await more(near)
    await certified(near)

    with pytest.raises(NotEqualError, match="say why it went back"):
        await certified(near, report)
    back = await certified(near, report, because="the log was restored")
    assert told(await verified(near, back)) == ALL_VALID


async def test_a_topic_that_may_forget_is_refused(near: World) -> None:
    await near.log.create(TopicSpec(name=CERTIFICATES_TOPIC, partitions=1, settings={"retention.ms": "1000"}))

    with pytest.raises(TopicMismatchError, match="expected cleanup"):
        await certified(near)


def tamper(world: World, part: int, at: int, **changed: Any) -> None:
    kept = world.log._topics[TOPIC].partitions[part].records  # type: ignore[index]
    kept[at] = kept[at]._replace(**changed)


def an_event(world: World) -> tuple[int, int]:
    """Partition and place of the first event on the log."""
    topic = world.log._topics[TOPIC]  # type: ignore[index]
    return next((p, 1) for p, kept in enumerate(topic.partitions) if len(kept.records) > 2)


async def altered(world: World) -> None:
    part, at = an_event(world)
    record = world.log._topics[TOPIC].partitions[part].records[at]  # type: ignore[index]
    schema_id = int.from_bytes((record.value or b"")[1:5])
    tamper(world, part, at, value=frame(schema_id, encode(Deposited(amount=99), version=1)))


async def lost(world: World) -> None:
    tamper(world, *an_event(world), key=None)


async def unmarked(world: World) -> None:
    part, _ = an_event(world)
    tamper(world, part, -1, key=None)


async def cut(world: World) -> None:
    world.log._topics[TOPIC].partitions[0].records.pop()  # type: ignore[index]


async def forgotten(world: World) -> None:
    await world.log.trim(TOPIC, 0, 2)


async def anew(world: World) -> None:
    await world.log.delete(TOPIC)
    await world.log.create(TopicSpec(name=TOPIC, partitions=2))


async def elsewhere(world: World) -> None:
    await world.log.delete(TOPIC)
    await world.log.create(TopicSpec(name=TOPIC, partitions=3))


async def gone(world: World) -> None:
    await world.log.delete(TOPIC)


HISTORIES = [
    pytest.param(altered, "REFUTED", "or their digests differ", id="an event was altered"),
    pytest.param(lost, "REFUTED", "the log holds", id="an event was lost"),
    pytest.param(unmarked, "REFUTED", "is not there", id="the owner's mark is gone"),
    pytest.param(cut, "REFUTED", "beyond the log's end", id="the log lost its end"),
    pytest.param(forgotten, "UNPROVEN", "no longer begins at its beginning", id="retention took the beginning"),
    pytest.param(anew, "REFUTED", "made anew since", id="another incarnation"),
    pytest.param(elsewhere, "REFUTED", "made anew since", id="other partitions"),
    pytest.param(gone, "UNPROVEN", "no topic", id="no topic"),
]


@pytest.mark.parametrize(("harm", "standing", "words"), HISTORIES)
async def test_a_log_that_is_not_what_it_was(near: World, harm: Any, standing: str, words: str) -> None:
    certificate = await certified(near)
    await harm(near)

    found = await verified(near, certificate, projection=balance)

    assert told(found) == ALL_VALID | {"delivered": standing, "computed": "UNPROVEN"}
    assert words in found.findings[4].why
    assert found.standing.name == standing


LIES = [
    pytest.param({"counts": {0: 1, 1: 1}}, "the certificate states 1", id="counts"),
    pytest.param({"positions": {0: 2, 1: 2}}, "the log holds", id="positions"),
    pytest.param({"input_digests": {0: "0" * 64, 1: "0" * 64}}, "their digests differ", id="input digests"),
    pytest.param({"incarnation": "0" * 32}, "made anew since", id="incarnation"),
    pytest.param({"digest_algorithm": 2}, "this release knows 1", id="digest algorithm"),
    pytest.param({"row_digests": {0: "0" * 64, 1: "0" * 64}}, "have another digest", id="row digests"),
    pytest.param({"canonical_form": 2}, "canonical form 2", id="canonical form"),
    pytest.param({"projection": "entries@1"}, "it is of entries@1", id="projection"),
    pytest.param({"entity": "bank.nothing"}, "no topic bank.nothing", id="entity"),
]


@pytest.mark.parametrize(("lie", "words"), LIES)
async def test_what_the_log_does_not_bear_out_is_not_valid_however_well_it_is_signed(
    near: World, lie: dict[str, Any], words: str
) -> None:
    true = (await certified(near)).model_dump()
    forged = sign(
        {**{name: true[name] for name in true if name not in ("public_key", "signature")}, "chain": "f" * 32} | lie, KEY
    )
    await publish(near.log, [forged], topic=CERTIFICATES_TOPIC)

    found = await verified(near, forged, projection=balance)

    assert found.standing in (Standing.REFUTED, Standing.UNPROVEN)
    assert words in "; ".join(one.why for one in found.findings if one.standing is not Standing.VALID)


async def test_a_mark_that_was_never_made_is_seen(near: World) -> None:
    true = (await certified(near)).model_dump()
    stated = {name: true[name] for name in true if name not in ("public_key", "signature")}
    for change in ({"number": 999}, {"digest": "0" * 64}):
        marks = {p: {**mark, **change} for p, mark in true["marks"].items()}
        found = await verified(near, sign({**stated, "marks": marks}, KEY))
        assert found.findings[-1].standing is Standing.REFUTED
        assert "the owner's mark" in found.findings[-1].why


async def test_a_wrong_signature_ends_the_search_and_an_unknown_signer_is_named(near: World) -> None:
    certificate = await certified(near)
    forged = certificate.model_copy(update={"repairs": 7})

    assert told(await verified(near, forged)) == {"signature": "REFUTED"}
    found = await verified(near, certificate, trusted=set())
    assert told(found) == ALL_VALID | {"signer": "UNKNOWN_SIGNER"}
    assert (found.standing, found.standing.value) == (Standing.UNKNOWN_SIGNER, "signed by an unknown key")
    assert told(await verified(near, certificate, trusted=None)) == ALL_VALID


async def test_what_others_put_there_does_not_spoil_a_chain(near: World, caplog: pytest.LogCaptureFixture) -> None:
    first, second = await certified(near), await certified(near)
    stated = {name: value for name, value in second.model_dump().items() if name not in ("public_key", "signature")}
    await publish(near.log, [sign({**stated, "repairs": 5}, OTHER)], topic=CERTIFICATES_TOPIC)
    forged = second.model_copy(update={"repairs": 9})
    texts = (b"{}", None, b'{"format": 9}', forged.canonical(), second.canonical())
    await near.log.append(CERTIFICATES_TOPIC, 0, [Outgoing(b"balance@1", text, 0) for text in texts])
    third = await certified(near, because="nothing of this is ours")
    held = await published(near.log, lambda _: True, topic=CERTIFICATES_TOPIC)

    assert (len(held.found), held.refused, held.newer) == (4, 3, 1)
    assert await certificates(balance, near.replica) == [first, second, third]
    assert "forks" not in caplog.text
    found = await verified(near, third)
    assert told(found) == ALL_VALID
    assert "by keys that are not trusted here" in found.findings[3].why
    assert first.chain == third.chain


async def test_other_reducers_give_other_rows(near: World) -> None:
    certificate = await certified(near)
    other = Projection("balance", entity="bank.account", row=Balance)

    @other.on(Deposited)
    def _(_: Balance | None, event: Deposited, change: Change) -> Balance:
        return Balance(change.key, event.amount, Decimal(0), 1)

    found = await verified(near, certificate, projection=other)

    assert told(found) == ALL_VALID | {"computed": "REFUTED"}


@pytest.mark.parametrize("seed", range(4))
async def test_heads_alone_come_to_what_the_whole_fold_comes_to(near: World, seed: int) -> None:
    """Also where events come early, late, twice, or under an id that nobody claimed."""
    draw = random.Random(seed)
    await deposit(near, keys=5, each=6)
    await near.relay.drain()
    for partition in near.log._topics[TOPIC].partitions:  # type: ignore[index]
        genesis, *events = partition.records
        events += draw.choices(events, k=10)
        draw.shuffle(events)
        events.append(events[0]._replace(key=b"k1", value=frame(9_999, b"\x02\x00")))
        partition.records = [one._replace(offset=at) for at, one in enumerate([genesis, *events])]
    ends = {p: end for p, (_, end) in (await near.log.describe(TOPIC)).bounds.items()}

    whole = await replay(balance, near.log, near.registry, topic=TOPIC, upto=ends)
    for p, end in ends.items():
        found = await retrace(near.log, near.registry, topic=TOPIC, partition=p, upto=end, mark=ONE.marks[0])
        assert (found.count, found.digest) == (whole.counts[p], whole.digests[p])


async def test_on_kafka_and_postgresql(kafka_url: str, postgres_url: str, topic_namespace: str, tmp_path: Path) -> None:
    prefix = f"{topic_namespace}."
    database, log, replica = (
        await connect(f"sqlite:{tmp_path}/store.db"),
        KafkaLog.from_url(kafka_url),
        await open_replica(postgres_url),
    )
    store, registry = EventStore(database, service="bank", partitions=2), Registry(log, topic=prefix + SCHEMAS_TOPIC)
    await store.open()
    relay = Relay(store, log, registry, namespace=prefix)
    issued: list[Certificate] = []
    for _ in range(2):
        await store.publish_many([(f"k{each}", Deposited(amount=each)) for each in range(30)])
        await relay.drain()
        await relay.mark()
        worker = Worker(balance, replica, log, registry, topic=prefix + TOPIC, lease_s=30, wait_s=0.5)
        report = None
        while report is None or report.count < 30 * (len(issued) + 1) or report.verdict.name != "EQUAL":
            await worker.step()
            report = await check(balance, replica, log, registry, topic=prefix + TOPIC, wait_s=0)
        await worker.leave()
        issued.append(await certify(balance, replica, log, report, KEY, namespace=prefix))
    kept = await log.settings(prefix + CERTIFICATES_TOPIC)
    reader = KafkaLog.from_url(kafka_url)
    found = await published(reader, lambda _: True, topic=prefix + CERTIFICATES_TOPIC)
    seen = await verify(issued[1], reader, registry, trusted={OWN}, namespace=prefix, projection=balance)

    assert (kept["cleanup.policy"], kept["retention.ms"], kept["retention.bytes"]) == ("delete", "-1", "-1")
    assert list(found.found) == issued
    assert told(seen) == ALL_VALID | {"computed": "VALID"}
    for one in (registry, replica, database, log, reader):
        await one.close()


def test_a_signing_key_is_made_once_and_trusted_where_it_is(tmp_path: Path) -> None:
    path, trusted = tmp_path / "signing.key", tmp_path / "trusted.keys"
    key = signing_key(path)
    own = key.public_key().public_bytes_raw().hex()
    for _ in range(2):
        pin(trusted, [own], note="this machine")

    assert signing_key(path).private_bytes_raw() == key.private_bytes_raw()
    assert path.stat().st_mode & 0o077 == 0
    assert [one.name for one in tmp_path.iterdir() if one not in (path, trusted)] == []
    assert trusted.read_text() == f"{own}  # this machine\n"
    assert trusted_keys(trusted) == {own}
    assert public_key(own.upper()) == own
    (tmp_path / "hex").write_text(f"{own}\n")
    assert public_key(str(tmp_path / "hex")) == own


def test_files_that_hold_no_keys_are_refused(tmp_path: Path) -> None:
    (tmp_path / "none").write_text("hello")

    for use in (signing_key, trusted_keys, lambda path: public_key(str(path))):
        with pytest.raises(SigningKeyError, match="none"):
            use(tmp_path / "none")
    with pytest.raises(SigningKeyError, match="can't be read"):
        public_key(str(tmp_path / "nowhere"))
