"""The kit for users' tests: everything in one process without a wait, and it fails where it should."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from truecopy_bus.log import Reader
from truecopy_bus.logs.kafka import KafkaLog, KafkaSettings
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.record import Record, TopicSpec
from truecopy_projections import MemoryReplica, UnknownProjectionError, open_replica
from truecopy_services import Change, Event, NotReachedError, Projection, Service, Truecopy, Verdict
from truecopy_services.errors import UsageError
from truecopy_services.testing import Harness, NotConvergedError, NotSettledError

LONG_S = 30.0
"""Every wait of this size would be noticed."""


class Deposited(Event, entity="bank.account", kind="delta"):
    amount: int


class RateSet(Event, entity="bank.account"):
    rate: int


@dataclass
class Balance:
    amount: int


def bank(name: str = "bank", deposited: type[Deposited] = Deposited) -> tuple[Truecopy, Projection[Balance]]:
    app = Truecopy(name, partitions=2)
    balances = app.projection("balance", entity=deposited.__entity__, row=Balance)

    @balances.on(deposited)
    def deposit(row: Balance | None, event: Deposited, _: Change) -> Balance:
        if event.amount < 0:
            raise ValueError("negative")
        return Balance((row.amount if row else 0) + event.amount)

    return app, balances


async def transfer(service: Service, source: str, target: str, amount: int) -> None:
    """What a user's service would do: its own table and two events in one transaction."""
    async with service.store.transaction() as tx:
        await tx.execute("CREATE TABLE IF NOT EXISTS transfers (source TEXT, target TEXT)")
        await tx.execute("INSERT INTO transfers VALUES ($1, $2)", source, target)
        await tx.publish_many([(source, Deposited(amount=0)), (target, Deposited(amount=amount))])


async def test_publish_settle_and_look() -> None:
    app, balances = bank()

    async with app.test() as service:
        await transfer(service, "a1", "a2", 5)
        with pytest.raises(Exception, match="no projection"):
            await service.get(balances, "a2")
        with pytest.raises(UnknownProjectionError):
            await service.rows(balances)
        await service.settle()
        assert await service.get(balances, "a2") == Balance(5)
        assert await service.rows(balances) == {"a1": [Balance(0)], "a2": [Balance(5)]}
        (report,) = await service.check()

    assert (report.verdict, report.count) == (Verdict.EQUAL, 2)
    assert report.marks_compared > 0


async def test_a_read_at_a_token_delivers_first_and_then_never_waits() -> None:
    app, balances = bank()
    began = time.monotonic()

    async with app.test() as service:
        token = await service.publish("a1", Deposited(amount=5))
        assert await service.get(balances, "a1", at_least=token) == Balance(5)
        with service.paused():
            later = await service.publish("a1", Deposited(amount=5))
            with pytest.raises(NotReachedError):
                await service.get(balances, "a1", at_least=later)
            assert await service.get(balances, "a1") == Balance(5), "what it holds may be old"
            with pytest.raises(NotSettledError, match=r"paused\n.*1 events of bank.account are in the outbox"):
                await service.settle()
        assert await service.get(balances, "a1", at_least=later) == Balance(10)

    assert time.monotonic() - began < LONG_S


async def test_no_setting_of_the_outside_is_read_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("LOG", "STORE", "REPLICA", "MARK_EVENTS"):
        monkeypatch.setenv(f"TRUECOPY_{name}", "kafka://must-not-be-reached:1")
    app, _ = bank()

    async with app.test() as service:
        await service.publish("a1", Deposited(amount=5))

    assert os.listdir(tmp_path) == []


async def test_files_of_a_folder_can_be_opened_again(tmp_path: Path) -> None:
    app, balances = bank()
    for amount in (5, 10):
        async with app.test(folder=tmp_path) as service:
            token = await service.publish("a1", Deposited(amount=5))
            assert await service.get(balances, "a1", at_least=token) == Balance(amount)

    async with app.test(folder=tmp_path / "another", shuffle=True, duplicates=0.2) as service:
        await service.publish_many((f"a{n % 3}", Deposited(amount=1)) for n in range(9))
        await service.settle()
        assert await service.get(balances, "a0") == Balance(3)
    with pytest.raises(UsageError, match=r"held topic 'bank\.account' before"):
        async with app.test(folder=tmp_path, shuffle=True) as service:
            await service.publish("a1", Deposited(amount=5))


async def test_services_beside_each_other_share_a_log_and_its_delivery() -> None:
    owner, reader = Truecopy("owner", partitions=2), Truecopy("reader")
    balances = reader.projection("balance", entity="bank.account", row=Balance)
    calls: list[str] = []

    @balances.on(Deposited)
    def deposit(row: Balance | None, event: Deposited, change: Change) -> Balance:
        calls.append(change.key)
        return Balance((row.amount if row else 0) + event.amount)

    async def both(fault: type[Exception]) -> None:
        async with owner.test(shuffle=True, duplicates=0.5, seed=1) as one, reader.test(beside=one) as other:
            await one.publish_many((f"a{n % 3}", Deposited(amount=1)) for n in range(30))
            await other.settle()
            assert await other.get(balances, "a1") == Balance(10)
            assert other.seed == one.seed
            with pytest.raises(UsageError, match="beside"):
                await reader.test(beside=one, shuffle=True).__aenter__()
            raise fault

    with pytest.raises(ZeroDivisionError) as raised:
        await both(ZeroDivisionError)

    assert len(calls) > 30, "no worker died before a commit"
    assert len(raised.value.__notes__) == 1


async def test_a_parked_key_is_named_unless_it_is_meant() -> None:
    app, balances = bank()

    with pytest.raises(NotSettledError, match=r"balance@1\[\d\]: 'a1' is parked at version 2: .*: negative") as raised:
        async with app.test() as service:
            await service.publish_many([("a1", Deposited(amount=5)), ("a1", Deposited(amount=-1)), ("a2", Deposited(amount=1))])
    assert len(raised.value.left) == 1

    async with app.test(prove=False) as service:
        await service.publish_many([("a1", Deposited(amount=5)), ("a1", Deposited(amount=-1)), ("a2", Deposited(amount=1))])
        await service.settle(parked=True)
        assert [report.verdict for report in await service.check()] == [Verdict.PARKED]
        assert [await service.get(balances, key) for key in ("a1", "a2")] == [Balance(5), Balance(1)]
        await service.prove(parked=True)


async def test_a_mended_reducer_goes_on_at_the_next_settle() -> None:
    app, balances = Truecopy("bank"), Projection("balance", entity="bank.account", row=Balance)
    app.add(balances)
    mended: list[bool] = []

    @balances.on(Deposited)
    def deposit(row: Balance | None, event: Deposited, _: Change) -> Balance:
        assert mended, "not yet"
        return Balance((row.amount if row else 0) + event.amount)

    async with app.test() as service:
        await service.publish("a1", Deposited(amount=5))
        with pytest.raises(NotSettledError, match="not yet"):
            await service.settle()
        mended.append(True)
        await service.settle()
        assert await service.get(balances, "a1") == Balance(5)


class SilentLog(MemoryLog):
    """A log that says there is more and never gives it."""

    def reader(self, topic: str) -> Reader:
        return super().reader(topic) if topic.startswith("_truecopy") else _SilentReader(super().reader(topic))


class _SilentReader:
    def __init__(self, inner: Reader) -> None:
        self._inner = inner

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        records = await self._inner.read(positions, records_max=records_max, wait_s=wait_s)
        await asyncio.sleep(0)
        return [record for record in records if record.offset == 0]

    async def close(self) -> None:
        await self._inner.close()


async def test_what_never_settles_ends_at_its_limit_and_says_where_it_stands() -> None:
    app, _ = bank()
    began = time.monotonic()

    async with app.test(log=SilentLog(), prove=False, limit_s=0.5) as service:
        await service.publish("a1", Deposited(amount=5))
        with pytest.raises(NotSettledError, match=r"in 0\.5 s:\n  bank/balance@1\[0\]: at offset 1 of \d") as raised:
            await service.settle()
        assert [report.verdict for report in await service.check()] == [Verdict.BEHIND]

    assert len(raised.value.left) == 2
    assert time.monotonic() - began < LONG_S


async def test_what_never_ends_ends_at_its_limit() -> None:
    app, _ = bank()

    async with app.test(prove=False) as service:
        endless = asyncio.create_task(_publish_without_end(service))
        with pytest.raises(NotSettledError, match=r"in 0\.3 s"):
            await _settle_until_it_fails(service, limit_s=0.3)
        endless.cancel()


async def _settle_until_it_fails(service: Harness, *, limit_s: float) -> None:
    while True:  # it may find everything delivered between two events
        await service.settle(limit_s=limit_s)


async def _publish_without_end(service: Service) -> None:
    while True:
        await service.publish("a1", Deposited(amount=1))


async def test_a_refused_schema_is_told_from_the_outbox() -> None:
    """Two classes of one name that do not read each other."""
    app, _ = bank()

    class Altered(Event, entity="bank.account", name="Deposited"):
        amount: str

    async with app.test(prove=False) as service:
        await service.publish("a1", Deposited(amount=5))
        await service.settle()
        await service.publish("a1", Altered(amount="much"))
        with pytest.raises(NotSettledError, match=r"bank: 1 events of bank.account are in the outbox: .*clashes"):
            await service.settle()


async def test_a_topic_that_is_gone_is_told_from_the_outbox() -> None:
    app, _ = bank()
    log = MemoryLog()

    async with app.test(log=log, prove=False) as service:
        await service.publish("a1", Deposited(amount=5))
        await service.settle()
        await log.delete("bank.account")
        await service.publish("a1", Deposited(amount=5))
        with pytest.raises(NotSettledError, match=r"nothing more will move:\n  bank: 1 events .*: it was deleted from the log"):
            await service.settle()


async def test_a_partition_that_stands_still_is_told_with_its_reason() -> None:
    app, _ = bank()
    log = MemoryLog()

    async with app.test(log=log, prove=False) as service:
        await service.publish_many((f"a{n}", Deposited(amount=5)) for n in range(9))
        await service.settle()
        await log.delete("bank.account")
        await log.create(TopicSpec(name="bank.account", partitions=2))
        with pytest.raises(NotSettledError, match=r"balance@1\[0\]: at offset \d of 1, halted: incarnation"):
            await service.settle()


async def test_a_damaged_replica_is_not_proven() -> None:
    class Forgets(MemoryReplica):
        async def apply(self, projection, plans, **options):  # type: ignore[no-untyped-def]
            done = await super().apply(projection, plans, **options)
            self._contents[projection.id].rows.clear()
            return done

    app, _ = bank()
    with pytest.raises(NotConvergedError, match=r"balance@1 is DIVERGED: .*\n.*'a1' at version 1 is missing: amount"):
        async with app.test(replica=Forgets()) as service:
            await service.publish("a1", Deposited(amount=5))


async def test_real_servers_are_adapters_like_any_other(kafka_url: str, postgres_url: str, topic_namespace: str) -> None:
    class Own(Deposited, entity=f"{topic_namespace}.account"):
        pass

    app, balances = bank(deposited=Own)
    log, replica = KafkaLog(KafkaSettings.from_url(kafka_url)), await open_replica(postgres_url)
    try:
        async with app.test(log=log, replica=replica, shuffle=True, duplicates=0.2, limit_s=60) as service:
            await service.publish_many((f"a{n % 5}", Own(amount=1)) for n in range(25))
            await service.settle()
            assert await service.get(balances, "a0") == Balance(5)
    finally:
        await log.close()
        await replica.close()
