"""No pause and no false alarm: checks of all kinds, again and again, while workers apply and relays take over from others."""

import asyncio
import itertools
import random
from collections import Counter

import pytest
from tests.projections.bank import Deposited, balance
from tests.projections.town import Town

from truecopy_bus.relay import Relay
from truecopy_projections.verdicts import Report, Verdict

KEYS = 40
ROUNDS = 6
"""Rounds of checks, of each kind in each."""
RELAY_BATCHES = 20
"""Batches that are published between two relays."""
LONGEST_S = 90
ALARMS = (Verdict.DIVERGED, Verdict.INCOMPARABLE)


def alarms(report: Report) -> list[str]:
    claims = (report.delivered, report.computed, report.stored, *report.peers)
    return [claim.why for claim in claims if claim.verdict in ALARMS]


@pytest.mark.timeout(LONGEST_S)
async def test_a_replica_that_moves_is_never_called_diverged(town: Town) -> None:
    """Verdicts are counted too: a check that always said UNPROVEN would pass otherwise."""
    stop, rng = asyncio.Event(), random.Random(7)
    found: Counter[Verdict] = Counter()

    async def owns() -> None:
        """Publish, with one relay after the other, each begun while the one before still runs, and many marks."""
        running: list[tuple[asyncio.Event, asyncio.Task[None]]] = []
        for batch in itertools.count():
            await town.publish(*((f"k{rng.randrange(KEYS)}", Deposited(amount=rng.randrange(9))) for _ in range(5)))
            if batch % RELAY_BATCHES == 0:
                mine = asyncio.Event()
                relay = Relay(town.store, town.log, town.registry, lease_s=0.4, mark_writing_s=0.05, mark_events=50)
                running.append((mine, asyncio.create_task(relay.run(mine))))
            over = running if stop.is_set() else running[:-2]
            for ended, task in over:
                ended.set()
                await task
            running = running[len(over) :]
            if stop.is_set():
                return

    async def checks() -> None:
        for _ in range(ROUNDS):
            for how in ({"quick": True}, {}, {"deep": True}, {"quick": True, "peers": [town.peer]}):
                report = await town.check(balance, **how)
                assert alarms(report) == [], how
                found.update(one.verdict for one in (report.computed, *report.peers))
        stop.set()

    await town.deposit(KEYS)
    await town.settle(balance)
    await town.relay.leave()
    async with asyncio.TaskGroup() as group:
        for replica in (town.replica, town.replica, town.peer):
            group.create_task(town.worker(balance, replica).run(stop))
        for task in (owns(), checks()):
            group.create_task(task)

    assert found[Verdict.EQUAL] >= 3 * ROUNDS, found
