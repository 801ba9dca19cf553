"""The faults of the matrix. Each begins and ends inside of its `async with`'s beginning; what it left broken is mended at the end.

So whoever enters one comes back when the fault is over, and sees how the rest recovers; a broker that was killed stays away until
then, since the others must do without it.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from tests.chaos.link import FAIR, Weather
from tests.chaos.scene import Scene
from tests.drills.conftest import QUICK
from tests.drills.processes import AWAY

Faulty = Callable[[Scene], AbstractAsyncContextManager[None]]

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
    await asyncio.gather(*(asyncio.to_thread(broker.kill) for broker in scene.brokers))
    for role in (*scene.relays, *scene.workers):
        await role.hears(AWAY)
    await asyncio.sleep(AWAY_S)
    # All at once: none answers before a majority of them is there.
    await asyncio.gather(*(asyncio.to_thread(broker.restart) for broker in scene.brokers))
    yield


def weather(bad: Weather, *, brokers: bool, database: bool) -> Faulty:
    @asynccontextmanager
    async def turned(scene: Scene) -> AsyncIterator[None]:
        links = [*(scene.broker_links if brokers else ()), *([scene.database_link] if database else ())]
        await scene.turn(bad, links)
        await asyncio.sleep(BAD_WEATHER_S)
        await scene.turn(FAIR, links)
        assert bad.cut_within_bytes is None or sum(link.cuts for link in links), "nothing was cut"
        yield

    return turned


@asynccontextmanager
async def workers_come_and_go(scene: Scene) -> AsyncIterator[None]:
    """One joins each second, and the eldest leaves: by SIGTERM and by SIGKILL in turn."""
    for coming in range(COMINGS):
        scene.workers.append(await scene.at.cast.start("workers"))
        eldest = scene.workers.pop(0)
        await (eldest.kill() if coming % 2 else eldest.end())
        await asyncio.sleep(1)
    yield


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
    await asyncio.to_thread(scene.database.kill)
    for role in (*scene.relays, *scene.workers):
        await role.hears(AWAY)
    await asyncio.to_thread(scene.database.restart)
    yield


@asynccontextmanager
async def disk_full(scene: Scene) -> AsyncIterator[None]:
    assert scene.fill_disk is not None
    assert scene.free_disk is not None
    assert scene.publisher is not None
    scene.fill_disk()
    for role in (*scene.relays, *scene.workers):
        await role.hears(AWAY)
    scene.free_disk()
    yield


ON_ONE_BROKER: Mapping[str, Faulty] = {
    "slow links to Kafka and PostgreSQL": weather(SLOW, brokers=True, database=True),
    "Kafka resets connections in mid-answer": weather(CUT, brokers=True, database=False),
    "PostgreSQL resets connections in mid-answer": weather(CUT, brokers=False, database=True),
    "Kafka is silent": weather(SILENT, brokers=True, database=False),
    "PostgreSQL is silent": weather(SILENT, brokers=False, database=True),
    "workers come and go every second": workers_come_and_go,
}
"""What `make test` plays too, where the drills don't have it."""
FULL_DISK = "PostgreSQL's disk is full"
FAULTS: Mapping[str, Faulty] = {
    "a broker that leads is killed": broker_killed,
    "leaders are restarted, five in a row": leaders_restarted,
    "all brokers are away": all_brokers_away,
    **ON_ONE_BROKER,
    "a worker is frozen for two leases": frozen("worker"),
    "a relay is frozen for two leases": frozen("relay"),
    "PostgreSQL is killed": database_killed,
    FULL_DISK: disk_full,
}
