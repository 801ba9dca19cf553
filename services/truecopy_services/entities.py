"""Entities as their owner sees them: history, any earlier state, what differs between two, and the way back.

    accounts = service.entity(balances)
    before = await accounts.at("a1", version=3)
    await accounts.rollback("a1", to=3, why="booked twice")

The state at a version is what the reducer of a projection makes of that many events. An entity whose events are all of kind
"state" needs none: it is named by its name. V(t) = V(t-1) + dV(t), and back: a rollback is a new event, which restores.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_jsonable_python

from truecopy_bus.errors import DataRefusedError, UnavailableError
from truecopy_bus.histories import Snapshot, events, head_of, keep, schemas_of, version_at
from truecopy_bus.publish import Prepared
from truecopy_bus.rollbacks import Outcome, Rolled, begin, end, note
from truecopy_bus.sql import Connection
from truecopy_bus.store import EventStore
from truecopy_bus.token import Token
from truecopy_projections.entity_fold import Delta, EntityFold, ProjectionFold, State, delta
from truecopy_projections.entity_states import differing_snapshot, load_state
from truecopy_projections.errors import RollbackConflictError, SnapshotError, UnknownVersionError
from truecopy_projections.limits import SNAPSHOT_KEEP_S
from truecopy_projections.restoring import restoring
from truecopy_schemas import Event
from truecopy_schemas.avro_schema import full_name
from truecopy_schemas.codec import Decoder
from truecopy_services.errors import UsageError
from truecopy_services.operating.moments import shown_moment

__all__ = ["HISTORY_VERSIONS", "Entity", "Rollback", "Version"]

HISTORY_VERSIONS = 1_000
"""Versions of a key that one call tells of, unless it asks for fewer."""

_log = logging.getLogger("truecopy.entities")


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a key: the event that made it, by full name and fields, when, and whether it is on the log yet."""

    version: int
    at_ms: int
    type: str
    fields: dict[str, Any]
    deletes: bool
    tx: str | None
    published: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = {name: getattr(self, name) for name in ("version", "at_ms", "type", "deletes", "tx", "published")}
        return {**plain, "fields": to_jsonable_python(self.fields)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """What a rollback of one key did, or would do: `tokens` are of the events that restore it, none where nothing differed."""

    key: str
    was: int
    to: int
    delta: Delta
    tokens: tuple[Token, ...] = ()


class Entity:
    """The entity of a fold, in its owner's store.

    `deletes` is a class whose event ends a key; `by` is who the journal says did it.
    """

    def __init__(self, store: EventStore, fold: EntityFold, *, deletes: type[Event] | None = None, by: str = "") -> None:
        self.store, self.fold, self.deletes, self.by = store, fold, deletes, by

    async def history(self, key: str, *, after: int = 0, limit: int = HISTORY_VERSIONS, newest: bool = False) -> list[Version]:
        """The versions behind `after` in their order, `limit` at the most; with `newest` the last so many.

        Raises UnknownVersionError for a key that has none.
        """
        entity = self.fold.entity
        async with self.store.database.snapshot() as read:
            head = await head_of(read, entity, key)
            if not head:
                raise UnknownVersionError(entity=entity, key=key, wanted=1, head=0)
            begin_at = max(after, head - limit) if newest else after
            found = await events(read, entity, key, after=begin_at, upto=head, rows_max=limit)
            schemas = await schemas_of(read, {one.fingerprint for one in found})
        decoders = {fingerprint: Decoder[Event](schema) for fingerprint, (_, schema) in schemas.items()}
        versions = []
        for one in found:
            schema = schemas[one.fingerprint][1]
            _, _, fields = decoders[one.fingerprint].decode(one.body)
            versions.append(
                Version(
                    version=one.version,
                    at_ms=one.at_ms,
                    type=full_name(schema),
                    fields=fields,
                    deletes=bool(schema.get("truecopy.deletes")),
                    tx=one.tx,
                    published=one.published,
                )
            )
        return versions

    async def at(self, key: str, *, version: int | None = None, time: datetime | None = None) -> State:
        """The state at a version, or at a time by the store's clock, or now; a time without zone, or to come, is refused.

        Raises UnknownVersionError, StateUnknownError, UsageError.
        """
        if version is not None and time is not None:
            raise UsageError("a state is asked for at a version or at a time, not both")
        async with self.store.database.snapshot() as read:
            if time is not None:
                version = await version_at(read, self.fold.entity, key, _past_ms(time))
            state, _, due = await load_state(read, self.fold, key, version=version)
        await self._keep(key, due)
        return state

    def rows(self, state: State) -> list[Any]:
        """A state's rows as the projection declares them; as dicts, where there is no projection."""
        if isinstance(self.fold, ProjectionFold):
            return [self.fold.projection.restored(state.rows[sub]) for sub in sorted(state.rows)]
        return [self.fold.fields(values) for values in state.rows.values()]

    async def diff(self, key: str, before: int, after: int) -> Delta:
        """What differs between two versions. Raises like `at`."""
        return delta(self.fold, await self.at(key, version=before), await self.at(key, version=after))

    async def verify(self, key: str) -> int:
        """Fold the key from its first event and compare each snapshot; how many versions. Raises SnapshotError.

        A snapshot that differs is one of a reducer that changed under its number: those of the key are forgotten.
        """
        async with self.store.database.snapshot() as read:
            versions, differs = await differing_snapshot(read, self.fold, key)
        if differs is not None:
            async with self.store.database.transaction() as tx:
                await tx.fetch("DELETE FROM truecopy_snapshots WHERE entity = $1 AND key = $2", self.fold.entity, key)
            raise SnapshotError(entity=self.fold.entity, key=key, seen=str(differs))
        return versions

    async def rollback(
        self, key: str, *, to: int, expected_version: int | None = None, why: str = "", dry_run: bool = False
    ) -> Rollback:
        """Publish what brings a key back to its state at version `to` (0: before its first).

        Raises RollbackConflictError with both changes if the key is not at `expected_version`, RollbackRefusedError where
        nothing restores it, UnknownVersionError, StateUnknownError. Nothing is published then.
        """
        async with self.store.transaction() as tx:
            head = await head_of(tx.connection, self.fold.entity, key, held=True)
            if expected_version is not None and expected_version != head:
                raise await self.conflict(tx.connection, key, to, expected_version, head)
            now = (await load_state(tx.connection, self.fold, key)).state
            changes, prepared = await self.restore(tx.connection, now, to)
            tokens = () if dry_run else tuple(await tx.publish_prepared(prepared))
            done = Rollback(key=key, was=head, to=to, delta=changes, tokens=tokens)
            if not dry_run:
                journal = await begin(tx.connection, self.fold.entity, {"key": key, "to": to}, by=self.by, why=why)
                await note(tx.connection, journal.id, [_rolled(done)])
                await end(tx.connection, journal.id)
        return done

    async def restore(self, read: Connection, now: State, to: int) -> tuple[Delta, list[Prepared]]:
        """What changes from `now` back to version `to`, and what is to be published for it. Raises like `rollback`.

        Whoever publishes it holds the head of the key, or `now` is not what it is made on.
        """
        key = now.key
        then = (await load_state(read, self.fold, key, version=to)).state
        found = await events(read, self.fold.entity, key, after=to - 1, upto=to, rows_max=1) if to else []
        schemas = await schemas_of(read, {one.fingerprint for one in found})
        event = found[0] if found else None
        schema = schemas[event.fingerprint] if event else None
        return delta(self.fold, now, then), restoring(self.fold, now, then, event, schema, deletes=self.deletes)

    async def conflict(self, read: Connection, key: str, to: int, expected: int, head: int) -> RollbackConflictError:
        """Both changes, of which neither may be lost."""
        seen, then, now = [(await load_state(read, self.fold, key, version=version)).state for version in (expected, to, head)]
        return RollbackConflictError(
            entity=self.fold.entity,
            key=key,
            expected=expected,
            head=head,
            undone=delta(self.fold, seen, then),
            newer=delta(self.fold, seen, now),
        )

    async def _keep(self, key: str, due: Sequence[Snapshot]) -> None:
        """Spare the next load what this one folded, if the store can be written soon.

        An owner who loads a state in the middle of his own transaction would wait here for himself.
        """
        if not due:
            return
        try:
            async with AsyncExitStack() as writing:
                async with asyncio.timeout(SNAPSHOT_KEEP_S):
                    tx = await writing.enter_async_context(self.store.database.transaction(durable=False))
                await keep(tx, self.fold.entity, key, self.fold.id, due)
        except (UnavailableError, DataRefusedError, TimeoutError) as fault:
            _log.info("%s %r: no snapshot was kept: %s", self.fold.entity, key, str(fault) or "the store is being written")


def _rolled(done: Rollback) -> Rolled:
    outcome = Outcome.RESTORED if done.tokens else Outcome.SAME
    return Rolled(key=done.key, outcome=outcome, was=done.was, to=done.to, now=done.was + len(done.tokens))


def _past_ms(at: datetime) -> int:
    if at.tzinfo is None:
        raise UsageError(f"{at.isoformat()} has no time zone; give one, such as UTC")
    at_ms, now_ms = round(at.astimezone(UTC).timestamp() * 1000), time.time_ns() // 1_000_000
    if at_ms > now_ms:
        raise UsageError(f"{shown_moment(at_ms)} is still to come; it is {shown_moment(now_ms)}")
    return at_ms
