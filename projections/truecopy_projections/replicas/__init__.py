"""Where replicas are kept: in a database, SQLite or PostgreSQL, or in the process's memory."""

from truecopy_projections.replicas.address import open_replica
from truecopy_projections.replicas.memory import MemoryReplica
from truecopy_projections.replicas.sql import SqlReplica

__all__ = ["MemoryReplica", "SqlReplica", "open_replica"]
