"""The way into a replica's database behind Truecopy's back: plain SQL on either, and bytes of files.

Nothing here goes through Truecopy's code: an apsw connection of our own, or one of asyncpg's.
"""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import apsw
import asyncpg

from truecopy_services.servers import Server

BUSY_MS = 60_000
PAGE_KINDS = "SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf' ORDER BY pageno"
Rows = Sequence[tuple[Any, ...]]


class BehindSqlite:
    """A file of SQLite's. What alters pages wants that nobody else has it open."""

    name = "SQLite"

    def __init__(self, path: Path) -> None:
        self.path, self.older = path, path.with_name("older.db")

    def _opened(self) -> Any:
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(BUSY_MS)
        return connection

    async def fetch(self, sql: str, *args: Any) -> Rows:
        """Run one statement in a transaction of its own."""

        def run() -> Rows:
            with closing(self._opened()) as connection:
                return list(connection.execute(re.sub(r"\$(\d+)", r"?\1", sql), args))

        return await asyncio.to_thread(run)

    async def unindex(self, table: str, key: str) -> None:
        """Take a key's entries out of the index of the primary key; the rows stay.

        The index's pages are read as the table that they could be as well: key columns and row id are its primary key.
        """

        def run() -> None:
            with closing(self._opened()) as connection:
                index = f"sqlite_autoindex_{table}_1"
                [(root,)] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (index,))
                names = [name for (name,) in connection.execute("SELECT name FROM pragma_index_info(?)", (index,))]
                columns = ", ".join(f'"{name}"' for name in (*names, "at"))
                made = f"CREATE TABLE imposter ({columns}, PRIMARY KEY ({columns})) WITHOUT ROWID"
                connection.execute("PRAGMA writable_schema = ON")
                connection.execute(
                    "INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql) "
                    "VALUES ('table', 'imposter', 'imposter', ?, ?)",
                    (root, made),
                )
                connection.execute("PRAGMA writable_schema = RESET")
                connection.execute("DELETE FROM imposter WHERE _key = ?", (key,))
                connection.execute("PRAGMA writable_schema = ON")
                connection.execute("DELETE FROM sqlite_schema WHERE name = 'imposter'")
                connection.execute("PRAGMA writable_schema = RESET")

        await asyncio.to_thread(run)

    async def reindex(self, table: str) -> None:
        """What the operator is told to do about a damaged index."""
        await self.fetch(f"REINDEX {table}")

    async def keep(self) -> None:
        """Keep a copy of the file as it is now. Nobody has it open."""
        await asyncio.to_thread(self._settle)
        await asyncio.to_thread(shutil.copyfile, self.path, self.older)

    async def restore_page(self, table: str, skip: int) -> bool:
        """Put back a page of the table's rows from the older copy; the `skip`-th of those that fit. False if none does."""
        return await asyncio.to_thread(self._restore_page, table, skip)

    def _settle(self) -> None:
        with closing(self._opened()) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _restore_page(self, table: str, skip: int) -> bool:
        self._settle()
        with closing(self._opened()) as connection:
            [(size,)] = connection.execute("PRAGMA page_size")
            pages = [number for (number,) in connection.execute(PAGE_KINDS, (table,))]
        with self.older.open("rb") as old, self.path.open("r+b") as now:
            for at in range(len(pages)):
                page = pages[(at + skip) % len(pages)]
                old.seek((page - 1) * size)
                now.seek((page - 1) * size)
                was, seen = old.read(size), now.read(size)
                if len(was) < size or was == seen or was[:1] != seen[:1] or was[3:5] != seen[3:5]:
                    continue
                _write(now, (page - 1) * size, was)
                if self._is_sound():
                    return True
                _write(now, (page - 1) * size, seen)
        return False

    def _is_sound(self) -> bool:
        # A second connection's file handle: none of this process's has a lock that closing this one could drop.
        with closing(self._opened()) as connection:
            return list(connection.execute("PRAGMA integrity_check(1)")) == [("ok",)]


def _write(file: Any, at: int, data: bytes) -> None:
    file.seek(at)
    file.write(data)
    file.flush()


class BehindPostgres:
    """A database of PostgreSQL's. What alters files stops the server and starts it again."""

    name = "PostgreSQL"

    def __init__(self, url: str, server: Server | None = None) -> None:
        self.url, self._server = url, server

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()

    async def fetch(self, sql: str, *args: Any) -> Rows:
        """Run one statement in a transaction of its own."""
        async with self._connected() as connection:
            return [tuple(row) for row in await connection.fetch(sql, *args)]

    async def unindex(self, table: str, key: str) -> None:
        """Write a key's rows once more while the index of the primary key is said not to be ready: it then has no entry."""
        ready = "UPDATE pg_index SET indisready = $2, indisvalid = $2 WHERE indexrelid = to_regclass($1)"
        async with self._connected() as connection, connection.transaction():
            await connection.execute(ready, f'"{table}_pkey"', False)
            await connection.execute(
                f"CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM {table} WHERE _key = '{key}'"
            )
            await connection.execute(f"DELETE FROM {table} WHERE _key = '{key}'")
            await connection.execute(f"INSERT INTO {table} SELECT * FROM kept")
            await connection.execute(ready, f'"{table}_pkey"', True)

    async def reindex(self, table: str) -> None:
        """What the operator is told to do about a damaged index."""
        await self.fetch(f"REINDEX TABLE {table}")

    async def overwrite_index(self, table: str, garbage: bytes) -> None:
        """Overwrite the second block of the primary key's index, with the server stopped."""
        assert self._server is not None
        async with self._connected() as connection:
            where = await connection.fetchval("SELECT pg_relation_filepath(to_regclass($1))", f'"{table}_pkey"')
            folder = Path(await connection.fetchval("SHOW data_directory"))
        await asyncio.to_thread(self._server.stop)
        block = len(garbage)
        with (folder / where).open("r+b") as file:
            _write(file, block, garbage)
        await asyncio.to_thread(self._server.restart)

    async def keep(self) -> None:
        """Older values are kept in SQL: see older."""


Behind = BehindSqlite | BehindPostgres
