"""The database port: transactions, and statements over whole batches of rows.

Statements are written once for both adapters. Parameters are `$1`, `$2`, ... and must first appear in ascending order
(SQLite numbers named parameters by first appearance). What really differs between the two is in the batch methods, and in
the two SQL fragments of `Dialect`.

Values are canonical Python values, one type per `Kind`, and reading back what was written gives the same value; each
adapter converts where its database has no such type. JSON is text here and never interpreted.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, runtime_checkable

__all__ = ["Column", "Connection", "Copying", "Database", "Dialect", "Kind", "Row", "Shape", "columns"]

Row = tuple[Any, ...]


class Kind(Enum):
    """What a column holds, by the Python type that goes in and comes out."""

    TEXT = "str"
    INTEGER = "int, 64 bits signed"
    REAL = "float"
    BOOLEAN = "bool"
    BYTES = "bytes"
    DECIMAL = "Decimal of the column's precision and scale"
    DATE = "date"
    TIMESTAMP = "datetime in UTC, to the microsecond"
    UUID = "UUID"
    JSON = "str that holds JSON, kept to the letter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column. `precision` and `scale` are a DECIMAL's, in decimal digits."""

    name: str
    kind: Kind
    nullable: bool = False
    precision: int = 0
    scale: int = 0


def columns(**kinds: Kind | tuple[Kind, None]) -> tuple[Column, ...]:
    """Columns by name, in order; `(kind, None)` for one that may be null."""
    return tuple(
        Column(name=name, kind=kind[0], nullable=True) if isinstance(kind, tuple) else Column(name=name, kind=kind)
        for name, kind in kinds.items()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One table: its columns in order, the names of its primary key, and further indexes.

    An index is a tuple of column names; `where` of an index is not offered: see `Dialect` for raw statements.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Dialect:
    """The fragments in which the databases differ.

    `now_ms` is an expression for the database's own clock in whole milliseconds since 1970; `for_update` ends a SELECT
    that must hold its rows (empty on SQLite, whose writers are alone); `serial` is the type of an ascending row id.
    `install_lock` is a query by which a transaction keeps everybody else from making tables (on SQLite it is alone anyway).
    """

    name: str
    now_ms: str
    for_update: str
    serial: str
    install_lock: str


class Connection(Protocol):
    """A connection inside of an open transaction. Statements raise DataRefusedError or DatabaseUnavailableError."""

    @property
    def dialect(self) -> Dialect: ...

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        """Run one statement; all of its rows (those of RETURNING too)."""
        ...

    async def put(self, shape: Shape, rows: Sequence[Row]) -> None:
        """Insert each whole row, or replace the one with its key. Keys within a batch are distinct."""
        ...

    async def pick(self, shape: Shape, by: Sequence[str], keys: Sequence[Row]) -> list[Row]:
        """The whole rows whose columns `by` equal one of `keys`, in no order; keys that match none are left out."""
        ...

    async def drop(self, shape: Shape, by: Sequence[str], keys: Sequence[Row]) -> None:
        """Delete the rows whose columns `by` equal one of `keys`."""
        ...

    def stream(self, sql: str, *args: Any, rows_max: int) -> AsyncIterator[list[Row]]:
        """The rows of one SELECT in batches of `rows_max`, without holding them all."""
        ...

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """What is done inside is undone alone if it raises; the transaction stays usable."""
        ...


@runtime_checkable
class Copying(Protocol):
    """A connection that hands over whole results in its database's own binary form. Not part of the port: PostgreSQL's does."""

    async def copy_out(self, sql: str, sink: Callable[[bytes], Awaitable[None]]) -> None:
        """Run one SELECT and give its result to `sink`, piece by piece; each is awaited before the next is read."""
        ...

    async def copy_in(self, shape: Shape, pieces: AsyncIterator[bytes]) -> None:
        """Append what `copy_out` gave of the same columns to an empty table."""
        ...


class Database(Protocol):
    """A database that this process opened. One write transaction at a time on SQLite; a pool on PostgreSQL."""

    @property
    def name(self) -> str:
        """For messages: kind, address and database, never a credential."""
        ...

    @property
    def dialect(self) -> Dialect: ...

    async def install(self, shapes: Sequence[Shape], statements: Sequence[str] = ()) -> None:
        """Create what is missing, in one transaction and safely beside others who do the same."""
        ...

    def transaction(self, *, durable: bool = True, lent: bool = False) -> AbstractAsyncContextManager[Connection]:
        """A write transaction: commits at the end, rolls back when the block raises.

        `lent`: statements of others are run in it, which may alter their session; nobody after it must find it altered.
        `durable=False` lets a PostgreSQL commit be acknowledged before its flush (`synchronous_commit = off`).
        Raises DatabaseUnavailableError within the connection's time limit.
        """
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Connection]:
        """A read-only transaction that sees one state of the whole database, whatever is written meanwhile.

        That is its state at the first statement, or at some moment between the opening and that.
        """
        ...

    async def flush(self) -> None:
        """Return once all that was committed when it was called would survive a power failure."""
        ...

    async def close(self) -> None: ...
