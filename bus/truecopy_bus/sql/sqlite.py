"""The database port on SQLite, through apsw and the SQLite that it bundles.

One connection writes, a few others read snapshots; a database in memory has one for both. Writers of other processes are
waited for, up to the time limit.

A call is one hop to the connection's thread, and few steps there: apsw hands over the interpreter's lock at each step of a
statement, that is at each row, and while another thread computes it gets it back only after `sys.getswitchinterval()`
(5 ms): `executemany` fell from 300 k rows/s to 300 (measured). So rows are written 500 to a statement, which is also
faster, and read in the caller's thread once the first one, with the waiting and the sorting, was found in the other.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from itertools import count, islice
from typing import Any, Protocol, TypeVar

import apsw

from truecopy_bus.errors import (
    DatabaseCorruptError,
    DatabaseUnavailableError,
    DataRefusedError,
    NoTransactionError,
    TableAlteredError,
)
from truecopy_bus.limits import SNAPSHOTS_MAX, STATEMENT_TIMEOUT_S
from truecopy_bus.sql.port import Connection, Dialect, Row, Shape
from truecopy_bus.sql.sqlite_session import Session, Synchronous, primary_code, remedies
from truecopy_bus.sql.sqlite_values import (
    Decoders,
    batches,
    bound,
    create_statements,
    decoded,
    decoders_by_type,
    decoders_of,
    drop_statement,
    encoded,
    native,
    pick_statement,
    put_statement,
)
from truecopy_schemas.errors import TruecopyError

__all__ = ["DIALECT", "SqliteConnection", "SqliteDatabase"]

T = TypeVar("T")

DIALECT = Dialect(
    name="sqlite",
    now_ms="CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)",
    for_update="",
    serial="INTEGER PRIMARY KEY AUTOINCREMENT",
    install_lock="SELECT 1",
)

# Primary result codes, https://www.sqlite.org/rescode.html
_REFUSED = {18: "too big", 19: "constraint", 20: "mismatch"}
_AWAY = {
    5: "busy",
    6: "locked",
    8: "read-only file or folder (readers too need files ending in -wal and -shm beside it)",
    10: "disk error",
    13: "disk full",
    14: "can't open",
    15: "locking protocol",
}
_CORRUPT = {11: "a page that can't be", 26: "not a database"}
_MEND = (
    "`PRAGMA integrity_check` in sqlite3 tells where: if in an index alone, REINDEX mends it, and `truecopy check` proves it; "
    "else bring the file back from a backup, or begin anew in an empty one, which a worker fills from the log"
)
_ERROR = 1
_ALTERED = re.compile(
    r"no such table|no such column|has no column named|cannot modify .* because it is a view|"
    r"ON CONFLICT clause does not match|has \d+ columns but|cannot (UPDATE|INSERT into) generated column|use DROP VIEW"
)
"""What SQLite says of a table that is not the one that was made; the code is that of any other error of a statement."""
_BAD_ARGUMENT = (OverflowError, ValueError)
_BAD_ROW = (ArithmeticError, AttributeError, TypeError, ValueError)


class Runner(Protocol):
    """Where the statements of a connection run: in its thread, or in the caller's own."""

    async def run(self, work: Callable[[Any], T]) -> T: ...


@contextmanager
def answering(name: str, bad_values: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn the errors of either SQLite library into ours; programming errors pass."""
    try:
        yield
    except TruecopyError:
        raise
    except bad_values as error:
        raise DataRefusedError(database=name, seen=str(error)) from error
    except Exception as error:
        if isinstance(error, OSError):
            raise DatabaseUnavailableError(database=name, seen=f"its log can't be flushed: {error.strerror}") from error
        code = primary_code(error)
        if code in _REFUSED:
            raise DataRefusedError(database=name, seen=f"{_REFUSED[code]}: {error}") from error
        if code in _CORRUPT:
            raise DatabaseCorruptError(database=name, seen=f"{_CORRUPT[code]}: {error}", remedy=_MEND) from error
        if code in _AWAY:
            raise DatabaseUnavailableError(database=name, seen=f"{_AWAY[code]}: {error}", **remedies(error)) from error
        if code == _ERROR and _ALTERED.search(str(error)):
            raise TableAlteredError(database=name, seen=str(error)) from error
        raise


class SqliteConnection:
    """A connection in an open transaction; statements run where `runner` runs them. Of no use after that has ended."""

    dialect = DIALECT

    def __init__(self, runner: Runner, *, name: str) -> None:
        self._runner, self._name = runner, name
        self._cursors: set[Any] = set()
        self._savepoints = count(1)
        self._ended = False

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        cursor, decoders = await self._start(sql, args)
        return self._taken([cursor], decoders)

    async def put(self, shape: Shape, rows: Sequence[Row]) -> None:
        names = [column.name for column in shape.columns]

        def work(connection: Any) -> None:
            for size, values in batches(encoded(shape, names, rows), len(names)):
                connection.execute(put_statement(shape, size), values)

        await self._run(work, _BAD_ROW)

    async def pick(self, shape: Shape, by: Sequence[str], keys: Sequence[Row]) -> list[Row]:
        def work(connection: Any) -> list[Any]:
            distinct = tuple(dict.fromkeys(encoded(shape, by, keys)))
            return [
                self._cursor(connection, pick_statement(shape, tuple(by), size), values)
                for size, values in batches(distinct, len(by))
            ]

        return self._taken(await self._run(work, _BAD_ROW), decoders_of(shape))

    async def drop(self, shape: Shape, by: Sequence[str], keys: Sequence[Row]) -> None:
        def work(connection: Any) -> None:
            for size, values in batches(encoded(shape, by, keys), len(by)):
                connection.execute(drop_statement(shape, tuple(by), size), values)

        await self._run(work, _BAD_ROW)

    async def stream(self, sql: str, *args: Any, rows_max: int) -> AsyncIterator[list[Row]]:
        cursor, decoders = await self._start(sql, args)
        try:
            while rows := self._next(cursor, decoders, rows_max):
                yield rows
                await asyncio.sleep(0)
        finally:
            if not self._ended:
                self._close_cursor(cursor)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        name = f"truecopy_{next(self._savepoints)}"
        await self._run(lambda connection: connection.execute(f"SAVEPOINT {name}"))
        try:
            yield
        except BaseException:
            with answering(self._name):
                await self._runner.run(lambda connection: _undo(connection, name))
            raise
        await self._run(lambda connection: connection.execute(f"RELEASE {name}"))

    async def run(self, work: Callable[[Any], T]) -> T:
        """Do what only SQLite can with its connection, in the connection's thread. Raises as a statement does."""
        return await self._run(work)

    def end(self) -> None:
        """Let go of what still reads; every later call raises RuntimeError."""
        self._ended = True
        for cursor in tuple(self._cursors):
            self._close_cursor(cursor)

    async def _start(self, sql: str, args: Sequence[Any]) -> tuple[Any, Decoders]:
        def work(connection: Any) -> tuple[Any, Decoders]:
            cursor = self._cursor(connection, native(sql), [bound(value) for value in args])
            return cursor, _decoders(cursor)

        return await self._run(work, _BAD_ARGUMENT)

    def _cursor(self, connection: Any, sql: str, values: Sequence[Any]) -> Any:
        cursor = connection.cursor()
        if not isinstance(cursor, apsw.Cursor):
            cursor.row_factory = None  # the lender's own may make anything of a row
        self._cursors.add(cursor)
        cursor.execute(sql, values)
        return cursor

    def _taken(self, cursors: list[Any], decoders: Decoders) -> list[Row]:
        rows: list[Row] = []
        with answering(self._name, ()):
            for cursor in cursors:
                rows += cursor.fetchall()
                self._close_cursor(cursor)
        return decoded(rows, decoders)

    def _next(self, cursor: Any, decoders: Decoders, rows_max: int) -> list[Row]:
        self._check()
        with answering(self._name, ()):
            return decoded(list(islice(cursor, rows_max)), decoders)

    def _close_cursor(self, cursor: Any) -> None:
        self._cursors.discard(cursor)
        cursor.close()

    def _check(self) -> None:
        if self._ended:
            raise RuntimeError(f"{self._name}: the transaction of this connection has ended; open another")

    async def _run(self, work: Callable[[Any], T], bad_values: tuple[type[Exception], ...] = ()) -> T:
        self._check()

        def checked(connection: Any) -> T:
            # SQLite may roll back by itself (disk full), and a lender may commit: what follows would stand alone.
            if not connection.in_transaction:
                raise NoTransactionError(database=self._name)
            return work(connection)

        with answering(self._name, bad_values):
            return await self._runner.run(checked)


def _undo(connection: Any, savepoint: str) -> None:
    # A full disk or an I/O error may have rolled back everything, savepoints included.
    if connection.in_transaction:
        connection.execute(f"ROLLBACK TO {savepoint}")
        connection.execute(f"RELEASE {savepoint}")


def _decoders(cursor: Any) -> Decoders:
    # The standard library does not tell declared types: a borrowed connection of it yields the stored forms here.
    if not isinstance(cursor, apsw.Cursor):
        return ()
    try:
        return decoders_by_type(tuple(declared for _, declared in cursor.get_description()))
    except apsw.ExecutionCompleteError:  # no rows
        return ()


def _flush(path: str, before: tuple[int, int, int]) -> tuple[int, int, int]:
    """Flush a write-ahead log unless it is as it was `before`; how it is now (inode, bytes, ns of its last change).

    SQLite holds no lock on this file, so that closing it here drops none. Where there is none, all is in the main file,
    which SQLite flushes before it lets go of the log.
    """
    try:
        log = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return before
    try:
        seen = os.fstat(log)
        found = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
        if found != before:
            os.fsync(log)
    finally:
        os.close(log)
    return found


class SqliteDatabase:
    """A SQLite file, or `:memory:`. Opened by its first use; may be used again after `close`.

    `synchronous="NORMAL"` may lose the last commits at a power failure, never a part of one: for replicas, which rewind.
    `timeout_s` bounds each wait: for our own writer, for another process's lock, for a free snapshot.
    """

    dialect = DIALECT

    def __init__(self, path: str, *, synchronous: Synchronous = "FULL", timeout_s: float = STATEMENT_TIMEOUT_S) -> None:
        self._name, self.path = f"sqlite:{path}", path
        self._timeout_s = timeout_s
        self._in_memory = path == ":memory:"
        self._flushes = synchronous == "FULL" or self._in_memory
        self._log_path, self._flushed = f"{path}-wal", (0, 0, 0)
        self._new_session = partial(Session, path, synchronous=synchronous, timeout_s=timeout_s)
        self._writer = self._new_session(writes=True)
        self._writer_free = asyncio.Semaphore(1)
        self._readers: list[Session] = []
        self._readers_free = asyncio.Semaphore(SNAPSHOTS_MAX)

    @property
    def name(self) -> str:
        return self._name

    async def install(self, shapes: Sequence[Shape], statements: Sequence[str] = ()) -> None:
        """See Database. Each of `statements` must bear being run again."""
        async with self.transaction() as connection:
            for sql in (*(sql for shape in shapes for sql in create_statements(shape)), *statements):
                await connection.fetch(sql)

    @asynccontextmanager
    async def transaction(self, *, durable: bool = True, lent: bool = False) -> AsyncIterator[Connection]:  # noqa: ARG002
        """See Database. `durable` changes nothing here: `synchronous` of the whole database does; nor does `lent`."""
        try:
            async with self._turn(self._writer_free, "its writer"), self._within(self._writer, "BEGIN IMMEDIATE") as it:
                yield it
        except DatabaseUnavailableError as fault:
            # All connections of a process share what they opened: each that stays keeps the file read-only for the writer.
            while isinstance(fault.__cause__, apsw.ReadOnlyError) and self._readers:
                await self._readers.pop().close()
            raise

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """See Database. In memory a snapshot waits for the writer, and holds it."""
        if self._in_memory:
            async with self.transaction() as connection:
                yield connection
            return
        async with self._turn(self._readers_free, "a snapshot"):
            if not self._readers:
                await self._create_file()
            reader = self._readers.pop() if self._readers else self._new_session(writes=False)
            try:
                # BEGIN alone takes no snapshot: the first read does.
                async with self._within(reader, "BEGIN; SELECT count(*) FROM sqlite_schema") as connection:
                    yield connection
            finally:
                self._readers.append(reader)

    async def flush(self) -> None:
        """See Database. With `synchronous = NORMAL` a commit lies in the write-ahead log, which nobody has flushed yet."""
        if not self._flushes:
            with answering(self._name):
                self._flushed = await asyncio.to_thread(_flush, self._log_path, self._flushed)

    async def close(self) -> None:
        """Wait for what is open, then close. Raises DatabaseUnavailableError when that takes too long."""
        async with self._turn(self._writer_free, "its writer"), AsyncExitStack() as all_readers:
            for _ in range(SNAPSHOTS_MAX):
                await all_readers.enter_async_context(self._turn(self._readers_free, "a snapshot"))
            while self._readers:
                await self._readers.pop().close()
            await self._writer.close()

    async def _create_file(self) -> None:
        # Readers do not create: the file gets its journal mode from the writer, once.
        with answering(self._name):
            await self._writer.run(lambda _: None)

    @asynccontextmanager
    async def _turn(self, free: asyncio.Semaphore, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                await free.acquire()
        except TimeoutError as error:
            seen = f"waited {self._timeout_s} s for {what}, which this process holds"
            raise DatabaseUnavailableError(database=self._name, seen=seen) from error
        try:
            yield
        finally:
            free.release()

    @asynccontextmanager
    async def _within(self, session: Session, begin: str) -> AsyncIterator[SqliteConnection]:
        connection = SqliteConnection(session, name=self._name)

        def commit(opened: apsw.Connection) -> None:
            connection.end()
            opened.execute("COMMIT")

        try:
            with answering(self._name):
                await session.run(lambda opened: opened.execute(begin).fetchall())
            yield connection
            with answering(self._name):
                await session.run(commit)
        except BaseException:
            await session.roll_back(connection.end)
            raise
