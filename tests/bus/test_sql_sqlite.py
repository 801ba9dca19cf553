"""What only SQLite can get wrong: files, other processes, other libraries, and its one writer."""

import asyncio
import sqlite3
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import apsw
import pytest

from truecopy_bus.errors import (
    DatabaseUnavailableError,
    DataRefusedError,
    NoTransactionError,
    TwoLibrariesError,
)
from truecopy_bus.sql import Column, Kind, Shape
from truecopy_bus.sql.address import connect
from truecopy_bus.sql.borrowed import borrowed
from truecopy_bus.sql.sqlite import SqliteDatabase

COUNTS = Shape(
    name="counts",
    columns=(Column(name="key", kind=Kind.TEXT), Column(name="count", kind=Kind.INTEGER)),
    key=("key",),
)
PRICES = Shape(
    name="prices",
    columns=(
        Column(name="key", kind=Kind.TEXT),
        Column(name="price", kind=Kind.DECIMAL, precision=10, scale=2),
        Column(name="at", kind=Kind.TIMESTAMP),
    ),
    key=("key",),
)
PRICE = ("a", Decimal("1.50"), datetime(2024, 2, 29, tzinfo=UTC))

ADD_ONE_HUNDRED_TIMES = """
import asyncio, sys
from truecopy_bus.sql.sqlite import SqliteDatabase

async def main():
    database = SqliteDatabase(sys.argv[1])
    for number in range(100):
        async with database.transaction() as connection:
            await connection.fetch("UPDATE counts SET count = count + 1 WHERE key = 'sum'")
            await connection.fetch("INSERT INTO counts VALUES ($1, 1)", f"{sys.argv[2]} {number}")

asyncio.run(main())
"""


async def test_two_processes_write_without_loss(tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "a.db"))
    await database.install([COUNTS])
    async with database.transaction() as connection:
        await connection.put(COUNTS, [("sum", 0)])

    command = (sys.executable, "-c", ADD_ONE_HUNDRED_TIMES, str(tmp_path / "a.db"))
    processes = [await asyncio.create_subprocess_exec(*command, name) for name in ("one", "two")]
    assert [await process.wait() for process in processes] == [0, 0]

    async with database.snapshot() as connection:
        assert await connection.pick(COUNTS, ["key"], [("sum",)]) == [("sum", 200)]
        assert await connection.fetch("SELECT count(*) FROM counts") == [(201,)]
    await database.close()


async def test_a_file_held_by_another_is_unavailable_then_works(tmp_path: Path) -> None:
    holder = SqliteDatabase(str(tmp_path / "a.db"))
    other = SqliteDatabase(str(tmp_path / "a.db"), timeout_s=0.05)
    await holder.install([COUNTS])

    async with holder.transaction():
        with pytest.raises(DatabaseUnavailableError, match="busy"):
            await other.install([])
        async with other.snapshot() as connection:
            assert await connection.fetch("SELECT * FROM counts") == []

    await other.install([])


async def test_our_own_writer_is_waited_for_as_long(tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "a.db"), timeout_s=0.05)

    async with database.transaction():
        with pytest.raises(DatabaseUnavailableError, match="its writer"):
            await database.install([])


async def test_who_waits_for_a_lock_can_be_cancelled(tmp_path: Path) -> None:
    holder, other = (SqliteDatabase(str(tmp_path / "a.db"), timeout_s=60) for _ in range(2))
    await holder.install([COUNTS])

    async with holder.transaction():
        waiting = asyncio.create_task(other.install([]))
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    await other.install([])


@pytest.mark.parametrize("make", ["folder", "missing folder", "no database"])
async def test_a_file_that_is_none_is_unavailable(tmp_path: Path, make: str) -> None:
    path = tmp_path / "a.db"
    if make == "folder":
        path.mkdir()
    elif make == "no database":
        path.write_bytes(b"not a database " * 1_000)
    else:
        path = path / "a.db"
    database = SqliteDatabase(str(path))

    for _ in range(2):
        with pytest.raises(DatabaseUnavailableError, match=r"a\.db"):
            await database.install([COUNTS])
        with pytest.raises(DatabaseUnavailableError, match=r"a\.db"):
            async with database.snapshot():
                pass


async def test_a_full_disk_is_unavailable_until_it_is_not(tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "a.db"))
    await database.install([COUNTS])

    async with database.transaction() as connection:
        await connection.fetch("PRAGMA max_page_count = 5")

    with pytest.raises(DatabaseUnavailableError, match="full"):
        async with database.transaction() as connection:
            await connection.put(COUNTS, [(f"{number:1000}", number) for number in range(100)])

    async with database.transaction() as connection:
        await connection.fetch("PRAGMA max_page_count = 1000000")
        assert await connection.fetch("SELECT * FROM counts") == []


async def test_an_abort_of_a_trigger_is_a_refusal() -> None:
    database = SqliteDatabase(":memory:")
    trigger = "CREATE TRIGGER no BEFORE INSERT ON counts BEGIN SELECT RAISE(ABORT, 'no more'); END"
    await database.install([COUNTS], [trigger])

    with pytest.raises(DataRefusedError, match="no more"):
        async with database.transaction() as connection:
            await connection.put(COUNTS, [("a", 1)])


async def test_a_naive_datetime_is_refused() -> None:
    database = SqliteDatabase(":memory:")
    await database.install([PRICES])

    with pytest.raises(DataRefusedError, match="time zone"):
        async with database.transaction() as connection:
            await connection.put(PRICES, [("a", Decimal(1), datetime(2024, 1, 1))])


async def test_parameters_go_by_number() -> None:
    async with SqliteDatabase(":memory:").transaction() as connection:
        assert await connection.fetch("SELECT $2, $1, $2", 1, 2) == [(2, 1, 2)]


async def test_a_stream_that_is_left_does_not_hold_its_snapshot(tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "a.db"))
    await database.install([COUNTS])
    async with database.transaction() as connection:
        await connection.put(COUNTS, [("a", 1), ("b", 1)])
    async with database.snapshot() as connection:
        stream = connection.stream("SELECT * FROM counts", rows_max=1)
        assert await anext(stream) == [("a", 1)]

    async with database.transaction() as connection:
        await connection.drop(COUNTS, ["key"], [("a",), ("b",)])
    async with database.snapshot() as connection:
        assert await connection.fetch("SELECT * FROM counts") == []
    with pytest.raises(RuntimeError, match="ended"):
        await anext(stream)


@pytest.mark.parametrize("library", [apsw.Connection, sqlite3.connect], ids=["apsw", "sqlite3"])
async def test_a_borrowed_connection_commits_with_its_owner(tmp_path: Path, library: Any) -> None:
    lent = library(str(tmp_path / "a.db"))
    with pytest.raises(NoTransactionError):
        borrowed(lent)
    lent.execute("BEGIN")
    lent.execute("CREATE TABLE counts (key TEXT PRIMARY KEY, count INTEGER)")
    lent.execute("CREATE TABLE prices (key TEXT PRIMARY KEY, price TEXT, at TEXT)")
    lent.execute("COMMIT")
    if isinstance(lent, sqlite3.Connection):
        lent.row_factory = sqlite3.Row

    lent.execute("BEGIN")
    connection = borrowed(lent)
    await connection.put(COUNTS, [("a", 1)])
    lent.execute("ROLLBACK")
    with pytest.raises(NoTransactionError):
        await connection.fetch("SELECT 1")

    lent.execute("BEGIN")
    connection = borrowed(lent)
    await connection.put(PRICES, [PRICE])
    await connection.put(COUNTS, [("b", 1), ("c", 1)])
    await connection.drop(COUNTS, ["key"], [("c",)])
    with pytest.raises(DataRefusedError):
        async with connection.savepoint():
            await connection.put(COUNTS, [("b", 2**63)])
    with pytest.raises(DataRefusedError):
        async with connection.savepoint():
            await connection.fetch("INSERT INTO counts VALUES ($1, $2)", "b", 2)
    assert await connection.pick(PRICES, ["key"], [("a",)]) == [PRICE]
    assert await connection.fetch("SELECT * FROM counts WHERE key >= $1", "") == [("b", 1)]
    assert [b async for b in connection.stream("SELECT * FROM counts", rows_max=5)] == [[("b", 1)]]
    lent.execute("COMMIT")

    assert [tuple(row) for row in lent.execute("SELECT * FROM counts")] == [("b", 1)]
    lent.close()


async def test_a_locked_file_is_unavailable_to_sqlite3_too(tmp_path: Path) -> None:
    holder, lent = (sqlite3.connect(tmp_path / "a.db", timeout=0.01) for _ in range(2))
    holder.execute("CREATE TABLE counts (key TEXT PRIMARY KEY, count INTEGER)")
    holder.execute("BEGIN IMMEDIATE")
    lent.execute("BEGIN")

    with pytest.raises(DatabaseUnavailableError, match="busy"):
        await borrowed(lent).put(COUNTS, [("a", 1)])
    holder.close()
    lent.close()


async def test_a_file_belongs_to_one_library(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    await SqliteDatabase(str(ours)).install([COUNTS])
    (tmp_path / "link").symlink_to(ours)
    lent = sqlite3.connect(tmp_path / "link")
    lent.execute("BEGIN")
    with pytest.raises(TwoLibrariesError, match="apsw"):
        borrowed(lent)
    lent.close()

    lent = sqlite3.connect(theirs)
    lent.execute("BEGIN")
    borrowed(lent)
    with pytest.raises(TwoLibrariesError, match="sqlite3"):
        await SqliteDatabase(str(theirs)).install([COUNTS])
    lent.close()


def test_nothing_else_can_be_borrowed() -> None:
    with pytest.raises(TypeError, match=r"builtins\.int"):
        borrowed(1)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:a/b.db", "sqlite:a/b.db"),
        ("sqlite:/a/b.db", "sqlite:/a/b.db"),
        ("sqlite:///a/b.db", "sqlite:/a/b.db"),
        ("sqlite::memory:", "sqlite::memory:"),
        ("postgresql://me:secret@host:1/db?password=secret", "postgresql://host:1/db"),
        ("postgresql://me@/db?host=/run/socket&password=secret", "postgresql:///run/socket/db"),
    ],
)
async def test_a_name_says_where_without_credentials(url: str, name: str) -> None:
    assert (await connect(url)).name == name


@pytest.mark.parametrize("url", ["", "sqlite:", "sqlite://host/a.db", "mysql://me:secret@host/db", "a.db"])
async def test_an_unknown_address_is_refused_without_its_credentials(url: str) -> None:
    with pytest.raises(ValueError, match="use sqlite:PATH or postgresql") as refusal:
        await connect(url)
    assert "secret" not in str(refusal.value)


async def test_without_its_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    monkeypatch.delitem(sys.modules, "truecopy_bus.sql.postgres", raising=False)

    with pytest.raises(ImportError, match=r"pip install truecopy\[postgres\]"):
        await connect("postgresql://host/db")


async def test_what_is_read_only_says_what_readers_need(tmp_path: Path) -> None:
    first = SqliteDatabase(str(tmp_path / "a.db"))
    await first.install([])
    await first.close()
    connection = apsw.Connection(str(tmp_path / "a.db"), apsw.SQLITE_OPEN_READONLY)
    connection.execute("BEGIN")

    with pytest.raises(DatabaseUnavailableError, match="readers too need files ending in -wal and -shm beside it"):
        await borrowed(connection).fetch("CREATE TABLE t (i)")
    connection.close(True)


async def test_a_disk_that_is_full_within_a_savepoint_is_told_as_that(tmp_path: Path) -> None:
    """SQLite may undo the whole transaction then, and the savepoint with it: that is not what its caller must hear of."""
    database = SqliteDatabase(str(tmp_path / "a.db"))
    await database.install([COUNTS])

    async def fill() -> None:
        async with database.transaction() as connection:
            await connection.fetch("PRAGMA max_page_count = 5")
            async with connection.savepoint():
                await connection.fetch("INSERT INTO counts VALUES (printf('%100000d', 1), 1)")

    with pytest.raises(DatabaseUnavailableError, match="free space on its disk"):
        await fill()
