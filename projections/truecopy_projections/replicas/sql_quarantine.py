"""What a replica in SQL tells of its quarantine, and of the rulings about what waited there."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from truecopy_bus.sql import Connection
from truecopy_bus.sql.statements import listed
from truecopy_projections.amendment import Amendment, Amendments
from truecopy_projections.limits import QUARANTINE_RECORDS
from truecopy_projections.replicas.tables import AMENDMENTS, WAITING, waiting_of
from truecopy_projections.state import Reason, Waiting, WaitingTally

__all__ = ["amendment_rows", "amendments", "quarantine", "tallies"]

_BYTES = "COALESCE(length(record_key), 0) + COALESCE(length(record_value), 0)"


def amendment_rows(projection: str, some: Iterable[Amendment]) -> list[tuple[Any, ...]]:
    return [(projection, one.event, one.canonical().decode()) for one in some]


async def amendments(connection: Connection, projection: str) -> Amendments:
    rows = await connection.fetch(f"SELECT entry FROM {AMENDMENTS.name} WHERE projection = $1", projection)
    return Amendments(Amendment.read(row[0]) for row in rows)


async def quarantine(connection: Connection, projection: str, *, key: str | None = None) -> AsyncIterator[Sequence[Waiting]]:
    own = "" if key is None else "AND key = $2"
    sql = (
        f"SELECT {listed(tuple(column.name for column in WAITING.columns))} FROM {WAITING.name} WHERE projection = $1 {own} "
        "ORDER BY COALESCE(key, ''), version, part, log_offset"
    )
    asked = (projection,) if key is None else (projection, key)
    async for batch in connection.stream(sql, *asked, rows_max=QUARANTINE_RECORDS):
        yield [waiting_of(row) for row in batch]


async def tallies(connection: Connection, projection: str) -> Sequence[WaitingTally]:
    rows = await connection.fetch(
        f"SELECT part, reason, COUNT(*), COUNT(DISTINCT key), SUM({_BYTES}), MIN(timestamp_ms) FROM {WAITING.name} "
        "WHERE projection = $1 GROUP BY part, reason ORDER BY part, reason",
        projection,
    )
    return [WaitingTally(row[0], Reason[row[1]], row[2], row[3], int(row[4]), row[5]) for row in rows]
