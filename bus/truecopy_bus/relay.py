"""The relay: moves committed events from an owner's outbox to the log, and marks what the log holds.

One loop does all the I/O, and each pass over an entity has one order that must not change: read a page, decide, append,
and only then record ledger and figures in one transaction under the fences. A crash in between sends events again, never
loses one, and readers tell the second copy by its version; a record that failed is tried again before anything is sent. A mark
is appended only after the record that it states, so that it never tells of more than lies on the log; its number is taken
before, so that none is used twice.

A relay that was frozen past its lease may append once more: duplicates, and a mark of a lower epoch. It records nothing.

What is away is waited for; what is wrong with one entity or one event type halts that one, is said once with its remedy,
and is looked at again. Everything else raises.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Collection
from contextlib import suppress

from truecopy_bus import leases, outbox, relay_halts
from truecopy_bus.errors import (
    IncarnationError,
    OversizeRecordError,
    PositionLostError,
    StoreBehindError,
    TopicLostError,
    TopicMismatchError,
    TopicMissingError,
    UnavailableError,
)
from truecopy_bus.fold import DIGEST_ALGORITHM
from truecopy_bus.limits import (
    LEASE_S,
    MARK_EVENTS_MAX,
    MARK_IDLE_S,
    MARK_WRITING_S,
    RELAY_CHECK_S,
    RELAY_POLL_S,
    RELAY_STAYING_ROWS,
)
from truecopy_bus.log import Log
from truecopy_bus.mark_requests import REQUESTS_TOPIC, MarkRequests
from truecopy_bus.outage import Outage
from truecopy_bus.outbox import scope_of
from truecopy_bus.points import Point, reached
from truecopy_bus.record import Outgoing
from truecopy_bus.registry import Registry
from truecopy_bus.relay_pass import append, decide
from truecopy_bus.relay_schemas import SchemaClaims
from truecopy_bus.relay_status import HeldPartition, PartitionStatus, RelayedEntity, RelayStatus
from truecopy_bus.relay_topics import check_topic
from truecopy_bus.store import EventStore
from truecopy_schemas.control import CONTROL_HEADER, CONTROL_KEY, MARK, Mark, encode
from truecopy_schemas.errors import TruecopyError

__all__ = ["Relay"]

_log = logging.getLogger("truecopy.relay")
_HALTING = (
    IncarnationError,
    OversizeRecordError,
    PositionLostError,
    StoreBehindError,
    TopicMismatchError,
    TopicMissingError,
)


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
        self._claims = SchemaClaims(self._database, registry)
        self._requests = MarkRequests(log, topic=namespace + REQUESTS_TOPIC)
        self._entities: dict[str, RelayedEntity] = {}
        self._sent = 0
        self._told: dict[str, str] | None = None
        self.outage = Outage(_log, "relay, events wait in the outbox", about={"holder": self._holder})
        """What it waits for, and when it last came round."""
        self._ensured = False
        self._check_at = self._renew_at = self._turn_s = 0.0
        self._turn = asyncio.Lock()

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until `stop` is set, then give the partitions back. What is away is waited for, with growing pauses."""
        while not stop.is_set():
            self._store.committed.clear()
            try:
                moved = await self.step()
            except UnavailableError as error:
                await _first_of(stop, timeout_s=self.outage.strike(error))
                continue
            self.outage.over()
            if not moved:
                await _first_of(stop, self._store.committed, timeout_s=self._idle_s())
        with suppress(UnavailableError):
            await self.leave()

    async def drain(self) -> int:
        """Relay all that is there and can be sent; how many events were appended. Raises UnavailableError at once."""
        before = self._sent
        moved = await self.step(afresh=True)
        while moved:
            moved = await self.step()
        return self._sent - before

    async def step(self, *, afresh: bool = False) -> int:
        """One pass over everything that is due. Returns 0 when another pass at once would find nothing to do.

        `afresh` looks at entities, topics and leases now, due or not. Raises UnavailableError; the next step is afresh.
        """
        async with self._turn:
            began = _now()
            try:
                if afresh or began >= self._check_at or await self._met_new():
                    await self._check()
                if afresh or _now() >= self._renew_at:
                    await self._renew()
                busy = await self._busy()
                moved = sum([await self._advance(entity, busy.get(entity.name, [])) for entity in self._flowing()])
                await self._tell()
                self._turn_s = _now() - began
                return moved
            except UnavailableError:
                self._check_at = self._renew_at = 0.0
                raise

    async def mark(self) -> None:
        """Mark every partition that is held, now. Raises UnavailableError."""
        async with self._turn:
            for entity in self._flowing():
                await self._record(entity)
                await self._mark(entity, list(entity.held))

    async def leave(self) -> None:
        """Give the partitions back, so that another relay need not wait for the leases to run out."""
        async with self._turn:
            async with self._database.transaction() as tx:
                for name, entity in sorted(self._entities.items()):
                    fences = [held.fence for held in entity.held.values()]
                    await leases.leave(tx, scope_of(name), self._holder, fences)
                await relay_halts.tell(tx, self._holder, {})
            self._told = None
            for entity in self._entities.values():
                entity.held, entity.unrecorded = {}, None
            self._renew_at = 0.0

    def status(self) -> RelayStatus:
        """What it holds, what waits, and what is wrong."""
        return RelayStatus(
            holder=self._holder,
            sent=self._sent,
            away=None if self.outage.fault is None else str(self.outage.fault),
            entities={name: entity.status() for name, entity in sorted(self._entities.items())},
            refused={fingerprint.hex(): reason for fingerprint, reason in sorted(self._claims.refused.items())},
        )

    async def _tell(self) -> None:
        """Let other processes know what we halt at, when that has changed."""
        found = {entity.name: entity.halted for entity in self._entities.values() if entity.halted} | self._claims.halts()
        if found != self._told:
            async with self._database.transaction() as tx:
                await relay_halts.tell(tx, self._holder, found)
            self._told = found

    async def _met_new(self) -> bool:
        return self._store.unread and not (await self._store.entities()).keys() <= self._entities.keys()

    async def _check(self) -> None:
        """Look for new entities, whether registry and topics still live the lives that we fill, and who asks for marks."""
        for name, partitions in sorted((await self._store.entities()).items()):
            if name not in self._entities:
                async with self._database.transaction() as tx:
                    await leases.prepare(tx, scope_of(name), partitions)
                self._entities[name] = RelayedEntity(name=name, topic=self._namespace + name, partitions=partitions)
                self._renew_at = 0.0
        fault: TruecopyError | None = None
        try:
            await (self._registry.refresh() if self._ensured else self._registry.ensure())
            self._ensured = True
        except TopicMissingError as error:
            fault = TopicLostError(topic=error.topic, seen="it was deleted from the log, and with it what schema ids stand for")
        except _HALTING as error:
            fault = error
        for _, entity in sorted(self._entities.items()):
            try:
                if fault is not None:
                    raise fault
                await check_topic(self._database, self._log, entity)
                entity.halted = None
            except _HALTING as error:
                _halt(entity, error)
        for name in await self._requests.asked(self._entities):
            for held in self._entities[name].held.values():
                held.asked = True
        self._check_at = _now() + RELAY_CHECK_S

    async def _renew(self) -> None:
        self._renew_at, lease_s = _now() + self._lease_s / 3, leases.stretched(self._lease_s, turn_s=self._turn_s)
        renewed = {}
        async with self._database.transaction() as tx:
            for name, entity in sorted(self._entities.items()):
                fences = [held.fence for held in entity.held.values()]
                renewed[name] = await leases.renew(tx, scope_of(name), self._holder, fences, lease_s=lease_s)
        taken = False
        for name, fenced in renewed.items():
            was, held = self._entities[name].held, {}
            for part, fence in fenced.items():
                if part in was and was[part].fence == fence:
                    held[part] = was[part]
                    continue
                taken = True
                held[part] = HeldPartition(fence=fence, marked_at=_now(), status=PartitionStatus(epoch=fence.epoch))
            self._entities[name].held = held
        if taken:
            await reached(Point.RELAY_LEASED, sum(map(len, renewed.values())))
            await self._check()

    def _flowing(self) -> list[RelayedEntity]:
        return [entity for _, entity in sorted(self._entities.items()) if entity.halted is None]

    async def _busy(self) -> dict[str, list[int]]:
        """Partitions that are held and have anything in the outbox."""
        held = [(entity.name, part) for entity in self._flowing() for part in entity.held]
        busy: dict[str, list[int]] = {}
        async with self._database.snapshot() as read:
            for name, part in await outbox.unsent(read, held):
                busy.setdefault(name, []).append(part)
        return busy

    async def _advance(self, entity: RelayedEntity, parts: Collection[int]) -> int:
        try:
            moved = await self._record(entity)
            moved += await self._relay(entity, parts) if parts else 0
            due = [part for part, held in entity.held.items() if self._mark_is_due(held)]
            if due:
                await self._mark(entity, due)
        except _HALTING as error:
            _halt(entity, error)
            return 0
        if entity.stated is not None and (moved or due):
            _log.info("%s flows again", entity.topic, extra={"topic": entity.topic, "entity": entity.name})
            entity.stated = None
        return moved

    async def _relay(self, entity: RelayedEntity, parts: Collection[int]) -> int:
        """One pass over partitions of an entity. Returns 0 when nothing of it can be sent now."""
        held = {part: entity.held[part] for part in parts}
        after = {part: each.after for part, each in held.items()}
        decided = await decide(self._database, self._claims, entity.name, entity.incarnation, after)
        await reached(Point.RELAY_APPENDING, self._sent)
        await append(self._log, entity.topic, decided.plans, self._claims.ids)
        self._sent += sum(len(each.send) for each in decided.plans.values())
        entity.unrecorded = held, decided
        await reached(Point.RELAY_APPENDED, self._sent)
        return await self._record(entity)

    async def _record(self, entity: RelayedEntity) -> int:
        """Record what was appended. Until then nothing more is sent or marked: a full disk would have it sent for ever."""
        if entity.unrecorded is None:
            return 0
        held, decided = entity.unrecorded
        moved = 0
        fences = {part: each.fence for part, each in held.items()}
        async with self._database.transaction() as tx:
            recorded = await outbox.record(tx, entity.name, fences, decided.plans, decided.before)
            await reached(Point.RELAY_RECORDING, self._sent)
        entity.unrecorded = None
        await reached(Point.RELAY_RECORDED, self._sent)
        for part, planned in decided.plans.items():
            if part not in recorded:
                if entity.held.get(part) is held[part]:
                    _drop(entity, part)
                continue
            held[part].settle(planned, decided.after[part])
            moved += len(planned.send) + len(planned.known) + (decided.after[part] > 0)
        return moved

    def _mark_is_due(self, held: HeldPartition) -> bool:
        age_s = _now() - held.marked_at
        if held.asked or held.unmarked >= self._mark_events or age_s >= self._mark_idle_s:
            return True
        return held.unmarked > 0 and age_s >= self._mark_writing_s

    async def _mark(self, entity: RelayedEntity, parts: Collection[int]) -> None:
        """State the partitions' figures. The number is taken in the database before the mark is appended."""
        fences = [entity.held[part].fence for part in parts]
        async with self._database.transaction() as tx:
            marked = await outbox.reserve_marks(tx, entity.name, fences, entity.incarnation)
            [(at_ms,)] = await tx.fetch(f"SELECT {tx.dialect.now_ms}")
        await reached(Point.RELAY_NUMBERED, len(marked))
        for part in parts:
            if part not in marked:
                _drop(entity, part)
                continue
            held, figures = entity.held[part], marked[part]
            mark = Mark(
                incarnation=figures.incarnation,
                epoch=held.fence.epoch,
                number=figures.marks,
                count=figures.events,
                digest=figures.digest.to_bytes(32),
                digest_algorithm=DIGEST_ALGORITHM,
                at_ms=at_ms,
            )
            stated = Outgoing(CONTROL_KEY, encode(mark), at_ms, ((CONTROL_HEADER, MARK),))
            await self._log.append(entity.topic, part, [stated])
            held.marked_at, held.unmarked, held.asked = _now(), 0, False
            await reached(Point.RELAY_MARKED, figures.marks)

    def _idle_s(self) -> float:
        # Rows that can't be sent are looked at again and again; many of them are looked at less often.
        staying = sum(held.staying for entity in self._entities.values() for held in entity.held.values())
        return min(RELAY_CHECK_S, RELAY_POLL_S * (1 + staying // RELAY_STAYING_ROWS))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _halt(entity: RelayedEntity, error: Exception) -> None:
    entity.halted = str(error)
    if entity.stated != entity.halted:
        about = {"topic": entity.topic, "entity": entity.name, "error": type(error).__name__}
        _log.error("%s is halted, its events wait in the outbox: %s", entity.topic, error, extra=about)
    entity.stated = entity.halted


def _drop(entity: RelayedEntity, part: int) -> None:
    _log.info("%s[%d] was taken by another relay", entity.topic, part, extra={"topic": entity.topic, "partition": part})
    entity.held.pop(part, None)


async def _first_of(*events: asyncio.Event, timeout_s: float) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
