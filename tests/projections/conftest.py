"""The world of these tests, on either database, and the town of those that check, on every kind of replica."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.projections.town import Town, opened
from tests.projections.world import World

from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.registry import Registry
from truecopy_bus.relay import Relay
from truecopy_bus.sql.address import connect
from truecopy_bus.store import EventStore
from truecopy_projections.replicas import open_replica


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The replica's address, on either database."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:{tmp_path}/replica.db"


@pytest.fixture
async def world(url: str, tmp_path: Path) -> AsyncIterator[World]:
    database, behind = await connect(f"sqlite:{tmp_path}/store.db"), await connect(url)
    store = EventStore(database, service="bank", partitions=3)
    await store.open()
    log = MemoryLog()
    registry = Registry(log)
    await registry.ensure()
    relay, replica = Relay(store, log, registry), await open_replica(url)

    async def execute(sql: str) -> None:
        async with behind.transaction() as tx:
            await tx.fetch(sql)

    try:
        yield World(store, log, registry, relay, replica, execute)
    finally:
        await relay.leave()
        for one in (replica, behind, database, registry, log):
            await one.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A replica's address, of each kind."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path}/replica.db"


@pytest.fixture
async def town(any_url: str) -> AsyncIterator[Town]:
    """A town with a replica of each kind, and a peer in memory."""
    async with opened(any_url) as found:
        yield found


@pytest.fixture
async def village() -> AsyncIterator[Town]:
    """A town in memory alone, for what does not depend on where a replica is."""
    async with opened("memory:") as found:
        yield found
