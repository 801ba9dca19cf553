"""SIGKILL in the middle of a rollback of many keys: it goes on by its id, and restores each key once."""

import time
from pathlib import Path

import pytest
from tests.drills.conftest import Setting
from tests.drills.elsewhere import ROLLING_BACK
from tests.projections.bank import Deposited, balance

from truecopy_bus.points import Point
from truecopy_bus.rollbacks import Outcome, entries, keys_of
from truecopy_projections.limits import ROLLBACK_KEYS
from truecopy_services.operating.moments import shown_moment
from truecopy_services.rolling_back import find_rollback, rollback_many

KEYS = [f"k{at:04}" for at in range(2 * ROLLBACK_KEYS + 10)]


@pytest.fixture(params=["sqlite", "postgres"])
def store_address(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"TRUECOPY_STORE": str(request.getfixturevalue("postgres_url"))} if request.param == "postgres" else {}


@pytest.mark.parametrize("point", ROLLING_BACK, ids=lambda point: point.value)
async def test_a_killed_rollback_goes_on_and_restores_each_key_once(
    stage: Setting, store_address: dict[str, str], tmp_path: Path, point: Point
) -> None:
    async with stage(store_address) as at:
        store = at.service.store
        await store.open()
        async with store.transaction() as tx:
            await tx.publish_many([(key, Deposited(amount=10)) for key in KEYS])
            await tx.execute("UPDATE truecopy_events SET at_ms = at_ms - 60000")
        since = shown_moment(time.time_ns() // 1_000_000 - 30_000)
        await store.publish_many([(key, Deposited(amount=1)) for key in KEYS])

        words = ("rollback", "tests.drills.ledger", "balance", "--since", since, "--why", "a drill")
        victim = await at.cast.verb(*words, hold=f"{point.value}@{ROLLBACK_KEYS + 1}", replica=f"sqlite:{tmp_path}/other.db")
        await victim.held(point)
        await victim.kill()

        accounts = at.service.entity(balance)
        async with store.database.snapshot() as read:
            [begun] = await entries(read, "bank.account")
            before = [one for one in await keys_of(read, begun.id) if one.outcome is not Outcome.PLANNED]
        assert len(before) == ROLLBACK_KEYS * (2 if point is Point.ROLLBACK_COMMITTED else 1)
        rest = [step async for step in rollback_many(accounts, await find_rollback(accounts, begun.id))]

        assert sorted([one.key for one in before] + [one.key for one in rest]) == KEYS
        assert {one.outcome for one in (*before, *rest)} == {Outcome.RESTORED}
        states = [await accounts.at(key) for key in KEYS]
        assert {(one.version, accounts.rows(one)[0].amount) for one in states} == {(3, 10)}
