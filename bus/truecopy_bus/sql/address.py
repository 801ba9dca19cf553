"""Which adapter an address means."""

from truecopy_bus.limits import STATEMENT_TIMEOUT_S
from truecopy_bus.sql.port import Database
from truecopy_bus.sql.sqlite import SqliteDatabase
from truecopy_bus.sql.sqlite_session import Synchronous

__all__ = ["connect"]


async def connect(url: str, *, synchronous: Synchronous = "FULL", timeout_s: float = STATEMENT_TIMEOUT_S) -> Database:
    """The database at `sqlite:relative/path`, `sqlite:///absolute/path`, `sqlite::memory:` or `postgresql://...`.

    Nothing is opened before first use: a database that is away raises DatabaseUnavailableError then, and works when it
    is back. `synchronous` is SQLite's; `timeout_s` bounds each statement and each wait for a lock, in seconds. Raises
    ValueError for any other address, and ImportError when the extra `postgres` is not installed.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite" and rest and (not rest.startswith("//") or rest.startswith("///")):
        return SqliteDatabase(rest.removeprefix("//"), synchronous=synchronous, timeout_s=timeout_s)
    if scheme in ("postgresql", "postgres"):
        try:
            from truecopy_bus.sql.postgres import PostgresDatabase
        except ModuleNotFoundError as error:
            if error.name != "asyncpg":
                raise
            raise ImportError("PostgreSQL needs asyncpg; pip install truecopy[postgres]") from error
        return PostgresDatabase(url, timeout_s=timeout_s)
    # The address itself may hold a password: only its scheme is shown.
    raise ValueError(f"no database has an address that starts with {scheme!r}; use sqlite:PATH or postgresql://...")
