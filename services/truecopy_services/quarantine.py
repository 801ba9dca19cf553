"""The quarantine of one projection: what waits and why, and what people do about it. `Service.quarantine` makes one.

Everything that changes something goes under the projection's leases and through its plan (truecopy_projections.amending), so
that the order of a key is kept, and each ruling is one transaction with what it leads to. Then it is published; what a crash
left unpublished, the next ruling or certificate publishes.
"""

import getpass
import os
import socket
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from truecopy_bus.log import Log
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.amending import Amending, Held, Treated, amending
from truecopy_projections.amendment import Amendment
from truecopy_projections.amendments_topic import publish_missing
from truecopy_projections.errors import AmendmentRefusedError, UnknownProjectionError
from truecopy_projections.projection import Projection
from truecopy_projections.quarantine import ParkedKey, head_of, parked_key, remedy_of, unruled
from truecopy_projections.replica import Replica, Snapshot
from truecopy_projections.state import KeyState, Reason, Waiting
from truecopy_services.operating.bodies import Said, assigned, replacement, said, said_instead

__all__ = ["Listing", "Quarantine", "Ruled", "Shown", "actor"]


def actor() -> str:
    """Who rules, if nobody says otherwise: the user of this process, and its machine."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


@dataclass(slots=True, kw_only=True)
class Listing:
    """What waits: parked keys by reason, and foreign records. `more` counts what is not named, `records` and `bytes` all."""

    keys: dict[Reason, list[ParkedKey]] = field(default_factory=dict)
    foreign: list[Waiting] = field(default_factory=list)
    counts: dict[Reason, int] = field(default_factory=dict)
    more: int = 0
    records: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One parked key: what is at its head, decoded as far as that goes, what waits beside it, and what can be done."""

    parked: ParkedKey
    said: Said
    waiting: Sequence[Waiting]
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruled:
    """A ruling (None if it had been made before), the event as it was and as it is, the rows before and after, and where the
    key stands now: `parked` says why it waits again, "" if it does not."""

    amendment: Amendment | None
    before: Said
    after: Said
    rows_before: Sequence[dict[str, Any]]
    rows_after: Sequence[dict[str, Any]]
    applied: int
    parked: str


class Quarantine:
    """See the module. All methods raise UnknownProjectionError where the replica holds no such projection.

    `topic` is where rulings are published. Those that rule raise AmendmentRefusedError (nothing was changed), UsageError for
    what can't be meant, and LogUnavailableError when a ruling holds and could not be published yet.
    """

    def __init__(
        self,
        projection: Projection[Any],
        replica: Replica,
        log: Log,
        schemas: SchemaSource,
        *,
        topic: str,
        by: str = "",
    ) -> None:
        self.projection = projection
        self._replica, self._log, self._schemas, self._topic = replica, log, schemas, topic
        self._by = by or actor()

    async def listing(self, *, reason: Reason | None = None, key: str | None = None, limit: int | None = None) -> Listing:
        """What waits; at most `limit` keys and foreign records are named."""
        found = Listing()
        async with self._snapshot() as snapshot:
            async for one in self._parked(snapshot, key):
                if reason in (None, one.reason):
                    found.counts[one.reason] = found.counts.get(one.reason, 0) + 1
                    found.records += one.behind + (one.head is not None)
                    found.bytes += one.bytes
                    self._name(found.keys.setdefault(one.reason, []), one, found, limit)
            if key is None and reason in (None, Reason.FOREIGN):
                async for waiting in self._foreign(snapshot):
                    found.counts[Reason.FOREIGN] = found.counts.get(Reason.FOREIGN, 0) + 1
                    found.records, found.bytes = found.records + 1, found.bytes + waiting.size
                    self._name(found.foreign, waiting, found, limit)
        return found

    async def show(self, key: str) -> Shown:
        """One parked key. Raises AmendmentRefusedError for one that is not."""
        async with self._snapshot() as snapshot:
            state, _ = await snapshot.get(self.projection, key)
            waiting = [one async for batch in snapshot.quarantine(self.projection.id, key=key) for one in batch]
        found = parked_key(key, state, waiting) if state is not None else None
        if found is None:
            raise AmendmentRefusedError(f"{self.projection.id}: {key!r} is not parked, so nothing of it waits")
        first = found.head or waiting[0]
        return Shown(
            parked=found,
            said=await said(self.projection, self._schemas, first),
            waiting=waiting,
            remedy=remedy_of(found.reason),
        )

    async def retry(self, keys: Collection[str] = (), *, reason: Reason | None = None, dry_run: bool = False) -> Treated:
        """Try these parked keys again, or all that are parked for `reason`, or (with neither) all."""
        chosen = set(keys)
        if not chosen:
            async with self._snapshot() as snapshot:
                chosen = {one.key async for one in self._parked(snapshot) if reason in (None, one.reason)}
        async with self.ruling(dry_run=dry_run) as at:
            for key in keys:
                if (found := await at.look(key))[0] is None or not found[1]:
                    raise AmendmentRefusedError(f"{self.projection.id}: {key!r} is not parked, so nothing of it waits")
            return await at.treat(chosen)

    async def skip(self, key: str, *, why: str, dry_run: bool = False) -> Ruled:
        """Rule that the event at the head of a key has no effect; of a second writer's, that the first one stands."""
        async with self.ruling(dry_run=dry_run) as at:
            state, heads = await self._heads(at, key)
            before = await said(self.projection, self._schemas, heads[0].waiting)
            rulings = [one for one in (at.ruling(held, why) for held in heads) if one is not None]
            return await self._done(at, key, state, rulings, before, Said())

    async def edit(
        self,
        key: str,
        assignments: Sequence[str] = (),
        *,
        body: Any = None,
        kind: str = "",
        why: str,
        dry_run: bool = False,
    ) -> Ruled:
        """Give the event at the head of a key another effect: its fields with `assignments`, or `body`, of type `kind`."""
        async with self.ruling(dry_run=dry_run) as at:
            state, (head, *_) = await self._heads(at, key)
            before = await said(self.projection, self._schemas, head.waiting)
            if state.parked is Reason.CONFLICT:
                raise AmendmentRefusedError(f"{key!r}: of two events of one version the first stands; skip the second one")
            fields = assigned(before.fields, assignments) if body is None else body
            ruling = self.replacing(at, head, before, fields, why, kind=kind)
            after = Said(type=kind or before.type, fields=fields)
            return await self._done(at, key, state, [ruling] if ruling else [], before, after)

    async def dismiss(self, partition: int, offset: int, *, why: str, dry_run: bool = False) -> Amendment | None:
        """Let go of a foreign record, and of its bytes."""
        async with self.ruling(dry_run=dry_run) as at:
            held = await at.foreign(partition, offset)
            if held is None:
                raise AmendmentRefusedError(
                    f"{self.projection.id}: no foreign record waits at offset {offset} of partition {partition}; see "
                    "`truecopy quarantine list --reason FOREIGN`"
                )
            ruling = at.ruling(held, why)
            if ruling is not None:
                await at.dismiss([ruling], [held.waiting.size])
            return ruling

    @asynccontextmanager
    async def ruling(self, *, dry_run: bool = False) -> AsyncIterator[Amending]:
        """All leases, to rule under; whatever ends it, all rulings that hold by then are published."""
        try:
            async with amending(self.projection, self._replica, self._schemas, by=self._by, dry_run=dry_run) as at:
                yield at
        finally:
            if not dry_run:
                async with self._replica.snapshot() as snapshot:
                    rulings = (await snapshot.amendments(self.projection.id)).all
                await self._replica.flush()  # what the log states, no crash of the replica may take back
                await publish_missing(self._log, rulings, topic=self._topic)

    def replacing(self, at: Amending, held: Held, before: Said, fields: Any, why: str, *, kind: str = "") -> Amendment | None:
        """The ruling that puts these fields in the place of an event. Raises UsageError, AmendmentRefusedError."""
        schema, body = replacement(self.projection, before, held.waiting.version or 0, fields, kind=kind)
        return at.ruling(held, why, schema=schema, body=body)

    async def said(self, waiting: Waiting) -> Said:
        """What a record that waits says."""
        return await said(self.projection, self._schemas, waiting)

    def replaced_by(self, amendment: Amendment) -> Said:
        """What a ruling put in the place of an event says."""
        return said_instead(self.projection, amendment)

    @asynccontextmanager
    async def all_waiting(self) -> AsyncIterator[AsyncIterator[Sequence[Waiting]]]:
        """All that waits, in small batches: foreign records first, then key by key, by version."""
        async with self._snapshot() as snapshot:
            yield snapshot.quarantine(self.projection.id)

    async def _heads(self, at: Amending, key: str) -> tuple[KeyState, list[Held]]:
        """What holds up a key; of a key with a second writer all that contradicts its first."""
        state, held = await at.look(key)
        if state is None or state.parked is None or not held:
            raise AmendmentRefusedError(f"{self.projection.id}: {key!r} is not parked, so nothing of it waits")
        head = head_of(state, [one.waiting for one in held])
        why_not = unruled(state.parked, foreign=self.projection.foreign is not None)
        if head is None or why_not:
            why_not = why_not or f"what waits of it does not hold it up; {remedy_of(Reason.GAP)}"
            raise AmendmentRefusedError(f"{key!r} waits for {state.parked.name}: {why_not}; {remedy_of(state.parked)}")
        if state.parked is Reason.CONFLICT:
            return state, [one for one in held if one.waiting.reason is Reason.CONFLICT and one.waiting.version == head.version]
        return state, [one for one in held if one.waiting == head]

    async def _done(
        self, at: Amending, key: str, state: KeyState, rulings: Sequence[Amendment], before: Said, after: Said
    ) -> Ruled:
        rows = await self._rows(key)
        done = await at.treat([key], rulings)
        changed = {sub: row for (name, sub), row in done.rows.items() if name == key}
        now = {**rows, **{sub: row.values for sub, row in changed.items() if row is not None}}
        for sub in (sub for sub, row in changed.items() if row is None):
            now.pop(sub, None)
        return Ruled(
            amendment=rulings[0] if rulings else None,
            before=before,
            after=after,
            rows_before=[self._named(values) for _, values in sorted(rows.items())],
            rows_after=[self._named(values) for _, values in sorted(now.items())],
            applied=done.keys.get(key, state).applied,
            parked=done.why.get(key, ""),
        )

    async def _rows(self, key: str) -> dict[Any, tuple[Any, ...]]:
        async with self._replica.snapshot() as snapshot:
            _, rows = await snapshot.get(self.projection, key)
        return {self.projection.sub_key(row.values): row.values for row in rows}

    def _named(self, values: Sequence[Any]) -> dict[str, Any]:
        return {one.column.name: value for one, value in zip(self.projection.fields, values, strict=True)}

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Snapshot]:
        async with self._replica.snapshot() as snapshot:
            if not await snapshot.states(self.projection.id):
                raise UnknownProjectionError(
                    f"replica {self._replica.name} holds no projection {self.projection.id}; start a worker for it once, or "
                    "check the name"
                )
            yield snapshot

    async def _parked(self, snapshot: Snapshot, key: str | None = None) -> AsyncIterator[ParkedKey]:
        """The parked keys, each with all that waits of it: one key's records are in memory at a time."""
        mine: list[Waiting] = []
        async for batch in snapshot.quarantine(self.projection.id, key=key):
            for one in batch:
                if mine and mine[0].key != one.key:
                    if (found := await self._one(snapshot, mine)) is not None:
                        yield found
                    mine = []
                if one.key is not None:
                    mine.append(one)
        if mine and (found := await self._one(snapshot, mine)) is not None:
            yield found

    async def _one(self, snapshot: Snapshot, waiting: Sequence[Waiting]) -> ParkedKey | None:
        key = waiting[0].key or ""
        state, _ = await snapshot.get(self.projection, key)
        return None if state is None else parked_key(key, state, waiting)

    async def _foreign(self, snapshot: Snapshot) -> AsyncIterator[Waiting]:
        async for batch in snapshot.quarantine(self.projection.id):
            for one in batch:
                if one.key is not None:
                    return
                yield one

    @staticmethod
    def _name(named: list[Any], one: Any, found: Listing, limit: int | None) -> None:
        if limit is None or len(found.foreign) + sum(map(len, found.keys.values())) < limit:
            named.append(one)
        else:
            found.more += 1
