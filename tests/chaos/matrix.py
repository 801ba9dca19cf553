"""The fault matrix on three brokers and a PostgreSQL, as `make chaos` plays it: rounds of each fault on the same processes.

CHAOS_ROUNDS says how many. What became of each round is written to results.json as soon as it is known, in place of what was
there of this fault; report.py makes the page of it. A disk that is really full is mounted, which only root may do.
"""

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.benchmarks.bench import _processor
from tests.chaos.conftest import Brokers, Opening
from tests.chaos.faults import FAULTS, FULL_DISK
from tests.chaos.scene import Outcome, play
from tests.drills.full_disk import Disk

from truecopy_services.servers import Server

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "5"))
ROUND_LIMIT_S = 240
RESULTS = Path(os.environ.get("CHAOS_RESULTS") or Path(__file__).parent / "results.json")
PACKAGES = ("aiokafka", "asyncpg")
PLAYED = [fault for fault in FAULTS if fault != FULL_DISK or os.geteuid() == 0]


def write(fault: str, rounds: list[Outcome], seconds: float, brokers: Brokers, database: Server) -> None:
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"faults": {}}
    memory = psutil.virtual_memory().total / 2**30
    found["machine"] = f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"
    found["versions"] = {
        "python": platform.python_version(),
        "kafka": f"{len(brokers.servers)} brokers, {brokers.servers[0].rung}",
        "postgres": database.rung,
        **{name: version(name) for name in PACKAGES},
    }
    own = [one.since(before) for before, one in zip([None, *rounds], rounds, strict=False)]
    found["faults"][fault] = {"seconds": round(seconds), "rounds": own}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


@pytest.fixture(scope="session")
def database() -> Any:
    from truecopy_services.servers import postgres

    with postgres() as server:
        yield server


@pytest.mark.timeout(ROUNDS * ROUND_LIMIT_S)
@pytest.mark.parametrize("fault", PLAYED)
async def test_nothing_is_lost_or_done_twice_or_out_of_order(
    request: pytest.FixtureRequest, scene: Opening, three_brokers: Brokers, database: Server, fault: str
) -> None:
    disk: Disk | None = request.getfixturevalue("disk") if fault == FULL_DISK else None
    rounds: list[Outcome] = []
    began = time.monotonic()
    async with scene(three_brokers, database, seed=len(fault), disk=disk) as on:
        await on.opened(relays=2, workers=2)
        for number in range(ROUNDS):
            rounds.append(await play(on, FAULTS[fault], seed=number))
            write(fault, rounds, time.monotonic() - began, three_brokers, database)
        await on.left()

    for outcome in rounds:
        assert (outcome.lost, outcome.twice, outcome.order, outcome.verdict) == (0, 0, 0, "EQUAL"), outcome
        assert outcome.found == {}, outcome.told
