"""A SQLite file copied whole while others write it, and a lock that the death of its holder opens.

The copy is made by SQLite's online backup (https://www.sqlite.org/backup.html) from a connection whose read transaction stays
open: so all of its steps see one state, and a writer neither waits for them nor makes them begin again. What a writer writes
meanwhile stays in the file's write-ahead log until the copy is done.
"""

import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from truecopy_bus.sql.sqlite import SqliteConnection, answering

__all__ = ["back_up", "flushed", "held_alone", "remains"]

_BESIDE = ("", "-journal", "-wal", "-shm")
"""What SQLite keeps in a file and beside it."""


async def back_up(connection: SqliteConnection, path: Path, *, pages: int) -> AsyncGenerator[tuple[int, int], None]:
    """Copy the database of this snapshot into the new file `path`, so many pages at a time; yields (bytes done, bytes in all).

    Raises DatabaseUnavailableError. A copy that was not carried to its end is no database, and its caller's to remove.
    """

    def begin(source: Any) -> tuple[Any, Any, int]:
        page_bytes = source.pragma("page_size")
        target = apsw.Connection(str(path))
        # Nobody reads the copy before it is whole, and it is flushed then: what a crash leaves of it is thrown away.
        target.pragma("journal_mode", "off")
        target.pragma("synchronous", "off")
        return target, target.backup("main", source, "main"), page_bytes

    target, backup, page_bytes = await connection.run(begin)
    try:
        done = False
        while not done:
            done = await connection.run(lambda _: backup.step(pages))
            yield (backup.page_count - backup.remaining) * page_bytes, backup.page_count * page_bytes
    finally:

        def end(_: Any) -> None:
            backup.close(True)
            target.close(True)

        await connection.run(end)


def remains(path: Path) -> list[Path]:
    """The files that SQLite may have left of a database: itself, its journal, its write-ahead log."""
    return [found for ending in _BESIDE if (found := path.with_name(path.name + ending)).exists()]


def flushed(path: Path) -> None:
    """Return once the file or folder would survive a power failure. No connection of this process may have it open."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def held_alone(path: Path) -> Iterator[bool]:
    """Whether nobody else is in this block with the same path, in any process. The lock's file is gone after it."""
    with answering(f"sqlite:{path}"):
        lock = apsw.Connection(str(path))
    try:
        try:
            with answering(f"sqlite:{path}"):
                lock.execute("BEGIN EXCLUSIVE")
        except Exception as fault:
            if not isinstance(fault.__cause__, apsw.BusyError):
                raise
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
    finally:
        lock.close(True)
