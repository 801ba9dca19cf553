"""A town for tests of checks: one owner with its relay, one log, a replica and a peer; and damage through the replica's port.

Damage goes under seized leases and leaves the maintained digests as they are, as a fault of the disk or a statement by hand
would; so the same tests run on every kind of replica.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from tests.projections.bank import Deposited

from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.registry import Registry
from truecopy_bus.relay import Relay
from truecopy_bus.sql import connect
from truecopy_bus.store import EventStore
from truecopy_projections.check import check
from truecopy_projections.digest import bucket_of, row_hash, shifted, total
from truecopy_projections.projection import Projection, SubKey
from truecopy_projections.replica import Replica
from truecopy_projections.replicas import open_replica
from truecopy_projections.state import Checkpoint, KeyState, PartitionPlan, PartitionState, StoredRow
from truecopy_projections.verdicts import Report
from truecopy_projections.worker import Worker
from truecopy_schemas import Event

__all__ = ["TOPIC", "Town", "opened"]

TOPIC = "bank.account"
NOTHING: Mapping[Any, Any] = {}
PARTITIONS = 2


class Town(NamedTuple):
    """One owner, one log, two replicas."""

    store: EventStore
    log: MemoryLog
    registry: Registry
    relay: Relay
    replica: Replica
    peer: Replica

    def worker(self, projection: Projection[Any], replica: Replica | None = None) -> Worker:
        return Worker(projection, replica or self.replica, self.log, self.registry, lease_s=30.0, wait_s=0.01)

    async def publish(self, *events: tuple[str, Event]) -> None:
        await self.store.publish_many(events)

    async def deposit(self, keys: int = 8, each: int = 3) -> None:
        await self.publish(*((f"k{at % keys}", Deposited(amount=at)) for at in range(keys * each)))

    async def mark(self) -> None:
        await self.relay.drain()
        await self.relay.mark()

    async def follow(self, projection: Projection[Any], *replicas: Replica) -> None:
        """Apply what is on the log, in these replicas or in both."""
        for replica in replicas or (self.replica, self.peer):
            worker = self.worker(projection, replica)
            while await worker.step():
                pass
            await worker.leave()

    async def settle(self, projection: Projection[Any], *replicas: Replica) -> None:
        await self.mark()
        await self.follow(projection, *replicas)

    async def check(self, projection: Projection[Any], **how: Any) -> Report:
        return await check(projection, self.replica, self.log, self.registry, wait_s=how.pop("wait_s", 0), **how)

    async def states(self, projection: Projection[Any], replica: Replica | None = None) -> Mapping[int, PartitionState]:
        async with (replica or self.replica).snapshot() as snapshot:
            return await snapshot.states(projection.id)

    async def marks(self, projection: Projection[Any], replica: Replica | None = None) -> Sequence[Checkpoint]:
        async with (replica or self.replica).snapshot() as snapshot:
            return await snapshot.checkpoints(projection.id)

    async def stored(self, projection: Projection[Any], key: str) -> tuple[KeyState, Mapping[SubKey, StoredRow]]:
        async with self.replica.snapshot() as snapshot:
            state, rows = await snapshot.get(projection, key)
        assert state is not None
        return state, {projection.sub_key(row.values): row for row in rows}

    async def damage(
        self,
        projection: Projection[Any],
        key: str,
        rows: Mapping[SubKey, tuple[Any, ...] | None] = NOTHING,
        *,
        version: int | None = None,
        written: bool = False,
        figures: Mapping[str, Any] = NOTHING,
        replica: Replica | None = None,
    ) -> None:
        """Put these rows of a key (None: remove), its version, or its partition's figures, in place of what is there.

        `written` moves the digests with the rows, as a worker with a wrong reducer would; else the hashes beside them stay.
        """
        replica = replica or self.replica
        fences = await replica.renew(projection, "damage", (), lease_s=30.0, seize=True)
        async with replica.snapshot() as snapshot:
            known, kept = await snapshot.get(projection, key)
            states = await snapshot.states(projection.id)
            homes = {name: p async for batch in snapshot.keys(projection) for name, p, _ in batch}
        p = homes.get(key, 0)
        hashes = {projection.sub_key(row.values): row.hash for row in kept}
        now = {sub: row_hash(projection.id, key, values) for sub, values in rows.items() if values is not None}
        move = sum(int.from_bytes(now.get(sub, b"")) - int.from_bytes(hashes.get(sub, b"")) for sub in rows)
        moved = shifted(states[p].rows, {bucket_of(key): move}) if written else states[p].rows
        told = known
        if known is not None and version is not None:
            told = KeyState(known.head._replace(version=version), version, None)
        plan = PartitionPlan(
            fence=fences[p],
            was=states[p],
            state=replace(states[p], **{"rows": moved, "row_digest": total(moved), **figures}),
            puts={
                (key, sub): StoredRow(values, now[sub] if written else hashes.get(sub, now[sub]))
                for sub, values in rows.items()
                if values is not None
            },
            drops=frozenset((key, sub) for sub, values in rows.items() if values is None),
            keys={key: told} if told is not None else {},
        )
        assert await replica.apply(projection, [plan]) == {p}
        await replica.leave(projection, "damage", fences.values())


@asynccontextmanager
async def opened(url: str, peer_url: str = "memory:") -> AsyncIterator[Town]:
    """A town whose replica is at `url`, and its peer at the other address."""
    database = await connect("sqlite::memory:")
    store = EventStore(database, service="bank", partitions=PARTITIONS)
    await store.open()
    log = MemoryLog()
    registry = Registry(log)
    await registry.ensure()
    relay = Relay(store, log, registry, lease_s=30.0)
    replica, peer = await open_replica(url), await open_replica(peer_url)
    try:
        yield Town(store, log, registry, relay, replica, peer)
    finally:
        await relay.leave()
        for one in (replica, peer, database, registry, log):
            await one.close()
