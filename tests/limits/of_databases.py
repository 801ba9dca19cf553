"""Drives of the bounds of `bus` that databases keep: statements, locks, snapshots, connections."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import apsw
import asyncpg
import pytest
from tests.limits.clock import Clock
from tests.limits.drives import default, drives

from truecopy_bus import limits
from truecopy_bus.errors import DatabaseUnavailableError, LogUnavailableError
from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.record import TopicSpec
from truecopy_bus.sql import borrowed
from truecopy_bus.sql.address import connect
from truecopy_bus.sql.postgres import PostgresDatabase
from truecopy_bus.sql.sqlite import SqliteDatabase
from truecopy_projections.replicas import open_replica
from truecopy_services.config import Settings

NEVER = "SELECT pg_sleep(100000)"


@contextmanager
def nobody_answers() -> Iterator[str]:
    """`host:port` of somebody who takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield "{}:{}".format(*listening.getsockname())


@drives("bus.STATEMENT_TIMEOUT_S")
def the_default_of_every_database() -> None:
    stated = [default(maker, "timeout_s") for maker in (connect, open_replica, PostgresDatabase, SqliteDatabase)]
    stated += [default(SQLiteLog, "busy_timeout_s"), Settings.model_fields["statement_timeout_s"].default]

    assert stated == [limits.STATEMENT_TIMEOUT_S] * 6


@drives("bus.STATEMENT_TIMEOUT_S")
async def a_writer_that_waits_for_ours(clock: Clock, tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "own.db"))
    async with database.transaction():
        with pytest.raises(DatabaseUnavailableError, match=f"waited {limits.STATEMENT_TIMEOUT_S} s for its writer"):
            async with database.transaction():
                raise AssertionError
    assert clock.now_s == limits.STATEMENT_TIMEOUT_S
    await database.close()


@drives("bus.STATEMENT_TIMEOUT_S")
async def a_lock_of_another_process(tmp_path: Path) -> None:
    log = SQLiteLog(tmp_path / "both.db", busy_timeout_s=0.02)
    database = SqliteDatabase(str(tmp_path / "both.db"), timeout_s=0.02)
    await log.create(TopicSpec(name="limits.note", partitions=1))
    stranger = apsw.Connection(str(tmp_path / "both.db"))
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(LogUnavailableError, match="BusyError"):
        await log.create(TopicSpec(name="limits.other", partitions=1))
    with pytest.raises(DatabaseUnavailableError, match="locked"):
        async with database.transaction():
            raise AssertionError
    stranger.execute("ROLLBACK")
    await log.create(TopicSpec(name="limits.other", partitions=1))
    stranger.close()
    await log.close()
    await database.close()


def assert_waited(seconds: float) -> None:
    # asyncpg takes the real time that has passed off the time that it allows.
    assert limits.STATEMENT_TIMEOUT_S * 0.75 < seconds <= limits.STATEMENT_TIMEOUT_S


@drives("bus.STATEMENT_TIMEOUT_S")
async def a_statement_of_postgres(clock: Clock, postgres_url: str) -> None:
    clock.listens(to_silence=False)
    database = await connect(postgres_url)
    async with database.transaction() as tx:
        assert await tx.fetch("SELECT 1") == [(1,)]
        began_s = clock.now_s
        clock.listens(to_silence=True)
        with pytest.raises(DatabaseUnavailableError, match="no answer in time"):
            await tx.fetch(NEVER)
        clock.listens(to_silence=False)
        assert_waited(clock.now_s - began_s)
    await database.close()


@drives("bus.STATEMENT_TIMEOUT_S")
async def a_statement_on_a_borrowed_connection(clock: Clock, postgres_url: str) -> None:
    clock.listens(to_silence=False)
    connection = await asyncpg.connect(postgres_url)
    transaction = connection.transaction()
    await transaction.start()
    began_s = clock.now_s
    clock.listens(to_silence=True)
    with pytest.raises(DatabaseUnavailableError, match="no answer in time"):
        await borrowed(connection).fetch(NEVER)
    clock.listens(to_silence=False)
    assert_waited(clock.now_s - began_s)
    await transaction.rollback()
    await connection.close()


@drives("bus.CONNECT_TIMEOUT_S")
async def a_database_that_says_nothing(clock: Clock) -> None:
    clock.listens(to_silence=True)
    with nobody_answers() as place:
        database = await connect(f"postgresql://nobody@{place}/none?sslmode=disable")
        with pytest.raises(DatabaseUnavailableError, match="no answer in time"):
            async with database.transaction():
                raise AssertionError
        assert clock.now_s == limits.CONNECT_TIMEOUT_S
        await database.close()


@drives("bus.SNAPSHOTS_MAX")
async def snapshots_of_a_file(clock: Clock, tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "read.db"))
    async with AsyncExitStack() as opened:
        for _ in range(limits.SNAPSHOTS_MAX):
            await opened.enter_async_context(database.snapshot())
        with pytest.raises(DatabaseUnavailableError, match=f"waited {limits.STATEMENT_TIMEOUT_S} s for a snapshot"):
            async with database.snapshot():
                raise AssertionError
        await opened.pop_all().aclose()
    async with database.snapshot():
        # One is open: the file is not closed under it.
        with pytest.raises(DatabaseUnavailableError, match="for a snapshot"):
            await database.close()
    assert clock.now_s == 2 * limits.STATEMENT_TIMEOUT_S
    await database.close()


@drives("bus.POOL_CONNECTIONS_MAX")
async def connections_of_a_pool(postgres_url: str) -> None:
    database = await connect(postgres_url)
    order: list[str] = []
    arrived, leave = asyncio.Condition(), asyncio.Event()

    async def work() -> None:
        async with database.transaction() as tx:
            await tx.fetch("SELECT 1")
            async with arrived:
                order.append("in")
                arrived.notify_all()
            await leave.wait()

    tasks = [asyncio.create_task(work()) for _ in range(limits.POOL_CONNECTIONS_MAX + 1)]
    async with asyncio.timeout(60), arrived:
        await arrived.wait_for(lambda: len(order) >= limits.POOL_CONNECTIONS_MAX)
    later = await asyncpg.connect(postgres_url)  # began after the one that waits, and gets through where that does not
    [own] = await later.fetch("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    await later.close()
    assert own["count"] - 1 == limits.POOL_CONNECTIONS_MAX
    order.append("left")
    leave.set()
    await asyncio.gather(*tasks)
    assert order == ["in"] * limits.POOL_CONNECTIONS_MAX + ["left", "in"]
    await database.close()
