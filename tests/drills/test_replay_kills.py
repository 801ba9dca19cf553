"""SIGKILL at every named point of a replay: what is live is as it was, and the same command goes on and proves itself."""

from pathlib import Path

import pytest
from tests.drills.elsewhere import REPLAYING
from tests.drills.processes import Cast
from tests.services.numbers import both, first
from tests.services.test_versions import begun

from truecopy_bus.points import Point
from truecopy_bus.sql import connect
from truecopy_projections.replicas import SqlReplica
from truecopy_services import Settings
from truecopy_services.cli.screen import Exit

EVENTS = 12


@pytest.fixture(params=["a file", "postgresql"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgresql" else f"sqlite:{tmp_path}/box.db"


@pytest.mark.timeout(180)
async def test_a_killed_replay_goes_on_where_it_was_and_applies_nothing_twice(box: str, tmp_path: Path) -> None:
    replica = f"sqlite:{tmp_path}/r.db"
    settings = Settings(home=tmp_path, replica=replica, mark_writing_s=0.05, read_wait_s=0.05, lease_s=0.5)
    cast = Cast({"TRUECOPY_HOME": str(tmp_path), "TRUECOPY_LEASE_S": "0.5", "TRUECOPY_BATCH_RECORDS": "4"})
    await begun(settings)
    words = ("replay", "tests.services.numbers:both", "tally@1", "--into", box)
    try:
        for point in (*REPLAYING, Point.WORKER_WRITING):
            victim = await cast.verb(*words, hold=point.value, replica=replica)
            await victim.held(point)
            await victim.kill()
        again = await cast.verb(*words, "--diff", hold="", replica=replica)
        assert await again.over() == Exit.GOOD, again.heard
    finally:
        await cast.leave()
    sandbox = SqlReplica(await connect(box))
    async with both.at(settings).open(store=False) as service:
        states = []
        for replica_of in (service.replica_adapter, sandbox):
            async with replica_of.snapshot() as snapshot:
                states.append((await snapshot.states(first.id)).values())
    await sandbox.close()
    assert [sum(state.count for state in each) for each in states] == [EVENTS, EVENTS]
    live, made = ([(state.input_digest, state.row_digest, state.duplicates) for state in each] for each in states)
    assert live == made
