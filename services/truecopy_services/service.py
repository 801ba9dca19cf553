"""A service that is open: its log, its event store and its replica, and what is done with them."""

import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

from truecopy_bus.log import Log
from truecopy_bus.publish import Change
from truecopy_bus.registry import Registry
from truecopy_bus.relay import Relay
from truecopy_bus.schema_sources import SchemaSource
from truecopy_bus.sql import Database
from truecopy_bus.store import EventStore
from truecopy_bus.token import Token
from truecopy_projections.amendment import NO_AMENDMENTS
from truecopy_projections.amendments_topic import AMENDMENTS_TOPIC
from truecopy_projections.as_of import AsOf, rows_as_of
from truecopy_projections.bootstrap import Bootstrap, Progress, bootstrap
from truecopy_projections.certificate import Certificate, Verification, certificates, certify, verify
from truecopy_projections.check import check
from truecopy_projections.cut import Asked, AtMark
from truecopy_projections.entity_fold import LatestFold, ProjectionFold
from truecopy_projections.errors import NotEqualError
from truecopy_projections.gathered import Gathered
from truecopy_projections.limits import REPAIR_ROWS_MAX, REPAIR_SHARE_MAX
from truecopy_projections.projection import Projection
from truecopy_projections.repair import Repair, repair
from truecopy_projections.replica import Replica
from truecopy_projections.restore import Restore, Retraced, forward, restore, retraced
from truecopy_projections.signing_keys import pin, signing_key, trusted_keys
from truecopy_projections.verdicts import Report
from truecopy_projections.worker import Worker
from truecopy_schemas import Event
from truecopy_services.config import Settings
from truecopy_services.delivering import EffectHandler
from truecopy_services.effects import Effects
from truecopy_services.entities import Entity
from truecopy_services.errors import UsageError
from truecopy_services.live_reading import LiveReader
from truecopy_services.opening import open_peer, open_schemas, opened_peers
from truecopy_services.quarantine import Quarantine
from truecopy_services.reading import GatheredReader, ReplicaReader

__all__ = ["SIGNING_KEY", "TRUSTED_KEYS", "Service"]

SIGNING_KEY, TRUSTED_KEYS = "signing.key", "trusted.keys"
"""Files under `home`: the private key that signs here, and the public keys that are trusted here."""

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
    deliverers: Mapping[str, EffectHandler] = field(default_factory=dict)

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

    @overload
    def replica(self, rows: str) -> LiveReader: ...

    def replica(self, rows: Projection[R] | Gathered[R] | str) -> ReplicaReader[R] | GatheredReader[R] | LiveReader:
        """The rows of a projection, or gathered rows, in this service's replica.

        By a name the rows of the number that is live at each read. Raises UsageError for a name that is not declared.
        """
        return self._reader(rows, wait_s=self.settings.at_least_s)

    def _reader(
        self, rows: Projection[R] | Gathered[R] | str, *, wait_s: float, before: Callable[[], Awaitable[object]] | None = None
    ) -> ReplicaReader[R] | GatheredReader[R] | LiveReader:
        if isinstance(rows, str):
            numbers = {one.number: one for one in self.projections.values() if one.name == rows}
            if not numbers:
                known = ", ".join(dict.fromkeys(one.name for one in self.projections.values())) or "none"
                raise UsageError(f"service {self.name!r} declares no projection {rows!r}; it has {known}")
            return LiveReader(numbers, self.replica_adapter, wait_s=wait_s, before=before)
        if isinstance(rows, Gathered):
            return GatheredReader(rows, self.replica_adapter, wait_s=wait_s, before=before)
        return ReplicaReader(rows, self.replica_adapter, wait_s=wait_s, before=before)

    async def get(self, projection: Projection[R], key: str, *, at_least: Token | str | None = None) -> R | None:
        """The row of a key; `replica(projection)` reads more. Raises like ReplicaReader.get."""
        return await self.replica(projection).get(key, at_least=at_least)

    async def as_of(
        self, projection: Projection[Any], key: str, *, version: int | None = None, cut: Asked | None = None
    ) -> AsOf:
        """The rows of a key as they were at a version or at a cut, folded from the log; see truecopy_projections.as_of.

        Raises like rows_as_of.
        """
        async with self.replica_adapter.snapshot() as snapshot:
            held = bool(await snapshot.states(projection.id))
            kept = await snapshot.checkpoints(projection.id) if held and version is None else ()
            amendments = await snapshot.amendments(projection.id) if held else NO_AMENDMENTS
        return await rows_as_of(
            projection,
            self.log,
            self.schemas(projection),
            topic=self.topic(projection),
            key=key,
            version=version,
            cut=cut,
            checkpoints=kept,
            amendments=amendments,
        )

    async def restore(self, projection: Projection[Any], *, to: AtMark, apply: bool = False, why: str = "") -> Restore:
        """Plan the way of a projection's replica back to a mark; go it with `apply`. See truecopy_projections.restore."""
        return await restore(
            projection,
            self.replica_adapter,
            self.log,
            self.schemas(projection),
            topic=self.topic(projection),
            to=to,
            apply=apply,
            by=self._by,
            why=why,
        )

    async def forward(self, projection: Projection[Any], *, why: str = "") -> tuple[list[int], Retraced]:
        """Let a restored replica go on: the partitions that stood, and how what it passes again compares with before."""
        released = await forward(projection, self.replica_adapter, by=self._by, why=why)
        return released, await retraced(projection, self.replica_adapter)

    @property
    def _by(self) -> str:
        return f"{self.name}, process {os.getpid()} on {socket.gethostname()}"

    async def check(
        self,
        *projections: Projection[Any],
        deep: bool = False,
        quick: bool = False,
        peers: Sequence[str | Replica] = (),
        afresh: bool = False,
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
                    afresh=afresh,
                    wait_s=self.settings.check_wait_s,
                )
                for projection in projections or self.projections.values()
            ]

    async def repair(
        self,
        projection: Projection[Any],
        *,
        apply: bool = False,
        rows_max: int = REPAIR_ROWS_MAX,
        share_max: float = REPAIR_SHARE_MAX,
        peer: str | Replica | None = None,
    ) -> Repair:
        """Plan the repair of a projection's rows from the log, or from a certified `peer`; carry it out with `apply`.

        Raises RepairRefusedError, UsageError for a peer's address that is none.
        """
        async with opened_peers(self.settings, () if peer is None else (peer,)) as opened:
            return await repair(
                projection,
                self.replica_adapter,
                self.log,
                self.schemas(projection),
                topic=self.topic(projection),
                apply=apply,
                rows_max=rows_max,
                share_max=share_max,
                peer=opened[0] if opened else None,
                trusted=trusted_keys(self.settings.home / TRUSTED_KEYS),
                by=self._by,
            )

    async def bootstrap(
        self,
        projection: Projection[Any],
        address: str,
        *,
        public_key: str | None = None,
        replace: bool = False,
        dry_run: bool = False,
        bytes_per_second: int | None = None,
        told: Callable[[Progress], None] = lambda _: None,
    ) -> Bootstrap:
        """Fill this service's replica with a projection from the replica at `address`, see truecopy_projections.bootstrap.

        Trusted are certificates of the keys in `trusted.keys` under `home`, and of `public_key` (hex). Raises what that raises,
        SigningKeyError, and UsageError for an address that is none, or a replica of ours that is in memory.
        """
        if self.replica_database is None:
            raise UsageError("a replica in memory is not filled from a peer; name a database by TRUECOPY_REPLICA")
        trusted = {*trusted_keys(self.settings.home / TRUSTED_KEYS), *([public_key.lower()] if public_key else [])}
        peer = await open_peer(self.settings, address)
        try:
            return await bootstrap(
                projection,
                self.replica_database,
                peer,
                self.log,
                trusted=trusted,
                service=self.settings.topic_prefix + self.name,
                topic=self.topic(projection),
                replace=replace,
                dry_run=dry_run,
                bytes_per_second=bytes_per_second,
                lease_s=self.settings.lease_s,
                told=told,
            )
        finally:
            await peer.close()

    def entity(self, fold: Projection[Any] | str, *, deletes: type[Event] | None = None) -> Entity:
        """An entity that this service owns: its history, earlier states, and the way back to them.

        `fold` is a projection whose reducer makes the states, or the name of an entity whose events are all of kind "state".
        `deletes` is a class whose event ends a key, where the projection knows none.
        """
        known = LatestFold(fold) if isinstance(fold, str) else ProjectionFold(fold)
        return Entity(self.store, known, deletes=deletes, by=self._by)

    def quarantine(self, projection: Projection[Any], *, by: str = "") -> Quarantine:
        """What waits of a projection, and what is done about it by `by` (this process's user, if nobody is named)."""
        return Quarantine(
            projection,
            self.replica_adapter,
            self.log,
            self.schemas(projection),
            topic=self.settings.topic_prefix + AMENDMENTS_TOPIC,
            by=by,
        )

    def effects(self, projection: Projection[Any]) -> Effects:
        """What a projection asks the world to do, to be carried out; see Effects."""
        return Effects(name=projection.name, replica=self.replica_adapter)

    async def certify(self, report: Report, *, because: str = "") -> Certificate:
        """Sign the EQUAL report of a whole check by the key in `signing.key` under `home`, keep it, and publish it on the log.

        The key is made if there is none, and its public half pinned in `trusted.keys`. Raises SigningKeyError, and like
        truecopy_projections.certificate.certify: NotEqualError for all but EQUAL.
        """
        if report.quick:
            raise NotEqualError(f"{report.projection}: a quick check proves too little to be certified; certify a whole one")
        home = self.settings.home
        home.mkdir(parents=True, exist_ok=True)
        key = signing_key(home / SIGNING_KEY)
        pin(home / TRUSTED_KEYS, [key.public_key().public_bytes_raw().hex()], note=f"{SIGNING_KEY} of this machine")
        projection, namespace = self.projections[report.projection], self.settings.topic_prefix
        return await certify(projection, self.replica_adapter, self.log, report, key, namespace=namespace, because=because)

    async def certificates(self, projection: Projection[Any]) -> list[Certificate]:
        """The certificates that the replica keeps of a projection, oldest first."""
        return await certificates(projection, self.replica_adapter)

    async def verify(self, certificate: Certificate, *, projection: Projection[Any] | None = None) -> Verification:
        """Hold a certificate against the log, by the keys that are trusted here; see certificate.verify."""
        trusted, namespace = trusted_keys(self.settings.home / TRUSTED_KEYS), self.settings.topic_prefix
        return await verify(certificate, self.log, self.registry, trusted=trusted, namespace=namespace, projection=projection)

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
