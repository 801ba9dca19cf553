"""Errors of the bus: one class for each thing that its caller does next."""

from truecopy_schemas.errors import TruecopyError

__all__ = [
    "AddressError",
    "DataRefusedError",
    "DatabaseAccessError",
    "DatabaseCorruptError",
    "DatabaseUnavailableError",
    "IncarnationError",
    "InvalidTokenError",
    "LogAccessError",
    "LogUnavailableError",
    "NoTransactionError",
    "OversizeRecordError",
    "PositionLostError",
    "SchemasUnavailableError",
    "StoreBehindError",
    "TableAlteredError",
    "TopicLostError",
    "TopicMismatchError",
    "TopicMissingError",
    "TwoLibrariesError",
    "UnavailableError",
    "VersionConflictError",
]


class UnavailableError(TruecopyError):
    """Something outside is away. Wait and try again; nothing here is wrong."""

    waiting_helps = True
    """False when it stays away until somebody changes something, here or there."""


class LogUnavailableError(UnavailableError):
    """The log did not answer in time, is full, or refused us. Retry with backoff; do what `remedy` says if it stays."""

    def __init__(self, *, log: str, seen: str, remedy: str = "check address and credentials") -> None:
        super().__init__(f"log {log} is unavailable: {seen}; will work again when it answers, {remedy}")
        self.log, self.seen, self.remedy = log, seen, remedy


class LogAccessError(LogUnavailableError):
    """The log is there and does not let us in. Do what the message says; until then every try ends like this one."""

    waiting_helps = False

    def __init__(self, *, log: str, seen: str, remedy: str) -> None:
        UnavailableError.__init__(self, f"log {log} does not let us in: {seen}; {remedy}")
        self.log, self.seen, self.remedy = log, seen, remedy


class DatabaseUnavailableError(UnavailableError):
    """The database did not answer, is locked, full or read-only. Retry with backoff; do what `remedy` says if it stays."""

    def __init__(self, *, database: str, seen: str, remedy: str = "check address, credentials and disk") -> None:
        super().__init__(f"database {database} is unavailable: {seen}; will work again when it answers, {remedy}")
        self.database, self.seen, self.remedy = database, seen, remedy


class SchemasUnavailableError(UnavailableError):
    """A source of schemas did not answer, or not as one does. Retry with backoff; check address and credentials if it stays."""

    def __init__(self, *, source: str, seen: str) -> None:
        super().__init__(
            f"schema source {source} is unavailable: {seen}; will work again when it answers, check address and credentials"
        )
        self.source, self.seen = source, seen


class DatabaseAccessError(DatabaseUnavailableError):
    """The database is there and does not let us in. Do what the message says; until then every try ends like this one."""

    waiting_helps = False

    def __init__(self, *, database: str, seen: str, remedy: str) -> None:
        UnavailableError.__init__(self, f"database {database} does not let us in: {seen}; {remedy}")
        self.database, self.seen, self.remedy = database, seen, remedy


class DatabaseCorruptError(DatabaseUnavailableError):
    """The database says itself that its files are damaged. Do what the message says; what was read so far stands."""

    waiting_helps = False

    def __init__(self, *, database: str, seen: str, remedy: str) -> None:
        UnavailableError.__init__(self, f"database {database} is corrupt: {seen}; {remedy}")
        self.database, self.seen, self.remedy = database, seen, remedy


class DataRefusedError(TruecopyError):
    """The database refused the data itself (SQLSTATE class 22 or 23, or SQLite's constraint). Retrying can't help."""

    def __init__(self, *, database: str, seen: str) -> None:
        super().__init__(f"database {database} refused the data: {seen}; change the value or the constraint")
        self.database, self.seen = database, seen


class TableAlteredError(TruecopyError):
    """A table is not what its statements need: dropped, altered, or never made. Retrying can't help."""

    def __init__(self, *, database: str, seen: str) -> None:
        super().__init__(
            f"database {database}: {seen}; expected the tables as Truecopy made them: bring them back from a backup, or let a "
            "replica begin anew in an empty database, which a worker fills from the log"
        )
        self.database, self.seen = database, seen


class AddressError(TruecopyError):
    """The address of a database can't be used as it is. Correct it; trying again can't help."""

    def __init__(self, *, database: str, seen: str) -> None:
        super().__init__(f"database {database}: its address can't be used: {seen}; correct host, port or options")
        self.database, self.seen = database, seen


class NoTransactionError(TruecopyError):
    """A borrowed connection has no transaction open: what is written would not be committed with the caller's own."""

    def __init__(self, *, database: str) -> None:
        super().__init__(f"database {database}: the connection has no open transaction; begin one, then call again")
        self.database = database


class TwoLibrariesError(TruecopyError):
    """One process opened one SQLite file through two libraries. They drop each other's locks and lose commits."""

    def __init__(self, *, path: str, known: str, seen: str) -> None:
        super().__init__(
            f"{path}: opened through {known} in this process, now through {seen}; two SQLite libraries on one file "
            f"lose commits: hand over a connection of {known}, or use another process"
        )
        self.path, self.known, self.seen = path, known, seen


class TopicMissingError(TruecopyError):
    """No such topic. Start its owner once, or create it; reading never makes one."""

    def __init__(self, *, log: str, topic: str) -> None:
        super().__init__(f"log {log} has no topic {topic!r}; start the owner's relay or create the topic")
        self.log, self.topic = log, topic


class TopicLostError(TopicMissingError):
    """A topic that was filled or followed before is gone, or its beginning is. Bring it back; nothing is made anew."""

    def __init__(self, *, topic: str, seen: str) -> None:
        TruecopyError.__init__(
            self,
            f"topic {topic!r}: {seen}; expected it as it was filled: restore it with its records, from a backup or a mirror; "
            "nothing is made anew in its place, and what is published meanwhile waits in the outbox",
        )
        self.topic, self.seen = topic, seen


class TopicMismatchError(TruecopyError):
    """The topic exists with another number of partitions, or without a genesis. Partition count is identity."""

    def __init__(self, *, topic: str, seen: str, expected: str) -> None:
        super().__init__(f"topic {topic!r}: seen {seen}, expected {expected}; use its real settings or another name")
        self.topic, self.seen, self.expected = topic, seen, expected


class PositionLostError(TruecopyError):
    """A position is outside of what the partition stores: history was deleted, or the topic made anew."""

    def __init__(self, *, topic: str, partition: int, position: int, start: int, end: int) -> None:
        side = "before the first stored offset" if position < start else "beyond the end"
        super().__init__(
            f"{topic}[{partition}]: position {position} lies {side} (stored: {start} to {end}); "
            "nothing was skipped; restore the log, or rebuild the replica from a peer or an empty start"
        )
        self.topic, self.partition, self.position, self.start, self.end = (
            topic,
            partition,
            position,
            start,
            end,
        )


class IncarnationError(TruecopyError):
    """The topic was deleted and made again: same name, another life. Nothing is applied across that border."""

    def __init__(self, *, topic: str, known: str, seen: str) -> None:
        super().__init__(
            f"topic {topic!r}: knows incarnation {known}, the log now has {seen}; the topic was re-created: "
            "rebuild what follows it, or restore the old topic"
        )
        self.topic, self.known, self.seen = topic, known, seen


class InvalidTokenError(TruecopyError):
    """A text that is no token of ours. Pass on what a publish returned, unchanged."""

    def __init__(self, *, seen: str) -> None:
        super().__init__(f"{seen!r:.80} is no token; pass on what a publish returned, unchanged")
        self.seen = seen


class OversizeRecordError(TruecopyError):
    """A record larger than the log takes. Nothing was written."""

    def __init__(self, *, topic: str, size: int, limit: int) -> None:
        super().__init__(f"{topic}: a record of {size} bytes, the log takes {limit} at most; publish less per event")
        self.topic, self.size, self.limit = topic, size, limit


class VersionConflictError(TruecopyError):
    """The key moved on. Read it again and decide anew; the transaction it was raised in stays usable."""

    def __init__(self, *, entity: str, key: str, expected: int, actual: int) -> None:
        super().__init__(f"{entity} {key!r}: expected version {expected}, it is at {actual}; read it again and decide anew")
        self.entity, self.key, self.expected, self.actual = entity, key, expected, actual


class StoreBehindError(TruecopyError):
    """The log states more than the owner's store has recorded. Publishing on would hide new events behind old versions."""

    def __init__(self, *, topic: str, partition: int, recorded: int, stated: int) -> None:
        super().__init__(
            f"{topic}[{partition}]: the log states {stated} events, this store has recorded {recorded}; the store was restored "
            "from an older copy, or another service owns the topic: bring back the newer store, or stop the other owner"
        )
        self.topic, self.partition, self.recorded, self.stated = topic, partition, recorded, stated
