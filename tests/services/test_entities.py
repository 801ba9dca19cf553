"""Entities at their owner: history, any earlier state, diffs, snapshots, and the way back, of one key and of many."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from truecopy_bus.rollbacks import Outcome, Rolled, keys_of
from truecopy_projections.errors import (
    ProjectionError,
    RollbackConflictError,
    RollbackRefusedError,
    SnapshotError,
    StateUnknownError,
    UnknownVersionError,
)
from truecopy_projections.limits import ROLLBACK_KEYS, SNAPSHOT_EVENTS
from truecopy_services import Change, Event, Service, Truecopy
from truecopy_services.entities import Entity
from truecopy_services.errors import UsageError
from truecopy_services.rolling_back import Step, find_rollback, open_rollback, rollback_many

ACCOUNT, CUSTOMER = "bank.account", "shop.customer"


Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]


class Deposited(Event, entity=ACCOUNT, kind="delta"):
    amount: Money


class Closed(Event, entity=ACCOUNT, deletes=True):
    pass


class Renamed(Event, entity=CUSTOMER, kind="state"):
    name: str


class Left(Event, entity=CUSTOMER, deletes=True):
    pass


@dataclass
class Balance:
    account: str
    amount: Money
    changes: int


@dataclass
class Entry:
    number: int
    amount: Money


@dataclass
class Customer:
    name: str


app = Truecopy("bank")
balances = app.projection("balance", entity=ACCOUNT, row=Balance)
entries = app.projection("entry", entity=ACCOUNT, row=Entry, key="number")


@balances.on(Deposited)
def _deposit(row: Balance | None, event: Deposited, change: Change) -> Balance:
    return Balance(change.key, (row.amount if row else Decimal(0)) + event.amount, change.version)


@balances.restores(leaving=["changes"])
def _undo(now: Balance | None, then: Balance | None, _: Change) -> Event:
    if then is None:
        return Closed()
    return Deposited(amount=then.amount - (now.amount if now else 0))


@entries.on(Deposited, touches=lambda _, change: [change.version])
def _enter(_: Entry | None, event: Deposited, change: Change) -> Entry:
    return Entry(change.version, event.amount)


def deposited(*amounts: int) -> list[tuple[str, Event]]:
    return [("a1", Deposited(amount=Decimal(one))) for one in amounts]


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/store.db" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def service(store: str) -> AsyncIterator[Service]:
    bank = Truecopy("bank", log="memory:", replica="memory:", store=store)
    async with bank.open() as opened:
        yield opened


@pytest.fixture
async def near(tmp_path: Path) -> AsyncIterator[Service]:
    """On files only, for what does not depend on the database."""
    async with Truecopy("bank", log="memory:", replica="memory:", store=f"sqlite:{tmp_path}/store.db").open() as opened:
        yield opened


async def balance(entity: Entity, key: str = "a1") -> Decimal | None:
    rows = entity.rows(await entity.at(key))
    return rows[0].amount if rows else None


async def test_a_history_tells_each_version(service: Service) -> None:
    await service.publish_many([*deposited(5, 7), ("a1", Closed()), *deposited(1)])
    accounts = service.entity(balances)

    told = await accounts.history("a1")

    assert [(one.version, one.type.rpartition(".")[2], one.deletes) for one in told] == [
        (1, "Deposited", False),
        (2, "Deposited", False),
        (3, "Closed", True),
        (4, "Deposited", False),
    ]
    assert told[1].fields == {"amount": Decimal(7)}
    assert [one.version for one in await accounts.history("a1", limit=2, newest=True)] == [3, 4]
    assert [one.version for one in await accounts.history("a1", after=1, limit=1)] == [2]


async def test_a_state_is_what_the_reducer_makes_of_so_many_events(service: Service) -> None:
    await service.publish_many([*deposited(5, 7), ("a1", Closed()), *deposited(1)])
    accounts = service.entity(balances)

    states = [accounts.rows(await accounts.at("a1", version=version)) for version in range(5)]

    amounts = [[row.amount for row in rows] for rows in states]
    assert amounts == [[], [5], [12], [], [1]]
    assert len((await service.entity(entries).at("a1", version=2)).rows) == 2


async def test_a_state_event_is_its_keys_state_without_a_declaration(service: Service) -> None:
    await service.publish_many([("c1", Renamed(name="Ada")), ("c1", Renamed(name="Eve")), ("c1", Left())])
    customers = service.entity(CUSTOMER, deletes=Left)

    [row] = customers.rows(await customers.at("c1", version=1))
    assert row["name"] == "Ada"
    assert customers.rows(await customers.at("c1")) == []
    assert "'Ada' -> 'Eve'" in str(await customers.diff("c1", 1, 2))


async def test_a_delta_event_is_no_state_without_a_declaration(near: Service) -> None:
    await near.publish_many(deposited(5))
    with pytest.raises(StateUnknownError, match="of kind delta"):
        await near.entity(ACCOUNT).at("a1")


async def test_a_state_at_a_time_is_that_before_the_first_later_event(service: Service) -> None:
    await service.publish_many(deposited(5))
    first = (await service.entity(balances).history("a1"))[0].at_ms
    accounts = service.entity(balances)
    # The clocks of those who write may go back: what came after a later event is later.
    async with service.store.transaction() as tx:
        await tx.publish_many(deposited(7, 9))
        await tx.execute("UPDATE truecopy_events SET at_ms = $1 WHERE version = 1", first - 60_000)
        await tx.execute("UPDATE truecopy_events SET at_ms = $1 WHERE version = 2", first - 10_000)
        await tx.execute("UPDATE truecopy_events SET at_ms = $1 WHERE version = 3", first - 50_000)

    def ago(ms: int) -> datetime:
        return datetime.fromtimestamp((first - ms) / 1000, UTC)

    found = [(await accounts.at("a1", time=ago(ms))).version for ms in (70_000, 60_000, 20_000, 10_000)]
    assert found == [0, 1, 1, 3]


@pytest.mark.parametrize(
    ("time", "told"),
    [(datetime.now(UTC) + timedelta(days=1), "still to come"), (datetime(2026, 1, 1), "no time zone")],
)
async def test_a_time_to_come_or_without_zone_is_refused(near: Service, time: datetime, told: str) -> None:
    await near.publish_many(deposited(5))
    with pytest.raises(UsageError, match=told):
        await near.entity(balances).at("a1", time=time)


@pytest.mark.parametrize("version", [-1, 3])
async def test_an_unknown_version_is_named_with_those_that_are(near: Service, version: int) -> None:
    await near.publish_many(deposited(5, 7))
    with pytest.raises(UnknownVersionError, match="its versions are 1 to 2"):
        await near.entity(balances).at("a1", version=version)
    with pytest.raises(UnknownVersionError, match="nothing was ever published under it"):
        await near.entity(balances).at("nobody")


async def snapshots(service: Service) -> list[int]:
    async with service.store.database.snapshot() as read:
        return [int(version) for (version,) in await read.fetch("SELECT version FROM truecopy_snapshots ORDER BY version")]


async def test_a_long_history_is_folded_from_its_snapshot_and_comes_to_the_same(service: Service) -> None:
    accounts = service.entity(balances)
    await service.publish_many(deposited(*range(2_500)))
    before = await accounts.at("a1")
    assert await snapshots(service) == [999, 1999, 2500]

    await service.publish_many(deposited(*range(SNAPSHOT_EVENTS - 1)))
    near_by = await accounts.at("a1")
    assert await snapshots(service) == [999, 1999, 2500]
    await service.publish_many(deposited(1))
    after = await accounts.at("a1")
    assert await snapshots(service) == [999, 1999, 2_500 + SNAPSHOT_EVENTS]  # of each stride the last

    assert await accounts.verify("a1") == after.version == 2_500 + SNAPSHOT_EVENTS
    assert accounts.rows(before)[0].amount == sum(range(2_500))
    assert accounts.rows(near_by)[0].amount == sum(range(2_500)) + sum(range(SNAPSHOT_EVENTS - 1))
    assert accounts.rows(await accounts.at("a1", version=1_500))[0].amount == sum(range(1_500))


async def test_a_snapshot_spares_the_events_before_it(service: Service) -> None:
    accounts = service.entity(balances)
    await service.publish_many(deposited(*range(40)))
    await accounts.at("a1")
    async with service.store.transaction() as tx:  # the events before it are not even read
        await tx.execute("DELETE FROM truecopy_events WHERE version <= 30")

    assert await balance(accounts) == sum(range(40))
    with pytest.raises(StateUnknownError, match="has a hole"):
        await accounts.at("a1", version=35)


@pytest.mark.parametrize(
    "harm",
    [
        "rows = '[]'",
        "version = 39",
        "fold = 'x'",
    ],
)
async def test_an_altered_snapshot_is_as_good_as_none(service: Service, harm: str) -> None:
    accounts = service.entity(balances)
    await service.publish_many(deposited(*range(40)))
    await accounts.at("a1")
    async with service.store.transaction() as tx:
        await tx.execute(f"UPDATE truecopy_snapshots SET {harm}")

    assert await balance(accounts) == sum(range(40))
    assert await accounts.verify("a1") == 40


async def test_a_reducer_that_changed_under_its_number_is_found_out(near: Service) -> None:
    bank = Truecopy("bank")
    sums = bank.projection("sums", entity=ACCOUNT, row=Balance)
    factor = [1]

    @sums.on(Deposited)
    def _add(row: Balance | None, event: Deposited, change: Change) -> Balance:
        return Balance(change.key, (row.amount if row else Decimal(0)) + event.amount * factor[0], change.version)

    accounts = near.entity(sums)
    await near.publish_many(deposited(*range(40)))
    await accounts.at("a1")
    factor[0] = 2

    with pytest.raises(SnapshotError, match="amount Decimal"):
        await accounts.verify("a1")
    assert await balance(accounts) == 2 * sum(range(40))


async def test_a_rollback_is_a_new_event_that_restores(service: Service) -> None:
    accounts = service.entity(balances)
    await service.publish_many(deposited(5, 7, 9))

    done = await accounts.rollback("a1", to=1, expected_version=3, why="booked twice")

    assert [token.version for token in done.tokens] == [4]
    assert await balance(accounts) == 5
    assert [one.fields for one in await accounts.history("a1")][3] == {"amount": Decimal(-16)}
    again = await accounts.rollback("a1", to=3)
    assert (await balance(accounts), again.was) == (21, 4)
    assert (await accounts.rollback("a1", to=3)).tokens == ()
    assert (await accounts.rollback("a1", to=0)).tokens[0].version == 6
    assert await balance(accounts) is None


async def test_a_state_event_is_stated_again(service: Service) -> None:
    customers = service.entity(CUSTOMER, deletes=Left)
    await service.publish_many([("c1", Renamed(name="Ada")), ("c1", Left()), ("c1", Renamed(name="Eve"))])

    await customers.rollback("c1", to=1)
    await customers.rollback("c1", to=2)
    await customers.rollback("c1", to=3)
    await customers.rollback("c1", to=0)

    told = [(one.type.rpartition(".")[2], one.fields) for one in await customers.history("c1")]
    assert told[3:] == [("Renamed", {"name": "Ada"}), ("Left", {}), ("Renamed", {"name": "Eve"}), ("Left", {})]


async def test_a_conflict_with_newer_changes_tells_both_and_overwrites_neither(service: Service) -> None:
    accounts = service.entity(balances)
    await service.publish_many(deposited(5, 7, 100))

    with pytest.raises(RollbackConflictError) as caught:
        await accounts.rollback("a1", to=1, expected_version=2)

    assert "expected version 2, it is at 3" in str(caught.value)
    assert "amount Decimal('12') -> Decimal('5')" in str(caught.value.undone).replace(".00", "")
    assert "amount Decimal('12') -> Decimal('112')" in str(caught.value.newer).replace(".00", "")
    assert (await balance(accounts), await service.store.version(ACCOUNT, "a1")) == (112, 3)


async def test_many_who_roll_back_at_once_restore_one_after_the_other(service: Service) -> None:
    accounts = service.entity(balances)
    await service.publish_many(deposited(5, 7))

    done = await asyncio.gather(*(accounts.rollback("a1", to=1, expected_version=2) for _ in range(4)), return_exceptions=True)

    assert sorted(type(one).__name__ for one in done) == ["Rollback", *["RollbackConflictError"] * 3]
    assert (await balance(accounts), await service.store.version(ACCOUNT, "a1")) == (5, 3)


async def test_what_does_not_restore_is_refused_before_anything_is_published(near: Service) -> None:
    bank = Truecopy("bank")
    wrong = bank.projection("wrong", entity=ACCOUNT, row=Balance)
    wrong.on(Deposited)(_deposit)
    await near.publish_many([*deposited(5, 7), ("c", Renamed(name="x"))])

    with pytest.raises(RollbackRefusedError, match="made by a delta event"):
        await near.entity(wrong).rollback("a1", to=1)
    wrong.restores()(lambda _now, _then, _change: Deposited(amount=Decimal(1)))
    with pytest.raises(RollbackRefusedError, match="leave version 3 to 1: amount"):
        await near.entity(wrong).rollback("a1", to=1)
    with pytest.raises(RollbackRefusedError, match="no event class is known that ends a key"):
        await near.entity(CUSTOMER).rollback("c", to=0)
    assert await near.store.version(ACCOUNT, "a1") == 2
    with pytest.raises(ProjectionError, match="which its rows do not have"):
        wrong.restores(leaving=["nothing"])(_undo)


async def test_a_dry_run_publishes_nothing(near: Service) -> None:
    await near.publish_many(deposited(5, 7))
    done = await near.entity(balances).rollback("a1", to=1, dry_run=True)

    assert (str(done.delta), done.tokens) != ("", (1,))
    assert await near.store.version(ACCOUNT, "a1") == 2


@asynccontextmanager
async def history_of(service: Service, keys: Iterable[str]) -> AsyncIterator[int]:
    """Each key has 10, and since the time that this gives 1 more."""
    await service.publish_many([(key, Deposited(amount=Decimal(10))) for key in keys])
    async with service.store.transaction() as tx:
        await tx.execute("UPDATE truecopy_events SET at_ms = at_ms - 60000")
    yield (await service.entity(balances).history(next(iter(keys))))[0].at_ms + 30_000


KEYS = [f"k{at:03}" for at in range(ROLLBACK_KEYS + 50)]


async def steps(entity: Entity, id: str | None, since_ms: int, conditions: Iterable[str] = ()) -> list[Step]:
    rollback = None if id is None else await find_rollback(entity, id)
    return [step async for step in rollback_many(entity, rollback, since_ms=since_ms, conditions=list(conditions))]


async def test_many_keys_go_back_to_what_they_were_at_a_time(service: Service) -> None:
    accounts = service.entity(balances)
    async with history_of(service, KEYS) as since_ms:
        await service.publish_many([(key, Deposited(amount=Decimal(1 + at % 2))) for at, key in enumerate(KEYS[:-10])])
        await service.publish_many([("new", Deposited(amount=Decimal(1)))])

        planned = await steps(accounts, None, since_ms, ["amount>11"])
        assert await service.store.version(ACCOUNT, KEYS[1]) == 2
        rollback = await open_rollback(accounts, since_ms=since_ms, conditions=["amount>11"], why="wrong prices")
        done = await steps(accounts, rollback.id, 0)

    assert [(one.key, one.outcome, one.to) for one in planned] == [(one.key, one.outcome, one.to) for one in done]
    assert {one.key for one in done if one.outcome is Outcome.RESTORED} == set(KEYS[1:-10:2])
    assert {one.key for one in done if one.outcome is Outcome.LEFT} == {*KEYS[0:-10:2], "new"}
    assert [await balance(accounts, key) for key in (KEYS[0], KEYS[1], KEYS[-1], "new")] == [11, 10, 10, 1]
    async with service.store.database.snapshot() as read:
        journal = await keys_of(read, rollback.id)
    assert Rolled(key=KEYS[1], outcome=Outcome.RESTORED, was=2, to=1, now=3) in journal
    assert (await find_rollback(accounts, rollback.id)).ended_ms is not None


@pytest.mark.parametrize("clock_moved_ms", [5_000, 0, -5_000])
async def test_what_changed_after_a_rollback_was_planned_is_a_conflict_whatever_the_clock_says(
    service: Service, clock_moved_ms: int
) -> None:
    accounts = service.entity(balances)
    async with history_of(service, ["a", "b", "c"]) as since_ms:
        await service.publish_many([(key, Deposited(amount=Decimal(1))) for key in ("a", "b")])
        rollback = await open_rollback(accounts, since_ms=since_ms)
        async with service.store.transaction() as tx:
            await tx.publish_many([(key, Deposited(amount=Decimal(100))) for key in ("b", "c")])
            await tx.execute("UPDATE truecopy_events SET at_ms = at_ms + $1 WHERE key = 'b' AND version = 3", clock_moved_ms)
        one, other = await steps(accounts, rollback.id, 0)

    assert [(one.key, one.outcome), (other.key, other.outcome)] == [("a", Outcome.RESTORED), ("b", Outcome.CONFLICT)]
    told = re.sub(r"Decimal\('(\d+)(\.00)?'\)", r"\1", other.why)
    assert "would have changed: version 2 to 1: amount 11 -> 10" in told
    assert "Changed meanwhile: version 2 to 3: amount 11 -> 111" in told
    assert [await balance(accounts, key) for key in ("a", "b", "c")] == [10, 111, 110]


async def test_a_rollback_that_was_interrupted_goes_on_and_restores_no_key_twice(service: Service) -> None:
    accounts = service.entity(balances)
    async with history_of(service, KEYS) as since_ms:
        await service.publish_many([(key, Deposited(amount=Decimal(1))) for key in KEYS])
        rollback = await open_rollback(accounts, since_ms=since_ms)
        begun = rollback_many(accounts, rollback)
        first = await anext(begun)
        await begun.aclose()
        both = await asyncio.gather(steps(accounts, rollback.id, 0), steps(accounts, rollback.id, 0))

    told = [one.key for some in both for one in some]
    assert sorted(told) == KEYS[ROLLBACK_KEYS:]
    assert first.key == KEYS[0]
    assert {await service.store.version(ACCOUNT, key) for key in KEYS} == {3}
    assert await steps(accounts, rollback.id, 0) == []


async def test_named_keys_go_back_to_named_versions_and_one_that_can_not_holds_up_none(service: Service) -> None:
    accounts = service.entity(balances)
    await service.publish_many([(key, Deposited(amount=Decimal(at))) for at in (1, 2, 3) for key in ("a", "b", "c", "d", "e")])
    wanted = {"a": 1, "b": 0, "c": 3, "d": 9, "e": 1, "nobody": 1}
    planned = [(one.key, one.outcome) async for one in rollback_many(accounts, to=wanted)]
    rollback = await open_rollback(accounts, to=wanted)
    await service.publish("e", Deposited(amount=Decimal(100)))

    done = [step async for step in rollback_many(accounts, rollback)]

    assert [(one.key, one.outcome) for one in done] == [
        ("a", Outcome.RESTORED),
        ("b", Outcome.RESTORED),
        ("c", Outcome.SAME),
        ("d", Outcome.REFUSED),
        ("e", Outcome.CONFLICT),
        ("nobody", Outcome.REFUSED),
    ]
    assert planned == [(one.key, Outcome.RESTORED if one.key == "e" else one.outcome) for one in done]
    assert [await balance(accounts, key) for key in "abcde"] == [1, None, 6, 6, 106]


async def test_a_key_that_differs_in_nothing_that_comes_back_is_the_same(near: Service) -> None:
    accounts = near.entity(balances)
    await near.publish_many(deposited(5, 7, -7))  # the amount is back; how often it changed is not

    [would] = [step async for step in rollback_many(accounts, to={"a1": 1})]
    [done] = [step async for step in rollback_many(accounts, await open_rollback(accounts, to={"a1": 1}))]

    assert (would.outcome, done.outcome, done.now) == (Outcome.SAME, Outcome.SAME, 3)
    assert (await accounts.rollback("a1", to=1)).tokens == ()
    assert await near.store.version(ACCOUNT, "a1") == 3


async def test_wrong_questions_of_many_keys_are_refused_by_name(near: Service) -> None:
    accounts = near.entity(balances)
    await near.publish_many(deposited(5))
    open_one = await open_rollback(accounts, to={"a1": 1})

    for id in ("nothing", ""):
        with pytest.raises(UsageError, match=f"those that did not end: {open_one.id}"):
            await find_rollback(accounts, id)
    with pytest.raises(UsageError, match="or of what was published since"):
        await anext(rollback_many(accounts, None))
    with pytest.raises(UsageError, match="or of what was published since"):
        await open_rollback(accounts, since_ms=1, to={"a1": 1})


async def test_replicas_follow_a_rollback_and_are_proven_equal(tmp_path: Path) -> None:
    shop = Truecopy("shop", log="memory:", replica="memory:", store=f"sqlite:{tmp_path}/store.db")
    shop.add(balances)
    names = shop.projection("customer", entity=CUSTOMER, row=Customer)
    names.copies(Renamed)
    async with shop.running() as service:
        await service.publish_many([*deposited(5, 7), ("c1", Renamed(name="Ada")), ("c1", Left()), ("c1", Renamed(name="Eve"))])
        by_state = await service.entity(CUSTOMER, deletes=Left).rollback("c1", to=1)
        by_delta = await service.entity(balances).rollback("a1", to=1)

        assert await service.get(names, "c1", at_least=by_state.tokens[-1]) == Customer("Ada")
        assert await service.get(balances, "a1", at_least=by_delta.tokens[-1]) == Balance("a1", Decimal(5), 3)
        assert {report.verdict.name for report in await service.check(deep=True)} == {"EQUAL"}
