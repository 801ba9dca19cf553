"""One SQLite connection and the one thread in which its statements run, so that the event loop never waits for a disk.

A cancelled caller gets its CancelledError only after the running statement has ended: whoever rolls back next finds the
connection at rest. A wait for another process's lock ends at once when its caller is cancelled.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import apsw

from truecopy_bus.errors import TwoLibrariesError

__all__ = ["Session", "Synchronous", "claim_file", "primary_code", "remedies"]

T = TypeVar("T")
Synchronous = Literal["FULL", "NORMAL"]

_SQLITE_VERSION_MIN = "3.51.3"
"""Older ones can corrupt a file when a write-ahead log is reset under several connections."""
_LOCK_POLL_S = 0.002
"""Seconds between tries for a lock that another process or connection holds."""

# Primary result codes, https://www.sqlite.org/rescode.html
_REMEDIES = {
    8: "make the file, its folder and the files ending in -wal and -shm beside it writable for this user",
    10: "free space on its disk if that is full or a quota is reached, else look what ails the disk",
    13: "free space on its disk, or raise the quota",
}

_library_of_file: dict[str, str] = {}


def claim_file(path: str, library: str) -> None:
    """Note that this process uses `library` on the file, for its lifetime. Raises TwoLibrariesError if another did.

    POSIX drops all of a process's locks on a file when any descriptor of it is closed, and each library knows only its own.
    """
    if path in ("", ":memory:"):
        return
    known = _library_of_file.setdefault(os.path.realpath(path), library)
    if known != library:
        raise TwoLibrariesError(path=path, known=known, seen=library)


def primary_code(error: Exception) -> int:
    """The result code of an error of either SQLite library; 0 if it has none."""
    # apsw has `result`; the standard library's `sqlite_errorcode` is extended: its low byte is the primary code.
    return int(getattr(error, "result", getattr(error, "sqlite_errorcode", 0))) & 0xFF


def remedies(error: Exception) -> dict[str, str]:
    """`remedy` as an argument for an UnavailableError, if this error of SQLite has one of its own."""
    remedy = _REMEDIES.get(primary_code(error))
    return {} if remedy is None else {"remedy": remedy}


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


class Session:
    """An apsw connection, opened by its first use, and again by the next after it was closed."""

    def __init__(self, path: str, *, synchronous: Synchronous, timeout_s: float, writes: bool) -> None:
        if _version(apsw.sqlite_lib_version()) < _version(_SQLITE_VERSION_MIN):
            raise ImportError(
                f"SQLite {apsw.sqlite_lib_version()} can corrupt write-ahead logs; "
                f"install an apsw that bundles {_SQLITE_VERSION_MIN} or later"
            )
        self._path, self._synchronous, self._timeout_s, self._writes = path, synchronous, timeout_s, writes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="truecopy-sqlite")
        self._connection: apsw.Connection | None = None
        self._abandoned = threading.Event()
        self._deadline_s = 0.0

    async def run(self, work: Callable[[apsw.Connection], T]) -> T:
        """Do `work` in the thread and wait for its end, even when cancelled. Raises what it raises."""
        return await self._in_thread(lambda: self._run(work))

    async def roll_back(self, let_go: Callable[[], None]) -> None:
        """Call `let_go` and undo what is open. A connection that can't do that is closed, which does."""
        await self._in_thread(lambda: self._roll_back(let_go))

    async def close(self) -> None:
        """Close the connection, rolling back what is open. The session may be used again."""
        await self._in_thread(self._close)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait({future})
            except asyncio.CancelledError as error:
                cancelled = error
                self._abandoned.set()
        self._abandoned.clear()
        if cancelled is not None:
            future.exception()
            raise cancelled
        return future.result()

    def _run(self, work: Callable[[apsw.Connection], T]) -> T:
        try:
            return work(self._open())
        except apsw.ReadOnlyError:
            # What could not be opened for writing stays so for this connection, whatever becomes of the file.
            self._close()
            raise

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = self._opened()
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(True)

    def _roll_back(self, let_go: Callable[[], None]) -> None:
        try:
            let_go()
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except apsw.Error:
            self._close()

    def _opened(self) -> apsw.Connection:
        claim_file(self._path, "apsw")
        create = apsw.SQLITE_OPEN_CREATE if self._writes else 0
        connection = apsw.Connection(self._path, apsw.SQLITE_OPEN_READWRITE | create)
        try:
            connection.set_busy_handler(self._wait_for_lock)
            # Otherwise a quoted name of a column that is gone would be read as a text: "count" as 'count' in every row.
            connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
            connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
            self._enter_wal(connection)
            connection.pragma("synchronous", self._synchronous)
            if not self._writes:
                connection.pragma("query_only", 1)
        except BaseException:
            connection.close(True)
            raise
        return connection

    def _enter_wal(self, connection: apsw.Connection) -> None:
        # The first change of the journal mode is refused at once, without asking the busy handler, when another process
        # does the same at the same time.
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            try:
                connection.pragma("journal_mode", "wal")
                return
            except apsw.BusyError:
                if self._abandoned.is_set() or time.monotonic() >= deadline_s:
                    raise
                time.sleep(_LOCK_POLL_S)

    def _wait_for_lock(self, attempt: int) -> bool:
        if attempt == 0:
            self._deadline_s = time.monotonic() + self._timeout_s
        if self._abandoned.is_set() or time.monotonic() >= self._deadline_s:
            return False
        time.sleep(_LOCK_POLL_S)
        return True
