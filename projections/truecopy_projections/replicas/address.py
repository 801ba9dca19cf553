"""Which replica an address means."""

from truecopy_bus.limits import STATEMENT_TIMEOUT_S
from truecopy_bus.sql.address import connect
from truecopy_projections.replica import Replica
from truecopy_projections.replicas.memory import MemoryReplica
from truecopy_projections.replicas.sql import SqlReplica

__all__ = ["open_replica"]


async def open_replica(url: str, *, timeout_s: float = STATEMENT_TIMEOUT_S) -> Replica:
    """The replica at `memory:`, `sqlite:path`, `sqlite:///absolute/path` or `postgresql://...`; opened by its first use.

    SQLite runs with `synchronous = NORMAL`: a power failure may take the last transactions, rows and position together,
    and the worker applies them again. `timeout_s` bounds each statement and each wait for a lock.
    Raises ValueError for any other address.
    """
    if url == "memory:":
        return MemoryReplica()
    return SqlReplica(await connect(url, synchronous="NORMAL", timeout_s=timeout_s))
