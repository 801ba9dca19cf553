"""Whether the rows of a projection are found by the index of their key: what a whole scan sees, a damaged index may hide.

A scan reads the table, everything else goes by the index. A row that lost its entry is right in every scan, and missing for
readers and reducers; the next event of its key would make a second one. So each row of a scan is looked up.
"""

from collections.abc import Sequence
from typing import Any

from truecopy_bus.sql import Connection
from truecopy_bus.sql.statements import quoted
from truecopy_projections.projection import Projection

__all__ = ["unreachable"]


async def unreachable(connection: Connection, projection: Projection[Any]) -> Sequence[str]:
    """The source keys of rows that the index does not find, in their order."""
    table = quoted(projection.table)
    same = " AND ".join(f"found.{quoted(name)} = own.{quoted(name)}" for name in projection.shape.key)
    if connection.dialect.name == "sqlite":
        index = quoted(f"sqlite_autoindex_{projection.table}_1")
        rows = await connection.fetch(
            f"SELECT DISTINCT _key FROM {table} AS own NOT INDEXED "
            f"WHERE NOT EXISTS (SELECT 1 FROM {table} AS found INDEXED BY {index} WHERE {same}) ORDER BY _key"
        )
        return [key for (key,) in rows]
    # A range of row addresses is read from the table whatever the planner may use. The offset keeps it from turning the
    # look-up of each row into a join, which reads the table again and not the index.
    await connection.fetch("SET LOCAL enable_seqscan = off")
    rows = await connection.fetch(
        f"SELECT DISTINCT _key FROM {table} AS own WHERE own.ctid >= '(0,0)' "
        f"AND NOT EXISTS (SELECT 1 FROM {table} AS found WHERE {same} OFFSET 0) ORDER BY _key"
    )
    await connection.fetch("SET LOCAL enable_seqscan TO DEFAULT")
    return [key for (key,) in rows]
