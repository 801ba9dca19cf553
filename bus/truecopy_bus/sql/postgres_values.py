"""The statements of a shape on PostgreSQL, whose types are the kinds' own.

Rows go in as one array for each column (`unnest`), large batches by COPY into a temporary table. JSON travels as text and
is cast there, so that a codec which the owner of a borrowed connection set for json has no say.

Rows are locked in one order by all writers, that of their keys, so that two batches can't wait for each other: text by its
bytes (collation C), which is the order of Python's strings too.
"""

from collections.abc import Sequence
from functools import lru_cache

from truecopy_bus.sql.port import Column, Kind, Shape
from truecopy_bus.sql.statements import create_indexes, listed, quoted

__all__ = [
    "create_statements",
    "drop_statement",
    "merge_statement",
    "pick_statement",
    "put_statement",
    "staging_statement",
]

_TYPE = {
    Kind.TEXT: "text",
    Kind.INTEGER: "bigint",
    Kind.REAL: "double precision",
    Kind.BOOLEAN: "boolean",
    Kind.BYTES: "bytea",
    Kind.DECIMAL: "numeric",
    Kind.DATE: "date",
    Kind.TIMESTAMP: "timestamptz",
    Kind.UUID: "uuid",
    Kind.JSON: "json",
}


def _travels_as(column: Column) -> str:
    return "text" if column.kind is Kind.JSON else _TYPE[column.kind]


def create_statements(shape: Shape) -> list[str]:
    """The statements that create the table and its indexes where they are missing."""
    columns = ", ".join(_column(column) for column in shape.columns)
    table = f"CREATE TABLE IF NOT EXISTS {quoted(shape.name)} ({columns}, PRIMARY KEY ({listed(shape.key)}))"
    return [table, *create_indexes(shape)]


def _column(column: Column) -> str:
    precision = f"({column.precision}, {column.scale})" if column.kind is Kind.DECIMAL else ""
    return f"{quoted(column.name)} {_TYPE[column.kind]}{precision}{'' if column.nullable else ' NOT NULL'}"


@lru_cache
def put_statement(shape: Shape) -> str:
    """Insert or replace rows that come as one array for each column."""
    return f"{_insert(shape)} FROM {_arrays(shape.columns)} {_replace(shape)}"


def staging_statement(shape: Shape, name: str) -> str:
    """Create the temporary table that COPY fills."""
    columns = ", ".join(f"{quoted(column.name)} {_travels_as(column)}" for column in shape.columns)
    return f"CREATE TEMPORARY TABLE {quoted(name)} ({columns}) ON COMMIT DROP"


def merge_statement(shape: Shape, name: str) -> str:
    """Insert or replace what lies in the temporary table, in the order in which it was copied."""
    return f"{_insert(shape)} FROM {quoted(name)} AS given {_replace(shape)}"


@lru_cache
def pick_statement(shape: Shape, by: tuple[str, ...]) -> str:
    """The whole rows that match one of the keys, which are distinct and come as one array for each column."""
    columns = ", ".join(
        f"{quoted(column.name)}::text" if column.kind is Kind.JSON else quoted(column.name) for column in shape.columns
    )
    if len(by) == 1:
        return f"SELECT {columns} FROM {quoted(shape.name)} WHERE {_match(shape, by)}"
    # One step down the index for each key: as an IN it took half as much again (measured), for it sorts out doubles first.
    kinds = {column.name: column for column in shape.columns}
    same = " AND ".join(f"{quoted(name)} = given.{quoted(name)}" for name in by)
    found = f"SELECT {columns} FROM {quoted(shape.name)} WHERE {same} OFFSET 0"
    return f"SELECT found.* FROM {_arrays([kinds[name] for name in by])}, LATERAL ({found}) AS found"


@lru_cache
def drop_statement(shape: Shape, by: tuple[str, ...]) -> str:
    """Delete the rows that match one of the keys, which come as one array for each column."""
    kinds = {column.name: column.kind for column in shape.columns}
    order = ", ".join(quoted(name) + (' COLLATE "C"' if kinds[name] is Kind.TEXT else "") for name in shape.key)
    table, key = quoted(shape.name), listed(shape.key)
    return (
        f"WITH doomed AS MATERIALIZED (SELECT {key} FROM {table} WHERE {_match(shape, by)} ORDER BY {order} FOR UPDATE) "
        f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM doomed)"
    )


def _insert(shape: Shape) -> str:
    values = ", ".join(f"given.{quoted(column.name)}{'::json' if column.kind is Kind.JSON else ''}" for column in shape.columns)
    return f"INSERT INTO {quoted(shape.name)} ({listed(tuple(c.name for c in shape.columns))}) SELECT {values}"


def _replace(shape: Shape) -> str:
    names = [column.name for column in shape.columns if column.name not in shape.key]
    moved = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in names)
    return f"ON CONFLICT ({listed(shape.key)}) DO {f'UPDATE SET {moved}' if moved else 'NOTHING'}"


def _match(shape: Shape, by: tuple[str, ...]) -> str:
    columns = {column.name: column for column in shape.columns}
    if len(by) == 1:
        # The planner knows how many keys an array holds, and what an index gives for each.
        return f"{quoted(by[0])} = ANY($1::{_travels_as(columns[by[0]])}[])"
    return f"({listed(by)}) IN (SELECT * FROM {_arrays([columns[name] for name in by])})"


def _arrays(columns: Sequence[Column]) -> str:
    arrays = ", ".join(f"${number}::{_travels_as(column)}[]" for number, column in enumerate(columns, 1))
    return f"unnest({arrays}) AS given ({listed(tuple(column.name for column in columns))})"
