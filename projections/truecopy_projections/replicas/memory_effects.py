"""Effects of a replica in memory: fired with the plans, handed out to one deliverer at a time."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from truecopy_projections.effects import Delivery, FiredEffect
from truecopy_projections.state import PartitionPlan

__all__ = ["MemoryEffects"]


class MemoryEffects:
    """That part of a replica: what was fired of each projection's name, and what is to be delivered, with when it was fired."""

    def __init__(self) -> None:
        self._fired: dict[tuple[str, str], int] = {}
        self._waiting: dict[str, list[tuple[int, FiredEffect]]] = {}
        self._held: dict[tuple[str, str], str] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    def _fire(self, plans: Sequence[PartitionPlan]) -> None:
        """Take in the effects of versions that were not fired yet."""
        effects = sorted((one for plan in plans for one in plan.effects), key=lambda one: (one.key, one.version, one.n))
        new = [one for one in effects if one.version > self._fired.get((one.projection, one.key), 0)]
        for one in new:
            self._fired[one.projection, one.key] = one.version
            self._waiting.setdefault(one.projection, []).append((_now_ms(), one))

    @asynccontextmanager
    async def delivering(self, name: str, limit: int, *, without: Collection[str] = ()) -> AsyncIterator[Delivery]:
        """See Replica.delivering."""
        async with self._turns.setdefault(name, asyncio.Lock()):
            over = {*without, *await self.held(name)}
            some = [one for _, one in self._waiting.get(name, []) if one.key not in over][:limit]
            delivery = Delivery(effects=tuple(some), connection=None)
            yield delivery
            done = {one.id for one in some} - delivery.left
            self._waiting[name] = [(at, one) for at, one in self._waiting.get(name, []) if one.id not in done]

    async def hold(self, name: str, key: str, why: str) -> None:
        """See Replica.hold."""
        self._held.pop((name, key), None)
        if why:
            self._held[name, key] = why

    async def held(self, name: str) -> dict[str, str]:
        """See Replica.held."""
        return {key: why for (of, key), why in self._held.items() if of == name}

    async def pending(self, name: str) -> tuple[int, int]:
        """See Replica.pending."""
        waiting = self._waiting.get(name, [])
        return len(waiting), _now_ms() - waiting[0][0] if waiting else 0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
