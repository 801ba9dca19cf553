"""Servers behind links, and a scene on them."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import asyncpg
import pytest
from tests.chaos.link import Link
from tests.chaos.scene import Scene
from tests.drills.conftest import Setting
from tests.drills.conftest import stage as stage
from tests.drills.full_disk import Disk
from tests.drills.full_disk import disk as disk
from tests.drills.ledger import PARTITIONS, RECORDED
from tests.drills.publisher import ABORTS

from truecopy_services.servers import Server, kafka_cluster
from truecopy_services.servers.process import free_ports

ABORT_EVERY = 20
PARTITIONS_OF_ALL = 4
"""So that each of three brokers leads some, and each of two workers has two."""


class Brokers(NamedTuple):
    """A cluster, and where its clients are told to go: to `links`, which are to lead to `ports`."""

    servers: Sequence[Server]
    ports: Sequence[int]
    links: Sequence[int]


def brokers_behind_links(count: int) -> Iterator[Brokers]:
    found = free_ports(2 * count)
    ports, links = found[:count], found[count:]
    with kafka_cluster(ports, advertised=links) as servers:
        yield Brokers(servers, ports, links)


@pytest.fixture(scope="session")
def one_broker() -> Iterator[Brokers]:
    yield from brokers_behind_links(1)


@pytest.fixture(scope="session")
def three_brokers() -> Iterator[Brokers]:
    yield from brokers_behind_links(3)


Opening = Callable[..., AbstractAsyncContextManager[Scene]]


@pytest.fixture
def scene(stage: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opening:
    """Opens a scene on these servers, with links in between whose luck comes from a seed."""
    folder = tmp_path / "recorded"
    folder.mkdir()
    monkeypatch.setenv(RECORDED, str(folder))
    monkeypatch.setenv(ABORTS, str(ABORT_EVERY))
    monkeypatch.setenv(PARTITIONS, str(PARTITIONS_OF_ALL))

    @asynccontextmanager
    async def opened(brokers: Brokers, database: Server, *, seed: int, disk: Disk | None = None) -> AsyncIterator[Scene]:
        parts = urlsplit(database.url)
        [port] = free_ports(1)
        async with AsyncExitStack() as stack:
            name = await stack.enter_async_context(fresh_database(database, disk))
            broker_links = [
                await stack.enter_async_context(Link(listening=at, to=to, seed=seed + number).open())
                for number, (at, to) in enumerate(zip(brokers.links, brokers.ports, strict=True))
            ]
            link = Link(listening=port, to=int(parts.port or 0), seed=seed)
            await stack.enter_async_context(link.open())
            url = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}", path=f"/{name}").geturl()
            servers = ",".join(f"127.0.0.1:{at}" for at in brokers.links)
            copies = len(brokers.servers)
            log = f"kafka://{servers}?replication={copies}&append_timeout_s=5&stall_timeout_s=4"
            settings = {"TRUECOPY_LOG": log, "TRUECOPY_STORE": url, "TRUECOPY_REPLICA": url, "TRUECOPY_MARK_WRITING_S": "1"}
            at = await stack.enter_async_context(stage(settings))
            yield Scene(
                at=at,
                folder=folder,
                brokers=brokers.servers,
                broker_links=broker_links,
                database=database,
                database_link=link,
                disk=disk,
            )

    return opened


@asynccontextmanager
async def fresh_database(server: Server, disk: Disk | None) -> AsyncIterator[str]:
    """A database of this run's, on `disk` if that is given."""
    name, space = f"t{uuid.uuid4().hex[:8]}", ""
    admin = await asyncpg.connect(server.url)
    try:
        if disk is not None:
            folder = disk.folder("tables")
            await admin.execute(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
            space = f" TABLESPACE {name}"
        await admin.execute(f"CREATE DATABASE {name}{space}")
    finally:
        await admin.close()
    try:
        yield name
    finally:
        admin = await asyncpg.connect(server.url)  # another one: the server may have been killed meanwhile
        try:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            if space:
                await admin.execute(f"DROP TABLESPACE {name}")
        finally:
            await admin.close()
