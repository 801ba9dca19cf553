"""Where a replica in SQL keeps the states of source keys: in their row, or in a table of their own.

A projection with one row per key keeps the head of a key that goes on in its row, so that an event writes one row and not two
(side by side on PostgreSQL, where each event has a key of its own: see the benchmark's page). What a row can't say lies in
the projection's table of keys, and what lies there holds: a key without a row, a parked one, one that moved on while its row
stayed. A projection with several rows per key keeps all its keys there.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import repeat
from typing import Any

from truecopy_bus.fold import Head
from truecopy_bus.sql import Connection, Shape
from truecopy_bus.sql.statements import listed, quoted
from truecopy_projections.digest import bucket_of
from truecopy_projections.projection import Projection
from truecopy_projections.replicas.tables import Row, key_of, key_row, keys_shape, places, within
from truecopy_projections.state import KeyState, PartitionPlan

__all__ = ["all_keys", "load", "rows_to_put", "write_keys"]

_NO_HEAD = (None, None, None)
_PLACE = ("_bucket", "_key")


def all_keys(
    projection: Projection[Any], buckets: Collection[int] | None, *, rows: str = "", keys: str = ""
) -> tuple[str, list[int]]:
    """A query for the source keys of these buckets (None: of all), in the columns of keys_shape, and its arguments.

    `rows` and `keys` are tables of the same columns in place of its own.
    """
    shape = replace(keys_shape(projection), name=keys or keys_shape(projection).name)
    where, limits = within("bucket", buckets)
    table = f"SELECT {listed(tuple(column.name for column in shape.columns))} FROM {quoted(shape.name)} WHERE {where}"
    if projection.key:
        return table, limits
    return (
        "SELECT _key, _part, _version, _version, _element, _previous, '', _bucket "
        f"FROM {quoted(rows or projection.table)} AS own WHERE {within('_bucket', buckets)[0]} AND _version IS NOT NULL "
        f"AND NOT EXISTS (SELECT 1 FROM {quoted(shape.name)} AS aside WHERE aside.bucket = own._bucket "
        f"AND aside.key = own._key) UNION ALL {table}"
    ), limits


async def load(
    connection: Connection,
    projection: Projection[Any],
    keys: Collection[str],
    *,
    rows: Collection[str],
    hashes: Collection[str] = (),
) -> tuple[dict[str, KeyState], list[Row], dict[str, bytes]]:
    """The states of `keys`, all rows of the source keys `rows`, and the hashes of the only rows of `hashes`."""
    states: dict[str, KeyState] = {}
    hashed: dict[str, bytes] = {}
    found = await connection.pick(projection.shape, _PLACE, places(rows)) if rows else []
    if not projection.key:
        at = len(projection.fields)
        heads = [row[at:] for row in found]
        narrow = places({*keys, *hashes}.difference(rows))
        heads += await connection.pick(_heads(projection.shape, at), _PLACE, narrow) if narrow else []
        states = {row[0]: state for row in heads if row[0] in keys and (state := _beside(row)) is not None}
        hashed = {row[0]: row[2] for row in heads if row[0] in hashes}
    return states | await _aside(connection, projection, keys), found, hashed


def rows_to_put(projection: Projection[Any], plans: Sequence[PartitionPlan], kept: Mapping[str, Row]) -> list[Row]:
    """The rows of these plans as they are stored; `kept` holds the heads in the row of keys that no plan speaks of."""
    if projection.key:
        puts = ((plan.was.partition, key, row) for plan in plans for (key, _), row in plan.puts.items())
        return [(*row.values, key, partition, row.hash, bucket_of(key)) for partition, key, row in puts]
    rows: list[Row] = []
    for plan in plans:
        partition, states = plan.was.partition, plan.keys
        for (key, _), row in plan.puts.items():
            state = states.get(key)
            head = kept.get(key, _NO_HEAD) if state is None else state.head if _is_plain(state) else _NO_HEAD
            rows.append((*row.values, key, partition, row.hash, bucket_of(key), *head))
        for some in plan.copies:
            parts, buckets = repeat(partition, len(some.keys)), map(bucket_of, some.keys)
            heads = zip(*some.heads, strict=True)
            rows += zip(*some.fields, some.keys, parts, some.hashes, buckets, *heads, strict=True)
    return rows


async def write_keys(tx: Connection, projection: Projection[Any], plans: Sequence[PartitionPlan]) -> Mapping[str, Row]:
    """Write the states that do not go into a row. Returns the heads to keep in rows: see rows_to_put. Call it before those."""
    shape = keys_shape(projection)
    in_rows: set[str] = set()
    if not projection.key:
        in_rows = {key for plan in plans for key, _ in plan.puts if key in plan.keys and _is_plain(plan.keys[key])}
    copied = [key for plan in plans for some in plan.copies for key in some.keys]
    aside = [key_row(k, plan.was.partition, s) for plan in plans for k, s in plan.keys.items() if k not in in_rows]
    gone = [key for plan in plans for key in plan.forgotten]
    if (in_rows or copied) and await tx.fetch(f"SELECT 1 FROM {quoted(shape.name)} LIMIT 1"):
        gone += [*in_rows, *copied]
    if gone:
        await tx.drop(shape, shape.key, places(gone))
    kept = {} if projection.key else await _unspoken(tx, projection, plans, aside)
    if aside:
        await tx.put(shape, aside)
    return kept


async def _unspoken(
    tx: Connection, projection: Projection[Any], plans: Sequence[PartitionPlan], aside: list[Row]
) -> dict[str, Row]:
    """Heads in rows that a repair writes or drops without a word on their key: they stay, in the row or else in `aside`.

    Of a forgotten key none stays.
    """
    put = {key for plan in plans for key, _ in plan.puts if key not in plan.keys}
    dropped = {key for plan in plans for key, _ in plan.drops if key not in plan.keys and key not in plan.forgotten}
    forgotten = {key for plan in plans for key in plan.forgotten}
    if not (put or dropped or forgotten):
        return {}
    at = len(projection.fields)
    found = await tx.pick(projection.shape, _PLACE, places({*put, *dropped, *forgotten}))
    if rest := [(*row[:-3], *_NO_HEAD) for row in found if row[at] in forgotten]:
        await tx.put(projection.shape, rest)
    beside = {
        row[at]: (row[at + 1], state) for row in found if (state := _beside(row)) is not None and row[at] not in forgotten
    }
    there = await _aside(tx, projection, dropped)
    aside += [key_row(key, *beside[key]) for key in dropped if key in beside and key not in there]
    return {key: tuple(beside[key][1].head) for key in put if key in beside}


async def _aside(connection: Connection, projection: Projection[Any], keys: Collection[str]) -> dict[str, KeyState]:
    shape = keys_shape(projection)
    if not keys or not await connection.fetch(f"SELECT 1 FROM {quoted(shape.name)} LIMIT 1"):
        return {}
    return {key: state for key, _, state in map(key_of, await connection.pick(shape, shape.key, places(keys)))}


@cache
def _heads(shape: Shape, own: int) -> Shape:
    """The table of rows without its first columns, those of the projection's own."""
    return Shape(name=shape.name, columns=shape.columns[own:], key=shape.key)


def _beside(row: Row) -> KeyState | None:
    version, element, previous = row[-3:]
    return None if version is None else KeyState(Head(version, element, previous), version, None)


def _is_plain(state: KeyState) -> bool:
    return state.parked is None and state.applied == state.head.version
