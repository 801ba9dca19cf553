"""Where a service stands: its outbox, how far its replica is behind the log, what waits, and who holds what.

Each part is asked for by itself and within a time limit, so that one that is away hides no other. What could not be learned
is None, with the reason beside it, and never zero.
"""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from truecopy_bus.errors import TopicMissingError, UnavailableError
from truecopy_bus.outbox import scope_of
from truecopy_bus.record import TopicState
from truecopy_bus.registry import SCHEMAS_TOPIC
from truecopy_bus.relay_halts import halts
from truecopy_bus.sql import Database
from truecopy_projections.certificate import Certificate, newest_certificate
from truecopy_projections.errors import InvalidCertificateError
from truecopy_projections.following import still_there
from truecopy_projections.projection import Projection
from truecopy_projections.scrub_times import ScrubTimes
from truecopy_projections.stages import Stage, Staged
from truecopy_projections.state import Checkpoint, MarkVerdict, PartitionState, WaitingTally
from truecopy_projections.waiting_alarm import share_of
from truecopy_schemas.errors import NewerFormatError
from truecopy_services.opening import shown
from truecopy_services.service import Service
from truecopy_services.unapplied import Unapplied
from truecopy_services.working import answering_within

__all__ = [
    "EntityStatus",
    "PartitionStatus",
    "ProjectionStatus",
    "ServiceStatus",
    "WaitingStatus",
    "entities_of",
    "holders_of",
    "status",
]

_Holders = Mapping[int, str | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatus:
    """One partition of a projection. `start` and `end` are the log's, the rest is the replica's; `holder` is None if free.

    `lag` counts records, marks among them; it is None where the position is not one of this topic. `oldest_unapplied_s` is
    the age of the oldest event at or after `position`, 0 without one. `verified_*` tell of the last mark that was judged
    EQUAL: its count of events, its offset, the owner's time, and the seconds since. `certified_*` tell of the newest
    certificate: its count of events, and the seconds since it was issued.
    """

    partition: int
    start: int | None
    end: int | None
    position: int | None
    lag: int | None
    oldest_unapplied_s: float | None
    count: int | None
    parked: int | None
    waiting_bytes: int | None
    foreign: int | None
    duplicates: int | None
    halted: str | None
    verified_through: int | None
    verified_offset: int | None
    verified_at_ms: int | None
    verified_s: float | None
    certified_through: int | None
    certified_s: float | None
    holder: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingStatus:
    """What waits in a partition for one reason: records, keys that they are of, bytes, and the age of the oldest."""

    partition: int
    reason: str
    records: int
    keys: int
    bytes: int
    oldest_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionStatus:
    """One projection. `unknown` says why something is not known; empty if all is.

    `oldest_scrub_age_s` is how long ago the bucket of rows that has waited longest was hashed again and right; None while
    there are `unscrubbed_buckets`, which never were, or were found wrong since. `waiting` is what lies in quarantine, and
    `waiting_share` how much of what may wait does where that is most: at 1 a partition stands still. `amendments` counts
    the rulings. `stage` is what the number is here (live, following, building, retired), `follows_until_ms` until when it
    follows; None: without end.
    """

    id: str
    topic: str
    incarnation: str | None
    oldest_scrub_age_s: float | None
    unscrubbed_buckets: int | None
    partitions: tuple[PartitionStatus, ...]
    unknown: tuple[str, ...]
    waiting: tuple[WaitingStatus, ...] = ()
    waiting_share: float | None = None
    amendments: int | None = None
    stage: str | None = None
    follows_until_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityStatus:
    """An entity that the service owns: events that are not on the log yet, and its relays by partition.

    `halted` says why a relay puts nothing into its topic, and what to do.
    """

    entity: str
    partitions: int
    pending: int
    oldest_s: float
    halted: str | None
    holders: Mapping[int, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """A service. `entities` is None when the store is away, or was not asked; `unreachable` names what is.

    `answered` has each of log, store and replica that was asked, and whether it answered.
    `refused` are subjects whose events wait in the outbox because the registry refuses their schema, with its reasons.
    """

    service: str
    log: str
    entities: tuple[EntityStatus, ...] | None
    projections: tuple[ProjectionStatus, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    unreachable: tuple[str, ...] = field(default=())
    answered: Mapping[str, bool] = field(default_factory=dict)


class _Round:
    """What one round asks, and who did not answer: such a one is not asked again, its time limit would add up."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._faults: dict[str, UnavailableError] = {}
        self.answered: dict[str, bool] = {}

    @asynccontextmanager
    async def asking(self, part: str, name: str) -> AsyncIterator[None]:
        """Raises UnavailableError, also what it raised for this part before."""
        if part in self._faults:
            raise self._faults[part]
        try:
            async with answering_within(self._timeout_s, f"{part} {name}"):
                yield
        except UnavailableError as fault:
            self._faults[part], self.answered[part] = fault, False
            raise
        except TopicMissingError:
            self.answered[part] = True
            raise
        self.answered[part] = True

    @property
    def unreachable(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(str, self._faults.values())))


async def status(
    service: Service,
    *,
    log_name: str,
    unapplied: Unapplied | None = None,
    owner: bool = True,
    opens: bool = True,
    timeout_s: float | None = None,
) -> ServiceStatus:
    """Ask store, log and replica. Raises only for what is no matter of being away.

    Without `owner` the store is left alone. Whoever asks again and again keeps one `unapplied`, says by `opens` that the
    store's tables are known to be there, and may have less time than the settings' `timeout_s` for each of the three.
    """
    asked = _Round(timeout_s or service.settings.timeout_s)
    entities: tuple[EntityStatus, ...] | None = None
    refused: dict[str, str] = {}
    if owner:
        with suppress(UnavailableError):
            async with asked.asking("store", service.store.database.name):
                if opens:
                    await service.store.open()
                async with service.store.database.snapshot() as read:
                    halted = await halts(read)
                entities = await entities_of(service, halted)
                refused = {about: why for about, why in halted.items() if about not in {one.entity for one in entities}}
    looks = unapplied or Unapplied(service.log)
    projections = tuple([await _projection(service, one, asked, looks) for one in service.projections.values()])
    if not projections:
        with suppress(UnavailableError, TopicMissingError):
            async with asked.asking("log", log_name):
                await service.log.describe(service.settings.topic_prefix + SCHEMAS_TOPIC)
    return ServiceStatus(
        service=service.name,
        log=log_name,
        entities=entities,
        projections=projections,
        refused=refused,
        unreachable=asked.unreachable,
        answered=asked.answered,
    )


async def entities_of(service: Service, halted: Mapping[str, str]) -> tuple[EntityStatus, ...]:
    """The entities of the service's store, which is open. `halted` is what its relays say: see relay_halts."""
    found = []
    for entity, partitions in sorted((await service.store.entities()).items()):
        pending = await service.store.pending(entity)
        holders = await holders_of(service.store.database, scope_of(entity)) or {}
        found.append(
            EntityStatus(
                entity=entity,
                partitions=partitions,
                pending=pending.count,
                oldest_s=pending.oldest_s,
                halted=halted.get(entity),
                holders={p: holders.get(p) for p in range(partitions)},
            )
        )
    return tuple(found)


async def _projection(service: Service, projection: Projection[Any], asked: _Round, unapplied: Unapplied) -> ProjectionStatus:
    unknown: list[str] = []
    topic: TopicState | None = None
    states: Mapping[int, PartitionState] = {}
    verified: Mapping[int, Checkpoint] = {}
    certificate: Certificate | None = None
    ages_s: Mapping[int, float] = {}
    holders: _Holders = None
    scrubs: ScrubTimes | None = None
    waiting: tuple[WaitingStatus, ...] = ()
    amendments: int | None = None
    staged: Staged | None = None
    try:
        async with asked.asking("replica", service.replica_adapter.name):
            async with service.replica_adapter.snapshot() as snapshot:
                states = await snapshot.states(projection.id)
                equal = await snapshot.checkpoints(projection.id, latest=MarkVerdict.EQUAL)
                verified = {one.partition: one for one in equal}
                with suppress(NewerFormatError, InvalidCertificateError):  # of no use here, and no reason to tell nothing else
                    certificate = await newest_certificate(projection, snapshot)
                scrubs = await snapshot.scrubs(projection.id) if states else None
                waiting = tuple(map(_waiting, await snapshot.tallies(projection.id)))
                amendments = len(await snapshot.amendments(projection.id)) if states else None
                numbers = {one.number: one for one in await snapshot.stages(projection.name)}
                staged = numbers.get(projection.number)
            if states and service.replica_database is not None:
                holders = await holders_of(service.replica_database, projection.id)
    except UnavailableError as fault:
        unknown.append(f"what the replica holds: {fault}")
    else:
        if not states:
            unknown.append(f"the replica holds no {projection.id} yet: no worker has started on it")
        elif holders is None:
            unknown.append("who holds the leases: a replica in memory does not say")
    try:
        async with asked.asking("log", shown(service.settings.log_of())):
            topic = await still_there(service.log, service.topic(projection), projection, states)
        ages_s = await unapplied.ages_s(topic, {p: s.position for p, s in states.items() if _is_on(topic, s)})
    except (UnavailableError, TopicMissingError) as fault:
        unknown.append(f"the log's end and the lag: {fault}")
    partitions = sorted({*states, *(topic.bounds if topic else ())})
    return ProjectionStatus(
        id=projection.id,
        topic=service.topic(projection),
        incarnation=topic.incarnation if topic else None,
        oldest_scrub_age_s=scrubs.oldest_age_s if scrubs else None,
        unscrubbed_buckets=scrubs.never if scrubs else None,
        partitions=tuple(
            _partition(
                p, topic, states.get(p), verified.get(p), certificate, ages_s.get(p), holders.get(p) if holders else None
            )
            for p in partitions
        ),
        unknown=tuple(unknown),
        waiting=waiting,
        waiting_share=max((share_of(s.parked, s.waiting_bytes) for s in states.values()), default=None),
        amendments=amendments,
        stage=staged.at(time.time_ns() // 1_000_000).name.lower() if staged else None,
        follows_until_ms=staged.until_ms if staged and staged.stage is Stage.FOLLOWING else None,
    )


def _waiting(tally: WaitingTally) -> WaitingStatus:
    age_s = max(0.0, time.time() - tally.oldest_ms / 1000)
    return WaitingStatus(
        partition=tally.partition,
        reason=tally.reason.name,
        records=tally.records,
        keys=tally.keys,
        bytes=tally.bytes,
        oldest_s=age_s,
    )


def _partition(
    p: int,
    topic: TopicState | None,
    state: PartitionState | None,
    verified: Checkpoint | None,
    certificate: Certificate | None,
    oldest_unapplied_s: float | None,
    holder: str | None,
) -> PartitionStatus:
    start, end = topic.bounds.get(p, (None, None)) if topic else (None, None)
    return PartitionStatus(
        partition=p,
        start=start,
        end=end,
        position=state.position if state else None,
        lag=end - state.position if state and topic and end is not None and _is_on(topic, state) else None,
        oldest_unapplied_s=oldest_unapplied_s,
        count=state.count if state else None,
        parked=state.parked if state else None,
        waiting_bytes=state.waiting_bytes if state else None,
        foreign=state.foreign if state else None,
        duplicates=state.duplicates if state else None,
        halted=state.halted if state else None,
        verified_through=verified.count if verified else None,
        verified_offset=verified.offset if verified else None,
        verified_at_ms=verified.at_ms if verified else None,
        verified_s=max(0.0, time.time() - verified.at_ms / 1000) if verified else None,
        certified_through=certificate.counts.get(p) if certificate else None,
        certified_s=max(0.0, time.time() - certificate.issued_at_ms / 1000) if certificate else None,
        holder=holder,
    )


def _is_on(topic: TopicState, state: PartitionState) -> bool:
    """Whether a position says anything about this topic: one beyond its end, or in another life of it, does not."""
    start, end = topic.bounds.get(state.partition, (0, -1))
    return state.incarnation == topic.incarnation and start <= state.position <= end


async def holders_of(database: Database, scope: str) -> _Holders:
    """Who holds each partition of a lease scope; None for one that is free."""
    async with database.snapshot() as read:
        rows = await read.fetch(
            f"SELECT part, CASE WHEN until_ms > {database.dialect.now_ms} THEN holder ELSE NULL END "
            "FROM truecopy_leases WHERE scope = $1 ORDER BY part",
            scope,
        )
    return {part: holder or None for part, holder in rows}
