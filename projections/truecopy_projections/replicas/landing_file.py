"""A landing that is a whole SQLite file: the peer's, page by page, for a replica whose file is not there yet.

The copy is made beside the place where it is wanted, stripped of what is not inherited, read back, flushed, and then linked to
its name, which fails if a worker has made the file meanwhile. It holds the peer's free pages too; so it is only taken from a
file in which there is nothing but the one projection and Truecopy's own tables.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from truecopy_bus.errors import DatabaseUnavailableError
from truecopy_bus.points import Point, reached
from truecopy_bus.sql import Connection, Database
from truecopy_bus.sql.sqlite import SqliteConnection, SqliteDatabase
from truecopy_bus.sql.sqlite_copy import back_up, flushed, held_alone, remains
from truecopy_bus.sql.statements import quoted
from truecopy_projections.inheritance import Inheritance, Refusal
from truecopy_projections.limits import BOOTSTRAP_PAGES
from truecopy_projections.projection import Projection
from truecopy_projections.replicas.landing import Entry, Pace, Room, inherit, own_room
from truecopy_projections.replicas.tables import SHARED, journal_statement

__all__ = ["AsFile", "as_file", "clear_away", "is_alone", "new_file"]

_PAGE_BYTES = 4096
_STEPS_A_SECOND = 10
"""Steps of a copy that is slowed down: a peer's disk sees a trickle, and not a burst each second."""


def new_file(database: Database) -> Path | None:
    """The file of a SQLite database that is not there yet."""
    if isinstance(database, SqliteDatabase) and database.path != ":memory:" and not Path(database.path).exists():
        return Path(database.path)
    return None


async def is_alone(source: Connection, projection: Projection[Any]) -> bool:
    """Whether the peer is a SQLite file that holds this projection and nothing else that others could miss or must not see."""
    if not isinstance(source, SqliteConnection):
        return False
    own = own_room(projection)
    known = {"truecopy_journal", own.rows.name, own.keys.name, *(shape.name for shape in SHARED)}
    known |= {gathered.table for gathered in projection.gathers}
    tables = await source.fetch("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return {str(name) for (name,) in tables} <= known


@asynccontextmanager
async def as_file(
    path: Path, projection: Projection[Any], refuse: Callable[[Refusal], Exception], *, service: str
) -> AsyncIterator["AsFile"]:
    """A landing that becomes the file `path`. Raises what `refuse` makes when another bootstrap is at work."""
    side = _side(path)
    with held_alone(_lock(side)) as alone:
        if not alone:
            raise refuse(("another bootstrap of it is at work", "wait for its end"))
        if left := [found for found in remains(path) if found != path]:
            seen = f"{', '.join(map(str, left))} lies there without its database"
            raise refuse((seen, "move it away: SQLite would mix it into the new file"))
        _remove(side)
        landing = AsFile(path, side, projection, refuse, service=service)
        try:
            await reached(Point.BOOTSTRAP_BEGUN)
            yield landing
        finally:
            await landing.close()
            _remove(side)


def clear_away(database: Database) -> None:
    """Remove what a bootstrap that was killed left beside this database, unless one is at work."""
    if isinstance(database, SqliteDatabase) and (side := _side(Path(database.path))).exists():
        with held_alone(_lock(side)) as alone:
            if alone:
                _remove(side)


def _side(path: Path) -> Path:
    return path.with_name(f"{path.name}.landing")


def _lock(side: Path) -> Path:
    return side.with_name(f"{side.name}-lock")


def _remove(path: Path) -> None:
    for found in remains(path):
        found.unlink(missing_ok=True)


class AsFile:
    """See Landing. `as_file` makes one."""

    def __init__(
        self, path: Path, side: Path, projection: Projection[Any], refuse: Callable[[Refusal], Exception], *, service: str
    ) -> None:
        self._path, self._side, self._projection, self._refuse, self._service = path, side, projection, refuse, service
        self._database = SqliteDatabase(str(side), synchronous="NORMAL")
        self.room: Room = own_room(projection)

    async def copy(self, source: Connection, pace: Pace) -> None:
        assert isinstance(source, SqliteConnection)
        pages = BOOTSTRAP_PAGES
        if pace.rate:
            pages = max(1, min(pages, pace.rate // _PAGE_BYTES // _STEPS_A_SECOND))
        before = 0
        async with aclosing(back_up(source, self._side, pages=pages)) as steps:
            async for done, total in steps:
                await pace.moved(done - before, total)
                before = done
        async with self._database.transaction() as tx:
            kept = {self.room.rows.name, self.room.keys.name}
            for kind, name in await tx.fetch(
                "SELECT type, name FROM sqlite_schema WHERE type IN ('view', 'trigger', 'table') AND name NOT LIKE 'sqlite_%' "
                "ORDER BY type DESC"  # a view before the tables that it reads
            ):
                if name not in kept:
                    await tx.fetch(f"DROP {kind} IF EXISTS {quoted(name)}")
        shapes = (*SHARED, self.room.rows, self.room.keys, *(gathered.shape for gathered in self._projection.gathers))
        await self._database.install(shapes, (journal_statement(self._database.dialect),))

    def reading(self) -> AbstractAsyncContextManager[Connection]:
        return self._database.snapshot()

    async def adopt(self, found: Inheritance, entry: Entry) -> None:
        async with self._database.transaction() as tx:
            await inherit(tx, self._projection, self._service, found, entry)
        await self.close()
        try:
            flushed(self._side)
            os.link(self._side, self._path)  # unlike a rename, it takes nobody's place
            flushed(self._path.parent)
        except FileExistsError:
            raise self._refuse(("a worker has begun it meanwhile", "stop it, and give --replace")) from None
        except OSError as fault:
            raise DatabaseUnavailableError(database=f"sqlite:{self._path}", seen=str(fault.strerror)) from fault

    async def close(self) -> None:
        """Close the copy's connections, which moves its write-ahead log into it."""
        await self._database.close()
