"""A read at a token promises what a crash can't take back, also where commits are acknowledged before their flush."""

import asyncio
import os
from pathlib import Path

import asyncpg
import pytest

from truecopy_bus.sql.postgres import PostgresDatabase
from truecopy_bus.token import Token
from truecopy_projections.replica import Replica
from truecopy_projections.replicas import open_replica
from truecopy_projections.testing.replica_plans import LINES, key_states, line, moved_on, rows_of, taken
from truecopy_services.reading import ReplicaReader
from truecopy_services.servers import Server

TOKEN = Token(LINES.entity, "k", 1)


async def applied(replica: Replica, *, durable: bool) -> None:
    fences, states = await taken(replica, LINES)
    plan = moved_on(fences[0], states[0], puts=rows_of(LINES, {"k": [line()]}), keys=key_states("k"))
    assert await replica.apply(LINES, [plan], durable=durable) == {0}


async def test_what_was_read_at_a_token_survives_a_crash_of_postgres(private_postgres: Server) -> None:
    connection = await asyncpg.connect(private_postgres.url)
    await connection.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
    replica = await open_replica(private_postgres.url)
    await applied(replica, durable=False)

    reader = await open_replica(private_postgres.url)  # as another process would
    rows = await ReplicaReader(LINES, reader).rows("k", at_least=TOKEN)
    await asyncio.to_thread(private_postgres.kill)
    await asyncio.to_thread(private_postgres.restart)

    assert len(rows) == 1
    assert await ReplicaReader(LINES, reader, wait_s=0.0).rows("k", at_least=TOKEN) == rows
    await replica.close()
    await reader.close()


@pytest.mark.parametrize("at_least", [TOKEN, None], ids=["at a token", "as it is"])
async def test_a_read_at_a_token_flushes_what_sqlite_left_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_least: Token | None
) -> None:
    replica = await open_replica(f"sqlite:{tmp_path}/replica.db")
    await applied(replica, durable=True)
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))

    for _ in range(2):
        assert len(await ReplicaReader(LINES, replica).rows("k", at_least=at_least)) == 1

    log = (tmp_path / "replica.db-wal").stat().st_ino
    assert flushed == ([log] if at_least else []), "once, and not again while nothing was written"
    await replica.close()


@pytest.mark.parametrize("durable", [True, False])
async def test_postgres_is_asked_to_flush_only_what_it_may_not_have(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    flush, flushed = PostgresDatabase.flush, []

    async def counted(database: PostgresDatabase) -> None:
        flushed.append(database.name)
        await flush(database)

    monkeypatch.setattr(PostgresDatabase, "flush", counted)
    replica, reader = await open_replica(postgres_url), await open_replica(postgres_url)
    await applied(replica, durable=durable)

    assert len(await ReplicaReader(LINES, reader).rows("k", at_least=TOKEN)) == 1

    assert len(flushed) == (not durable)
    await replica.close()
    await reader.close()
