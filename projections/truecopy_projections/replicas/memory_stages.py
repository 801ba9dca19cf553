"""Stages in the process's memory."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from truecopy_projections.errors import SwapRefusedError
from truecopy_projections.projection import Projection
from truecopy_projections.stages import Stage, Staged, live_number

__all__ = ["MemoryStages"]

_Positions = Mapping[int, int]


class MemoryStages:
    """The stages of all numbers of a replica. They are replaced and never changed."""

    def __init__(self) -> None:
        self.all: tuple[Staged, ...] = ()

    def named(self, name: str) -> Sequence[Staged]:
        return [one for one in self.all if one.name == name]

    def enter(self, projection: Projection[Any]) -> None:
        """A number that is not there yet is live if none of its name is."""
        known = self.named(projection.name)
        if not any(one.number == projection.number for one in known):
            self.put(projection, Stage.LIVE if live_number(known) is None else Stage.BUILDING)

    def put(self, projection: Projection[Any], stage: Stage, *, until_ms: int | None = None, by: str = "") -> None:
        """Make a number this, from now on."""
        name, number, now_ms = projection.name, projection.number, _now_ms()
        one = Staged(name=name, number=number, stage=stage, since_ms=now_ms, until_ms=until_ms, by=by)
        others = [other for other in self.all if (other.name, other.number) != (name, number)]
        self.all = tuple(sorted([*others, one], key=lambda staged: (staged.name, staged.number)))

    def swap(
        self,
        new: Projection[Any],
        old: Projection[Any],
        *,
        lost: Sequence[str],
        at: tuple[_Positions, _Positions],
        follow_ms: int,
        by: str,
    ) -> None:
        """See Replica.swap. `lost` are those of the two whose fences are, `at` where they stand."""
        known = {one.number: one.stage for one in self.named(new.name)}
        if lost:
            raise SwapRefusedError(
                new=new.id, old=old.id, seen=f"partitions of {lost[0]} were taken meanwhile", remedy="swap again"
            )
        if at[0] != at[1]:
            seen = f"their positions differ: {at[0]} and {at[1]}"
            raise SwapRefusedError(new=new.id, old=old.id, seen=seen, remedy="swap again")
        if (known.get(old.number), known.get(new.number)) != (Stage.LIVE, Stage.FOLLOWING):
            told = ", ".join(f"@{number} {stage.name}" for number, stage in known.items())
            raise SwapRefusedError(new=new.id, old=old.id, seen=f"stages are {told}", remedy="look at `truecopy status`")
        self.put(new, Stage.LIVE, by=by)
        self.put(old, Stage.FOLLOWING, until_ms=_now_ms() + follow_ms, by=by)

    def drop(self, projection: Projection[Any]) -> None:
        """Raises SwapRefusedError for the live one."""
        if live_number(self.named(projection.name)) == projection.number:
            remedy = "swap to another number first"
            raise SwapRefusedError(new=projection.id, old=projection.id, seen="readers see it: it is live", remedy=remedy)
        self.all = tuple(one for one in self.all if (one.name, one.number) != (projection.name, projection.number))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
