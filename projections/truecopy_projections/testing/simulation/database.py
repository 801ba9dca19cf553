"""A simulated database: SQLite in memory behind the database port, as each process sees it, with a clock and a disk of its own.

The same SQL runs as anywhere else. Snapshots are copies, so that they see one state and hold up nobody. What was committed
without a flush may be forgotten by a crash of the database; what was flushed after it, or committed durably, may not.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import apsw

from truecopy_bus.sql.port import Connection, Dialect, Shape
from truecopy_bus.sql.sqlite import SqliteConnection, answering
from truecopy_bus.sql.sqlite_values import create_statements
from truecopy_projections.testing.simulation.faults import Side, Step
from truecopy_projections.testing.simulation.process import Process

__all__ = ["Disk", "SimulatedDatabase"]

T = TypeVar("T")
_EPOCH_MS = 1_750_000_000_000
"""What the databases' clocks show when the loop's shows zero."""
_COPIES_MAX = 4


class Disk:
    """What a database is, whoever looks at it. `skew_s` is how far its clock is from the loop's."""

    def __init__(self) -> None:
        self.connection = _opened(None)
        self.turn = asyncio.Lock()
        self.skew_s = 0.0
        self.commits = 0
        self._flushed: bytes | None = None
        self._copies: list[tuple[int, apsw.Connection]] = []

    def now_ms(self) -> int:
        return _EPOCH_MS + round((asyncio.get_running_loop().time() + self.skew_s) * 1000)

    def flush(self) -> None:
        """All that is committed stays. Remembered only while a crash is on its way, which costs a copy."""
        if self._flushed is not None:
            self._flushed = self.connection.serialize("main")

    def expect_crash(self) -> None:
        self._flushed = self.connection.serialize("main")

    def crash(self) -> None:
        """Come back with what was flushed. Only between transactions."""
        if self._flushed is None:
            return  # another crash came first
        self.connection.close(True)
        self.connection, self._flushed = _opened(self._flushed), None
        self.commits += 1

    def copy(self) -> apsw.Connection:
        """A connection that sees what is committed now. Give it back."""
        while self._copies:
            commits, connection = self._copies.pop()
            if commits == self.commits:
                return connection
            connection.close(True)
        return _opened(self.connection.serialize("main"))

    def give_back(self, commits: int, connection: apsw.Connection) -> None:
        if commits == self.commits and len(self._copies) < _COPIES_MAX:
            self._copies.append((commits, connection))
        else:
            connection.close(True)

    def close(self) -> None:
        for _, connection in self._copies:
            connection.close(True)
        self.connection.close(True)


def _opened(content: bytes | None) -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    if content is not None:
        connection.deserialize("main", content)
    return connection


class _Runner:
    """Runs the statements of one transaction; each is an operation, unless it only reads a copy."""

    def __init__(self, connection: apsw.Connection, process: Process | None, side: Side) -> None:
        self._connection, self._process, self._side = connection, process, side

    async def run(self, work: Callable[[Any], T]) -> T:
        async def effect(_: int) -> T:
            return work(self._connection)

        if self._process is None:
            return await effect(0)
        return await self._process.perform(self._side, Step.STATEMENT, effect)


class _Connection(SqliteConnection):
    def __init__(self, runner: _Runner, dialect: Dialect) -> None:
        super().__init__(runner, name="simulated")
        self.dialect = dialect


class SimulatedDatabase:
    """The database port on a Disk, for one process; without one (None) nothing strikes. See Database."""

    def __init__(self, disk: Disk, side: Side, process: Process | None = None) -> None:
        self._disk, self._side, self._process = disk, side, process

    @property
    def name(self) -> str:
        return "simulated"

    @property
    def dialect(self) -> Dialect:
        return Dialect(
            name="sqlite",
            now_ms=str(self._disk.now_ms()),
            for_update="",
            serial="INTEGER PRIMARY KEY AUTOINCREMENT",
            install_lock="SELECT 1",
        )

    async def install(self, shapes: Sequence[Shape], statements: Sequence[str] = ()) -> None:
        async with self.transaction() as connection:
            for sql in (*(sql for shape in shapes for sql in create_statements(shape)), *statements):
                await connection.fetch(sql)

    @asynccontextmanager
    async def transaction(self, *, durable: bool = True, lent: bool = False) -> AsyncIterator[Connection]:  # noqa: ARG002
        disk = self._disk
        async with disk.turn:
            connection = _Connection(_Runner(disk.connection, self._process, self._side), self.dialect)
            try:
                with answering(self.name):
                    await self._perform(Step.BEGIN, lambda: disk.connection.execute("BEGIN IMMEDIATE").fetchall())
                yield connection
                with answering(self.name):
                    await self._perform(Step.COMMIT, lambda: self._commit(connection, durable))
            except BaseException:
                connection.end()
                if disk.connection.in_transaction:
                    disk.connection.execute("ROLLBACK")
                raise

    def _commit(self, connection: _Connection, durable: bool) -> None:
        connection.end()
        self._disk.connection.execute("COMMIT")
        self._disk.commits += 1
        if durable:
            self._disk.flush()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        disk = self._disk
        await self._perform(Step.READ, lambda: None)
        while disk.connection.in_transaction:  # what is serialized is what is committed, only between transactions
            async with disk.turn:
                pass
        commits, copied = disk.commits, disk.copy()
        connection = _Connection(_Runner(copied, None, self._side), self.dialect)
        copied.execute("BEGIN")
        try:
            yield connection
        finally:
            connection.end()
            copied.execute("ROLLBACK")
            disk.give_back(commits, copied)

    async def flush(self) -> None:
        await self._perform(Step.READ, self._disk.flush)

    async def close(self) -> None:
        """Nothing: the disk stays."""

    async def _perform(self, step: Step, effect: Callable[[], T]) -> T:
        async def done(_: int) -> T:
            return effect()

        if self._process is None:
            return await done(0)
        return await self._process.perform(self._side, step, done)
