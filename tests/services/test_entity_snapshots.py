"""Snapshots of long histories: near for whoever reads the latest, never in the way, and held against the events."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from dataclasses import make_dataclass
from decimal import Decimal
from pathlib import Path

import pytest
from tests.services.test_entities import ACCOUNT, Balance, Deposited, balances, deposited, snapshots

from truecopy_projections.errors import SnapshotError
from truecopy_services import Change, Service, Truecopy


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/store.db" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def service(store: str) -> AsyncIterator[Service]:
    async with Truecopy("bank", log="memory:", replica="memory:", store=store).open() as opened:
        yield opened


async def test_who_asks_for_an_old_state_leaves_the_newest_snapshot(service: Service) -> None:
    accounts = service.entity(balances)
    await service.publish_many(deposited(*range(900)))
    await accounts.at("a1")

    old = await accounts.at("a1", version=500)

    assert accounts.rows(old)[0].amount == sum(range(500))
    assert await snapshots(service) == [900]


async def test_a_snapshot_of_more_events_than_there_are_hides_none_that_is_right(service: Service) -> None:
    accounts = service.entity(balances)
    await service.publish_many(deposited(*range(40)))
    await accounts.at("a1")
    async with service.store.transaction() as tx:
        await tx.execute("UPDATE truecopy_snapshots SET version = 99999")

    await accounts.at("a1")
    async with service.store.transaction() as tx:  # only what was kept anew can stand in for these
        await tx.execute("DELETE FROM truecopy_events WHERE version <= 30")

    assert accounts.rows(await accounts.at("a1"))[0].amount == sum(range(40))


async def test_an_owner_loads_a_long_history_in_the_middle_of_a_transaction(service: Service) -> None:
    accounts = service.entity(balances)
    await service.publish_many(deposited(*range(40)))

    async with service.store.transaction() as tx:
        await tx.publish("a2", Deposited(amount=Decimal(1)))
        # On SQLite nobody can keep a snapshot until this ends; that the test ends is what it says.
        async with asyncio.timeout(30):
            state = await accounts.at("a1")

    assert accounts.rows(state)[0].amount == sum(range(40))


async def test_the_declaration_of_a_wide_row_is_no_obstacle_to_a_snapshot(service: Service) -> None:
    names = [f"f{hashlib.sha256(str(at).encode()).hexdigest()[:24]}" for at in range(150)]
    wide = make_dataclass("Wide", [(name, int) for name in names])
    projection = Truecopy("bank").projection("wide", entity=ACCOUNT, row=wide)

    @projection.on(Deposited)
    def _widen(_row: object, _event: Deposited, change: Change) -> object:
        return wide(*[change.version] * len(names))

    await service.publish_many(deposited(*range(40)))
    await service.entity(projection).at("a1")

    assert await snapshots(service) == [40]


async def test_readers_at_once_keep_the_same_snapshots_without_a_deadlock(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "truecopy.entities")
    accounts = service.entity(balances)
    await service.publish_many(deposited(*range(1_200)))

    states = await asyncio.gather(*(accounts.at("a1") for _ in range(8)))

    assert {accounts.rows(one)[0].amount for one in states} == {Decimal(sum(range(1_200)))}
    assert await snapshots(service) == [999, 1_200]
    assert [one.getMessage() for one in caplog.records if "deadlock" in one.getMessage()] == []
    assert await accounts.verify("a1") == 1_200


async def test_an_old_snapshot_of_a_reducer_that_changed_is_found_beside_a_right_new_one(service: Service) -> None:
    last = Truecopy("bank").projection("last", entity=ACCOUNT, row=Balance)
    added = [0]

    @last.on(Deposited)
    def _replace(_: Balance | None, event: Deposited, change: Change) -> Balance:
        return Balance(change.key, event.amount + (added[0] if change.version < 1_000 else 0), change.version)

    accounts = service.entity(last)
    await service.publish_many(deposited(*range(1_200)))
    await accounts.at("a1")
    added[0] = 7

    with pytest.raises(SnapshotError, match=r"version 999 to 999: amount .*998.* -> .*1005"):
        await accounts.verify("a1")
    assert await snapshots(service) == []
