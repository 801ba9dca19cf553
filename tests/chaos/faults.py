"""The faults of the matrix. Each comes and goes as its block is entered, so that inside of it the rest is seen to recover.

A broker that was killed stays away until the block ends: the others do without it.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from tests.chaos.link import FAIR, Weather
from tests.chaos.scene import Faulty, Scene
from tests.drills.conftest import QUICK
from tests.drills.processes import AWAY, Role
from tests.drills.publisher import REFUSED_LINE

LEASE_S = float(QUICK["TRUECOPY_LEASE_S"])
BAD_WEATHER_S = 10.0
"""Seconds for which links are bad: longer than each timeout of the processes."""
AWAY_S = 12.0
"""Seconds for which all brokers are away: longer than each timeout, and than the longest pause between two tries."""
RESTARTS = 5
COMINGS = 10
"""Workers that join and leave, one each second."""
SLOW = Weather(bytes_per_s=64 * 1024, delay_s=0.03)
CUT = Weather(cut_within_bytes=20_000)
SILENT = Weather(silent=True)


def away(*roles: Sequence[Role]) -> asyncio.Future[list[None]]:
    """Done when each of these has said, after now, that something is away."""
    each = [role for some in roles for role in some]
    return asyncio.gather(*(role.hears(AWAY, times=len(role.said(AWAY)) + 1) for role in each))


@asynccontextmanager
async def broker_killed(scene: Scene) -> AsyncIterator[None]:
    broker = scene.brokers[await scene.leader(0)]
    await asyncio.to_thread(broker.kill)
    yield
    await asyncio.to_thread(broker.restart)


@asynccontextmanager
async def leaders_restarted(scene: Scene) -> AsyncIterator[None]:
    for turn in range(RESTARTS):
        await asyncio.to_thread(scene.brokers[await scene.leader(turn % 2)].restart)
    yield


@asynccontextmanager
async def all_brokers_away(scene: Scene) -> AsyncIterator[None]:
    noticed = away(scene.relays, scene.workers)
    await asyncio.gather(*(asyncio.to_thread(broker.kill) for broker in scene.brokers))
    await noticed
    await asyncio.sleep(AWAY_S)
    # All at once: none answers before a majority of them is there.
    await asyncio.gather(*(asyncio.to_thread(broker.restart) for broker in scene.brokers))
    yield


def weather(bad: Weather, *, brokers: bool, database: bool, lasts_s: float = BAD_WEATHER_S) -> Faulty:
    @asynccontextmanager
    async def turned(scene: Scene) -> AsyncIterator[None]:
        links = [*(scene.broker_links if brokers else ()), *([scene.database_link] if database else ())]
        cuts = sum(link.cuts for link in links)
        await scene.turn(bad, links)
        await asyncio.sleep(lasts_s)
        await scene.turn(FAIR, links)
        assert bad.cut_within_bytes is None or sum(link.cuts for link in links) > cuts, "nothing was cut"
        yield

    return turned


def workers_come_and_go(times: int) -> Faulty:
    """One joins each second, and the eldest leaves: by SIGTERM and by SIGKILL in turn."""

    @asynccontextmanager
    async def changed(scene: Scene) -> AsyncIterator[None]:
        for coming in range(times):
            scene.workers.append(await scene.at.cast.start("workers"))
            eldest = scene.workers.pop(0)
            await (eldest.kill() if coming % 2 else eldest.end())
            await asyncio.sleep(1)
        yield

    return changed


def frozen(who: str) -> Faulty:
    @asynccontextmanager
    async def stopped(scene: Scene) -> AsyncIterator[None]:
        role = (scene.workers if who == "worker" else scene.relays)[0]
        role.signal(signal.SIGSTOP)
        await asyncio.sleep(2 * LEASE_S)
        role.signal(signal.SIGCONT)
        yield

    return stopped


@asynccontextmanager
async def database_killed(scene: Scene) -> AsyncIterator[None]:
    noticed = away(scene.relays, scene.workers)
    await asyncio.to_thread(scene.database.kill)
    await noticed
    await asyncio.to_thread(scene.database.restart)
    yield


@asynccontextmanager
async def disk_full(scene: Scene) -> AsyncIterator[None]:
    assert scene.disk is not None
    assert scene.publisher is not None
    scene.disk.fill()
    await scene.publisher.hears(REFUSED_LINE)
    await asyncio.sleep(BAD_WEATHER_S)
    scene.disk.free()
    yield


FULL_DISK = "PostgreSQL's disk is full"
FAULTS: Mapping[str, Faulty] = {
    "a broker that leads is killed": broker_killed,
    "leaders are restarted, five in a row": leaders_restarted,
    "all brokers are away": all_brokers_away,
    "slow links to Kafka and PostgreSQL": weather(SLOW, brokers=True, database=True),
    "Kafka resets connections in mid-answer": weather(CUT, brokers=True, database=False),
    "PostgreSQL resets connections in mid-answer": weather(CUT, brokers=False, database=True),
    "Kafka is silent": weather(SILENT, brokers=True, database=False),
    "PostgreSQL is silent": weather(SILENT, brokers=False, database=True),
    "workers come and go every second": workers_come_and_go(COMINGS),
    "a worker is frozen for two leases": frozen("worker"),
    "a relay is frozen for two leases": frozen("relay"),
    "PostgreSQL is killed": database_killed,
    FULL_DISK: disk_full,
}
