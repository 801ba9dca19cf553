"""The port over a connection that its owner opened: our rows commit, or not, together with theirs."""

import sqlite3
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import apsw

from truecopy_bus.errors import NoTransactionError
from truecopy_bus.limits import STATEMENT_TIMEOUT_S
from truecopy_bus.sql.port import Connection
from truecopy_bus.sql.sqlite import SqliteConnection
from truecopy_bus.sql.sqlite_session import claim_file

__all__ = ["borrowed"]

T = TypeVar("T")


class _Here:
    """Runs statements where the caller runs its own: in the caller's thread, in between."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def run(self, work: Callable[[Any], T]) -> T:
        return work(self._connection)


def borrowed(connection: object) -> Connection:
    """The port over an open transaction of apsw, asyncpg (a pool's connection too), or the standard library's sqlite3.

    The owner commits or rolls back; nothing here does. SQLite's statements run in the caller's thread. With sqlite3,
    `fetch` and `stream` yield stored forms for the kinds that SQLite lacks (text for a decimal); `pick` converts.

    Raises NoTransactionError without an open transaction, TwoLibrariesError when this process uses the file through the
    other SQLite library, TypeError for anything else.
    """
    if isinstance(connection, apsw.Connection):
        return _sqlite(connection, connection.db_filename("main") or ":memory:", "apsw")
    if isinstance(connection, sqlite3.Connection):
        cursor = connection.cursor()
        cursor.row_factory = None
        files = {name: path for _, name, path in cursor.execute("PRAGMA database_list")}
        return _sqlite(connection, files["main"] or ":memory:", "sqlite3")
    # Who hands over a connection of asyncpg has imported it; the extra is not needed to ask.
    asyncpg = sys.modules.get("asyncpg")
    if asyncpg is not None and isinstance(connection, (asyncpg.Connection, asyncpg.pool.PoolConnectionProxy)):
        return _postgres(connection)
    raise TypeError(
        f"can't borrow a {type(connection).__module__}.{type(connection).__qualname__}; "
        "hand over a connection of apsw, asyncpg or sqlite3 with an open transaction"
    )


def _sqlite(connection: Any, path: str, library: str) -> Connection:
    name = f"sqlite:{path}"
    claim_file(path, library)
    if not connection.in_transaction:
        raise NoTransactionError(database=name)
    return SqliteConnection(_Here(connection), name=name)


def _postgres(connection: Any) -> Connection:
    from truecopy_bus.sql.postgres import PostgresConnection

    name = "postgresql (borrowed)"
    if not connection.is_in_transaction():
        raise NoTransactionError(database=name)
    return PostgresConnection(connection, name=name, timeout_s=STATEMENT_TIMEOUT_S)
