"""Effects of a replica in memory: fired with the plans, handed out to one deliverer at a time."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from truecopy_projections.effects import Delivery, FiredEffect
from truecopy_projections.state import PartitionPlan

__all__ = ["MemoryEffects"]


class MemoryEffects:
    """What was fired of each projection's name, and what of it is to be delivered, with when it was fired."""

    def __init__(self) -> None:
        self._fired: dict[tuple[str, str], int] = {}
        self._waiting: dict[str, list[tuple[int, FiredEffect]]] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    def fire(self, plans: Sequence[PartitionPlan]) -> None:
        """Take in the effects of versions that were not fired yet."""
        effects = sorted((one for plan in plans for one in plan.effects), key=lambda one: (one.key, one.version, one.n))
        new = [one for one in effects if one.version > self._fired.get((one.projection, one.key), 0)]
        for one in new:
            self._fired[one.projection, one.key] = one.version
            self._waiting.setdefault(one.projection, []).append((_now_ms(), one))

    @asynccontextmanager
    async def delivering(self, name: str, limit: int) -> AsyncIterator[Delivery]:
        """See Replica.delivering."""
        async with self._turns.setdefault(name, asyncio.Lock()):
            some = self._waiting.get(name, [])[:limit]
            yield Delivery(tuple(one for _, one in some), None)
            self._waiting[name] = self._waiting.get(name, [])[len(some) :]

    def pending(self, name: str) -> tuple[int, int]:
        """How many wait, and the age of the oldest in ms."""
        waiting = self._waiting.get(name, [])
        return len(waiting), _now_ms() - waiting[0][0] if waiting else 0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
