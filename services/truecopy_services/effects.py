"""The effects of a projection, for who carries them out."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from truecopy_projections.effects import Delivery
from truecopy_projections.replica import Replica
from truecopy_services.errors import UsageError

__all__ = ["EFFECTS_BATCH_MAX", "Effects"]

EFFECTS_BATCH_MAX = 1_000
"""Effects of one batch: they are locked while they are carried out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What a projection, under all of its numbers, asks for in one replica."""

    name: str
    replica: Replica

    def batch(self, limit: int = 100) -> AbstractAsyncContextManager[Delivery]:
        """The next effects, in the order of each key, for one block: removed when it ends well, left when it raises.

        What the block writes by the delivery's `connection` commits with that, exactly once. What it does elsewhere is done at
        least once: a process may die before it ends, so hand on each effect's `id`. Raises UsageError for a limit that is none.
        """
        if not 1 <= limit <= EFFECTS_BATCH_MAX:
            raise UsageError(f"limit is {limit}, expected 1 to {EFFECTS_BATCH_MAX} effects at a time")
        return self.replica.delivering(self.name, limit)

    async def held(self) -> Mapping[str, str]:
        """The keys whose effects are held, because a handler failed too often for one of them, each with the reason."""
        return await self.replica.held(self.name)

    async def release(self, key: str) -> None:
        """Hand out the effects of a held key again."""
        await self.replica.hold(self.name, key, "")

    async def pending(self) -> tuple[int, int]:
        """How many wait, and the age of the oldest in ms (0 if none waits)."""
        return await self.replica.pending(self.name)
