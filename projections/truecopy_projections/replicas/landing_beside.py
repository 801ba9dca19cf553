"""A landing in the replica's own database: two tables beside the others, under names that nothing else ever uses.

One bootstrap of a projection at a time holds a lease for it; the names of its tables lie in `truecopy_meta`, so that whoever
takes the lease next clears them away. A bootstrap that was frozen past its lease, and wakes up, finds its tables gone and
others' names there. Others read and write the database meanwhile: what is copied is committed bit by bit.

Adopting is one durable transaction. Where the projection's tables are not there, the two get their names; where they are (of a
replica that is replaced, or empty ones that a worker made), they are emptied and filled, so that views, grants and indexes of
others stay.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

from truecopy_bus import leases
from truecopy_bus.errors import DatabaseUnavailableError, UnavailableError
from truecopy_bus.limits import STATEMENT_TIMEOUT_S
from truecopy_bus.points import Point, reached
from truecopy_bus.sql import Connection, Copying, Database, Shape
from truecopy_bus.sql.statements import create_indexes, listed, quoted
from truecopy_projections.inheritance import Inheritance, Refusal
from truecopy_projections.limits import BOOTSTRAP_COPY_ROWS
from truecopy_projections.projection import Projection
from truecopy_projections.replicas.landing import Entry, Pace, Room, inherit, own_room, select
from truecopy_projections.replicas.sql_snapshot import check, read_meta, refuse_other_service, remembered_name
from truecopy_projections.replicas.tables import AMENDMENTS, CHECKPOINTS, PARTITIONS, SHARED, WAITING, journal_statement

__all__ = ["Beside", "beside", "taken"]

_PIECES_MAX = 16
"""Pieces of a COPY, some 64 KiB each, between the two databases."""
_VALUE_BYTES = 8
"""What a value that is neither text nor bytes counts for in a rate."""
_RENEWALS = 3
"""Heartbeats in the time of one lease."""


async def taken(
    connection: Connection, name: str, projection: Projection[Any], *, service: str, replace: bool
) -> Refusal | None:
    """Why a replica, called `name`, has no place for the projection. Raises OtherServiceError, ProjectionError."""
    meta = await read_meta(connection, name=name)
    refuse_other_service(meta, projection, service, name=name)
    if not check(meta, projection):
        return None
    if not replace:
        return "it holds the projection already", "give --replace if that is to be thrown away"
    if holder := await _holder(connection, projection.id):
        return f"{holder} holds its leases and writes it", "stop the workers of this replica, then call again"
    return None


@asynccontextmanager
async def beside(
    database: Database,
    projection: Projection[Any],
    refuse: Callable[[Refusal], Exception],
    *,
    service: str,
    replace: bool,
    lease_s: float,
) -> AsyncIterator["Beside"]:
    """A landing in this database. Raises what `refuse` makes when another bootstrap is at work."""
    await database.install(SHARED, (journal_statement(database.dialect),))
    scope, holder = f"bootstrap:{projection.id}", f"bootstrap {secrets.token_hex(4)}"
    token = f"truecopy_landing_{secrets.token_hex(8)}"
    async with database.transaction() as tx:
        await leases.prepare(tx, scope, 1)
        if other := await _holder(tx, scope):
            remedy = f"wait for its end, or {lease_s:g} s if it was killed"
            raise refuse((f"another {other} is at work", remedy))
        await leases.renew(tx, scope, holder, (), lease_s=lease_s, seize=True)
        await _clear(tx, scope)
        await tx.fetch("INSERT INTO truecopy_meta (name, value) VALUES ($1, $2)", scope, json.dumps([token, f"{token}_keys"]))
    landing = Beside(database, projection, refuse, scope, token, service=service, replace=replace)
    beating = asyncio.create_task(_beat(database, scope, holder, lease_s))
    try:
        await database.install((landing.room.rows, landing.room.keys))
        await reached(Point.BOOTSTRAP_BEGUN)
        yield landing
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        with suppress(UnavailableError):
            async with database.transaction() as tx:
                if await _is_ours(tx, scope, token):
                    await _clear(tx, scope)
                    await _let_go(tx, scope)


class Beside:
    """See Landing. `beside` makes one."""

    def __init__(
        self,
        database: Database,
        projection: Projection[Any],
        refuse: Callable[[Refusal], Exception],
        scope: str,
        token: str,
        *,
        service: str,
        replace: bool,
    ) -> None:
        self._database, self._projection, self._refuse = database, projection, refuse
        self._scope, self._token, self._service, self._replace = scope, token, service, replace
        self.room: Room = own_room(projection).named(token, f"{token}_keys")

    async def copy(self, source: Connection, pace: Pace) -> None:
        own = own_room(self._projection)
        total = await _size(source, own.rows, own.keys)
        for given, wanted in ((own.rows, self.room.rows), (own.keys, self.room.keys)):
            if isinstance(source, Copying) and self._database.dialect.name == source.dialect.name:
                await self._by_pieces(source, given, wanted, pace, total)
            else:
                await self._by_batches(source, given, wanted, pace)

    def reading(self) -> AbstractAsyncContextManager[Connection]:
        return self._database.snapshot()

    async def adopt(self, found: Inheritance, entry: Entry) -> None:
        projection, own = self._projection, own_room(self._projection)
        if projection.gathers:
            await self._database.install([gathered.shape for gathered in projection.gathers])
        async with self._database.transaction() as tx:
            await tx.fetch(tx.dialect.install_lock)
            if not await _is_ours(tx, self._scope, self._token):
                raise self._refuse(("its lease ran out, and another bootstrap took over", "wait for the end of that"))
            name = self._database.name
            if why := await taken(tx, name, projection, service=self._service, replace=self._replace):
                raise self._refuse(why)
            for table in (PARTITIONS, CHECKPOINTS, WAITING, AMENDMENTS):
                await tx.fetch(f"DELETE FROM {table.name} WHERE projection = $1", projection.id)
            await _let_go(tx, projection.id)
            await _let_go(tx, self._scope)
            await _move(tx, self.room.rows, own.rows)
            await _move(tx, self.room.keys, own.keys)
            ending = remembered_name(projection.id, "")  # what was proven of the rows that were, and our own name
            await tx.fetch("DELETE FROM truecopy_meta WHERE substr(name, length(name) - $1 + 1) = $2", len(ending), ending)
            await inherit(tx, projection, self._service, found, entry)

    async def _by_batches(self, source: Connection, given: Shape, wanted: Shape, pace: Pace) -> None:
        async for rows in source.stream(select(given), rows_max=BOOTSTRAP_COPY_ROWS):
            async with self._database.transaction(durable=False) as tx:
                await tx.put(wanted, rows)
            first = sum(len(value) if isinstance(value, str | bytes) else _VALUE_BYTES for value in rows[0])
            await pace.moved(first * len(rows), None)

    async def _by_pieces(self, source: Copying, given: Shape, wanted: Shape, pace: Pace, total: int | None) -> None:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_PIECES_MAX)

        async def sink(piece: bytes) -> None:
            await queue.put(piece)
            await pace.moved(len(piece), total)

        async def read() -> None:
            await source.copy_out(select(given), sink)
            await queue.put(None)

        async def pieces() -> AsyncIterator[bytes]:
            while True:
                try:
                    async with asyncio.timeout(STATEMENT_TIMEOUT_S):
                        piece = await queue.get()
                except TimeoutError:
                    if pace.waits:
                        continue
                    raise DatabaseUnavailableError(
                        database="of the peer", seen=f"nothing came for {STATEMENT_TIMEOUT_S:g} s"
                    ) from None
                if piece is None:
                    return
                yield piece

        try:
            async with self._database.transaction(durable=False) as tx, asyncio.TaskGroup() as tasks:
                assert isinstance(tx, Copying)
                tasks.create_task(read())
                tasks.create_task(tx.copy_in(wanted, pieces()))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group.exceptions[0].__cause__


async def _holder(connection: Connection, scope: str) -> str:
    """Who holds a live lease of this scope; "" for nobody."""
    alive = f"holder <> '' AND until_ms > {connection.dialect.now_ms}"
    found = await connection.fetch(f"SELECT holder FROM truecopy_leases WHERE scope = $1 AND {alive}", scope)
    return str(found[0][0]) if found else ""


async def _is_ours(tx: Connection, scope: str, token: str) -> bool:
    """Whether nobody has taken over. Nobody does before the transaction has ended."""
    found = await tx.fetch(f"SELECT value FROM truecopy_meta WHERE name = $1 {tx.dialect.for_update}", scope)
    return bool(found) and token in json.loads(found[0][0])


async def _beat(database: Database, scope: str, holder: str, lease_s: float) -> None:
    """Keep the lease, as long as nobody has taken it: one that ran out meanwhile is as good as held."""
    while True:
        await asyncio.sleep(lease_s / _RENEWALS)
        with suppress(UnavailableError):
            async with database.transaction() as tx:
                until = f"{tx.dialect.now_ms} + {int(lease_s * 1000)}"
                query = f"UPDATE truecopy_leases SET until_ms = {until} WHERE scope = $1 AND holder = $2"
                await tx.fetch(query, scope, holder)


async def _let_go(tx: Connection, scope: str) -> None:
    await tx.fetch("DELETE FROM truecopy_leases WHERE scope = $1", scope)
    await tx.fetch("DELETE FROM truecopy_members WHERE scope = $1", scope)


async def _clear(tx: Connection, scope: str) -> None:
    """Drop the tables that `scope` names, and the name."""
    for (names,) in await tx.fetch("SELECT value FROM truecopy_meta WHERE name = $1", scope):
        for name in json.loads(names):
            await tx.fetch(f"DROP TABLE IF EXISTS {quoted(name)}")
    await tx.fetch("DELETE FROM truecopy_meta WHERE name = $1", scope)


async def _move(tx: Connection, landed: Shape, own: Shape) -> None:
    sqlite = tx.dialect.name == "sqlite"
    there = await tx.fetch(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = $1"
        if sqlite
        else "SELECT 1 WHERE to_regclass(quote_ident($1::text)) IS NOT NULL",
        own.name,
    )
    if not there:
        await tx.fetch(f"ALTER TABLE {quoted(landed.name)} RENAME TO {quoted(own.name)}")
        if not sqlite:
            await tx.fetch(f"ALTER INDEX {quoted(f'{landed.name}_pkey')} RENAME TO {quoted(f'{own.name}_pkey')}")
        for sql in create_indexes(own):
            await tx.fetch(sql)
        return
    names = listed(tuple(column.name for column in own.columns))
    await tx.fetch(f"DELETE FROM {quoted(own.name)}" if sqlite else f"TRUNCATE {quoted(own.name)}")
    await tx.fetch(f"INSERT INTO {quoted(own.name)} ({names}) {select(landed)}")
    await tx.fetch(f"DROP TABLE {quoted(landed.name)}")


async def _size(source: Connection, *tables: Shape) -> int | None:
    """Bytes of these tables, about; None on SQLite, which does not know."""
    if source.dialect.name == "sqlite":
        return None
    found = [await source.fetch("SELECT pg_table_size(quote_ident($1::text)::regclass)", table.name) for table in tables]
    return sum(int(rows[0][0]) for rows in found)
