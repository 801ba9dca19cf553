"""A snapshot of a replica in SQL: one read transaction, and what of the replica its database held when it began.

`truecopy_meta` says, by name, the format, how each projection is declared, which service owns it, and whether commits were
ever acknowledged before their flush.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from truecopy_bus.sql import Connection
from truecopy_bus.sql.statements import listed, quoted
from truecopy_projections.errors import OtherServiceError
from truecopy_projections.gathered import Gathered, GatheredRow, Group
from truecopy_projections.limits import SCAN_ROWS
from truecopy_projections.projection import Projection
from truecopy_projections.replica import FORMAT, JournalEntry, refuse_other_declaration
from truecopy_projections.replicas.sql_gathered import gathered_of
from truecopy_projections.replicas.sql_keys import all_keys, load
from truecopy_projections.replicas.tables import (
    CHECKPOINTS,
    PARTITIONS,
    WAITING,
    checkpoint_of,
    key_of,
    meta_statement,
    state_of,
    stored_of,
    waiting_of,
)
from truecopy_projections.state import Checkpoint, KeyState, MarkVerdict, PartitionState, StoredRow, Waiting
from truecopy_schemas.errors import NewerFormatError

__all__ = [
    "FORMAT_NAME",
    "LAZY_NAME",
    "SqlSnapshot",
    "check",
    "declared_name",
    "owner_name",
    "read_meta",
    "refuse_dropped",
    "refuse_other_service",
]

FORMAT_NAME = "format"
LAZY_NAME = "lazy"
"""Said before the first commit that PostgreSQL may acknowledge before its flush. SQLite knows by itself."""


def declared_name(projection: str) -> str:
    """The name under which a projection's declaration is remembered."""
    return f"projection:{projection}"


def owner_name(projection: Projection[Any]) -> str:
    """The name under which the service of a projection is remembered. All numbers of it share one view, and so one owner."""
    return f"owner:{projection.name}"


def refuse_other_service(meta: Mapping[str, str], projection: Projection[Any], service: str, *, name: str) -> None:
    """Raises OtherServiceError where the replica called `name` holds the projection for another service than `service`.

    "" is whoever uses the packages without declaring a service: it owns nothing, and is refused nothing.
    """
    owner = meta.get(owner_name(projection))
    if service and owner not in (None, service):
        raise OtherServiceError(replica=name, projection=projection.id, owner=owner, service=service)


async def refuse_dropped(connection: Connection, *tables: str) -> None:
    """Raises TableAlteredError for the first that is not there: made anew it would be empty, and nothing fill it again."""
    for table in tables:
        await connection.fetch(f"SELECT 1 FROM {quoted(table)} LIMIT 0")


async def read_meta(connection: Connection, *, name: str) -> dict[str, str]:
    """What the replica says of itself; empty if the database holds none. Raises NewerFormatError."""
    if not await connection.fetch(meta_statement(connection.dialect)):
        return {}
    meta = {str(row[0]): str(row[1]) for row in await connection.fetch("SELECT name, value FROM truecopy_meta")}
    if (seen := int(meta.get(FORMAT_NAME, FORMAT))) > FORMAT:
        raise NewerFormatError(what=f"replica {name}", seen=seen, known=FORMAT)
    return meta


def check(meta: Mapping[str, str], projection: Projection[Any]) -> bool:
    """Whether the replica holds the projection. Raises ProjectionError if it was declared otherwise before."""
    known = meta.get(declared_name(projection.id))
    if known is not None:
        refuse_other_declaration(projection, json.loads(known))
    return known is not None


class SqlSnapshot:
    """See Snapshot."""

    def __init__(self, connection: Connection, meta: Mapping[str, str]) -> None:
        self._connection, self._meta = connection, meta

    async def states(self, projection: str) -> dict[int, PartitionState]:
        if declared_name(projection) not in self._meta:
            return {}
        rows = await self._connection.pick(PARTITIONS, ("projection",), [(projection,)])
        return {state.partition: state for state in map(state_of, sorted(rows, key=lambda row: row[1]))}

    async def rows(self, projection: Projection[Any]) -> AsyncIterator[Sequence[tuple[str, int, StoredRow]]]:
        if check(self._meta, projection):
            columns = listed(tuple(column.name for column in projection.shape.columns))
            sql = f"SELECT {columns} FROM {quoted(projection.table)}"
            async for batch in self._connection.stream(sql, rows_max=SCAN_ROWS):
                yield [stored_of(projection, row) for row in batch]

    async def keys(self, projection: Projection[Any]) -> AsyncIterator[Sequence[tuple[str, int, KeyState]]]:
        if check(self._meta, projection):
            async for batch in self._connection.stream(all_keys(projection), rows_max=SCAN_ROWS):
                yield [key_of(row) for row in batch]

    async def get(self, projection: Projection[Any], key: str) -> tuple[KeyState | None, Sequence[StoredRow]]:
        if not check(self._meta, projection):
            return None, ()
        states, rows, _ = await load(self._connection, projection, [key], rows={key})
        return states.get(key), [stored_of(projection, row)[2] for row in rows]

    async def gathered(self, gathered: Gathered[Any], group: Group | None = None) -> AsyncIterator[Sequence[GatheredRow]]:
        if check(self._meta, gathered.of):
            if group is not None:
                yield [gathered_of(row) for row in await self._connection.pick(gathered.shape, gathered.key, [group])]
                return
            columns = listed(tuple(column.name for column in gathered.shape.columns))
            sql = f"SELECT {columns} FROM {quoted(gathered.table)}"
            async for batch in self._connection.stream(sql, rows_max=SCAN_ROWS):
                yield [gathered_of(row) for row in batch]

    async def checkpoints(self, projection: str, *, latest: MarkVerdict | None = None) -> Sequence[Checkpoint]:
        if declared_name(projection) not in self._meta:
            return ()
        if latest is None:
            rows = await self._connection.pick(CHECKPOINTS, ("projection",), [(projection,)])
        else:  # one step down the key's index for each partition, and not the marks of hours
            rows = await self._connection.fetch(
                f"SELECT {', '.join(f'c.{column.name}' for column in CHECKPOINTS.columns)} FROM truecopy_partitions AS p "
                "JOIN truecopy_checkpoints AS c ON c.projection = p.projection AND c.part = p.part AND c.log_offset = ("
                "SELECT l.log_offset FROM truecopy_checkpoints AS l WHERE l.projection = p.projection AND l.part = p.part "
                "AND l.verdict = $2 ORDER BY l.log_offset DESC LIMIT 1) WHERE p.projection = $1",
                projection,
                latest.name,
            )
        return [checkpoint_of(row) for row in sorted(rows, key=lambda row: row[1:3])]

    async def waiting(self, projection: str) -> Sequence[Waiting]:
        if declared_name(projection) not in self._meta:
            return ()
        rows = await self._connection.pick(WAITING, ("projection",), [(projection,)])
        return [waiting_of(row) for row in sorted(rows, key=lambda row: row[1:3])]

    async def journal(self, kind: str) -> Sequence[JournalEntry]:
        if not self._meta:
            return ()
        rows = await self._connection.fetch("SELECT entry FROM truecopy_journal WHERE kind = $1 ORDER BY id", kind)
        return [json.loads(row[0]) for row in rows]
