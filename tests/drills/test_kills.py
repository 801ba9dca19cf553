"""SIGKILL at every named point of relay and worker, and a frozen worker; judged by the journal and by the check."""

import signal

import pytest
from tests.drills.conftest import Setting

REAL = {"embedded": False, "kafka and postgresql": True}
POINTS = [
    pytest.param("relay", "relay.appended@100", True, id="relay between append and record"),
    pytest.param("relay", "relay.recorded@100", False, id="relay between record and mark"),
    pytest.param("relay", "relay.marked@2", False, id="relay after a mark"),
    pytest.param("workers", "worker.applying@100", False, id="worker before its commit"),
    pytest.param("workers", "worker.applied@100", False, id="worker after its commit"),
]


@pytest.fixture(params=REAL)
def addresses(request: pytest.FixtureRequest) -> dict[str, str]:
    if not REAL[request.param]:
        return {}
    database = str(request.getfixturevalue("postgres_url"))
    log = str(request.getfixturevalue("kafka_url"))
    return {"TRUECOPY_LOG": log, "TRUECOPY_STORE": database, "TRUECOPY_REPLICA": database}


@pytest.mark.parametrize(("role", "point", "copies"), POINTS)
async def test_a_killed_process_is_replaced_and_nothing_is_lost_or_done_twice(
    stage: Setting, addresses: dict[str, str], role: str, point: str, copies: bool
) -> None:
    async with stage(addresses) as at:
        await at.service.store.open()
        await at.journal.publish(at.service, 300)
        victim = await at.cast.start(role, hold=point)
        await at.cast.start("workers" if role == "relay" else "relay")
        await victim.held()
        await victim.kill()
        await at.journal.publish(at.service, 60)
        await at.cast.start(role)

        assert (await at.proven() > 0) is copies


@pytest.mark.parametrize(("role", "other"), [("workers", "relay"), ("relay", "workers")])
async def test_a_frozen_process_that_wakes_up_does_no_harm(stage: Setting, postgres_url: str, role: str, other: str) -> None:
    async with stage({"TRUECOPY_STORE": postgres_url, "TRUECOPY_REPLICA": postgres_url}) as at:
        await at.service.store.open()
        await at.journal.publish(at.service, 100)
        await at.cast.start(other)
        frozen = await at.cast.start(role)
        await at.proven()
        frozen.signal(signal.SIGSTOP)
        await at.journal.publish(at.service, 100)
        await at.cast.start(role)
        await at.proven()
        frozen.signal(signal.SIGCONT)
        await at.journal.publish(at.service, 100)

        await at.proven()
        assert await frozen.end() == 0
