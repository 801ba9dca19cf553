"""What the values of each kind look like in SQLite, and the statements of a shape.

Tables are not STRICT: a column's declared type carries its kind, so that any SELECT of it is decoded (STRICT allows no
names of our own), and a CHECK on the stored type keeps it honest. Declared names are chosen for their affinity, which
SQLite derives from words within: TEXT_DECIMAL is text, where DECIMAL would be NUMERIC and lose its zeros.

REAL has no NaN in SQLite (it would become NULL): it is stored as the text 'NaN'. Timestamps sort as their text does.
Decimals compare and sort as text, not as numbers: do that in Python. An expression (`max(at)`) has no declared type and
yields the stored form; select columns.
"""

import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from functools import lru_cache
from itertools import chain
from operator import ne
from typing import Any

from truecopy_bus.sql.port import Column, Kind, Row, Shape
from truecopy_bus.sql.statements import create_indexes, listed, quoted

__all__ = [
    "Decoders",
    "batches",
    "bound",
    "create_statements",
    "decoded",
    "decoders_by_type",
    "decoders_of",
    "drop_statement",
    "encoded",
    "native",
    "pick_statement",
    "put_statement",
]

_STATEMENT_ROWS_MAX = 500
"""Rows in one statement: larger ones are no faster, and are parsed anew each time."""
_STATEMENT_VALUES_MAX = 32_766
"""Parameters of one statement: SQLite's default limit."""
_STATEMENTS_CACHED = 1_024
"""Texts of statements that are kept of each kind: some for each table, and one for each number of rows."""

Convert = Callable[[Any], Any]
Decoders = tuple[tuple[int, Convert], ...]

_DECLARED = {
    Kind.TEXT: "TEXT",
    Kind.INTEGER: "INTEGER",
    Kind.REAL: "REAL",
    Kind.BOOLEAN: "INTEGER_BOOLEAN",
    Kind.BYTES: "BLOB",
    Kind.DECIMAL: "TEXT_DECIMAL",
    Kind.DATE: "TEXT_DATE",
    Kind.TIMESTAMP: "TEXT_TIMESTAMP",
    Kind.UUID: "TEXT_UUID",
    Kind.JSON: "TEXT",
}
_CHECK = {
    Kind.INTEGER: "typeof({0}) = 'integer'",
    Kind.REAL: "typeof({0}) = 'real' OR {0} = 'NaN'",
    Kind.BOOLEAN: "{0} IN (0, 1)",
    Kind.BYTES: "typeof({0}) = 'blob'",
}
_DECODE: dict[str, Convert] = {
    "REAL": float,
    "INTEGER_BOOLEAN": bool,
    "TEXT_DECIMAL": Decimal,
    "TEXT_DATE": date.fromisoformat,
    "TEXT_TIMESTAMP": datetime.fromisoformat,
    "TEXT_UUID": uuid.UUID,
}


def _timestamp_text(value: datetime) -> str:
    if value.tzinfo is not UTC:
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; give it one")
        value = value.astimezone(UTC)
    return f"{value.isoformat(timespec='microseconds')[:26]}Z"


def _real(value: float) -> float | str:
    return value if value == value else "NaN"


def _timestamp_texts(values: Sequence[datetime | None]) -> list[str | None]:
    # The most of what a large batch spends here: no call of ours for each value.
    if all(value is None or value.tzinfo is UTC for value in values):
        return [None if value is None else f"{value.isoformat('T', 'microseconds')[:26]}Z" for value in values]
    return [None if value is None else _timestamp_text(value) for value in values]


def _decimal_text(precision: int, scale: int) -> Convert:
    step = Decimal((0, (1,), -scale))
    exact = Context(prec=precision, traps=[InvalidOperation, Inexact])

    def convert(value: Decimal) -> str:
        if not value.is_finite():
            raise ValueError(f"{value!r} is no finite decimal")
        return f"{value.quantize(step, context=exact):f}"

    return convert


def _encoder(column: Column) -> Convert | None:
    match column.kind:
        case Kind.DECIMAL:
            return _decimal_text(column.precision, column.scale)
        case Kind.TIMESTAMP:
            return _timestamp_text
        case Kind.DATE:
            return date.isoformat
        case Kind.UUID:
            return uuid.UUID.__str__
        case Kind.REAL:
            return _real
        case _:
            return None


@lru_cache
def _encoders(shape: Shape, names: tuple[str, ...]) -> Decoders:
    columns = {column.name: column for column in shape.columns}
    converts = ((index, _encoder(columns[name])) for index, name in enumerate(names))
    return tuple((index, convert) for index, convert in converts if convert is not None)


def _converted(rows: Sequence[Row], converts: Decoders) -> Sequence[Row]:
    # By columns: one list per converted column is half the cost of one tuple edited per row.
    if not rows or not converts:
        return rows
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    for index, convert in converts:
        column = columns[index]
        if convert is _timestamp_text:
            columns[index] = _timestamp_texts(column)
        elif convert is not _real or any(map(ne, column, column)):
            columns[index] = [None if value is None else convert(value) for value in column]
    return list(zip(*columns, strict=True))


def encoded(shape: Shape, names: Sequence[str], rows: Sequence[Row]) -> Sequence[Row]:
    """Rows of the named columns as SQLite stores them. Raises ValueError, TypeError or ArithmeticError."""
    return _converted(rows, _encoders(shape, tuple(names)))


def decoded(rows: Sequence[Row], decoders: Decoders) -> list[Row]:
    """Stored rows as canonical values.

    A value that its column's type can't have meant, written by somebody else, stays what it is in the file: it must not keep
    the rows around it from being read, and whoever hashes it sees that it is another.
    """
    try:
        return list(_converted(rows, decoders))
    except (ValueError, TypeError, ArithmeticError):
        return [_decoded_alone(row, decoders) for row in rows]


def _decoded_alone(row: Row, decoders: Decoders) -> Row:
    values = list(row)
    for index, convert in decoders:
        with suppress(ValueError, TypeError, ArithmeticError):
            values[index] = None if values[index] is None else convert(values[index])
    return tuple(values)


@lru_cache
def decoders_of(shape: Shape) -> Decoders:
    """The decoders of whole rows of the shape."""
    return decoders_by_type(tuple(_DECLARED[column.kind] for column in shape.columns))


@lru_cache
def decoders_by_type(declared: tuple[str | None, ...]) -> Decoders:
    """The decoders of a result whose columns were declared with these types."""
    words = ((name or "").partition("(")[0] for name in declared)
    return tuple((index, _DECODE[word]) for index, word in enumerate(words) if word in _DECODE)


def bound(value: Any) -> Any:
    """One argument of a statement as SQLite stores it. A Decimal must have its column's scale already."""
    match value:
        case float():
            return value if value == value else "NaN"
        case datetime():
            return _timestamp_text(value)
        case date():
            return value.isoformat()
        case uuid.UUID():
            return str(value)
        case Decimal():
            return f"{value:f}"
        case _:
            return value


@lru_cache(maxsize=_STATEMENTS_CACHED)
def native(sql: str) -> str:
    """`$1` as `?1`: SQLite takes that by number, and the standard library accepts it with a sequence."""
    return re.sub(r"\$(\d+)", r"?\1", sql)


def create_statements(shape: Shape) -> list[str]:
    """The statements that create the table and its indexes where they are missing."""
    columns = ", ".join(_column(column) for column in shape.columns)
    table = f"CREATE TABLE IF NOT EXISTS {quoted(shape.name)} ({columns}, PRIMARY KEY ({listed(shape.key)}))"
    return [table, *create_indexes(shape)]


def _column(column: Column) -> str:
    name = quoted(column.name)
    declared = _DECLARED[column.kind]
    if column.kind is Kind.DECIMAL:
        declared = f"{declared}({column.precision}, {column.scale})"
    check = _CHECK.get(column.kind, "typeof({0}) = 'text'").format(name)
    if column.nullable:
        return f"{name} {declared} CHECK ({name} IS NULL OR {check})"
    return f"{name} {declared} NOT NULL CHECK ({check})"


def _names(shape: Shape) -> tuple[str, ...]:
    return tuple(column.name for column in shape.columns)


@lru_cache(maxsize=_STATEMENTS_CACHED)
def put_statement(shape: Shape, rows: int) -> str:
    """Insert so many whole rows, or replace those with their keys."""
    names = _names(shape)
    moved = ", ".join(f"{quoted(n)} = excluded.{quoted(n)}" for n in names if n not in shape.key)
    return (
        f"INSERT INTO {quoted(shape.name)} ({listed(names)}) {_values(len(names), rows)} "
        f"ON CONFLICT ({listed(shape.key)}) DO {f'UPDATE SET {moved}' if moved else 'NOTHING'}"
    )


@lru_cache(maxsize=_STATEMENTS_CACHED)
def pick_statement(shape: Shape, by: tuple[str, ...], keys: int) -> str:
    """The whole rows that match one of so many keys."""
    return f"SELECT {listed(_names(shape))} FROM {quoted(shape.name)} WHERE {_match(by, keys)}"


@lru_cache(maxsize=_STATEMENTS_CACHED)
def drop_statement(shape: Shape, by: tuple[str, ...], keys: int) -> str:
    """Delete the rows that match one of so many keys."""
    return f"DELETE FROM {quoted(shape.name)} WHERE {_match(by, keys)}"


def batches(rows: Sequence[Row], width: int) -> Iterator[tuple[int, list[Any]]]:
    """The rows cut into what one statement takes: their number, and their values in one list."""
    rows_max = min(_STATEMENT_ROWS_MAX, _STATEMENT_VALUES_MAX // width)
    for start in range(0, len(rows), rows_max):
        batch = rows[start : start + rows_max]
        yield len(batch), list(chain.from_iterable(batch))


def _match(by: tuple[str, ...], keys: int) -> str:
    return f"({listed(by)}) IN ({_values(len(by), keys)})"


def _values(width: int, rows: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"VALUES {', '.join([row] * rows)}"
