"""Sandboxes: databases that are filled by replays and hold nothing else, which a mark in them says.

The mark is the first thing that is written, into a database that is empty. So whatever a kill leaves behind is known as a
sandbox, and nothing else ever is.
"""

from typing import Any

from truecopy_bus.sql import Connection, Database
from truecopy_bus.sql.statements import quoted
from truecopy_projections.errors import ReplayRefusedError
from truecopy_projections.projection import Projection
from truecopy_projections.replicas.sql_snapshot import declared_name, read_meta
from truecopy_projections.replicas.sql_stages import forget, put_stage
from truecopy_projections.replicas.tables import META
from truecopy_projections.stages import Stage

__all__ = ["claim_sandbox", "clear_sandbox"]

_MARK = "sandbox"
_NAMES = {
    "sqlite": "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' ORDER BY name",
    "postgres": (
        "SELECT c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1"
    ),
}


async def claim_sandbox(database: Database) -> None:
    """Make an empty database a sandbox; one that is stays so. Raises ReplayRefusedError for one that holds other things."""
    async with database.snapshot() as connection:
        await _refuse_several_schemas(connection, database)
        names = [str(row[0]) for row in await connection.fetch(_NAMES[database.dialect.name])]
        meta = await read_meta(connection, name=database.name)
    if _MARK in meta:
        return
    if meta or set(names) - {META.name}:
        raise ReplayRefusedError(
            sandbox=database.name,
            seen=f"it holds what no replay made ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})",
            remedy="name a file that is not there, or an empty database or schema",
        )
    await database.install((META,))
    async with database.transaction() as tx:
        await tx.put(META, [(_MARK, "replay")])


async def _refuse_several_schemas(read: Connection, database: Database) -> None:
    """What one schema lacks is looked for in the next: what a replay drops or does not make could be somebody else's."""
    if database.dialect.name != "postgres":
        return
    [[schemas]] = await read.fetch("SELECT array_to_string(current_schemas(false), ', ')")
    if not schemas or ", " in schemas:
        seen = f"its search_path leads to the schemas ({schemas})"
        raise ReplayRefusedError(sandbox=database.name, seen=seen, remedy="let it name one schema, which is there")


async def clear_sandbox(database: Database, projection: Projection[Any]) -> None:
    """Forget what replays made of a number in a sandbox. Raises ReplayRefusedError while one is at work on it."""
    async with database.transaction() as tx:
        meta = await read_meta(tx, name=database.name)
        if declared_name(projection.id) not in meta:
            return
        alive = f"SELECT COUNT(*) FROM truecopy_leases WHERE scope = $1 AND until_ms > {tx.dialect.now_ms}"
        if (await tx.fetch(alive, projection.id))[0][0]:
            seen = f"a replay of {projection.id} is at work on it, or was killed just now"
            raise ReplayRefusedError(sandbox=database.name, seen=seen, remedy="wait for its end, or for that of its leases")
        await _unseen(tx, projection)
        await put_stage(tx, projection, Stage.BUILDING, by="")
        await forget(tx, projection)


async def _unseen(tx: Connection, projection: Projection[Any]) -> None:
    """Drop the views: their tables can't be dropped under them."""
    for rows in (projection, *projection.gathers):
        await tx.fetch(f"DROP VIEW IF EXISTS {quoted(rows.name)}")
