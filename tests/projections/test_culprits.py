"""Which keys are to blame when a database refuses a batch: by constraints that its user has put on the projection's table."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from truecopy_bus.errors import DataRefusedError
from truecopy_bus.sql.address import connect
from truecopy_projections.replica import Replica
from truecopy_projections.replicas import SqlReplica
from truecopy_projections.state import PartitionPlan, Wanted
from truecopy_projections.testing.replica_plans import LINES, line, moved_on, rows_of, taken

Opened = tuple[Replica, Callable[..., Awaitable[None]]]

TABLE = LINES.table
REFUSE_NEGATIVE_SQLITE = f"""
    CREATE TRIGGER no_debts BEFORE INSERT ON {TABLE} WHEN new.amount < 0
    BEGIN SELECT RAISE(ABORT, 'no debts here'); END
"""
REFUSE_NEGATIVE_POSTGRES = f"ALTER TABLE {TABLE} ADD CONSTRAINT no_debts CHECK (amount >= 0)"
UNIQUE_AMOUNT = f"CREATE UNIQUE INDEX one_amount ON {TABLE} (amount)"
UNIQUE_AMOUNT_DEFERRED = f"ALTER TABLE {TABLE} ADD CONSTRAINT one_amount UNIQUE (amount) DEFERRABLE INITIALLY DEFERRED"
REFERENCE_SQLITE = f"""
    CREATE TRIGGER referenced BEFORE DELETE ON {TABLE} WHEN old.amount = 7
    BEGIN SELECT RAISE(ABORT, 'still referenced'); END
"""
REFERENCE_POSTGRES = f"""
    CREATE TABLE referring (bucket bigint, key text, shop text, number bigint,
                            FOREIGN KEY (bucket, key, shop, number) REFERENCES {TABLE} (_bucket, _key, shop, number));
    INSERT INTO referring SELECT _bucket, _key, shop, number FROM {TABLE} WHERE amount = 7
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    found: str = request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite:{tmp_path}/replica.db"
    return found


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Opened]:
    """A replica, and a way for its user to change the table, in the words of either database."""
    database = await connect(url)

    async def constrain(*, sqlite: str, postgres: str) -> None:
        await database.install((), (sqlite if url.startswith("sqlite:") else postgres,))

    yield SqlReplica(database), constrain
    await database.close()


async def plan_of(replica: Replica, rows: dict[str, Any], **changes: Any) -> PartitionPlan:
    fences, states = await taken(replica, LINES)
    return moved_on(fences[0], states[0], puts=rows_of(LINES, rows), **changes)


async def test_rows_that_a_constraint_refuses_are_found_among_thousands(opened: Opened) -> None:
    replica, constrain = opened
    bad = {"key-0", "key-777", "key-778", "key-2999"}
    rows = {key: [line(amount=-1 if key in bad else 1)] for key in (f"key-{at}" for at in range(3_000))}
    plan = await plan_of(replica, rows)
    await constrain(sqlite=REFUSE_NEGATIVE_SQLITE, postgres=REFUSE_NEGATIVE_POSTGRES)

    with pytest.raises(DataRefusedError, match=r"no[ _]debts"):
        await replica.apply(LINES, [plan])
    found = await replica.culprits(LINES, [plan])

    assert set(found) == bad
    assert all("no debts" in reason.replace("_", " ") for reason in found.values())
    good = {at: row for at, row in plan.puts.items() if at[0] not in bad}
    assert await replica.apply(LINES, [moved_on(plan.fence, plan.was, puts=good)]) == {0}


async def test_a_key_is_blamed_once_for_many_rows_and_all_of_them_are_left_out(opened: Opened) -> None:
    replica, constrain = opened
    plan = await plan_of(replica, {"k": [line("s", n, -n) for n in range(9)], "l": [line()]})
    await constrain(sqlite=REFUSE_NEGATIVE_SQLITE, postgres=REFUSE_NEGATIVE_POSTGRES)

    assert set(await replica.culprits(LINES, [plan])) == {"k"}


@pytest.mark.parametrize("postgres", [UNIQUE_AMOUNT, UNIQUE_AMOUNT_DEFERRED], ids=["at once", "deferred to the commit"])
async def test_of_two_keys_that_clash_with_each_other_one_is_blamed(opened: Opened, postgres: str) -> None:
    replica, constrain = opened
    rows = {f"key-{at}": [line(amount=at)] for at in range(10)}
    plan = await plan_of(replica, rows | {"key-0": [line(amount=9)]})
    await constrain(sqlite=UNIQUE_AMOUNT, postgres=postgres)

    with pytest.raises(DataRefusedError):
        await replica.apply(LINES, [plan])
    found = await replica.culprits(LINES, [plan])

    assert set(found) == {"key-9"}
    good = {at: row for at, row in plan.puts.items() if at[0] not in found}
    assert await replica.apply(LINES, [moved_on(plan.fence, plan.was, puts=good)]) == {0}


async def test_a_value_that_one_key_frees_may_be_taken_by_another(opened: Opened) -> None:
    replica, constrain = opened
    first = await plan_of(replica, {"old": [line(amount=1)]})
    await constrain(sqlite=UNIQUE_AMOUNT, postgres=UNIQUE_AMOUNT)
    await replica.apply(LINES, [first])
    rows = rows_of(LINES, {"new": [line(amount=1)], "other": [line(amount=2)]})

    plan = moved_on(first.fence, first.state, puts=rows, drops=frozenset({("old", ("s", 1))}))

    assert await replica.culprits(LINES, [plan]) == {}
    assert await replica.apply(LINES, [plan]) == {0}


async def test_a_row_that_may_not_be_dropped_is_blamed_on_its_key(opened: Opened) -> None:
    replica, constrain = opened
    first = await plan_of(replica, {f"key-{at}": [line(amount=at)] for at in range(10)})
    await replica.apply(LINES, [first])
    await constrain(sqlite=REFERENCE_SQLITE, postgres=REFERENCE_POSTGRES)
    drops = frozenset(first.puts)

    found = await replica.culprits(LINES, [moved_on(first.fence, first.state, drops=drops)])

    assert set(found) == {"key-7"}
    assert (await replica.load(LINES, Wanted(rows=drops))).rows == first.puts
