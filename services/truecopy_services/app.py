"""The SDK's front: a service declares its projections once, and is then opened, run or deployed.

bank = Truecopy("bank")
balances = bank.projection("balance", entity="bank.account", row=Balance)

async with bank.running() as service:
    token = await service.publish("a1", Deposited(amount=5))
    row = await service.replica(balances).get("a1", at_least=token)
    reports = await service.check()
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from truecopy_bus.log import Log
from truecopy_bus.registry import SCHEMAS_TOPIC, Registry
from truecopy_bus.store import EventStore
from truecopy_projections.foreign import ForeignTopic
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_services.config import Settings
from truecopy_services.delivering import EffectHandler
from truecopy_services.errors import DeclarationError, UsageError
from truecopy_services.opening import open_log, open_replica, open_store_database
from truecopy_services.service import Service
from truecopy_services.sources import warn_of_misspelt
from truecopy_services.testing.harness import SETTLE_S, Harness, under_test
from truecopy_services.working import answering_within, first_error, work

__all__ = ["Truecopy"]

R = TypeVar("R")
_SERVICE = re.compile(r"[a-z][a-z0-9_-]{0,39}")


class Truecopy:
    """The declaration of one service. Making one touches nothing; it may be opened again and again.

    `log`, `store`, `replica` and `namespace` win over TRUECOPY_LOG and so on; see Settings for the addresses. `settings`
    stands in for the environment. `partitions` is how many an entity gets that this service publishes for the first time.
    Raises DeclarationError.
    """

    def __init__(
        self,
        service: str,
        *,
        log: str | None = None,
        store: str | None = None,
        replica: str | None = None,
        namespace: str | None = None,
        partitions: int = 4,
        settings: Settings | None = None,
    ) -> None:
        if not _SERVICE.fullmatch(service):
            raise DeclarationError(f"service {service!r}: use 1 to 40 of a-z, 0-9, _ and -, a letter first")
        if partitions < 1:
            raise DeclarationError(f"service {service!r}: partitions is {partitions}, expected 1 or more")
        self.service, self.partitions = service, partitions
        self._settings = settings
        self._given = {"log": log, "store": store, "replica": replica, "namespace": namespace}
        self._projections: dict[str, Projection[Any]] = {}
        self._deliverers: dict[str, EffectHandler] = {}

    def __repr__(self) -> str:
        return f"Truecopy({self.service!r})"

    def projection(
        self, name: str, *, entity: str | ForeignTopic, row: type[R], key: str | tuple[str, ...] = (), version: int = 1
    ) -> Projection[R]:
        """Declare a projection of this service; see Projection. Raises ProjectionError, DeclarationError."""
        return self.add(Projection(name, entity=entity, row=row, key=key, version=version))

    def add(self, projection: Projection[R]) -> Projection[R]:
        """Take in a projection that was declared elsewhere, so that several services can hold it."""
        if projection.id in self._projections:
            raise DeclarationError(f"service {self.service!r} has a projection {projection.id} already; number the new one")
        self._projections[projection.id] = projection
        return projection

    def delivers(self, projection: Projection[Any]) -> Callable[[EffectHandler], EffectHandler]:
        """Register what carries out the effects of a projection, under all its numbers, wherever its workers run.

        See truecopy_services.delivering for when it is called again. Raises DeclarationError for a second one.
        """

        def register(handler: EffectHandler) -> EffectHandler:
            if projection.name in self._deliverers:
                raise DeclarationError(f"service {self.service!r} delivers the effects of {projection.name!r} already")
            self._deliverers[projection.name] = handler
            return handler

        return register

    @property
    def projections(self) -> Mapping[str, Projection[Any]]:
        """By id (`name@number`), in the order of declaration."""
        return dict(self._projections)

    def find(self, name: str) -> Projection[Any]:
        """The projection `name@number`, or the highest number of `name`. Raises UsageError."""
        found = [p for p in self._projections.values() if name in (p.id, p.name)]
        if not found:
            known = ", ".join(self._projections) or "none"
            raise UsageError(f"service {self.service!r} declares no projection {name!r}; it has {known}")
        return max(found, key=lambda p: p.number)

    def at(self, settings: Settings) -> "Truecopy":
        """The same service and projections, with `settings` in place of environment and arguments."""
        other = Truecopy(self.service, partitions=self.partitions, settings=settings)
        other._projections.update(self._projections)
        other._deliverers.update(self._deliverers)
        return other

    def settings(self) -> Settings:
        """The settings as they are now. Raises SettingError."""
        if self._settings is None:
            return Settings.load(**self._given)
        return self._settings.with_arguments(**self._given)

    @property
    def stated(self) -> frozenset[str]:
        """The names of settings that the declaration states itself, over the environment."""
        own = self._settings.model_fields_set if self._settings is not None else ()
        return frozenset(own) | {name for name, value in self._given.items() if value is not None}

    @asynccontextmanager
    async def open(self, *, store: bool = True, make: bool = True) -> AsyncIterator[Service]:
        """Log, store and replica, open until the block ends; nothing runs beside it.

        Readers need no `store`: without it nothing of the owner's database is touched, and nothing can be published.
        Without `make` no folder is made for files that are not there.
        Raises SettingError, DeclarationError when two kinds of rows would share a table, and UnavailableError when the store
        does not answer within `timeout_s`.
        """
        settings = self.settings()
        self._refuse_shared_tables()
        warn_of_misspelt(Settings.model_fields)
        async with AsyncExitStack() as closing:
            log = open_log(settings)
            closing.push_async_callback(log.close)
            registry = Registry(log, topic=settings.topic_prefix + SCHEMAS_TOPIC)
            closing.push_async_callback(registry.close)
            database = await open_store_database(settings, self.service, make=make)
            closing.push_async_callback(database.close)
            replica, replica_database = await open_replica(settings, self.service, make=make)
            closing.push_async_callback(replica.close)
            events = EventStore(database, service=self.service, partitions=self.partitions)
            if store:
                async with answering_within(settings.timeout_s, f"store {database.name}"):
                    await events.open()
            yield Service(
                name=self.service,
                settings=settings,
                projections=self.projections,
                log=log,
                registry=registry,
                store=events,
                replica_adapter=replica,
                replica_database=replica_database,
                deliverers=dict(self._deliverers),
            )

    def _refuse_shared_tables(self) -> None:
        tables: dict[str, str] = {}
        for projection in self._projections.values():
            for name in (projection.name, *(gathered.name for gathered in projection.gathers)):
                if (other := tables.setdefault(name, projection.name)) != projection.name:
                    raise DeclarationError(
                        f"service {self.service!r}: projections {other!r} and {projection.name!r} both have rows "
                        f"called {name!r}; rename one"
                    )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Service]:
        """Like `open`, with this service's relay and workers at work in this process until the block ends.

        What fails in one of them for good ends the block with its error. What is away is waited for.
        """
        stop = asyncio.Event()
        with first_error():
            async with self.open() as service, asyncio.TaskGroup() as tasks:
                tasks.create_task(work(service, stop, relay=True, projections=self._projections.values()))
                try:
                    yield service
                finally:
                    stop.set()

    def test(
        self,
        *,
        shuffle: bool = False,
        duplicates: float = 0.0,
        seed: int | None = None,
        prove: bool = True,
        limit_s: float = SETTLE_S,
        folder: Path | None = None,
        log: Log | None = None,
        replica: Replica | None = None,
        beside: Harness | None = None,
    ) -> AbstractAsyncContextManager[Harness]:
        """This service under test: see truecopy_services.testing.harness. No setting of the outside is read.

        `shuffle` delivers keys and partitions in another order, `duplicates` is the share of records that come twice, and of
        batches whose worker dies before it commits them; `seed` repeats what one of them drew. With `prove`, a block that
        ends well has its replica proven. `folder` keeps SQLite files in place of memory. `log` and `replica` are adapters of
        the test's own, which it closes. `beside` is another service's harness, whose log and delivery this one shares.
        Raises UsageError for what does not go together; what the block raises names the seed.
        """
        return under_test(
            self,
            shuffle=shuffle,
            duplicates=duplicates,
            seed=seed,
            prove=prove,
            limit_s=limit_s,
            folder=folder,
            log=log,
            replica=replica,
            beside=beside,
        )
