"""The embedded log: one SQLite file, durable, shared by the processes of one machine.

An append is durable when it returns (`synchronous = FULL`). Writers wait for each other's lock; readers wait for nobody.
A reader that waits is woken at once by an append through the same SQLiteLog, and looks every LOG_POLL_S seconds whether
another process has committed. The file must not be opened by another SQLite library in a process that uses this log.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import apsw

from truecopy_bus.errors import LogUnavailableError, TableAlteredError
from truecopy_bus.limits import LOG_POLL_S, STATEMENT_TIMEOUT_S
from truecopy_bus.logs import sqlite_store as store
from truecopy_bus.logs.chunk import DamagedError, pack, pieces
from truecopy_bus.record import Appended, Outgoing, Record, TopicSpec, TopicState
from truecopy_bus.sql.sqlite_session import Session, remedies

__all__ = ["SQLiteLog"]

T = TypeVar("T")

_AWAY = (
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.FullError,
    apsw.IOError,
    apsw.LockedError,
    apsw.NotADBError,
    apsw.ProtocolError,
    apsw.ReadOnlyError,
    OSError,
    DamagedError,
)


class _Connection:
    """A session on the log's file whose tables are known to exist, and whose faults are the log's."""

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self.name = f"sqlite:{path}"
        self._path, self._prepared, self._closed = path, False, False
        self._session = Session(str(path), synchronous="FULL", timeout_s=busy_timeout_s, writes=True)

    async def run(self, work: Callable[[apsw.Connection], T]) -> T:
        if self._closed:
            raise LogUnavailableError(log=self.name, seen="closed")

        def prepared(connection: apsw.Connection) -> T:
            if not self._prepared:
                store.prepare(connection, name=self.name)
                self._prepared = True
            return work(connection)

        with self._faults():
            if not self._prepared:
                await asyncio.to_thread(self._path.parent.mkdir, parents=True, exist_ok=True)
            return await self._session.run(prepared)

    async def let_go(self) -> None:
        with self._faults():
            await self._session.close()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self.let_go()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except _AWAY as error:
            raise LogUnavailableError(log=self.name, seen=f"{type(error).__name__}: {error}", **remedies(error)) from error
        except apsw.SQLError as error:  # every statement is one of ours, so its tables are not
            raise TableAlteredError(database=self.name, seen=str(error)) from error


class SQLiteLog:
    """The log port on one file. `busy_timeout_s` bounds the wait for another process's write."""

    def __init__(self, path: str | Path, *, busy_timeout_s: float = STATEMENT_TIMEOUT_S) -> None:
        self._path, self._busy_timeout_s = Path(path).absolute(), busy_timeout_s
        self._writer = _Connection(self._path, busy_timeout_s)
        self._readers: set[_Reader] = set()

    async def create(self, topic: TopicSpec) -> TopicState:
        return await self._writer.run(lambda connection: store.create(connection, self._writer.name, topic))

    async def describe(self, topic: str) -> TopicState:
        return await self._writer.run(lambda connection: store.describe(connection, self._writer.name, topic))

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        def work(connection: apsw.Connection) -> Appended:
            packed = [pack(piece) for piece in pieces(topic, records)]
            return store.append(connection, self._writer.name, topic, partition, packed)

        try:
            appended = await self._writer.run(work)
        except LogUnavailableError as fault:
            # All connections of a process share what they opened: each that stays keeps the file read-only for the writer.
            for reader in tuple(self._readers) if isinstance(fault.__cause__, apsw.ReadOnlyError) else ():
                await reader.let_go()
            raise
        self._wake()
        return appended

    def reader(self, topic: str) -> "_Reader":
        reader = _Reader(_Connection(self._path, self._busy_timeout_s), topic, self._readers.discard)
        self._readers.add(reader)
        return reader

    async def report(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Nothing: positions are the replicas' own, and no lag tool reads this file."""

    async def close(self) -> None:
        for reader in tuple(self._readers):
            await reader.close()
        await self._writer.close()

    async def delete(self, topic: str) -> None:
        """Remove a topic, as an operator might. Not part of the port. Raises TopicMissingError."""
        await self._writer.run(lambda connection: store.delete(connection, self._writer.name, topic))
        self._wake()

    async def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """Drop the records before an offset, as retention does. Not part of the port. Raises TopicMissingError."""
        await self._writer.run(lambda connection: store.trim(connection, self._writer.name, topic, partition, before_offset))

    async def settings(self, topic: str) -> Mapping[str, str]:
        """What the topic was created with. Not part of the port. Raises TopicMissingError."""
        return await self._writer.run(lambda connection: store.settings(connection, self._writer.name, topic))

    def _wake(self) -> None:
        for reader in self._readers:
            reader.look.set()


class _Reader:
    """Reads over a connection and thread of its own, where it also waits: a read is one hop, however long it lasts."""

    def __init__(self, connection: _Connection, topic: str, forget: Callable[["_Reader"], None]) -> None:
        self.look = threading.Event()
        self._connection, self._topic, self._forget = connection, topic, forget
        self._turn = 0
        self._stopped = False

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        wanted, turn = dict(positions), self._turn
        self._turn += 1
        ended = threading.Event()

        def work(connection: apsw.Connection) -> list[Record]:
            deadline_s = time.monotonic() + wait_s
            seen = None
            while True:
                late = ended.is_set() or time.monotonic() >= deadline_s
                records = store.read(connection, self._connection.name, self._topic, wanted, turn, records_max)
                if records or late or self._stopped:
                    return records
                if seen is not None:
                    while not self.look.is_set() and store.version(connection) == seen:
                        left_s = deadline_s - time.monotonic()
                        if left_s <= 0:
                            return records
                        self.look.wait(min(left_s, LOG_POLL_S))
                # Taken before the next look at the records: what is committed between the two is not slept through.
                self.look.clear()
                seen = store.version(connection)

        reading = asyncio.ensure_future(self._connection.run(work))
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            ended.set()
            self.look.set()
            await asyncio.wait({reading})
            reading.exception()
            raise

    async def let_go(self) -> None:
        """Close what is open; the next read opens it anew."""
        await self._connection.let_go()

    async def close(self) -> None:
        self._stopped = True
        self.look.set()
        self._forget(self)
        await self._connection.close()
