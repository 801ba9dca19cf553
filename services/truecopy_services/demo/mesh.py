"""The demo's mesh while it runs: the shop's publishing, and how far each replica is. It watches; it decides nothing."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from truecopy_projections.projection import Projection
from truecopy_projections.state import MarkVerdict, PartitionState
from truecopy_services.demo.billing import billing
from truecopy_services.demo.children import ChildError, Children
from truecopy_services.demo.marketing import marketing
from truecopy_services.demo.places import Places
from truecopy_services.demo.shop import Purchased, shop
from truecopy_services.service import Service

__all__ = ["Copy", "Mesh", "mesh"]

BATCH_PURCHASES = 250
"""Purchases of one transaction of the shop."""
OUTBOX_MAX = 500
"""Events that may wait in the outbox before the shop waits too: so that the relay's marks are spread over the history."""
LOOK_S = 0.05
"""Seconds between two looks at what other processes have done."""
STEP_TIMEOUT_S = 90.0
"""Seconds for any one thing that the demo waits for; each takes a few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One projection in one service's replica."""

    service: Service
    projection: Projection[Any]

    @property
    def name(self) -> str:
        return f"{self.service.name}/{self.projection.id}"

    async def states(self) -> dict[int, PartitionState]:
        """As committed now; empty before its worker has started."""
        async with self.service.replica_adapter.snapshot() as snapshot:
            return await snapshot.states(self.projection.id)

    async def count(self) -> int:
        """Events that it has taken in."""
        return sum(state.count for state in (await self.states()).values())

    async def proven(self, events: int) -> bool:
        """Whether it has taken in so many, and a mark in each partition covers all that it has."""
        async with self.service.replica_adapter.snapshot() as snapshot:
            states = await snapshot.states(self.projection.id)
            if sum(state.count for state in states.values()) < events:
                return False
            checkpoints = await snapshot.checkpoints(self.projection.id)
        judged = {one.partition: one for one in checkpoints if one.verdict is not MarkVerdict.SUPERSEDED}
        return all(p in judged and judged[p].mark_count == state.count for p, state in states.items())


class Mesh:
    """The open services, and the processes that move things between them."""

    def __init__(self, owner: Service, copies: Sequence[Copy], processes: Children) -> None:
        self.owner, self.copies, self.processes = owner, copies, processes
        self.published = 0

    async def publish(self, purchases: Sequence[tuple[str, Purchased]]) -> None:
        """Publish them as a shop would: in transactions, as fast as its relay moves them on."""
        for start in range(0, len(purchases), BATCH_PURCHASES):
            await self.wait("room in the outbox", self._has_room)
            batch = purchases[start : start + BATCH_PURCHASES]
            async with self.owner.store.transaction() as tx:
                await tx.publish_many(batch)
            self.published += len(batch)

    async def _has_room(self) -> bool:
        return (await self.owner.store.pending("shop.customer")).count < OUTBOX_MAX

    async def wait(self, what: str, met: Callable[[], Awaitable[bool]]) -> None:
        """Look until the awaited answer of `met` is true. Raises ChildError after STEP_TIMEOUT_S, or when a process ends."""
        deadline = time.monotonic() + STEP_TIMEOUT_S
        while not await met():
            self.processes.expect_alive()
            if time.monotonic() > deadline:
                raise ChildError(f"waited {STEP_TIMEOUT_S:.0f} s for {what}; run the demo again on a machine with less to do")
            await asyncio.sleep(LOOK_S)

    async def counts(self) -> Mapping[str, int]:
        """Events that each copy has taken in."""
        return {copy.name: await copy.count() for copy in self.copies}


@asynccontextmanager
async def mesh(where: Places, processes: Children) -> AsyncIterator[Mesh]:
    """Open the three services here, to publish and to look."""
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(shop.at(where.settings("shop")).open())
        copies = []
        for app in (marketing, billing):
            service = await stack.enter_async_context(app.at(where.settings(app.service)).open(store=False))
            copies += [Copy(service=service, projection=projection) for projection in service.projections.values()]
        yield Mesh(owner, copies, processes)
