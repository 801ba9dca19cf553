"""What `truecopy doctor` asks of log, store and replica. It reads only: no file, folder, table or topic is made.

Each question has the time limit `timeout_s`. What did not answer once is asked nothing more.
"""

import os
import shutil
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

from truecopy_bus.errors import TopicMissingError, UnavailableError
from truecopy_bus.record import TopicState
from truecopy_bus.registry import SCHEMAS_TOPIC
from truecopy_bus.relay_halts import halts
from truecopy_bus.relay_tail import last_marks
from truecopy_bus.sql import Database
from truecopy_bus.store_tables import EVENTS
from truecopy_bus.upkeep import Upkeep
from truecopy_projections.amendments_topic import AMENDMENTS_TOPIC
from truecopy_projections.certificates_topic import CERTIFICATES_TOPIC
from truecopy_projections.projection import Projection
from truecopy_projections.replicas.sql_snapshot import check, read_meta, refuse_dropped, refuse_other_service
from truecopy_projections.replicas.tables import PARTITIONS, keys_shape
from truecopy_projections.state import PartitionState
from truecopy_schemas.control import Mark
from truecopy_schemas.errors import TruecopyError
from truecopy_services.app import Truecopy
from truecopy_services.cli.topics import needed, published, seen
from truecopy_services.config import MEMORY
from truecopy_services.opening import file_of, shown
from truecopy_services.operating import findings
from truecopy_services.operating.findings import Finding, failed, warning, well
from truecopy_services.operating.topic_care import differences
from truecopy_services.service import Service
from truecopy_services.status import EntityStatus, entities_of, holders_of
from truecopy_services.working import answering_within

__all__ = ["Examination"]

T = TypeVar("T")

_AWAY = "start it, or correct address, credentials or network"
_SERVER = (
    "SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('default_transaction_read_only'), "
    "COALESCE(has_schema_privilege(current_schema(), 'CREATE'), false), "
    "to_regclass($1::text) IS NULL OR (has_table_privilege(to_regclass($1::text), 'INSERT') "
    "AND has_table_privilege(to_regclass($1::text), 'UPDATE'))"
)


class Examination:
    """One look at an open service, which was opened without making anything. `found` grows in the order of the questions."""

    def __init__(self, app: Truecopy, service: Service) -> None:
        self._app, self._service = app, service
        self.found: list[Finding] = []

    async def everything(self, *, with_app: bool) -> list[Finding]:
        """All findings; without an app only those about the log."""
        log = await self._log()
        if with_app:
            store = await self._store()
            if log and store:
                await self._topics()
            await self._replica()
        else:
            self.found.append(well("app", "none was named, so its topics, store and replica are not looked at"))
        return self.found

    async def _ask(self, what: str, asking: Awaitable[T], *, may_refuse: bool = False) -> T | None:
        """The answer; None after a finding that says why there is none. `may_refuse`: nothing but a look depends on it."""
        try:
            async with answering_within(self._service.settings.timeout_s, what):
                return await asking
        except UnavailableError as fault:
            if may_refuse:
                self.found.append(warning(what, str(fault), "allow this user to ask, or look there by hand"))
                return None
            self.found.append(failed(what, str(fault), _AWAY, away=True))
        except TruecopyError as fault:
            self.found.append(failed(what, str(fault), "do what it says"))
        return None

    def _file(self, what: str, file: Path) -> bool:
        """Whether an embedded file is there."""
        folder = next(each for each in (file.absolute(), *file.absolute().parents) if each.is_dir())
        self.found.append(findings.disk(f"disk of the {what}", shutil.disk_usage(folder).free))
        files = [each for each in (file, folder) if each.exists()]
        locked = [str(each) for each in files if not os.access(each, os.W_OK)]
        if locked:
            remedy = "let this user write there: a log or database needs both its file and the folder"
            self.found.append(failed(f"file of the {what}", f"{', '.join(locked)} can't be written", remedy))
        elif not file.exists():
            self.found.append(well(f"file of the {what}", f"{file} is not there yet; its first use makes it"))
        else:
            self.found.append(well(f"file of the {what}", f"{file}, {file.stat().st_size:,} bytes, can be written"))
        return file.exists()

    async def _log(self) -> bool:
        """Whether the log is there and answers."""
        service, address = self._service, self._service.settings.log_of()
        if address == MEMORY:
            self.found.append(well("log", "in memory: it ends with the process that uses it"))
            return False
        if (file := file_of(address)) is not None and not self._file("log", file):
            return False
        topic = service.settings.topic_prefix + SCHEMAS_TOPIC
        there = await self._ask(f"log {shown(address)}", self._answers(topic))
        if there is None:
            return False
        self.found.append(well(f"log {shown(address)}", "answers" if there else f"answers, and has no topic {topic} yet"))
        if isinstance(log := service.log, Upkeep):
            brokers = await self._ask("settings of the brokers", log.brokers(), may_refuse=True)
            for node, settings in sorted((brokers or {}).items()):
                self.found.append(findings.broker(node, settings))
            self.found.append(well("clock of the brokers", "not told by any request that only reads; see the marks"))
        return True

    async def _answers(self, topic: str) -> bool:
        try:
            await self._service.log.describe(topic)
        except TopicMissingError:
            return False
        return True

    async def _topics(self) -> None:
        """Topics beside what the app needs, and when their owners last marked them."""
        needs = await self._ask("topics", needed(self._app, self._service))
        for need in needs or ():
            topic = await self._ask(f"topic {need.spec.name}", seen(self._service, need.spec.name))
            if topic is None:
                return
            name = need.spec.name.removeprefix(self._service.settings.topic_prefix)
            command = f"truecopy topics apply APP {name}"
            self.found += findings.topics([need.spec.name], differences(need, topic, command=command))
            if (
                topic.state is not None
                and topic.state.incarnation is not None
                and name not in (SCHEMAS_TOPIC, CERTIFICATES_TOPIC, AMENDMENTS_TOPIC)
            ):
                await self._marks(topic.state)

    async def _marks(self, topic: TopicState) -> None:
        marks = await self._ask(f"marks of {topic.name}", self._last_marks(topic))
        if marks is not None:
            newest_ms = max((mark.at_ms for mark in marks), default=None)
            self.found.append(findings.marks(topic.name, newest_ms, time.time_ns() // 1_000_000))

    async def _last_marks(self, topic: TopicState) -> list[Mark]:
        return [
            mark
            for partition, bounds in sorted(topic.bounds.items())
            for mark in await last_marks(self._service.log, topic.name, partition, bounds)
        ]

    async def _store(self) -> bool:
        """Whether the owner's database answers, or is not there yet."""
        service = self._service
        address = service.settings.store_of(service.name)
        if (file := file_of(address)) is not None and not self._file("store", file):
            return True
        entities = await self._ask(f"store {shown(address)}", published(service))
        if entities is None:
            return False
        database = service.store.database
        self.found.append(well(f"store {shown(address)}", f"answers; events of {', '.join(sorted(entities)) or 'no entity'}"))
        await self._server("store", database, EVENTS.name)
        if entities:
            for entity in await self._ask("outbox", self._outbox()) or ():
                self.found += findings.outbox(entity)
            for about, why in (await self._ask("halts of relays", self._halts()) or {}).items():
                if about not in entities:
                    self.found.append(failed(f"relay, events of {about}", why, "do what it says"))
        return True

    async def _halts(self) -> dict[str, str]:
        async with self._service.store.database.snapshot() as read:
            return await halts(read)

    async def _outbox(self) -> tuple[EntityStatus, ...]:
        return await entities_of(self._service, await self._halts())

    async def _server(self, what: str, database: Database, table: str) -> None:
        """Version, rights and clock of a database server."""
        if database.dialect.name != "postgres":
            return
        if (row := await self._ask(f"rights in the {what}", _row(database, _SERVER, table))) is not None:
            version, standby, read_only, may_create, may_write = row
            why = [
                *(["it is a standby"] if standby else []),
                *(["default_transaction_read_only is on"] if read_only == "on" else []),
                *([] if may_write else [f"no right to write into {table}"]),
            ]
            check_name = f"rights in the {what}"
            if why:
                remedy = "use the primary, and a role that may write there"
                self.found.append(failed(check_name, f"PostgreSQL {version}: {'; '.join(why)}", remedy))
            elif not may_create:
                remedy = "grant CREATE on the schema before a release that brings new tables"
                self.found.append(warning(check_name, f"PostgreSQL {version}: can be written, no right to make tables", remedy))
            else:
                self.found.append(well(check_name, f"PostgreSQL {version}: can be written"))
        before = time.time_ns()
        clock = await self._ask(f"clock of the {what}", _row(database, f"SELECT {database.dialect.now_ms}"))
        after = time.time_ns()
        if clock is not None:
            ahead_ms = clock[0] - (before + after) // 2_000_000
            self.found.append(findings.clock(f"clock of the {what}", ahead_ms, (after - before) // 2_000_000))

    async def _replica(self) -> None:
        """The replica as each projection of the app finds it."""
        service, database = self._service, self._service.replica_database
        address = service.settings.replica_of(service.name)
        if not service.projections:
            self.found.append(well("replica", "not needed: the app declares no projection"))
            return
        if database is None:
            self.found.append(well("replica", "in memory: it ends with the process that uses it"))
            return
        if (file := file_of(address)) is not None and not self._file("replica", file):
            return
        if await self._ask(f"replica {shown(address)}", _row(database, "SELECT 1")) is None:
            return
        self.found.append(well(f"replica {shown(address)}", "answers"))
        await self._server("replica", database, PARTITIONS.name)
        for projection in service.projections.values():
            states = await self._ask(f"declaration of {projection.id}", self._declared(projection, database))
            if states is None:
                continue
            if states:
                self.found.append(well(f"declaration of {projection.id}", "as the replica holds it"))
            self.found += findings.partitions(projection.id, states)
            holders = await self._ask(f"workers of {projection.id}", holders_of(database, projection.id)) if states else None
            if holders:
                self.found.append(findings.leases(f"workers of {projection.id}", holders))

    async def _declared(self, projection: Projection[Any], database: Database) -> dict[int, PartitionState]:
        """The projection's partitions; none if the replica does not hold it. Raises what a worker would be refused by."""
        name = database.name
        async with database.snapshot() as read:
            meta = await read_meta(read, name=name)
            refuse_other_service(meta, projection, self._service.settings.topic_prefix + self._service.name, name=name)
            if not check(meta, projection):
                return {}
            shapes = (projection.shape, keys_shape(projection), *(gathered.shape for gathered in projection.gathers))
            await refuse_dropped(read, PARTITIONS.name, *(shape.name for shape in shapes))
        async with self._service.replica_adapter.snapshot() as snapshot:
            return await snapshot.states(projection.id)


async def _row(database: Database, sql: str, *args: Any) -> tuple[Any, ...]:
    async with database.snapshot() as read:
        return (await read.fetch(sql, *args))[0]
