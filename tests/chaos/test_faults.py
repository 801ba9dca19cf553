"""What one broker allows of the fault matrix, one after the other on the same processes; the whole of it is `make chaos`.

What the drills play is not played again here: servers that are killed or away, processes that are frozen, full disks.
"""

import time
from contextlib import AsyncExitStack

import pytest
from tests.chaos.conftest import Brokers, Opening
from tests.chaos.faults import CUT, SILENT, SLOW, weather, workers_come_and_go

from truecopy_services.servers import Server

EVENTS = 20
LASTS_S = 3.0
"""Longer than the time limits of the processes."""
FAULTS = [
    weather(SLOW, brokers=True, database=True, lasts_s=LASTS_S),
    weather(CUT, brokers=True, database=True, lasts_s=LASTS_S),
    weather(SILENT, brokers=True, database=True, lasts_s=LASTS_S),
    workers_come_and_go(2),
]


@pytest.mark.timeout(300)
async def test_bad_links_and_workers_that_come_and_go_lose_nothing_and_do_nothing_twice(
    scene: Opening, one_broker: Brokers, postgres_server: Server
) -> None:
    async with scene(one_broker, postgres_server, seed=7) as on, AsyncExitStack() as faults:
        await on.opened(relays=1, workers=1)
        await on.under_load(seed=7, events=EVENTS)
        before = on.acknowledged()
        for fault in FAULTS:
            await faults.enter_async_context(fault(on))
        after, ended_at = on.acknowledged(), time.monotonic()
        await on.goes_on(EVENTS)
        outcome = await on.judged(before, after, ended_at)
        await on.left()

    assert (outcome.lost, outcome.twice, outcome.order, outcome.verdict) == (0, 0, 0, "EQUAL"), outcome
    assert outcome.found == {}, outcome.told
