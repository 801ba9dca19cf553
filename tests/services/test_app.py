"""The SDK: from nothing to a checked replica, reads at a token, and failures that surface."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from truecopy_services import (
    Change,
    Event,
    NotReachedError,
    Projection,
    Service,
    Settings,
    Token,
    Truecopy,
    UnavailableError,
    UnknownProjectionError,
    Verdict,
    VersionConflictError,
)
from truecopy_services.errors import DeclarationError, SettingError, UsageError


class Deposited(Event, entity="bank.account", kind="delta"):
    amount: int


@dataclass
class Balance:
    amount: int


@dataclass
class Entry:
    number: int
    amount: int


def bank(settings: Settings | None = None) -> tuple[Truecopy, Projection[Balance], Projection[Entry]]:
    """An app with one row per key, and one with a row per event."""
    app = Truecopy("bank", partitions=2, settings=settings)
    balances = app.projection("balance", entity="bank.account", row=Balance)
    entries = app.projection("entries", entity="bank.account", row=Entry, key="number")

    @balances.on(Deposited)
    def deposit(row: Balance | None, event: Deposited, _: Change) -> Balance:
        if event.amount < 0:
            raise ValueError("negative")
        return Balance((row.amount if row else 0) + event.amount)

    @entries.on(Deposited, touches=lambda _, change: [change.version])
    def enter(_: Entry | None, event: Deposited, change: Change) -> Entry:
        return Entry(change.version, event.amount)

    return app, balances, entries


@pytest.fixture
def in_memory() -> Settings:
    return Settings(log="memory:", mark_writing_s=0.05, read_wait_s=0.05, lease_s=1.0)


@pytest.fixture
def in_files(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", mark_writing_s=0.05, read_wait_s=0.05, lease_s=1.0)


@pytest.fixture(autouse=True)
def _no_settings_of_the_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("LOG", "STORE", "REPLICA", "NAMESPACE", "APP"):
        monkeypatch.delenv(f"TRUECOPY_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


async def test_from_nothing_to_a_checked_replica(in_memory: Settings) -> None:
    app, balances, entries = bank(in_memory)

    async with app.running() as service:
        await service.publish("a1", Deposited(amount=5))
        token = await service.publish("a1", Deposited(amount=7))
        assert await service.replica(balances).get("a1", at_least=token) == Balance(12)
        assert await service.replica(entries).rows("a1", at_least=str(token)) == [Entry(1, 5), Entry(2, 7)]
        assert await service.replica(entries).get("a1", 2) == Entry(2, 7)
        reports = await service.check()

    assert [report.verdict for report in reports] == [Verdict.EQUAL, Verdict.EQUAL]


async def test_files_are_the_default_and_outlive_the_process(in_files: Settings) -> None:
    app, balances, _ = bank(in_files)
    async with app.running() as service:
        token = await service.publish("a1", Deposited(amount=5))
        await service.replica(balances).get("a1", at_least=token)

    async with app.open() as service:
        assert await service.get(balances, "a1", at_least=token) == Balance(5)
        with pytest.raises(VersionConflictError):
            await service.publish("a1", Deposited(amount=5), expected_version=0)

    assert sorted(path.name for path in in_files.home.glob("*.db")) == ["bank.replica.db", "bank.store.db", "log.db"]


async def test_publishing_is_part_of_the_owners_transaction(in_files: Settings) -> None:
    app, _, _ = bank(in_files)

    async def fails_after_publishing(service: Service) -> None:
        async with service.store.transaction() as tx:
            await tx.publish("a1", Deposited(amount=5))
            raise ZeroDivisionError

    async with app.open() as service:
        with pytest.raises(ZeroDivisionError):
            await fails_after_publishing(service)
        assert await service.store.version("bank.account", "a1") == 0


async def test_a_read_waits_for_its_token(in_memory: Settings) -> None:
    app, balances, _ = bank(in_memory)

    async with app.running() as service:
        await service.publish("a1", Deposited(amount=1))
        reading = asyncio.create_task(service.replica(balances).get("a1", at_least=Token("bank.account", "a1", 2), wait_s=10))
        await service.publish("a1", Deposited(amount=1))
        assert await reading == Balance(2)


async def test_a_token_that_is_not_reached_is_an_error_and_never_an_older_row(in_memory: Settings) -> None:
    app, balances, _ = bank(in_memory)

    async with app.running() as service:
        token = await service.publish("a1", Deposited(amount=1))
        await service.replica(balances).get("a1", at_least=token)
        with pytest.raises(NotReachedError) as raised:
            await service.replica(balances).get("a1", at_least=Token("bank.account", "a1", 9), wait_s=0.05)

    assert (raised.value.key, raised.value.wanted, raised.value.seen) == ("a1", 9, 1)


async def test_a_parked_key_is_named_at_once(in_memory: Settings) -> None:
    app, balances, _ = bank(in_memory)

    async with app.running() as service:
        token = await service.publish("a1", Deposited(amount=-1))
        with pytest.raises(NotReachedError, match="parked"):
            await service.replica(balances).get("a1", at_least=token, wait_s=60)


async def test_a_replica_without_the_projection_is_no_empty_answer(in_files: Settings) -> None:
    app, balances, _ = bank(in_files)

    async with app.open() as service:
        with pytest.raises(UnknownProjectionError):
            await service.replica(balances).get("a1", wait_s=0)


async def test_a_worker_that_fails_for_good_ends_the_block_with_its_error(in_files: Settings) -> None:
    """Here the projection was declared otherwise before."""
    app, balances, _ = bank(in_files)
    async with app.running() as service:
        token = await service.publish("a1", Deposited(amount=5))
        await service.replica(balances).get("a1", at_least=token)
    changed = Truecopy("bank", settings=in_files)
    changed.projection("balance", entity="bank.account", row=Entry)

    with pytest.raises(Exception, match="number") as raised:
        async with changed.running():
            await asyncio.Event().wait()

    assert not isinstance(raised.value, BaseExceptionGroup)


async def test_a_store_that_is_away_is_told_in_time() -> None:
    app, _, _ = bank(Settings(store="postgresql://u:hidden@127.0.0.1:1/x", timeout_s=2))

    with pytest.raises(UnavailableError) as raised:
        async with app.open():
            pass

    assert "hidden" not in str(raised.value)


def test_settings_come_from_arguments_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUECOPY_LOG", "kafka://broker:9092")
    monkeypatch.setenv("TRUECOPY_STORE", "postgresql://u:hidden@db/x")

    assert Truecopy("bank").settings().log_of() == "kafka://broker:9092"
    assert Truecopy("bank", log="memory:").settings().log_of() == "memory:"
    assert "hidden" not in repr(Truecopy("bank").settings())


def test_a_memory_log_brings_memory_for_the_rest() -> None:
    settings = Truecopy("bank", log="memory:").settings()

    assert (settings.store_of("bank"), settings.replica_of("bank")) == ("sqlite::memory:", "memory:")


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUECOPY_MARK_EVENTS", "few")

    with pytest.raises(SettingError, match="TRUECOPY_MARK_EVENTS"):
        Truecopy("bank").settings()


def test_declarations_are_checked() -> None:
    app, balances, _ = bank()

    with pytest.raises(DeclarationError):
        app.add(balances)
    with pytest.raises(DeclarationError):
        Truecopy("No Service")
    with pytest.raises(UsageError):
        app.find("nothing")
    assert app.find("balance") is app.find("balance@1") is balances
