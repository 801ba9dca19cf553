"""SIGKILL at every named point of a rebuild and of a swap: one number is live, and the next run goes on."""

from pathlib import Path

import pytest
from tests.drills.elsewhere import VERSIONING
from tests.drills.processes import Cast
from tests.services.numbers import both, second
from tests.services.test_versions import begun, stages, view

from truecopy_bus.points import Point
from truecopy_projections.stages import Stage
from truecopy_services import Settings, Verdict
from truecopy_services.cli.screen import Exit
from truecopy_services.rebuilding import rebuild
from truecopy_services.swapping import swap

APP = "tests.services.numbers:both"


@pytest.fixture(params=["a file", "postgresql"])
def replica(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgresql" else f"sqlite:{tmp_path}/r.db"


@pytest.mark.timeout(180)
async def test_a_killed_rebuild_or_swap_leaves_one_number_live_and_is_done_again(replica: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, replica=replica, mark_writing_s=0.05, read_wait_s=0.05, lease_s=0.5, check_wait_s=20.0)
    cast = Cast({"TRUECOPY_HOME": str(tmp_path), "TRUECOPY_LEASE_S": "0.5", "TRUECOPY_READ_WAIT_S": "0.05"})
    await begun(settings)
    try:
        async with both.at(settings).open(store=False) as service:
            for point in VERSIONING:
                rebuilding = point in (Point.REBUILD_STEPPED, Point.REBUILD_PROVEN)
                if not rebuilding and (await stages(service))[2] is Stage.BUILDING:
                    assert await (await cast.verb("rebuild", APP, "tally@2", hold="", replica=replica)).over() == Exit.GOOD
                victim = await cast.verb("rebuild" if rebuilding else "swap", APP, "tally@2", hold=point.value, replica=replica)
                await victim.held(point)
                await victim.kill()

                done = point is Point.SWAP_DONE
                expected = {1: Stage.LIVE, 2: Stage.BUILDING if rebuilding else Stage.FOLLOWING}
                assert await stages(service) == ({1: Stage.FOLLOWING, 2: Stage.LIVE} if done else expected)
                assert {len(row) for row in await view(service)} == {3 if done else 2}
                if rebuilding:  # who was killed holds its leases a little longer
                    again = await cast.verb("rebuild", APP, "tally@2", hold="", replica=replica)
                    assert await again.over() in (Exit.GOOD, Exit.FAILED)
                    if (await stages(service))[2] is Stage.FOLLOWING:
                        await service.replica_adapter.stage(second, Stage.BUILDING)
            assert [report.verdict for report in await service.check()] == [Verdict.EQUAL] * 2
            assert (await swap(service, service.projections["tally@1"])).done
            assert (await rebuild(service, second)).follows
    finally:
        await cast.leave()
