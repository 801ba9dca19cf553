"""Stages of a projection's numbers in SQL: reading them, entering a number, and the swap of the view."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from truecopy_bus import leases
from truecopy_bus.leases import Fence
from truecopy_bus.sql import Connection
from truecopy_bus.sql.statements import quoted
from truecopy_projections.errors import SwapRefusedError
from truecopy_projections.projection import Projection
from truecopy_projections.replicas.tables import (
    AMENDMENTS,
    CHECKPOINTS,
    PARTITIONS,
    SCRUBS,
    STAGES,
    WAITING,
    keys_shape,
    view_statement,
)
from truecopy_projections.stages import Stage, Staged, live_number

__all__ = ["enter", "forget", "put_stage", "stages", "swap"]

LOCK_TIMEOUT = "1s"
"""For which a swap waits for readers of the view on PostgreSQL; it is tried again. New readers would queue up behind it."""


async def stages(read: Connection, name: str) -> list[Staged]:
    """The numbers of a projection, in their order."""
    rows = await read.fetch(
        "SELECT name, number, stage, since_ms, until_ms, actor FROM truecopy_stages WHERE name = $1 ORDER BY number", name
    )
    return [
        Staged(name=of, number=number, stage=Stage[stage], since_ms=since, until_ms=until, by=actor)
        for of, number, stage, since, until, actor in rows
    ]


async def enter(tx: Connection, projection: Projection[Any], *, beside: Stage = Stage.BUILDING) -> None:
    """Enter a number that is not there yet: live if none of its name is, else `beside`. The caller lets one enter at a time."""
    known = await stages(tx, projection.name)
    if not any(one.number == projection.number for one in known):
        await put_stage(tx, projection, Stage.LIVE if live_number(known) is None else beside)


async def put_stage(
    tx: Connection, projection: Projection[Any], stage: Stage, *, for_ms: int | None = None, by: str = ""
) -> None:
    """Make a number this, from now on, or for so many ms."""
    [[now_ms]] = await tx.fetch(f"SELECT {tx.dialect.now_ms}")
    until_ms = None if for_ms is None else now_ms + for_ms
    await tx.put(STAGES, [(projection.name, projection.number, stage.name, now_ms, until_ms, by)])


async def swap(
    tx: Connection,
    new: Projection[Any],
    old: Projection[Any],
    fences: Mapping[str, Collection[Fence]],
    *,
    follow_ms: int,
    by: str,
) -> None:
    """Let `new` be live in place of `old`, which follows from now on. `fences` are all of either, by its id.

    Raises SwapRefusedError: a fence is lost, the positions differ, the stages are others by now, or an object of somebody
    else's depends on the view and can't stay on it.
    """
    if tx.dialect.name == "postgres":
        await tx.fetch(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    positions = []
    for one in sorted((new, old), key=lambda projection: projection.number):
        if len(await leases.hold(tx, one.id, fences[one.id])) < len(fences[one.id]):
            raise SwapRefusedError(
                new=new.id, old=old.id, seen=f"partitions of {one.id} were taken meanwhile", remedy="swap again"
            )
        found = await tx.fetch('SELECT part, "position" FROM truecopy_partitions WHERE projection = $1 ORDER BY part', one.id)
        positions.append([tuple(row) for row in found])
    if positions[0] != positions[1]:
        seen = f"their positions differ: {positions[0]} and {positions[1]}"
        raise SwapRefusedError(new=new.id, old=old.id, seen=seen, remedy="swap again")
    known = {one.number: one.stage for one in await stages(tx, new.name)}
    if (known.get(old.number), known.get(new.number)) != (Stage.LIVE, Stage.FOLLOWING):
        told = ", ".join(f"@{number} {stage.name}" for number, stage in known.items())
        raise SwapRefusedError(new=new.id, old=old.id, seen=f"stages are {told}", remedy="look at `truecopy status`")
    await _show(tx, new, old)
    await put_stage(tx, new, Stage.LIVE, by=by)
    await put_stage(tx, old, Stage.FOLLOWING, for_ms=follow_ms, by=by)


async def forget(tx: Connection, projection: Projection[Any]) -> None:
    """Forget a number: its tables, leases, states, and what waits. Raises SwapRefusedError for the live one."""
    if live_number(await stages(tx, projection.name)) == projection.number:
        remedy = "swap to another number first"
        raise SwapRefusedError(new=projection.id, old=projection.id, seen="readers see it: it is live", remedy=remedy)
    for table in (projection.table, keys_shape(projection).name, *(gathered.table for gathered in projection.gathers)):
        await tx.fetch(f"DROP TABLE IF EXISTS {quoted(table)}")
    for shape in (PARTITIONS, WAITING, CHECKPOINTS, SCRUBS, AMENDMENTS):
        await tx.fetch(f"DELETE FROM {shape.name} WHERE projection = $1", projection.id)
    for table in ("truecopy_leases", "truecopy_members"):
        await tx.fetch(f"DELETE FROM {table} WHERE scope = $1", projection.id)
    await tx.fetch("DELETE FROM truecopy_meta WHERE name LIKE $1", f"%:{projection.id}")
    await tx.fetch("DELETE FROM truecopy_stages WHERE name = $1 AND number = $2", projection.name, projection.number)


async def _show(tx: Connection, new: Projection[Any], old: Projection[Any]) -> None:
    """Point the views at the new number's tables."""
    shown = {rows.name: rows for rows in (new, *new.gathers)}
    gone = [rows.name for rows in (old, *old.gathers) if rows.name not in shown]
    for name in (*shown, *gone):
        dependents = await _dependents(tx, name)
        if not dependents:
            await tx.fetch(f"DROP VIEW IF EXISTS {quoted(name)}")
        elif name in gone or not _same_columns(shown[name], old, name):
            seen = f"{', '.join(dependents)} depends on the view {name}, whose columns change"
            raise SwapRefusedError(new=new.id, old=old.id, seen=seen, remedy="drop it, swap, and make it anew")
        else:  # other objects may stay on a view whose columns stay
            await tx.fetch(view_statement(shown[name], tx.dialect, replace=True))
    for rows in shown.values():
        await tx.fetch(view_statement(rows, tx.dialect))


def _same_columns(rows: Any, old: Projection[Any], name: str) -> bool:
    before = next((one for one in (old, *old.gathers) if one.name == name), None)
    return before is not None and rows.described() == before.described()


async def _dependents(tx: Connection, name: str) -> Sequence[str]:
    """Views and the like that stand on a view. SQLite looks such names up when they are used."""
    if tx.dialect.name == "sqlite":
        return ()
    rows = await tx.fetch(
        "SELECT DISTINCT r.ev_class::regclass::text FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid "
        "WHERE d.refobjid = to_regclass($1) AND d.deptype = 'n' AND r.ev_class <> d.refobjid ORDER BY 1",
        quoted(name),
    )
    return [str(row[0]) for row in rows]
