"""A world for tests: one owner with its relay, one log, one replica; and a way to reach into the replica behind its back."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from tests.projections.bank import Deposited

from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.registry import Registry
from truecopy_bus.relay import Relay
from truecopy_bus.store import EventStore
from truecopy_projections.check import check
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.verdicts import Verdict
from truecopy_projections.worker import Worker

TOPIC = "bank.account"
LEASE_S = 1.0


class World(NamedTuple):
    """One owner, one log, one replica."""

    store: EventStore
    log: MemoryLog
    registry: Registry
    relay: Relay
    replica: Replica
    execute: Callable[[str], Awaitable[None]]
    """Runs one statement in the replica's database behind Truecopy's back."""

    def worker(self, projection: Projection[Any]) -> Worker:
        return Worker(projection, self.replica, self.log, self.registry, lease_s=LEASE_S, wait_s=0.02)

    async def settle(self, *projections: Projection[Any]) -> None:
        """Send all, mark, and apply all."""
        await self.relay.drain()
        await self.relay.mark()
        for projection in projections:
            worker = self.worker(projection)
            while await worker.step():
                pass
            await worker.leave()

    async def verdicts(self, projection: Projection[Any], *, deep: bool = False) -> tuple[Verdict, Verdict, Verdict]:
        found = await check(projection, self.replica, self.log, self.registry, deep=deep, wait_s=0)
        return found.delivered.verdict, found.computed.verdict, found.stored.verdict


async def deposit(world: World, keys: int = 20, each: int = 3) -> None:
    events = [(f"k{i % keys}", Deposited(amount=i)) for i in range(keys * each)]
    await world.store.publish_many(events)


EQUAL = (Verdict.EQUAL, Verdict.EQUAL, Verdict.EQUAL)
