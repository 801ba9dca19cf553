"""SIGKILL at every named point of a bootstrap: no projection or a whole one, and the next run clears up and fills it."""

import dataclasses
import os
from pathlib import Path

import pytest
from tests.drills.conftest import Setting, until
from tests.drills.elsewhere import BOOTSTRAPPING
from tests.projections.bank import balance

from truecopy_bus.points import Point
from truecopy_bus.sql import Database, connect
from truecopy_projections.replicas import SqlReplica
from truecopy_projections.verdicts import Verdict
from truecopy_services.cli.screen import Exit

LEASE_S = 0.5
KILLING = {"TRUECOPY_LEASE_S": str(LEASE_S), "TRUECOPY_MARK_WRITING_S": "0.1"}


@pytest.fixture(params=["a file", "postgresql"])
def replica(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of the replica that is to be filled; the peer is a SQLite file."""
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgresql" else f"sqlite:{tmp_path}/new.db"


async def states(database: Database) -> int:
    """How many partitions of the projection there are to be seen."""
    async with SqlReplica(database).snapshot() as snapshot:
        return len(await snapshot.states(balance.id))


async def live_leases(database: Database) -> int:
    async with database.snapshot() as connection:
        alive = f"until_ms > {connection.dialect.now_ms}"
        [[found]] = await connection.fetch(f"SELECT COUNT(*) FROM truecopy_leases WHERE scope LIKE 'bootstrap%' AND {alive}")
    return int(found)


@pytest.mark.timeout(180)
async def test_a_killed_bootstrap_leaves_no_projection_or_a_whole_one(
    stage: Setting, replica: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    way = request.node.callspec.params["replica"]
    async with stage(KILLING) as at:
        await at.service.store.open()
        async with at.at_work(relay=True):
            await at.journal.publish(at.service, 60)
            await at.relayed()
            async with at.at_work(projections=[balance]):
                await at.judged(balance)
        [report] = await at.service.check(balance)
        await at.service.certify(report)
        peer = at.service.replica_adapter.name
        target = await connect(replica, synchronous="NORMAL")
        words = ("bootstrap", "tests.drills.ledger", "balance", "--from", peer)
        for point in BOOTSTRAPPING:
            victim = await at.cast.verb(*words, hold=point.value, replica=replica)
            await victim.held(point)
            await victim.kill()

            if way == "a file":
                assert (tmp_path / "new.db").exists() is (point is Point.BOOTSTRAP_ADOPTED)
                continue
            assert await states(target) == (2 if point is Point.BOOTSTRAP_ADOPTED else 0)

            async def over() -> bool:
                return await live_leases(target) == 0

            await until(over)
        again = await at.cast.verb(*words, hold="", replica=replica)
        assert await again.over() == Exit.FAILED
        assert again.said("holds the projection already")

        assert {name for name in os.listdir(tmp_path) if name.startswith("new")} <= {"new.db", "new.db-shm", "new.db-wal"}
        async with target.snapshot() as connection:
            assert not await connection.fetch("SELECT name FROM truecopy_meta WHERE name LIKE 'bootstrap%'")
        filled = SqlReplica(target, service=f"{at.service.settings.topic_prefix}ledger")
        new = at._replace(service=dataclasses.replace(at.service, replica_adapter=filled, replica_database=target))
        async with new.at_work(relay=True, projections=[balance]):
            await at.journal.publish(at.service, 20)
            assert await new.proven(balance) == 0
            [report] = await new.service.check(balance, deep=True)  # while the owner marks: it waits for one
        await target.close()
        assert (report.verdict, report.delivered.facts["duplicates"]) == (Verdict.EQUAL, 0)
