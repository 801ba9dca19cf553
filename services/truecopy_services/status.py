"""Where a service stands: its outbox, how far its replica is behind the log, what waits, and who holds what.

Each part is asked for by itself and within a time limit, so that one that is away hides no other. What could not be learned
is None, with the reason beside it, and never zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from truecopy_bus.errors import TopicMissingError, UnavailableError
from truecopy_bus.outbox import scope_of
from truecopy_bus.record import TopicState
from truecopy_bus.relay_halts import halts
from truecopy_bus.sql import Database
from truecopy_projections.following import followed
from truecopy_projections.projection import Projection
from truecopy_projections.state import PartitionState
from truecopy_services.opening import shown
from truecopy_services.service import Service
from truecopy_services.working import answering_within

__all__ = [
    "EntityStatus",
    "PartitionStatus",
    "ProjectionStatus",
    "ServiceStatus",
    "entities_of",
    "holders_of",
    "status",
]

_Holders = Mapping[int, str | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatus:
    """One partition of a projection. `start` and `end` are the log's, the rest is the replica's; `holder` is None if free."""

    partition: int
    start: int | None
    end: int | None
    position: int | None
    lag: int | None
    count: int | None
    parked: int | None
    foreign: int | None
    duplicates: int | None
    halted: str | None
    holder: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionStatus:
    """One projection. `unknown` says why something is not known; empty if all is."""

    id: str
    topic: str
    incarnation: str | None
    partitions: tuple[PartitionStatus, ...]
    unknown: tuple[str, ...]


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
    """A service. `entities` is None when the store is away; `unreachable` names what is.

    `refused` are subjects whose events wait in the outbox because the registry refuses their schema, with its reasons.
    """

    service: str
    log: str
    entities: tuple[EntityStatus, ...] | None
    projections: tuple[ProjectionStatus, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    unreachable: tuple[str, ...] = field(default=())


async def status(service: Service, *, log_name: str) -> ServiceStatus:
    """Ask store, log and replica. Raises only for what is no matter of being away."""
    away: dict[str, None] = {}  # in the order of discovery, each once
    entities: tuple[EntityStatus, ...] | None = None
    refused: dict[str, str] = {}
    try:
        async with answering_within(service.settings.timeout_s, f"store {service.store.database.name}"):
            await service.store.open()
            async with service.store.database.snapshot() as read:
                halted = await halts(read)
            entities = await entities_of(service, halted)
            refused = {about: why for about, why in halted.items() if about not in {one.entity for one in entities}}
    except UnavailableError as fault:
        away[str(fault)] = None
    projections = tuple([await _projection(service, one, away) for one in service.projections.values()])
    return ServiceStatus(
        service=service.name,
        log=log_name,
        entities=entities,
        projections=projections,
        refused=refused,
        unreachable=tuple(away),
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


async def _projection(service: Service, projection: Projection[Any], away: dict[str, None]) -> ProjectionStatus:
    unknown: list[str] = []
    topic: TopicState | None = None
    states: Mapping[int, PartitionState] = {}
    holders: _Holders = None
    try:
        async with answering_within(service.settings.timeout_s, f"log {shown(service.settings.log_of())}"):
            topic = await followed(service.log, service.topic(projection), service.replica_adapter, projection.id)
    except UnavailableError as fault:
        away[str(fault)] = None
        unknown.append(f"the log's end and the lag: {fault}")
    except TopicMissingError as fault:
        unknown.append(f"the log's end and the lag: {fault}")
    try:
        async with answering_within(service.settings.timeout_s, f"replica {service.replica_adapter.name}"):
            async with service.replica_adapter.snapshot() as snapshot:
                states = await snapshot.states(projection.id)
            if states and service.replica_database is not None:
                holders = await holders_of(service.replica_database, projection.id)
    except UnavailableError as fault:
        away[str(fault)] = None
        unknown.append(f"what the replica holds: {fault}")
    else:
        if not states:
            unknown.append(f"the replica holds no {projection.id} yet: no worker has started on it")
        elif holders is None:
            unknown.append("who holds the leases: a replica in memory does not say")
    partitions = sorted({*states, *(topic.bounds if topic else ())})
    return ProjectionStatus(
        id=projection.id,
        topic=service.topic(projection),
        incarnation=topic.incarnation if topic else None,
        partitions=tuple(_partition(p, topic, states.get(p), holders) for p in partitions),
        unknown=tuple(unknown),
    )


def _partition(p: int, topic: TopicState | None, state: PartitionState | None, holders: _Holders) -> PartitionStatus:
    start, end = topic.bounds.get(p, (None, None)) if topic else (None, None)
    return PartitionStatus(
        partition=p,
        start=start,
        end=end,
        position=state.position if state else None,
        lag=end - state.position if state and end is not None else None,
        count=state.count if state else None,
        parked=state.parked if state else None,
        foreign=state.foreign if state else None,
        duplicates=state.duplicates if state else None,
        halted=state.halted if state else None,
        holder=holders.get(p) if holders else None,
    )


async def holders_of(database: Database, scope: str) -> _Holders:
    """Who holds each partition of a lease scope; None for one that is free."""
    async with database.snapshot() as read:
        rows = await read.fetch(
            f"SELECT part, CASE WHEN until_ms > {database.dialect.now_ms} THEN holder ELSE NULL END "
            "FROM truecopy_leases WHERE scope = $1 ORDER BY part",
            scope,
        )
    return {part: holder or None for part, holder in rows}
