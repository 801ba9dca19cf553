"""The event store: an owner's changes, kept in the owner's own database and written in the owner's own transaction.

    async with store.transaction() as tx:
        await tx.execute("UPDATE customers SET name = $1 WHERE id = $2", "Ada", "42")
        await tx.publish("42", CustomerRenamed(name="Ada"))

The business write and its event commit together or not at all, and the log may be away meanwhile: a relay moves the
events there. Versions of a key are taken under its head's row lock, so that they ascend by one in commit order.

What a process remembers of entities and schemas it has read in a transaction of its own, after a commit. What was merely
written may still be rolled back by the caller, and an entity or a schema that is believed to be there and is not would
leave events that no relay can find or decode.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import orjson

from truecopy_bus.partitioner import partition_of
from truecopy_bus.points import Point, reached
from truecopy_bus.publish import Change, Declared, Prepared, demands, numbered, prepare, versioned
from truecopy_bus.sql.borrowed import borrowed
from truecopy_bus.sql.port import Connection, Database, Row
from truecopy_bus.store_tables import ENTITIES, EVENTS, SCHEMAS, STORE_SHAPES, next_ids, store_statements, take_versions
from truecopy_bus.token import Token
from truecopy_schemas.event import Event

__all__ = ["EventStore", "Pending", "Publisher", "Transaction"]


@dataclass(frozen=True, slots=True)
class Pending:
    """What an entity's outbox holds: how many events, and the age in seconds of the oldest (0.0 if there is none)."""

    count: int
    oldest_s: float


class Publisher:
    """Publishes within one open transaction, which is committed or rolled back by whoever opened it."""

    def __init__(self, store: "EventStore", connection: Connection) -> None:
        self._store, self._connection = store, connection

    async def publish(self, key: str, event: Event, *, expected_version: int | None = None, tx: str | None = None) -> Token:
        """Append one event to the key's history. `expected_version` 0 says that the key must be new.

        Raises InvalidEventError before anything is sent to the database, and VersionConflictError with nothing of this
        call written; the transaction stays usable after either.
        """
        return (await self.publish_many([(key, event, expected_version)], tx=tx))[0]

    async def publish_many(self, changes: Iterable[Change], *, tx: str | None = None) -> list[Token]:
        """Append events of any entities and keys, in order, in a few statements. All or none; raises like `publish`.

        `tx` names the distributed transaction that they are part of. At most PUBLISH_EVENTS_MAX changes.
        """
        return await self.publish_prepared(prepare(changes, tx), tx=tx)

    async def publish_prepared(self, prepared: Sequence[Prepared], *, tx: str | None = None) -> list[Token]:
        """`publish_many` of what `prepare` made, or of stored events that are stated again."""
        return await self._store._write(self._connection, prepared, tx)


class Transaction(Publisher):
    """A transaction of the store's own: business writes and events."""

    async def execute(self, sql: str, *args: Any) -> list[Row]:
        """One statement with parameters `$1`, `$2`, ...; its rows. Raises DataRefusedError, DatabaseUnavailableError."""
        return await self._connection.fetch(sql, *args)

    @property
    def connection(self) -> Connection:
        """Where it runs."""
        return self._connection


class EventStore:
    """The events of one service. `partitions` is how many an entity gets that is published for the first time.

    `committed` is set after each commit of this process, for a relay beside it; other processes' commits are polled for.
    """

    def __init__(self, database: Database, *, service: str, partitions: int = 4) -> None:
        self.database, self.service, self.partitions = database, service, partitions
        self.committed = asyncio.Event()
        self._entities: dict[str, int] = {}
        self._fingerprints: set[bytes] = set()
        self._unread: set[str | bytes] = set()

    @property
    def unread(self) -> bool:
        """Whether an entity or a schema was published that `entities` has not found committed yet."""
        return bool(self._unread)

    async def open(self) -> None:
        """Create the tables that are missing. Call it before anything else; again, it changes nothing."""
        await self.database.install(STORE_SHAPES, store_statements(self.database.dialect))
        await self.entities()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction for business writes and events: commits at the end, rolls back when the block raises."""
        await self._learn()
        async with self.database.transaction(lent=True) as connection:
            yield Transaction(self, connection)
        self.committed.set()
        await reached(Point.PUBLISH_COMMITTED)

    def within(self, connection: Any) -> Publisher:
        """Publish on a connection of the caller's own (apsw, sqlite3 or asyncpg) in the transaction that is open on it."""
        return Publisher(self, borrowed(connection))

    async def publish(self, key: str, event: Event, *, expected_version: int | None = None, tx: str | None = None) -> Token:
        """`Publisher.publish` in a transaction of its own."""
        return (await self.publish_many([(key, event, expected_version)], tx=tx))[0]

    async def publish_many(self, changes: Iterable[Change], *, tx: str | None = None) -> list[Token]:
        """`Publisher.publish_many` in a transaction of its own."""
        prepared = prepare(changes, tx)
        if not prepared:
            return []
        await self._learn()
        async with self.database.transaction() as connection:
            tokens = await self._write(connection, prepared, tx, alone=True)
        self.committed.set()
        await reached(Point.PUBLISH_COMMITTED)
        return tokens

    async def version(self, entity: str, key: str) -> int:
        """The latest version of a key, 0 if it has none."""
        async with self.database.snapshot() as connection:
            rows = await connection.fetch("SELECT version FROM truecopy_heads WHERE entity = $1 AND key = $2", entity, key)
        return int(rows[0][0]) if rows else 0

    async def pending(self, entity: str) -> Pending:
        """What waits to be put on the log."""
        async with self.database.snapshot() as connection:
            [(count, oldest_ms, now_ms)] = await connection.fetch(
                f"SELECT COUNT(*), MIN(at_ms), {self.database.dialect.now_ms} FROM truecopy_events "
                "WHERE entity = $1 AND published = 0",
                entity,
            )
        return Pending(int(count), max(0, now_ms - oldest_ms) / 1000 if count else 0.0)

    async def entities(self) -> dict[str, int]:
        """The entities that this store has events of, and their numbers of partitions, as committed now."""
        async with self.database.snapshot() as connection:
            entities = await connection.fetch("SELECT entity, partitions FROM truecopy_entities")
            fingerprints = await connection.fetch("SELECT fingerprint FROM truecopy_schemas")
        self._entities = {entity: partitions for entity, partitions in entities}
        self._fingerprints = {row[0] for row in fingerprints}
        self._unread -= self._entities.keys() | self._fingerprints
        return dict(self._entities)

    async def _learn(self) -> None:
        # Before the next transaction and not after a commit, which a fault here would make look like a failure.
        if self._unread:
            await self.entities()

    async def _write(
        self, connection: Connection, prepared: Sequence[Prepared], tx: str | None, *, alone: bool = False
    ) -> list[Token]:
        """`alone`: nothing else is in the transaction, so that no savepoint is needed to undo this call only."""
        if not prepared:
            return []
        partitions = await self._declare(connection, {one.declared for one in prepared})
        may_conflict = any(one.expected is not None for one in prepared)
        async with connection.savepoint() if may_conflict and not alone else nullcontext():
            taken = await connection.fetch(take_versions(connection.dialect), orjson.dumps(demands(prepared)).decode())
            versions = numbered(prepared, {(entity, key): version for entity, key, version in taken})
        await reached(Point.PUBLISH_NUMBERED)
        stamps = await connection.fetch(next_ids(connection.dialect), len(prepared))
        rows: list[Row] = []
        tokens = []
        for (declared, key, _, body), version, (row_id, at_ms) in zip(prepared, versions, stamps, strict=True):
            entity, fingerprint = declared.entity, declared.fingerprint
            part = partition_of(key, partitions[entity])
            rows.append((row_id, entity, key, version, part, fingerprint, versioned(body, version), tx, at_ms, 0))
            tokens.append(Token(entity, key, version))
        await connection.put(EVENTS, rows)
        await reached(Point.PUBLISH_WRITTEN)
        return tokens

    async def _declare(self, connection: Connection, declared: set[Declared]) -> dict[str, int]:
        """See to it that entities and schemas are there when this transaction commits. Returns numbers of partitions."""
        entities = sorted({one.entity for one in declared})
        known = {entity: self._entities[entity] for entity in entities if entity in self._entities}
        if asked := [(entity,) for entity in entities if entity not in known]:
            self._unread.update(entity for (entity,) in asked)
            known.update(await connection.pick(ENTITIES, ("entity",), asked))
            if missing := [entity for (entity,) in asked if entity not in known]:
                for entity in missing:
                    await connection.fetch(
                        "INSERT INTO truecopy_entities (entity, partitions) VALUES ($1, $2) ON CONFLICT (entity) DO NOTHING",
                        entity,
                        self.partitions,
                    )
                known.update(await connection.pick(ENTITIES, ("entity",), [(entity,) for entity in missing]))
        unknown = {one.fingerprint: one for one in declared if one.fingerprint not in self._fingerprints}
        if unknown:
            self._unread.update(unknown)
            there = await connection.pick(SCHEMAS, ("fingerprint",), [(each,) for each in unknown])
            for fingerprint, _, _ in there:
                del unknown[fingerprint]
            rows = [(one.fingerprint, one.subject, one.schema) for _, one in sorted(unknown.items())]
            if rows:
                await connection.put(SCHEMAS, rows)
        return known
