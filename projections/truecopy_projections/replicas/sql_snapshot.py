"""A snapshot of a replica in SQL: one read transaction, and what of the replica its database held when it began.

`truecopy_meta` says, by name, the format, how each projection is declared, which service owns it, whether commits were ever
acknowledged before their flush, and what checks remember of a projection.
"""

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from truecopy_bus.errors import DatabaseCorruptError
from truecopy_bus.sql import Connection
from truecopy_bus.sql.statements import listed, quoted
from truecopy_projections.amendment import NO_AMENDMENTS, Amendments
from truecopy_projections.digest import bucket_of
from truecopy_projections.errors import OtherServiceError
from truecopy_projections.gathered import Gathered, GatheredRow, Group
from truecopy_projections.limits import SCAN_ROWS
from truecopy_projections.projection import Projection
from truecopy_projections.replica import FORMAT, JournalEntry, refuse_other_declaration
from truecopy_projections.replicas import sql_quarantine, sql_stages
from truecopy_projections.replicas.sql_gathered import gathered_of
from truecopy_projections.replicas.sql_indexes import unreachable
from truecopy_projections.replicas.sql_keys import all_keys, load
from truecopy_projections.replicas.tables import (
    CHECKPOINTS,
    PARTITIONS,
    SCRUBS,
    WAITING,
    all_stored,
    checkpoint_of,
    key_of,
    meta_statement,
    rows_query,
    state_of,
    stored_of,
    waiting_of,
)
from truecopy_projections.scrub_times import ScrubTimes, unpacked
from truecopy_projections.stages import Staged
from truecopy_projections.state import Checkpoint, KeyState, MarkVerdict, PartitionState, StoredRow, Waiting, WaitingTally
from truecopy_schemas.errors import NewerFormatError

__all__ = [
    "FORMAT_NAME",
    "LAZY_NAME",
    "SqlSnapshot",
    "check",
    "declared_name",
    "owner_names",
    "read_meta",
    "refuse_dropped",
    "refuse_other_service",
    "remembered_name",
]

FORMAT_NAME = "format"
LAZY_NAME = "lazy"
"""Said before the first commit that PostgreSQL may acknowledge before its flush. SQLite knows by itself."""


def declared_name(projection: str) -> str:
    """The name under which a projection's declaration is remembered."""
    return f"projection:{projection}"


def owner_names(projection: Projection[Any]) -> dict[str, str]:
    """The names under which the service of a projection is remembered, with what each is about.

    All numbers of a projection share one view, and so one owner; what gathers it has a view of its own.
    """
    return {f"owner:{rows.name}": rows.id for rows in (projection, *projection.gathers)}


def remembered_name(projection: str, what: str) -> str:
    """The name under which something of a projection is remembered."""
    return f"{what}:{projection}"


def refuse_other_service(meta: Mapping[str, str], projection: Projection[Any], service: str, *, name: str) -> None:
    """Raises OtherServiceError where the replica called `name` holds the projection for another service than `service`.

    "" is whoever uses the packages without declaring a service: it owns nothing, and is refused nothing.
    """
    for remembered, rows in owner_names(projection).items():
        owner = meta.get(remembered)
        if service and owner not in (None, service):
            raise OtherServiceError(replica=name, projection=rows, owner=owner, service=service)


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

    def __init__(self, connection: Connection, meta: Mapping[str, str], *, name: str) -> None:
        self._connection, self._meta, self._name = connection, meta, name

    async def states(self, projection: str) -> dict[int, PartitionState]:
        if declared_name(projection) not in self._meta:
            return {}
        rows = await self._connection.pick(PARTITIONS, ("projection",), [(projection,)])
        return {state.partition: state for state in map(state_of, sorted(rows, key=lambda row: row[1]))}

    async def rows(
        self, projection: Projection[Any], *, buckets: Collection[int] | None = None, indexed: bool = True
    ) -> AsyncIterator[Sequence[tuple[str, int, StoredRow]]]:
        if not check(self._meta, projection):
            return
        sql, limits = rows_query(projection, self._connection.dialect, buckets, indexed=indexed)
        width = len(projection.shape.columns)
        if buckets is not None and self._connection.dialect.name == "postgres":
            # Of a small table, or of many buckets, it would read the table and leave the index unseen.
            await self._connection.fetch(f"SET LOCAL enable_seqscan = {'off' if indexed else 'on'}")
        async for batch in self._connection.stream(sql, *limits, rows_max=SCAN_ROWS):
            if len(batch[0]) > width and (wrong := [row for row in batch if not row[width]]):
                key = stored_of(projection, wrong[0])[0]
                raise DatabaseCorruptError(
                    database=self._name,
                    seen=f"the index of {projection.table} says another key than its row {key!r}",
                    remedy=f"REINDEX {projection.table} in sqlite3 mends that; `truecopy check` proves it",
                )
            yield all_stored(projection, batch)

    async def keys(
        self, projection: Projection[Any], *, buckets: Collection[int] | None = None
    ) -> AsyncIterator[Sequence[tuple[str, int, KeyState]]]:
        if check(self._meta, projection):
            sql, limits = all_keys(projection, buckets)
            async for batch in self._connection.stream(sql, *limits, rows_max=SCAN_ROWS):
                # What lies under another bucket than its own is found by no load: to whoever asks, it is not there.
                yield [key_of(row) for row in batch if row[-1] == bucket_of(row[0])]

    async def get(self, projection: Projection[Any], key: str) -> tuple[KeyState | None, Sequence[StoredRow]]:
        if not check(self._meta, projection):
            return None, ()
        states, rows, _ = await load(self._connection, projection, [key], rows={key})
        return states.get(key), [stored_of(projection, row)[2] for row in rows]

    async def unreachable(self, projection: Projection[Any]) -> Sequence[str]:
        return await unreachable(self._connection, projection) if check(self._meta, projection) else ()

    async def gathered(self, gathered: Gathered[Any], group: Group | None = None) -> AsyncIterator[Sequence[GatheredRow]]:
        if check(self._meta, gathered.of):
            if group is not None:
                yield [gathered_of(row) for row in await self._connection.pick(gathered.shape, gathered.key, [group])]
                return
            columns = listed(tuple(column.name for column in gathered.shape.columns))
            sql = f"SELECT {columns} FROM {quoted(gathered.table)}"
            async for batch in self._connection.stream(sql, rows_max=SCAN_ROWS):
                yield [gathered_of(row) for row in batch]

    async def checkpoints(
        self, projection: str, *, latest: MarkVerdict | None = None, newest: int | None = None
    ) -> Sequence[Checkpoint]:
        if declared_name(projection) not in self._meta:
            return ()
        # By index: some steps down the key's for each partition, and not the marks of hours.
        own = "FROM truecopy_checkpoints AS l WHERE l.projection = p.projection AND l.part = p.part"
        by_index = (
            f"SELECT {', '.join(f'c.{column.name}' for column in CHECKPOINTS.columns)} FROM truecopy_partitions AS p "
            "JOIN truecopy_checkpoints AS c ON c.projection = p.projection AND c.part = p.part AND c.log_offset"
        )
        if latest is not None:
            last = f"(SELECT l.log_offset {own} AND l.verdict = $2 ORDER BY l.log_offset DESC LIMIT 1)"
            rows = await self._connection.fetch(f"{by_index} = {last} WHERE p.projection = $1", projection, latest.name)
        elif newest is not None:
            first = f"(SELECT l.log_offset {own} ORDER BY l.log_offset DESC LIMIT 1 OFFSET {newest - 1:d})"
            rows = await self._connection.fetch(f"{by_index} >= COALESCE({first}, 0) WHERE p.projection = $1", projection)
        else:
            rows = await self._connection.pick(CHECKPOINTS, ("projection",), [(projection,)])
        return [checkpoint_of(row) for row in sorted(rows, key=lambda row: row[1:3])]

    async def waiting(self, projection: str) -> Sequence[Waiting]:
        if declared_name(projection) not in self._meta:
            return ()
        rows = await self._connection.pick(WAITING, ("projection",), [(projection,)])
        return [waiting_of(row) for row in sorted(rows, key=lambda row: row[1:3])]

    async def quarantine(self, projection: str, *, key: str | None = None) -> AsyncIterator[Sequence[Waiting]]:
        if declared_name(projection) in self._meta:
            async for batch in sql_quarantine.quarantine(self._connection, projection, key=key):
                yield batch

    async def tallies(self, projection: str) -> Sequence[WaitingTally]:
        return await sql_quarantine.tallies(self._connection, projection) if declared_name(projection) in self._meta else ()

    async def amendments(self, projection: str) -> Amendments:
        if declared_name(projection) not in self._meta:
            return NO_AMENDMENTS
        return await sql_quarantine.amendments(self._connection, projection)

    async def journal(self, kind: str, *, newest: int | None = None) -> Sequence[JournalEntry]:
        if not self._meta:
            return ()
        limit = "" if newest is None else f"LIMIT {newest:d}"
        rows = await self._connection.fetch(
            f"SELECT entry FROM truecopy_journal WHERE kind = $1 ORDER BY id DESC {limit}", kind
        )
        return [json.loads(row[0]) for row in reversed(rows)]

    async def scrubs(self, projection: str) -> ScrubTimes:
        [(now_ms,)] = await self._connection.fetch(f"SELECT {self._connection.dialect.now_ms}")
        known = await self._connection.pick(SCRUBS, SCRUBS.key, [(projection,)]) if self._meta else []
        return ScrubTimes(now_ms, unpacked(known[0][1] if known else None))

    async def stages(self, name: str) -> Sequence[Staged]:
        return await sql_stages.stages(self._connection, name) if self._meta else []

    async def remembered(self, projection: str, what: str) -> JournalEntry | None:
        found = self._meta.get(remembered_name(projection, what))
        return None if found is None else json.loads(found)
