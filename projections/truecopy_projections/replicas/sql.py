"""The replica on a database, SQLite or PostgreSQL, written once over the database port.

An apply holds its fences and its partitions' rows in partition order, drops what is no longer its own, and then writes one
statement for each table, whatever the number of partitions: what is removed first, then what is put.
"""

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from truecopy_bus import leases
from truecopy_bus.errors import DataRefusedError
from truecopy_bus.leases import Fence
from truecopy_bus.points import Point, reached
from truecopy_bus.sql import Connection, Database
from truecopy_bus.sql.statements import listed
from truecopy_projections.digest import bucket_of
from truecopy_projections.effects import Delivery
from truecopy_projections.gathered import GroupRefusedError
from truecopy_projections.limits import CHECKPOINTS_KEPT
from truecopy_projections.projection import Projection
from truecopy_projections.replica import FORMAT, JournalEntry, Snapshot, refuse_other_partitions
from truecopy_projections.replicas.culprits import culprits
from truecopy_projections.replicas.sql_effects import (
    EFFECTS_FIRED,
    EFFECTS_HELD,
    delivering,
    effects_statement,
    fire,
    held,
    hold,
    pending,
)
from truecopy_projections.replicas.sql_gathered import locked, refold
from truecopy_projections.replicas.sql_keys import load, rows_to_put, write_keys
from truecopy_projections.replicas.sql_quarantine import amendment_rows
from truecopy_projections.replicas.sql_snapshot import (
    FORMAT_NAME,
    LAZY_NAME,
    SqlSnapshot,
    check,
    declared_name,
    owner_names,
    read_meta,
    refuse_dropped,
    refuse_other_service,
    remembered_name,
)
from truecopy_projections.replicas.sql_stages import enter, forget, put_stage, stages, swap
from truecopy_projections.replicas.tables import (
    AMENDMENTS,
    CHECKPOINTS,
    META,
    PARTITIONS,
    SCRUBS,
    SHARED,
    WAITING,
    address_of,
    checkpoint_row,
    declaration,
    journal_statement,
    keys_shape,
    state_row,
    stored_of,
    view_statement,
    waiting_of,
    waiting_row,
)
from truecopy_projections.scrub_times import packed, unpacked
from truecopy_projections.stages import Stage, live_number
from truecopy_projections.state import Known, PartitionPlan, PartitionState, Waiting, Wanted

__all__ = ["SqlReplica"]

_PRUNE_EVERY = CHECKPOINTS_KEPT // 10
"""Checkpoints between prunings: what may be kept beyond CHECKPOINTS_KEPT."""

_Rows = list[tuple[Any, ...]]


class SqlReplica:
    """A replica in `database`, which it closes with itself. See Replica.

    `service` is who writes it: a projection that another service installed before is refused, to be installed or repaired.
    """

    def __init__(self, database: Database, *, service: str = "") -> None:
        self._database, self._service = database, service
        self._lazy = False
        self._keeps_effects = False
        self._unpruned: dict[str, int] = {}

    @property
    def name(self) -> str:
        return self._database.name

    async def install(self, projection: Projection[Any], *, partitions: int, incarnation: str) -> None:
        dialect = self._database.dialect
        own = (projection.shape, keys_shape(projection), *(gathered.shape for gathered in projection.gathers))
        async with self._database.snapshot() as connection:
            meta = await read_meta(connection, name=self.name)
            refuse_other_service(meta, projection, self._service, name=self.name)
            if check(meta, projection):
                await refuse_dropped(connection, PARTITIONS.name, *(shape.name for shape in own))
        views = [view_statement(rows, dialect) for rows in (projection, *projection.gathers)]
        await self._database.install((*SHARED, *own), (journal_statement(dialect), *views))
        async with self._database.transaction() as tx:
            for said in (
                (FORMAT_NAME, str(FORMAT)),
                (declared_name(projection.id), declaration(projection)),
                *((name, self._service) for name in owner_names(projection) if self._service),
            ):
                await _insert_missing(tx, "truecopy_meta", ("name", "value"), "name", said)
            meta = await read_meta(tx, name=self.name)
            refuse_other_service(meta, projection, self._service, name=self.name)
            check(meta, projection)
            known = await tx.fetch("SELECT COUNT(*) FROM truecopy_partitions WHERE projection = $1", projection.id)
            refuse_other_partitions(projection, known[0][0], partitions)
            if not known[0][0]:  # of tables that are made anew nobody has read anything
                await tx.drop(SCRUBS, SCRUBS.key, [(projection.id,)])
            await _alone(tx)
            await enter(tx, projection)
            await leases.prepare(tx, projection.id, partitions)
            names = tuple(column.name for column in PARTITIONS.columns)
            for partition in range(partitions):
                row = state_row(projection.id, PartitionState(partition=partition, incarnation=incarnation))
                await _insert_missing(tx, PARTITIONS.name, names, "projection, part", row)

    async def renew(
        self, projection: Projection[Any], holder: str, held: Collection[Fence], *, lease_s: float, seize: bool = False
    ) -> Mapping[int, Fence]:
        async with self._database.transaction() as tx:
            if seize:
                refuse_other_service(await read_meta(tx, name=self.name), projection, self._service, name=self.name)
            return await leases.renew(tx, projection.id, holder, held, lease_s=lease_s, seize=seize)

    async def leave(self, projection: Projection[Any], holder: str, held: Collection[Fence]) -> None:
        async with self._database.transaction() as tx:
            await leases.leave(tx, projection.id, holder, held)

    async def stage(self, projection: Projection[Any], stage: Stage, *, by: str = "") -> None:
        async with self._database.transaction() as tx:
            await put_stage(tx, projection, stage, by=by)

    async def swap(
        self,
        new: Projection[Any],
        old: Projection[Any],
        fences: Mapping[str, Collection[Fence]],
        *,
        follow_ms: int,
        by: str,
        journal: Sequence[tuple[str, JournalEntry]] = (),
    ) -> None:
        async with self._database.transaction() as tx:
            await swap(tx, new, old, fences, follow_ms=follow_ms, by=by)
            if journal:
                await _append(tx, journal)
            await reached(Point.SWAP_WRITTEN)

    async def drop(self, projection: Projection[Any], *, by: str = "") -> None:
        async with self._database.transaction() as tx:
            await _alone(tx)
            await forget(tx, projection)
            await _append(tx, [("drop", {"projection": projection.id, "by": by})])

    async def load(self, projection: Projection[Any], wanted: Wanted) -> Known:
        shape = projection.shape
        single = {key for key, _ in wanted.rows} if not projection.key else set()
        async with self._database.snapshot() as connection:
            whole = {*wanted.whole, *single}
            states, rows, hashes = await load(connection, projection, wanted.keys, rows=whole, hashes=wanted.hashes)
            if projection.key and wanted.rows:
                rows += await connection.pick(shape, shape.key, [(bucket_of(key), key, *sub) for key, sub in wanted.rows])
            parked = [(projection.id, key) for key, state in states.items() if state.parked is not None]
            waiting: dict[str, list[Waiting]] = {}
            found = await connection.pick(WAITING, ("projection", "key"), parked) if parked else []
            for row in sorted(found, key=lambda row: row[1:3]):
                waiting.setdefault(row[3], []).append(waiting_of(row))
        stored = {address_of(projection, row): stored_of(projection, row)[2] for row in rows}
        return Known(keys=states, rows=stored, hashes=hashes, waiting=waiting)

    async def apply(
        self,
        projection: Projection[Any],
        plans: Sequence[PartitionPlan],
        *,
        durable: bool = True,
        journal: Sequence[tuple[str, JournalEntry]] = (),
    ) -> frozenset[int]:
        """See Replica. The journal is written unless all of `plans` were dropped."""
        if not (durable or self._lazy):
            async with self._database.transaction() as tx:
                await _insert_missing(tx, "truecopy_meta", ("name", "value"), "name", (LAZY_NAME, "yes"))
            self._lazy = True
        if any(plan.effects for plan in plans):
            await self._keep_effects()
        async with self._database.transaction(durable=durable) as tx:
            current = await _current(tx, projection, plans)
            if current:
                try:
                    await self._write(tx, projection, current)
                except GroupRefusedError as fault:
                    raise DataRefusedError(database=self.name, seen=str(fault)) from fault
            if journal and (current or not plans):
                await _append(tx, journal)
        return frozenset(plan.was.partition for plan in current)

    def delivering(self, name: str, limit: int, *, without: Collection[str] = ()) -> AbstractAsyncContextManager[Delivery]:
        return delivering(self._database, name, limit, without, before=self._keep_effects)

    async def pending(self, name: str) -> tuple[int, int]:
        await self._keep_effects()
        async with self._database.snapshot() as connection:
            return await pending(connection, name)

    async def hold(self, name: str, key: str, why: str) -> None:
        await self._keep_effects()
        async with self._database.transaction() as tx:
            await hold(tx, name, key, why)

    async def held(self, name: str) -> Mapping[str, str]:
        await self._keep_effects()
        async with self._database.snapshot() as connection:
            return await held(connection, name)

    async def _keep_effects(self) -> None:
        """Make the tables of effects: who has none has none of these."""
        if not self._keeps_effects:
            await self._database.install((EFFECTS_FIRED, EFFECTS_HELD), (effects_statement(self._database.dialect),))
            self._keeps_effects = True

    async def remember(self, projection: Projection[Any], what: str, said: JournalEntry) -> None:
        async with self._database.transaction() as tx:
            await tx.put(META, [(remembered_name(projection.id, what), json.dumps(said))])

    async def culprits(self, projection: Projection[Any], plans: Sequence[PartitionPlan]) -> Mapping[str, str]:
        puts: dict[str, _Rows] = {}
        for row in rows_to_put(projection, plans, {}):
            puts.setdefault(row[len(projection.fields)], []).append(row)
        return await culprits(self._database, projection, plans, puts)

    async def scrubbed(self, projection: Projection[Any], at_ms: Mapping[int, int] | None) -> None:
        async with self._database.transaction() as tx:
            if at_ms is None:
                await tx.drop(SCRUBS, SCRUBS.key, [(projection.id,)])
                return
            sql = f"SELECT times FROM {SCRUBS.name} WHERE projection = $1 {tx.dialect.for_update}"
            known = await tx.fetch(sql, projection.id)
            await tx.put(SCRUBS, [(projection.id, packed(unpacked(known[0][0] if known else None), at_ms))])

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        async with self._database.snapshot() as connection:
            meta = await read_meta(connection, name=self.name)
            self._lazy = self._lazy or LAZY_NAME in meta
            yield SqlSnapshot(connection, meta, name=self.name)

    async def flush(self) -> None:
        if self._lazy or self._database.dialect.name == "sqlite":
            await self._database.flush()

    async def close(self) -> None:
        await self._database.close()

    async def _write(self, tx: Connection, projection: Projection[Any], plans: Sequence[PartitionPlan]) -> None:
        shape, own = projection.shape, projection.id
        checkpoints = [checkpoint_row(own, one) for plan in plans for one in plan.checkpoints]
        touched = await locked(tx, projection, plans)
        kept = await write_keys(tx, projection, plans)
        drops: list[tuple[Any, tuple[str, ...], _Rows]] = [
            (shape, shape.key, [(bucket_of(key), key, *sub) for plan in plans for key, sub in plan.drops]),
            (shape, shape.key, [(bucket, key, *sub) for plan in plans for bucket, (key, sub) in plan.strays]),
            (WAITING, WAITING.key, [(own, plan.was.partition, offset) for plan in plans for offset in plan.freed]),
            (CHECKPOINTS, CHECKPOINTS.key, [(own, plan.was.partition, offset) for plan in plans for offset in plan.undone]),
        ]
        puts: list[tuple[Any, _Rows]] = [
            (shape, rows_to_put(projection, plans, kept)),
            (WAITING, [waiting_row(own, waiting) for plan in plans for waiting in plan.waits]),
            (CHECKPOINTS, checkpoints),
            (AMENDMENTS, amendment_rows(own, [one for plan in plans for one in plan.amendments])),
        ]
        for table, by, keys in drops:
            if keys:
                await tx.drop(table, by, keys)
        for table, rows in puts:
            if rows:
                await tx.put(table, rows)
        await refold(tx, projection, touched)
        if any(plan.effects for plan in plans) and live_number(await stages(tx, projection.name)) == projection.number:
            await fire(tx, plans)
        await reached(Point.WORKER_WRITING, sum(plan.state.count for plan in plans))
        await tx.put(PARTITIONS, [state_row(own, plan.state) for plan in plans])
        if checkpoints:
            await self._prune(tx, own, len(checkpoints))

    async def _prune(self, tx: Connection, projection: str, added: int) -> None:
        # Counted from a process's first checkpoint on, so that one that never lives long prunes too.
        self._unpruned[projection] = self._unpruned.get(projection, _PRUNE_EVERY) + added
        if self._unpruned[projection] <= _PRUNE_EVERY:
            return
        await tx.fetch(
            "DELETE FROM truecopy_checkpoints WHERE projection = $1 AND (part, log_offset) IN (SELECT part, log_offset FROM ("
            "SELECT part, log_offset, row_number() OVER (PARTITION BY part ORDER BY log_offset DESC) AS age "
            f"FROM truecopy_checkpoints WHERE projection = $1) AS aged WHERE age > {CHECKPOINTS_KEPT})",
            projection,
        )
        self._unpruned[projection] = 0


async def _current(tx: Connection, projection: Projection[Any], plans: Sequence[PartitionPlan]) -> list[PartitionPlan]:
    """The plans whose fence still holds and whose partition is where they were planned; their rows stay locked."""
    held = await leases.hold(tx, projection.id, [plan.fence for plan in plans])
    if not held:
        return []
    found = await tx.fetch(
        'SELECT part, incarnation, "position" FROM truecopy_partitions WHERE projection = $1 '
        f"AND part IN ({', '.join(map(str, sorted(held)))}) ORDER BY part {tx.dialect.for_update}",
        projection.id,
    )
    at = {part: (incarnation, position) for part, incarnation, position in found}
    return [
        plan
        for plan in plans
        if plan.fence.partition == plan.was.partition == plan.state.partition
        and at.get(plan.was.partition) == (plan.was.incarnation, plan.was.position)
    ]


async def _alone(tx: Connection) -> None:
    """Let nobody else of this replica who asks so go on before this transaction ends."""
    await tx.fetch(f"SELECT value FROM truecopy_meta WHERE name = $1 {tx.dialect.for_update}", FORMAT_NAME)


async def _append(tx: Connection, journal: Sequence[tuple[str, JournalEntry]]) -> None:
    # One writer at a time, so that ids become visible in their order: who has read the newest entry has read all before it.
    await _alone(tx)
    values = ", ".join(f"(${at}, {tx.dialect.now_ms}, ${at + 1})" for at in range(1, 2 * len(journal), 2))
    args = [part for kind, entry in journal for part in (kind, json.dumps(entry))]
    await tx.fetch(f"INSERT INTO truecopy_journal (kind, at_ms, entry) VALUES {values}", *args)


async def _insert_missing(tx: Connection, table: str, names: tuple[str, ...], key: str, row: tuple[Any, ...]) -> None:
    places = ", ".join(f"${at}" for at in range(1, len(row) + 1))
    await tx.fetch(f"INSERT INTO {table} ({listed(names)}) VALUES ({places}) ON CONFLICT ({key}) DO NOTHING", *row)
