"""Stages: what each number of a projection is in a replica, and which of them are kept up to date there.

One number is live: readers see it, by the view that has the projection's name. Another is built beside it, follows it from then
on, and takes its place by a swap; the one that was live follows for a while, so that the way back is as short. Pure.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

__all__ = ["Stage", "Staged", "live_number", "stage_of", "works"]


class Stage(Enum):
    """What a number of a projection is."""

    BUILDING = "built beside the live one, by `truecopy rebuild` alone"
    FOLLOWING = "kept up to date, and not read"
    LIVE = "read by the view, and by whoever names no number"
    RETIRED = "not kept up to date any more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A number of the projection `name`, since when it is what, and until when it follows (ms; None: without end)."""

    name: str
    number: int
    stage: Stage
    since_ms: int
    until_ms: int | None = None
    by: str = ""

    def at(self, now_ms: int) -> Stage:
        """Its stage at a time: what followed for long enough is retired."""
        over = self.stage is Stage.FOLLOWING and self.until_ms is not None and self.until_ms <= now_ms
        return Stage.RETIRED if over else self.stage


def live_number(staged: Sequence[Staged]) -> int | None:
    """The number that is live among those of one name; None if none is yet."""
    return next((one.number for one in staged if one.stage is Stage.LIVE), None)


def stage_of(staged: Sequence[Staged], number: int, now_ms: int) -> Stage | None:
    """The stage of a number; None for one that was never there."""
    return next((one.at(now_ms) for one in staged if one.number == number), None)


def works(staged: Sequence[Staged], number: int, declared: Collection[int], now_ms: int) -> bool:
    """Whether workers keep this number up to date. Where none is live yet, the highest number that is declared begins."""
    if live_number(staged) is None:
        return number == max(declared)
    return stage_of(staged, number, now_ms) in (Stage.LIVE, Stage.FOLLOWING)
