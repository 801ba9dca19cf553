"""What only PostgreSQL can get wrong: networks, credentials, lock order, and what a lender set up."""

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from truecopy_bus.errors import DatabaseUnavailableError, DataRefusedError, NoTransactionError
from truecopy_bus.sql import Column, Kind, Shape
from truecopy_bus.sql.borrowed import borrowed
from truecopy_bus.sql.postgres import PostgresDatabase
from truecopy_services.servers import Server

TIMEOUT_S = 5.0
NOTES = Shape(
    name="notes",
    columns=(
        Column(name="key", kind=Kind.TEXT),
        Column(name="text", kind=Kind.TEXT),
        Column(name="json", kind=Kind.JSON),
    ),
    key=("key",),
)
LETTER = '{ "b" : 1.0, "a":[]}'


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[PostgresDatabase]:
    database = PostgresDatabase(postgres_url, timeout_s=TIMEOUT_S)
    await database.install([NOTES])
    yield database
    await database.close()


def changed(url: str, *, password: str = "", port: int = 0, name: str = "") -> str:
    parts = urlsplit(url)
    login = f"{parts.username}:{password or parts.password or ''}"
    return f"postgresql://{login}@{parts.hostname}:{port or parts.port}/{name or parts.path[1:]}"


async def test_a_wrong_address_is_unavailable_each_time(postgres_url: str) -> None:
    for url, seen in (
        (changed(postgres_url, port=1), "Connect call failed"),
        (changed(postgres_url, name="missing"), '"missing" does not exist'),
    ):
        database = PostgresDatabase(url, timeout_s=TIMEOUT_S)
        for _ in range(2):
            with pytest.raises(DatabaseUnavailableError, match=seen):
                await database.install([])
            with pytest.raises(DatabaseUnavailableError, match=seen):
                async with database.snapshot():
                    pass
        await database.close()


async def test_a_wrong_password_is_told_but_not_shown(private_postgres: Server) -> None:
    admin = await asyncpg.connect(private_postgres.url)
    await admin.execute("CREATE ROLE someone LOGIN PASSWORD 'right'")
    (path,) = (await admin.fetchrow("SHOW hba_file")) or ()
    await admin.execute("CREATE TEMP TABLE hba (line text)")
    await admin.execute("INSERT INTO hba VALUES ('host all someone all scram-sha-256'), ('host all all all trust')")
    await admin.execute(f"COPY hba TO '{path}'")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()
    parts = urlsplit(private_postgres.url)
    database = PostgresDatabase(f"postgresql://someone:hunter2@{parts.hostname}:{parts.port}{parts.path}")

    with pytest.raises(DatabaseUnavailableError, match="password authentication failed") as refusal:
        await database.install([])
    assert "hunter2" not in str(refusal.value) + database.name


async def test_after_a_restart_of_the_server_the_pool_works_again(private_postgres: Server) -> None:
    database = PostgresDatabase(private_postgres.url, timeout_s=TIMEOUT_S)
    await database.install([NOTES])

    private_postgres.kill()
    for _ in range(2):
        with pytest.raises(DatabaseUnavailableError):
            async with database.transaction() as connection:
                await connection.put(NOTES, [("a", "lost", "1")])
    private_postgres.restart()

    async with database.transaction() as connection:
        await connection.put(NOTES, [("a", "kept", "1")])
        assert await connection.fetch("SELECT key, text FROM notes") == [("a", "kept")]
    await database.close()


async def test_a_connection_that_was_cut_off_is_unavailable_once(database: PostgresDatabase, postgres_url: str) -> None:
    admin = await asyncpg.connect(postgres_url)

    async def write_while_cut_off() -> None:
        async with database.transaction() as connection:
            await connection.put(NOTES, [("a", "lost", "1")])
            (pid,) = (await connection.fetch("SELECT pg_backend_pid()"))[0]
            await admin.execute("SELECT pg_terminate_backend($1, 5000)", pid)
            await connection.put(NOTES, [("b", "lost", "1")])

    with pytest.raises(DatabaseUnavailableError):
        await write_while_cut_off()
    await admin.close()

    async with database.transaction() as connection:
        assert await connection.fetch("SELECT * FROM notes") == []


async def test_a_statement_has_a_time_limit(postgres_url: str) -> None:
    database = PostgresDatabase(postgres_url, timeout_s=0.2)

    with pytest.raises(DatabaseUnavailableError, match="no answer in time"):
        async with database.transaction() as connection:
            await connection.fetch("SELECT pg_sleep(30)")

    async with database.transaction() as connection:
        assert await connection.fetch("SELECT 1") == [(1,)]
    await database.close()


@pytest.mark.parametrize("size", [1, 3_000])
async def test_a_null_character_is_refused(database: PostgresDatabase, size: int) -> None:
    rows = [(f"{number}", "a\x00b", "1") for number in range(size)]

    async with database.transaction() as connection:
        with pytest.raises(DataRefusedError, match="0x00"):
            async with connection.savepoint():
                await connection.put(NOTES, rows)
        await connection.put(NOTES, [("a", "", "1")])


async def test_a_statement_that_a_changed_table_made_stale_can_be_tried_again(
    database: PostgresDatabase,
) -> None:
    async def look() -> int:
        async with database.transaction() as connection:
            return len((await connection.fetch("SELECT * FROM notes WHERE key = $1", "a"))[0])

    async with database.transaction() as connection:
        await connection.put(NOTES, [("a", "", "1")])
    assert await look() == 3
    await database.install([], ["ALTER TABLE notes ADD COLUMN more text"])

    with pytest.raises(DatabaseUnavailableError, match="cached"):
        await look()
    assert await look() == 4


@pytest.mark.parametrize("size", [50, 3_000])
async def test_batches_in_opposite_orders_do_not_deadlock(database: PostgresDatabase, size: int) -> None:
    rows = [(f"é{number}" if number % 2 else f"Z{number}", "", "1") for number in range(size)]

    async def put_and_drop(order: int) -> None:
        for _ in range(5):
            async with database.transaction() as connection:
                await connection.put(NOTES, rows[::order])
            async with database.transaction() as connection:
                await connection.drop(NOTES, ["key"], [row[:1] for row in rows[::order]])

    await asyncio.gather(put_and_drop(1), put_and_drop(-1), put_and_drop(1), put_and_drop(-1))


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("size", [1, 3_000])
async def test_a_borrowed_connection_commits_with_its_owner(postgres_url: str, size: int) -> None:
    rows = [(f"{number}", "", LETTER) for number in range(size)]
    lent = await asyncpg.connect(postgres_url)
    await lent.set_type_codec("json", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    with pytest.raises(NoTransactionError):
        borrowed(lent)

    undone = lent.transaction()
    await undone.start()
    await borrowed(lent).put(NOTES, [("undone", "", LETTER)])
    await undone.rollback()
    async with lent.transaction():
        await borrowed(lent).put(NOTES, rows)
        await borrowed(lent).put(NOTES, rows)
        keys = [("undone",), *(row[:1] for row in rows)]
        assert sorted(await borrowed(lent).pick(NOTES, ["key"], keys)) == sorted(rows)
    await lent.close()

    async with asyncpg.create_pool(postgres_url, min_size=0) as pool, pool.acquire() as lent, lent.transaction():
        assert len(await borrowed(lent).fetch("SELECT * FROM notes")) == size


async def test_a_commit_that_need_not_last_is_set_so(database: PostgresDatabase) -> None:
    for durable, setting in ((True, "on"), (False, "off")):
        async with database.transaction(durable=durable) as connection:
            assert await connection.fetch("SHOW synchronous_commit") == [(setting,)]


async def test_what_a_lent_session_was_set_to_is_met_by_nobody_after_it(database: PostgresDatabase) -> None:
    async with database.transaction(lent=True) as connection:
        await connection.fetch("SET statement_timeout = 12345")
        [(mine,)] = await connection.fetch("SELECT pg_backend_pid()")
    async with database.transaction() as connection:
        [(pid, timeout)] = await connection.fetch("SELECT pg_backend_pid(), current_setting('statement_timeout')")

    assert pid == mine
    assert timeout != "12345ms"
