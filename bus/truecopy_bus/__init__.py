"""From a service's write to the log: event store, outbox, relay, and logs behind one port. See README.md beside it."""

from truecopy_bus.errors import (
    DatabaseAccessError,
    DatabaseCorruptError,
    DatabaseUnavailableError,
    DataRefusedError,
    IncarnationError,
    LogAccessError,
    LogUnavailableError,
    PositionLostError,
    TopicMismatchError,
    TopicMissingError,
    UnavailableError,
    VersionConflictError,
)
from truecopy_bus.log import Log, Reader
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.record import Appended, Outgoing, Record, TopicSpec, TopicState
from truecopy_bus.registry import Registry
from truecopy_bus.relay import Relay
from truecopy_bus.store import EventStore, Publisher, Transaction
from truecopy_bus.token import Token

__all__ = [
    "Appended",
    "DataRefusedError",
    "DatabaseAccessError",
    "DatabaseCorruptError",
    "DatabaseUnavailableError",
    "EventStore",
    "IncarnationError",
    "Log",
    "LogAccessError",
    "LogUnavailableError",
    "MemoryLog",
    "Outgoing",
    "PositionLostError",
    "Publisher",
    "Reader",
    "Record",
    "Registry",
    "Relay",
    "Token",
    "TopicMismatchError",
    "TopicMissingError",
    "TopicSpec",
    "TopicState",
    "Transaction",
    "UnavailableError",
    "VersionConflictError",
]
