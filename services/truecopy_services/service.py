"""A service that is open: its log, its event store and its replica, and what is done with them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from truecopy_bus.log import Log
from truecopy_bus.publish import Change
from truecopy_bus.registry import Registry
from truecopy_bus.relay import Relay
from truecopy_bus.schema_sources import SchemaSource
from truecopy_bus.sql import Database
from truecopy_bus.store import EventStore
from truecopy_bus.token import Token
from truecopy_projections.certificate import certify, signing_key
from truecopy_projections.check import check
from truecopy_projections.gathered import Gathered
from truecopy_projections.limits import REPAIR_ROWS_MAX
from truecopy_projections.projection import Projection
from truecopy_projections.repair import Repair, repair
from truecopy_projections.replica import Replica
from truecopy_projections.verdicts import Report
from truecopy_projections.worker import Worker
from truecopy_schemas import Event
from truecopy_services.config import Settings
from truecopy_services.opening import open_schemas, opened_peers
from truecopy_services.reading import GatheredReader, ReplicaReader

__all__ = ["Service"]

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What `Truecopy.open` yields. `replica_database` is None for a replica in memory."""

    name: str
    settings: Settings
    projections: Mapping[str, Projection[Any]]
    log: Log
    registry: Registry
    store: EventStore
    replica_adapter: Replica
    replica_database: Database | None

    async def publish(self, key: str, event: Event, *, expected_version: int | None = None) -> Token:
        """Append one event to the key's history, in a transaction of its own; see EventStore.publish for what it raises.

        To publish together with business writes use `store.transaction()` or `store.within(connection)`.
        """
        return await self.store.publish(key, event, expected_version=expected_version)

    async def publish_many(self, changes: Iterable[Change]) -> list[Token]:
        """Append many events in one transaction: all or none."""
        return await self.store.publish_many(changes)

    @overload
    def replica(self, rows: Projection[R]) -> ReplicaReader[R]: ...

    @overload
    def replica(self, rows: Gathered[R]) -> GatheredReader[R]: ...

    def replica(self, rows: Projection[R] | Gathered[R]) -> ReplicaReader[R] | GatheredReader[R]:
        """The rows of a projection, or gathered rows, in this service's replica."""
        return self._reader(rows, wait_s=self.settings.at_least_s)

    def _reader(
        self, rows: Projection[R] | Gathered[R], *, wait_s: float, before: Callable[[], Awaitable[object]] | None = None
    ) -> ReplicaReader[R] | GatheredReader[R]:
        if isinstance(rows, Gathered):
            return GatheredReader(rows, self.replica_adapter, wait_s=wait_s, before=before)
        return ReplicaReader(rows, self.replica_adapter, wait_s=wait_s, before=before)

    async def get(self, projection: Projection[R], key: str, *, at_least: Token | str | None = None) -> R | None:
        """The row of a key; `replica(projection)` reads more. Raises like ReplicaReader.get."""
        return await self.replica(projection).get(key, at_least=at_least)

    async def check(
        self,
        *projections: Projection[Any],
        deep: bool = False,
        quick: bool = False,
        peers: Sequence[str | Replica] = (),
    ) -> list[Report]:
        """Check these projections, or all of the app's; see truecopy_projections.check for what is stated and raised.

        `peers` are other replicas of them, or the addresses of such. Raises UsageError for what is no address.
        """
        async with opened_peers(self.settings, peers) as opened:
            return [
                await check(
                    projection,
                    self.replica_adapter,
                    self.log,
                    self.schemas(projection),
                    topic=self.topic(projection),
                    deep=deep,
                    quick=quick,
                    peers=opened,
                    wait_s=self.settings.check_wait_s,
                )
                for projection in projections or self.projections.values()
            ]

    async def repair(self, projection: Projection[Any], *, apply: bool = False, rows_max: int = REPAIR_ROWS_MAX) -> Repair:
        """Plan the repair of a projection's rows from the log; carry it out with `apply`. Raises RepairRefusedError."""
        return await repair(
            projection,
            self.replica_adapter,
            self.log,
            self.schemas(projection),
            topic=self.topic(projection),
            apply=apply,
            rows_max=rows_max,
        )

    async def certify(self, report: Report) -> Mapping[str, Any]:
        """Sign an EQUAL report with the key in `signing.key` under `home`, and keep it in the replica. Raises NotEqualError."""
        self.settings.home.mkdir(parents=True, exist_ok=True)
        key = signing_key(self.settings.home / "signing.key")
        return await certify(self.projections[report.projection], self.replica_adapter, report, key)

    def topic(self, projection: Projection[Any]) -> str:
        """The topic of a projection's entity, as the log names it. No namespace precedes a foreign one."""
        return projection.entity if projection.foreign is not None else self.settings.topic_prefix + projection.entity

    def schemas(self, projection: Projection[Any]) -> SchemaSource:
        """Where the schemas of a projection's topic are: our registry, unless the topic is foreign. Raises SettingError."""
        return open_schemas(self.settings, projection.foreign, self.registry)

    def relay(self) -> Relay:
        """A relay of this service's events."""
        return Relay(
            self.store,
            self.log,
            self.registry,
            namespace=self.settings.topic_prefix,
            lease_s=self.settings.lease_s,
            mark_events=self.settings.mark_events,
            mark_writing_s=self.settings.mark_writing_s,
            mark_idle_s=self.settings.mark_idle_s,
        )

    def worker(self, projection: Projection[Any]) -> Worker:
        """A worker for one projection."""
        return Worker(
            projection,
            self.replica_adapter,
            self.log,
            self.schemas(projection),
            topic=self.topic(projection),
            group=f"{self.settings.topic_prefix}{self.name}.{projection.id}",
            lease_s=self.settings.lease_s,
            wait_s=self.settings.read_wait_s,
            records_max=self.settings.batch_records,
            durable=self.settings.durable,
        )
