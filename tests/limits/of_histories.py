"""Drives of the bounds of histories: how much is read at once, how near a snapshot is, and what one transaction restores."""

import asyncio
from pathlib import Path
from typing import Any

from tests.limits.clock import Clock
from tests.limits.drives import drives
from tests.services.test_entities import balances, deposited

from truecopy_bus import limits as bus_limits
from truecopy_bus.rollbacks import Outcome
from truecopy_bus.sql.sqlite import SqliteDatabase
from truecopy_bus.store import EventStore
from truecopy_projections import limits
from truecopy_projections.entity_fold import ProjectionFold
from truecopy_projections.entity_states import load_state
from truecopy_services.entities import Entity
from truecopy_services.rolling_back import open_rollback, rollback_many


async def owner(folder: Path) -> Entity:
    store = EventStore(SqliteDatabase(str(folder / "store.db")), service="bank")
    await store.open()
    return Entity(store, ProjectionFold(balances))


async def kept(entity: Entity) -> list[int]:
    async with entity.store.database.snapshot() as read:
        found = await read.fetch("SELECT version FROM truecopy_snapshots ORDER BY version")
    return [version for (version,) in found]


class _Counted:
    """A connection that counts what its statements return."""

    def __init__(self, connection: Any) -> None:
        self._connection, self.most = connection, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def fetch(self, sql: str, *args: Any) -> Any:
        rows = await self._connection.fetch(sql, *args)
        self.most = max(self.most, len(rows))
        return rows


@drives("bus.HISTORY_EVENTS_MAX")
async def events_of_a_key_that_are_read_at_once(tmp_path: Path) -> None:
    entity = await owner(tmp_path)
    await entity.store.publish_many(deposited(*range(bus_limits.HISTORY_EVENTS_MAX * 2 + 1)))
    async with entity.store.database.snapshot() as read:
        counted = _Counted(read)
        loaded = await load_state(counted, entity.fold, "a1", afresh=True)
    assert loaded.state.version == loaded.head == 2 * bus_limits.HISTORY_EVENTS_MAX + 1
    assert counted.most <= bus_limits.HISTORY_EVENTS_MAX
    await entity.store.database.close()


@drives("bus.SNAPSHOT_STRIDE")
async def versions_of_which_one_snapshot_is_kept(tmp_path: Path) -> None:
    entity, stride = await owner(tmp_path), bus_limits.SNAPSHOT_STRIDE
    await entity.store.publish_many(deposited(*range(stride * 2 - 1)))
    await entity.at("a1")
    assert await kept(entity) == [stride - 1, 2 * stride - 1]
    await entity.store.publish_many(deposited(*range(limits.SNAPSHOT_EVENTS)))
    await entity.at("a1")
    assert await kept(entity) == [stride - 1, 2 * stride - 1, 2 * stride - 1 + limits.SNAPSHOT_EVENTS]
    await entity.store.database.close()


@drives("projections.SNAPSHOT_EVENTS")
async def events_until_a_snapshot_is_kept(tmp_path: Path) -> None:
    entity = await owner(tmp_path)
    await entity.store.publish_many(deposited(*range(limits.SNAPSHOT_EVENTS - 1)))
    await entity.at("a1")
    assert await kept(entity) == []
    await entity.store.publish_many(deposited(1))
    await entity.at("a1")
    assert await kept(entity) == [limits.SNAPSHOT_EVENTS]
    await entity.store.database.close()


@drives("projections.ROLLBACK_KEYS")
async def keys_that_one_transaction_restores(tmp_path: Path) -> None:
    entity, keys = await owner(tmp_path), [f"k{at:04}" for at in range(limits.ROLLBACK_KEYS + 1)]
    [(_, event)] = deposited(1)
    await entity.store.publish_many([(key, event) for key in keys])
    begun = rollback_many(entity, await open_rollback(entity, to=dict.fromkeys(keys, 0)))
    assert (await anext(begun)).outcome is Outcome.RESTORED
    async with entity.store.database.snapshot() as read:
        [[done]] = await read.fetch("SELECT COUNT(*) FROM truecopy_rolled_back WHERE outcome <> 'PLANNED'")
    assert done == limits.ROLLBACK_KEYS
    await begun.aclose()
    await entity.store.database.close()


@drives("projections.SNAPSHOT_KEEP_S")
async def a_load_that_waits_to_keep_a_snapshot(clock: Clock, tmp_path: Path) -> None:
    entity = await owner(tmp_path)
    await entity.store.publish_many(deposited(*range(limits.SNAPSHOT_EVENTS)))
    async with entity.store.transaction():
        began_s = clock.now_s
        await entity.at("a1")
        assert round(clock.now_s - began_s, 6) == limits.SNAPSHOT_KEEP_S
    assert await kept(entity) == []
    async with asyncio.timeout(limits.SNAPSHOT_KEEP_S), entity.store.database.transaction():
        pass
    await entity.at("a1")
    assert await kept(entity) == [limits.SNAPSHOT_EVENTS]
    await entity.store.database.close()
