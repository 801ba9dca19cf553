"""One suite for every Database."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import apsw
import asyncpg
import pytest

from truecopy_bus.errors import DatabaseUnavailableError, DataRefusedError, TableAlteredError
from truecopy_bus.sql import Column, Connection, Database, Kind, Shape
from truecopy_bus.sql.address import connect

TIMEOUT_S = 3.0
NAN = float("nan")
LONG_STATEMENT = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT count(*) FROM n
"""

EVERY = Shape(
    name='every "kind"',
    columns=(
        Column(name="key", kind=Kind.TEXT),
        *(Column(name=kind.name.lower(), kind=kind, nullable=True, precision=20, scale=4) for kind in Kind),
    ),
    key=("key",),
)
COUNTS = Shape(
    name="counts",
    columns=(Column(name="key", kind=Kind.TEXT), Column(name="count", kind=Kind.INTEGER)),
    key=("key",),
)
PAIRS = Shape(
    name="pairs",
    columns=(
        Column(name="partition", kind=Kind.INTEGER),
        Column(name="key", kind=Kind.BYTES),
        Column(name="value", kind=Kind.TEXT),
    ),
    key=("partition", "key"),
    indexes=(("value",), ("key", "value")),
)
NAMES = Shape(name="names", columns=(Column(name="name", kind=Kind.TEXT),), key=("name",))

VALUES: dict[Kind, list[Any]] = {
    Kind.TEXT: ["", "a", "é€😀", "'; DROP TABLE x --", '"', "\x01\x1f,|\t\r\n", "1", "NaN", "x" * 100_000],
    Kind.INTEGER: [0, 1, -1, 2**63 - 1, -(2**63)],
    Kind.REAL: [0.0, 1.0, -1.5, 0.1, 1e308, 5e-324, 2.0**53 + 2, float("inf"), float("-inf"), NAN],
    Kind.BOOLEAN: [True, False],
    Kind.BYTES: [b"", b"\x00", bytes(range(256)), b"a" * 100_000],
    Kind.DECIMAL: [
        Decimal("0.0000"),
        Decimal("1.0000"),
        Decimal("-0.0001"),
        Decimal("9999999999999999.9999"),
        Decimal("-9999999999999999.9999"),
        Decimal("12345678901234.5600"),
    ],
    Kind.DATE: [date.min, date.max, date(1969, 12, 31), date(2024, 2, 29)],
    Kind.TIMESTAMP: [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2024, 2, 29, tzinfo=UTC),
    ],
    Kind.UUID: [UUID(int=0), UUID(int=2**128 - 1), UUID("12345678-1234-5678-1234-567812345678")],
    Kind.JSON: ["null", '{ "b" : 1.0, "a":[],"a":2 }', '"\\u0000"', "1e400"],
}
# One row for each value, and one of nothing but nulls: what is stored is the very same text, to the letter and sign.
ROWS = [("nothing", *(None for _ in Kind))] + [
    (f"{kind.name} {number}", *(value if kind is one else None for one in Kind))
    for kind, values in VALUES.items()
    for number, value in enumerate(values)
]

REFUSED = [
    pytest.param(COUNTS, ("a", 2**63), id="an integer of 65 bits"),
    pytest.param(COUNTS, ("a", "one"), id="text for an integer"),
    pytest.param(COUNTS, ("a", None), id="null where none may be"),
    pytest.param(COUNTS, ("\ud800", 1), id="half a surrogate pair"),
    pytest.param(PAIRS, (1, "text", "a"), id="text for bytes"),
    *(
        pytest.param(EVERY, ("a", *(value if one is kind else None for one in Kind)), id=name)
        for kind, value, name in (
            (Kind.DECIMAL, Decimal("1E+16"), "a decimal beyond its precision"),
            (Kind.REAL, "much", "text for a float"),
            (Kind.UUID, "not one", "text for a UUID"),
            (Kind.DATE, 1, "a number for a date"),
            (Kind.TIMESTAMP, "now", "text for a timestamp"),
        )
    ),
]


def exact(rows: list[tuple[Any, ...]]) -> list[str]:
    """Rows as texts that tell 1 from 1.0, Decimal scales and NaN apart; sorted."""
    return sorted(repr([(UUID(int=value.int) if isinstance(value, UUID) else value) for value in row]) for row in rows)


def good(shape: Shape, number: int) -> tuple[Any, ...]:
    values = {Kind.TEXT: f"good {number}", Kind.INTEGER: number, Kind.BYTES: b"%d" % number}
    return tuple(None if column.nullable else values[column.kind] for column in shape.columns)


async def put_together(connection: Connection, *puts: tuple[Shape, list[tuple[Any, ...]]]) -> None:
    async with connection.savepoint():
        for shape, rows in puts:
            await connection.put(shape, rows)


class DatabaseSuite:
    """Every Database passes this unchanged. Subclass, and give a `url` fixture."""

    @pytest.fixture
    async def database(self, url: str) -> AsyncIterator[Database]:
        database = await connect(url, timeout_s=TIMEOUT_S)
        await database.install([EVERY, COUNTS, PAIRS, NAMES])
        yield database
        await database.close()

    async def test_every_value_reads_back_as_it_was_written(self, database: Database) -> None:
        async with database.transaction() as connection:
            await connection.put(EVERY, ROWS)
        columns = ", ".join(f'"{column.name}"' for column in EVERY.columns)
        select = f'SELECT {columns} FROM "every ""kind"""'

        async with database.snapshot() as connection:
            assert exact(await connection.pick(EVERY, ["key"], [row[:1] for row in ROWS])) == exact(ROWS)
            assert exact(await connection.fetch(select)) == exact(ROWS)
            streamed = [row async for batch in connection.stream(select, rows_max=7) for row in batch]
            assert exact(streamed) == exact(ROWS)

    @pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.JSON], ids=lambda kind: kind.name)
    async def test_a_value_of_every_kind_finds_its_row(self, database: Database, kind: Kind) -> None:
        async with database.transaction() as connection:
            await connection.put(EVERY, ROWS)
            for number, value in enumerate(VALUES[kind]):
                name = kind.name.lower()
                rows = await connection.pick(EVERY, [name], [(value,)])
                assert f"{kind.name} {number}" in [row[0] for row in rows]
                found = await connection.fetch(f'SELECT key FROM "every ""kind""" WHERE "{name}" = $1', value)
                assert (f"{kind.name} {number}",) in found

    async def test_put_replaces_the_row_of_the_same_key(self, database: Database) -> None:
        async with database.transaction() as connection:
            await connection.put(PAIRS, [(1, b"a", "old"), (1, b"b", "kept"), (2, b"a", "kept")])
            await connection.put(PAIRS, [(1, b"a", "new")])

            rows = await connection.fetch("SELECT partition, key, value FROM pairs ORDER BY partition, key")
            assert rows == [(1, b"a", "new"), (1, b"b", "kept"), (2, b"a", "kept")]

    async def test_a_row_that_is_all_key_can_be_put_again(self, database: Database) -> None:
        async with database.transaction() as connection:
            await connection.put(NAMES, [("a",)])
            await connection.put(NAMES, [("a",), ("b",)])

            assert sorted(await connection.pick(NAMES, ["name"], [("a",), ("b",)])) == [("a",), ("b",)]

    async def test_no_rows_and_no_keys_are_no_work(self, database: Database) -> None:
        async with database.transaction() as connection:
            await connection.put(COUNTS, [])
            await connection.drop(COUNTS, ["key"], [])

            assert await connection.pick(COUNTS, ["key"], []) == []

    async def test_pick_and_drop_match_whole_keys_only(self, database: Database) -> None:
        rows = [(1, b"a", "x"), (1, b"b", "y"), (2, b"a", "y"), (2, b"b", "x")]
        async with database.transaction() as connection:
            await connection.put(PAIRS, rows)

            crossed = [(1, b"a"), (2, b"b"), (1, b"a"), (3, b"a")]
            assert sorted(await connection.pick(PAIRS, ["partition", "key"], crossed)) == [rows[0], rows[3]]
            assert sorted(await connection.pick(PAIRS, ["value"], [("y",), ("z",)])) == [rows[1], rows[2]]
            assert await connection.pick(PAIRS, ["value", "partition"], [("y", 1)]) == [rows[1]]

            await connection.drop(PAIRS, ["partition", "key"], crossed)
            assert sorted(await connection.fetch("SELECT * FROM pairs")) == [rows[1], rows[2]]
            await connection.drop(PAIRS, ["value"], [("y",)])
            assert await connection.fetch("SELECT * FROM pairs") == []

    @pytest.mark.parametrize("size", [1, 499, 500, 501, 1_000, 2_000, 2_001, 5_000])
    async def test_batches_of_every_size(self, database: Database, size: int) -> None:
        rows = [(number % 7, b"%d" % number, f"value {number}") for number in range(size)]
        keys = [row[:2] for row in rows]
        async with database.transaction() as connection:
            await connection.put(PAIRS, [(*key, "old") for key in keys[::2]])
            await connection.put(PAIRS, rows)
            await connection.put(PAIRS, rows)

            assert sorted(await connection.pick(PAIRS, ["partition", "key"], keys)) == sorted(rows)
            assert sorted(await connection.pick(PAIRS, ["value"], [row[2:] for row in rows])) == sorted(rows)
            await connection.drop(PAIRS, ["partition", "key"], keys[1:])
            assert await connection.fetch("SELECT * FROM pairs") == rows[:1]

    @pytest.mark.parametrize(("shape", "bad"), REFUSED)
    @pytest.mark.parametrize("size", [1, 3_000])
    async def test_refused_rows_leave_the_transaction_usable(
        self, database: Database, shape: Shape, bad: tuple[Any, ...], size: int
    ) -> None:
        rows = [good(shape, number) for number in range(size - 1)]
        async with database.transaction() as connection:
            await connection.put(COUNTS, [("before", 1)])
            with pytest.raises(DataRefusedError):
                await put_together(connection, (COUNTS, [("undone", 1)]), (shape, [*rows, bad]))
            await connection.put(COUNTS, [("after", 1)])

        async with database.snapshot() as connection:
            assert sorted(await connection.fetch("SELECT key FROM counts")) == [("after",), ("before",)]

    async def test_savepoints_nest(self, database: Database) -> None:
        async with database.transaction() as connection:
            async with connection.savepoint():
                await connection.put(COUNTS, [("a", 1)])
                with pytest.raises(DataRefusedError):
                    await put_together(connection, (COUNTS, [("a", 2), ("b", 2)]), (COUNTS, [("c", None)]))
            assert await connection.fetch("SELECT * FROM counts") == [("a", 1)]

    async def test_a_block_that_raises_writes_nothing(self, database: Database) -> None:
        async def write_and_raise() -> None:
            async with database.transaction() as connection:
                await connection.put(COUNTS, [("a", 1)])
                raise TimeoutError("its own")

        with pytest.raises(TimeoutError, match="its own"):
            await write_and_raise()

        async with database.snapshot() as connection:
            assert await connection.fetch("SELECT * FROM counts") == []

    async def test_a_programming_error_passes_unchanged(self, database: Database) -> None:
        with pytest.raises((apsw.SQLError, asyncpg.PostgresSyntaxError)):
            async with database.transaction() as connection:
                await connection.fetch("SELEC 1")

    @pytest.mark.parametrize("altering", ["DROP TABLE counts", "ALTER TABLE counts RENAME COLUMN count TO counts"])
    async def test_a_table_that_was_dropped_or_altered_is_told_by_name(self, database: Database, altering: str) -> None:
        async with database.transaction() as connection:
            await connection.fetch(altering)

        for call in (
            lambda connection: connection.pick(COUNTS, ("key",), [("a",)]),
            lambda connection: connection.put(COUNTS, [("a", 1)]),
            lambda connection: anext(connection.stream("SELECT key, count FROM counts", rows_max=1)),
        ):
            with pytest.raises(TableAlteredError, match=r"count.*expected the tables as Truecopy made them"):
                async with database.transaction() as connection:
                    await call(connection)

    async def test_a_connection_is_of_no_use_after_its_transaction(self, database: Database) -> None:
        async with database.transaction() as connection:
            await connection.put(COUNTS, [("a", 1)])

        with pytest.raises(RuntimeError, match="ended"):
            await connection.fetch("SELECT 1")

    async def test_a_cancelled_transaction_is_rolled_back(self, database: Database) -> None:
        written = asyncio.Event()

        async def write_and_wait() -> None:
            async with database.transaction() as connection:
                await connection.put(COUNTS, [("a", 1)])
                written.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(write_and_wait())
        await written.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        async with database.transaction() as connection:
            assert await connection.fetch("SELECT * FROM counts") == []

    @pytest.mark.parametrize("yields", [0, 1, 2, 5, 20])
    async def test_a_cancelled_statement_is_rolled_back(self, database: Database, yields: int) -> None:
        async def write_slowly() -> None:
            async with database.transaction() as connection:
                await connection.put(COUNTS, [("a", 1)])
                await connection.fetch(LONG_STATEMENT)
                await connection.put(COUNTS, [("b", 1)])
                await asyncio.Event().wait()

        task = asyncio.create_task(write_slowly())
        for _ in range(yields):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        async with database.transaction() as connection:
            assert await connection.fetch("SELECT * FROM counts") == []

    async def test_a_stream_comes_in_batches_and_may_be_left(self, database: Database) -> None:
        async with database.transaction() as connection:
            await connection.put(COUNTS, [(f"{number}", number) for number in range(10)])
            query = "SELECT count FROM counts WHERE count >= $1 ORDER BY count"
            batches = [batch async for batch in connection.stream(query, 3, rows_max=3)]
            assert batches == [[(3,), (4,), (5,)], [(6,), (7,), (8,)], [(9,)]]

            async for batch in connection.stream(query, 0, rows_max=1):
                assert batch == [(0,)]
                break
            await connection.put(COUNTS, [("0", 10)])

        async with database.snapshot() as connection:
            assert await connection.fetch("SELECT count FROM counts WHERE key = '0'") == [(10,)]

    async def test_installers_do_not_clash(self, url: str) -> None:
        databases = [await connect(url, timeout_s=TIMEOUT_S) for _ in range(4)]
        ids = f"CREATE TABLE IF NOT EXISTS ids (id {databases[0].dialect.serial}, name TEXT)"

        await asyncio.gather(*(database.install([PAIRS, EVERY], [ids]) for database in databases))
        await asyncio.gather(*(database.install([PAIRS, EVERY], [ids]) for database in databases))

        for database in databases:
            await database.close()

    async def test_ids_ascend_and_are_not_used_again(self, database: Database) -> None:
        await database.install([], [f"CREATE TABLE IF NOT EXISTS ids (id {database.dialect.serial}, name TEXT)"])
        insert = "INSERT INTO ids (name) VALUES ($1) RETURNING id"
        async with database.transaction() as connection:
            first, second = [(await connection.fetch(insert, name))[0][0] for name in "ab"]
            await connection.fetch("DELETE FROM ids")
            third = (await connection.fetch(insert, "c"))[0][0]

        assert first < second < third

    async def test_the_clock_is_in_milliseconds(self, database: Database) -> None:
        before_ms = time.time_ns() // 1_000_000
        async with database.transaction(durable=False) as connection:
            (now_ms,) = (await connection.fetch(f"SELECT {database.dialect.now_ms}"))[0]
        after_ms = time.time_ns() // 1_000_000

        assert before_ms - 1 <= now_ms <= after_ms + 1

    async def test_writers_take_turns(self, database: Database) -> None:
        async with database.transaction() as connection:
            await connection.put(COUNTS, [("a", 0)])

        async def add_one() -> None:
            async with database.transaction() as connection:
                query = f"SELECT count FROM counts WHERE key = $1 {database.dialect.for_update}"
                (count,) = (await connection.fetch(query, "a"))[0]
                await connection.put(COUNTS, [("a", count + 1)])

        await asyncio.gather(*(add_one() for _ in range(30)))

        async with database.snapshot() as connection:
            assert await connection.pick(COUNTS, ["key"], [("a",)]) == [("a", 30)]


class SharedDatabaseSuite(DatabaseSuite):
    """What a database that is more than one connection's memory promises besides."""

    async def test_a_snapshot_sees_one_state_while_a_writer_commits(self, database: Database) -> None:
        async with database.transaction() as connection:
            await connection.put(COUNTS, [("a", 1)])

        async with database.snapshot() as snapshot:
            assert await snapshot.fetch("SELECT * FROM counts") == [("a", 1)]
            async with database.transaction() as connection:
                await connection.put(COUNTS, [("a", 2), ("b", 2)])
            assert await snapshot.fetch("SELECT * FROM counts") == [("a", 1)]
            assert await snapshot.pick(COUNTS, ["key"], [("a",), ("b",)]) == [("a", 1)]

        async with database.snapshot() as snapshot:
            assert sorted(await snapshot.fetch("SELECT * FROM counts")) == [("a", 2), ("b", 2)]

    async def test_a_snapshot_refuses_writes(self, database: Database) -> None:
        with pytest.raises(DatabaseUnavailableError, match="read"):
            async with database.snapshot() as connection:
                await connection.put(COUNTS, [("a", 1)])

    async def test_more_snapshots_than_connections_wait_for_each_other(self, database: Database) -> None:
        async def look() -> int:
            async with database.snapshot() as connection:
                return (await connection.fetch("SELECT count(*) FROM counts"))[0][0]

        assert await asyncio.gather(*(look() for _ in range(30))) == [0] * 30

    async def test_a_closed_database_opens_again(self, database: Database) -> None:
        async with database.transaction() as connection:
            await connection.put(COUNTS, [("a", 1)])
        await database.close()
        await database.close()

        async with database.snapshot() as connection:
            assert await connection.fetch("SELECT * FROM counts") == [("a", 1)]


class TestSqliteInMemory(DatabaseSuite):
    @pytest.fixture
    def url(self) -> str:
        return "sqlite::memory:"


class TestSqlite(SharedDatabaseSuite):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:{tmp_path / 'a.db'}"


class TestPostgres(SharedDatabaseSuite):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url
