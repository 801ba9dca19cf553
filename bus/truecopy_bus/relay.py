"""The relay: moves committed events from an owner's outbox to the log, and marks what the log holds.

One loop does all the I/O, and each pass over an entity has one order that must not change: read a page, decide, append,
and only then record ledger and figures in one transaction under the fences. A crash in between sends events again, never
loses one, and readers tell the second copy by its version. A mark is appended only after the record that it states, so
that it never tells of more than lies on the log; its number is taken before, so that none is used twice.

A relay that was frozen past its lease may append once more: duplicates and a mark of a lower epoch. It records nothing.

What is away is waited for; what is wrong with one entity or one event type halts that one, is said once with its remedy,
and is looked at again. Everything else raises.
"""

import asyncio
import logging
import random
import secrets
import socket
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from itertools import islice

import orjson
from truecopy_schemas.control import CONTROL_HEADER, CONTROL_KEY, MARK, Mark, encode
from truecopy_schemas.errors import IncompatibleSchemaError, InvalidSchemaError, TruecopyError
from truecopy_schemas.framing import frame

from truecopy_bus import leases, outbox
from truecopy_bus.errors import (
    IncarnationError,
    OversizeRecordError,
    TopicMismatchError,
    TopicMissingError,
    UnavailableError,
)
from truecopy_bus.fold import DIGEST_ALGORITHM
from truecopy_bus.leases import Fence
from truecopy_bus.limits import (
    APPEND_RECORDS_MAX,
    BACKOFF_FIRST_S,
    BACKOFF_LAST_S,
    LEASE_S,
    MARK_EVENTS_MAX,
    MARK_IDLE_S,
    MARK_WRITING_S,
    REFUSED_RETRY_S,
    RELAY_CHECK_S,
    RELAY_POLL_S,
    RELAY_ROWS_MAX,
)
from truecopy_bus.log import Log
from truecopy_bus.outbox import Filled, scope_of
from truecopy_bus.points import reached
from truecopy_bus.record import Outgoing, TopicSpec
from truecopy_bus.registry import Registry
from truecopy_bus.relay_plan import OutboxRow, RelayPlan, plan
from truecopy_bus.relay_status import HeldPartition, RelayedEntity, RelayStatus
from truecopy_bus.store import EventStore
from truecopy_bus.store_tables import SCHEMAS

__all__ = ["Relay"]

_log = logging.getLogger("truecopy.relay")
_HALTING = (IncarnationError, OversizeRecordError, TopicMismatchError, TopicMissingError)
_REFUSING = (IncompatibleSchemaError, InvalidSchemaError)


class Relay:
    """Relays one store's events to one log. Any number may run; each partition is one relay's at a time.

    `holder` must differ between relays; `namespace` prefixes topics. Times are in seconds.
    """

    def __init__(
        self,
        store: EventStore,
        log: Log,
        registry: Registry,
        *,
        holder: str | None = None,
        namespace: str = "",
        lease_s: float = LEASE_S,
        mark_events: int = MARK_EVENTS_MAX,
        mark_writing_s: float = MARK_WRITING_S,
        mark_idle_s: float = MARK_IDLE_S,
    ) -> None:
        self._store, self._log, self._registry = store, log, registry
        self._database = store.database
        self._holder = holder or f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._namespace, self._lease_s = namespace, lease_s
        self._mark_events, self._mark_writing_s, self._mark_idle_s = mark_events, mark_writing_s, mark_idle_s
        self._entities: dict[str, RelayedEntity] = {}
        self._schema_ids: dict[bytes, int] = {}
        self._refused: dict[bytes, tuple[str, float]] = {}
        self._sent = 0
        self._away: str | None = None
        self._check_at = self._renew_at = 0.0
        self._turn = asyncio.Lock()

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until `stop` is set, then give the partitions back. What is away is waited for, with growing pauses."""
        attempt = 0
        while not stop.is_set():
            self._store.committed.clear()
            try:
                moved = await self.step()
            except UnavailableError as error:
                self._say_away(error)
                await _first_of(stop, timeout_s=_backoff_s(attempt))
                attempt += 1
                continue
            attempt = 0
            self._say_back()
            if not moved:
                await _first_of(stop, self._store.committed, timeout_s=self._idle_s())
        with suppress(UnavailableError):
            await self.leave()

    async def drain(self) -> int:
        """Relay all that is there and can be sent; how many events were appended. Raises UnavailableError at once."""
        before = self._sent
        self._check_at = self._renew_at = 0.0
        while await self.step():
            pass
        return self._sent - before

    async def step(self) -> int:
        """One pass over everything that is due. Returns 0 when another pass would find nothing to do by itself."""
        async with self._turn:
            if _now() >= self._check_at:
                await self._check()
                self._check_at = _now() + RELAY_CHECK_S
            if _now() >= self._renew_at:
                await self._renew()
                self._renew_at = _now() + self._lease_s / 3
            moved = 0
            for entity, parts in (await self._unsent()).items():
                try:
                    moved += await self._relay(entity, parts)
                except _HALTING as error:
                    self._halt(entity, error)
                except UnavailableError:
                    self._check_at = 0.0
                    raise
            for entity in self._flowing():
                await self._mark(entity, [part for part, held in entity.held.items() if self._is_due(held)])
            return moved

    async def mark(self) -> None:
        """Mark every partition that is held, now."""
        async with self._turn:
            for entity in self._flowing():
                await self._mark(entity, entity.held)

    async def leave(self) -> None:
        """Give the partitions back, so that another relay need not wait for the leases to run out."""
        async with self._turn, self._database.transaction() as tx:
            for name, entity in sorted(self._entities.items()):
                await leases.leave(tx, scope_of(name), self._holder, _fences(entity.held.values()))
                entity.held.clear()
            self._renew_at = 0.0

    def status(self) -> RelayStatus:
        """What it holds, what waits, and what is wrong."""
        return RelayStatus(
            holder=self._holder,
            sent=self._sent,
            away=self._away,
            entities={name: entity.status() for name, entity in sorted(self._entities.items())},
            refused={fingerprint.hex(): reason for fingerprint, (reason, _) in sorted(self._refused.items())},
        )

    async def _check(self) -> None:
        """Look for new entities, and whether each topic still lives the life that we fill."""
        await self._registry.ensure()
        for name, partitions in sorted((await self._store.entities()).items()):
            if name not in self._entities:
                async with self._database.transaction() as tx:
                    await leases.prepare(tx, scope_of(name), partitions)
                self._entities[name] = RelayedEntity(name=name, topic=self._namespace + name, partitions=partitions)
                self._renew_at = 0.0
            entity = self._entities[name]
            try:
                await self._check_topic(entity)
            except _HALTING as error:
                self._halt(entity, error)
            else:
                self._resume(entity)

    async def _check_topic(self, entity: RelayedEntity) -> None:
        """Raises one of _HALTING unless the topic is the one that we have filled so far."""
        async with self._database.snapshot() as read:
            known = {was.incarnation for was in (await outbox.filled(read, entity.name)).values()}
        if known:
            state = await self._log.describe(entity.topic)  # a topic that we filled once is never made again
        else:
            state = await self._log.create(TopicSpec(name=entity.topic, partitions=entity.partitions))
        if state.partitions != entity.partitions or state.incarnation is None:
            seen = f"{state.partitions} partitions, incarnation {state.incarnation}"
            raise TopicMismatchError(topic=entity.topic, seen=seen, expected=f"{entity.partitions} and a genesis")
        if other := known - {state.incarnation}:
            raise IncarnationError(topic=entity.topic, known=min(other), seen=state.incarnation)
        entity.incarnation = state.incarnation

    async def _renew(self) -> None:
        taken = False
        async with self._database.transaction() as tx:
            for name, entity in sorted(self._entities.items()):
                held = _fences(entity.held.values())
                now_held = await leases.renew(tx, scope_of(name), self._holder, held, lease_s=self._lease_s)
                was, entity.held = entity.held, {}
                for part, fence in now_held.items():
                    same = part in was and was[part].fence == fence
                    entity.held[part] = was[part] if same else HeldPartition(fence=fence, marked_at=_now())
                    taken = taken or not same
        if taken:
            await self._check()

    async def _unsent(self) -> dict[RelayedEntity, list[int]]:
        flowing = {entity.name: entity for entity in self._flowing()}
        async with self._database.snapshot() as read:
            found = await outbox.unsent(read, [(name, part) for name in flowing for part in flowing[name].held])
        busy: dict[str, list[int]] = {}
        for name, part in found:
            busy.setdefault(name, []).append(part)
        for name, entity in flowing.items():
            for part in entity.held.keys() - set(busy.get(name, ())):
                entity.held[part].after, entity.held[part].plan = 0, entity.held[part].plan.without_rows()
        return {flowing[name]: parts for name, parts in busy.items()}

    async def _relay(self, entity: RelayedEntity, parts: Sequence[int]) -> int:
        """One pass over these partitions of an entity. Returns how much it moved; 0: nothing can be sent now."""
        assert entity.incarnation is not None  # noqa: S101
        fences = {part: entity.held[part].fence for part in parts}
        rows_max = max(1, RELAY_ROWS_MAX // len(parts))
        async with self._database.snapshot() as read:
            before = await outbox.filled(read, entity.name)
            pages = {
                part: await outbox.page(
                    read, entity.name, part, after=entity.held[part].after, rows_max=rows_max
                )
                for part in parts
            }
            known = await outbox.ledger(read, entity.name, {row.key for page in pages.values() for row in page})
        before = {part: before.get(part, Filled(entity.incarnation, 0, 0, 0)) for part in parts}
        return 0
