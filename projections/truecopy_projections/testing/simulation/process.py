"""A simulated process: all that it does outside of itself passes here, and here faults strike.

An operation has a way there and a way back, both of which take time. A process that dies on the way there did nothing; one
that dies on the way back did it and never knew. The dead do nothing more: whatever their cleaning up asks for is refused.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from hashlib import blake2b
from random import Random
from typing import Any, TypeVar

from truecopy_bus.errors import DatabaseUnavailableError, LogUnavailableError, UnavailableError
from truecopy_projections.testing.simulation.faults import Fault, Side, Step, Strike

__all__ = ["Play", "Process"]

T = TypeVar("T")

LATENCY_S = 0.001
_LEAST_S = 1e-6
"""Seconds, virtual, that a way there or back takes on the average."""
FROZEN_S = (0.2, 1.2)
WINDOW_S = (0.02, 0.5)
DOWN_S = (0.0, 0.3)
"""Seconds from, to: how long a process stands still, something is away, a dead process is missing."""

_KILLS = (Fault.KILLED_BEFORE, Fault.KILLED_AFTER)
_WINDOWS = {
    Fault.LOG_AWAY: Side.LOG,
    Fault.STORE_AWAY: Side.STORE,
    Fault.REPLICA_AWAY: Side.REPLICA,
}
MEDDLING = (Fault.LOST_ON_THE_WAY, Fault.ALTERED_ON_THE_WAY)
_ENDS = (Step.COMMIT, Step.APPEND)
_WITHIN = (Step.BEGIN, Step.STATEMENT)
"""What takes no time of its own: who is in a transaction has the database to himself."""


def _fits(strike: Strike, process: "Process", step: Step, records: int) -> bool:
    """Whether it can strike at this operation."""
    match strike.fault:
        case Fault.KILLED_BEFORE | Fault.KILLED_AFTER | Fault.FROZEN:
            return process.mortal
        case Fault.REPLY_LOST:
            return step in _ENDS
        case Fault.TORN:
            return step is Step.APPEND and records > 1
        case _:
            return True


class Play:
    """What a script has come to: which operation it is, what is in force, and a hash of all that happened.

    `act` does the faults that concern no operation; it returns whether it could.
    """

    def __init__(self, script: tuple[Strike, ...], random: Random, allowed: Collection[Fault]) -> None:
        self.random, self.allowed, self.operations, self.thawed_at = random, allowed, 0, 0.0
        self.struck: Counter[Fault] = Counter()
        self.act: Callable[[Strike], bool] = lambda _: False
        self.drawn: dict[Fault, int] = {}
        self.meddling: Strike | None = None
        self._left = list(script)
        self._until: dict[Fault, float] = {}
        self._trace = blake2b(digest_size=16)

    @property
    def trace(self) -> str:
        """The hash of all operations so far, in their order: who, what, when, and how it ended."""
        return self._trace.hexdigest()

    @property
    def waits(self) -> bool:
        """Whether anything is still to strike."""
        return bool(self._left)

    def note(self, *said: object) -> None:
        self._trace.update(repr(said).encode())

    def next(self, process: "Process", step: Step, records: int) -> Strike | None:
        """Count an operation; the fault that strikes at it, if one does."""
        self.operations += 1
        for strike in self._left:
            if strike.at > self.operations:
                return None
            if _fits(strike, process, step, records):
                self._left.remove(strike)
                return self._begun(strike)
        return None

    def _begun(self, strike: Strike) -> Strike | None:
        """Put it in force; returned only where the operation itself has to do it."""
        now, draw = asyncio.get_running_loop().time(), Random(strike.draw)
        if strike.fault in _WINDOWS or strike.fault in (Fault.SCHEMA_MISSING, Fault.POISON, Fault.DISK_FULL):
            self.struck[strike.fault] += 1
            self._until[strike.fault] = now + draw.uniform(*WINDOW_S)
            self.drawn[strike.fault] = strike.draw
            return None
        if strike.fault in (*_KILLS, Fault.FROZEN, Fault.FAILED, Fault.REPLY_LOST, Fault.TORN):
            self.struck[strike.fault] += 1
            return strike
        if strike.fault in MEDDLING:
            self.meddling = strike
        elif self.act(strike):
            self.struck[strike.fault] += 1
        else:  # not yet: nothing is there to be harmed
            self._left.append(Strike(self.operations + 10, strike.fault, strike.draw))
            self._left.sort(key=lambda one: one.at)
        return None

    def in_force(self, fault: Fault) -> bool:
        return bool(self._until) and fault in self._until and asyncio.get_running_loop().time() < self._until[fault]

    def thaw(self, draw: int) -> float:
        """When a process that freezes now goes on."""
        at = asyncio.get_running_loop().time() + Random(draw).uniform(*FROZEN_S)
        self.thawed_at = max(self.thawed_at, at)
        return at

    def calm(self) -> None:
        """All faults stop."""
        self._left.clear()
        self._until.clear()
        self.meddling = None

    def refusal(self, side: Side, step: Step) -> str:
        """Why an operation fails now, by what is in force; "" if it does not."""
        if not self._until:
            return ""
        for fault, where in _WINDOWS.items():
            if where is side and self.in_force(fault):
                return "it does not answer"
        writes = step in (Step.STATEMENT, Step.COMMIT) and side is not Side.LOG
        return "its disk is full" if writes and self.in_force(Fault.DISK_FULL) else ""


def unavailable(side: Side, seen: str) -> UnavailableError:
    if side is Side.LOG:
        return LogUnavailableError(log="simulated", seen=seen)
    return DatabaseUnavailableError(database="simulated", seen=seen)


class Process:
    """One life of a process. `mortal`: faults may kill it or have it stand still."""

    def __init__(self, play: Play, name: str, *, mortal: bool = True) -> None:
        self.play, self.name, self.mortal = play, name, mortal
        self.task: asyncio.Task[Any] | None = None
        self.alive = True
        self._thaws_at = 0.0

    async def perform(self, side: Side, step: Step, effect: Callable[[int], Awaitable[T]], *, records: int = 0) -> T:
        """Do `effect` as one operation, on so many of its `records` as it is told.

        Raises UnavailableError where a fault says so, or the process is dead.
        """
        play = self.play
        strike = play.next(self, step, records) if self.alive else None
        fault = strike.fault if strike else None
        if step not in _WITHIN or strike or not self.alive or self._thaws_at:
            await self._travel()
        if fault is Fault.KILLED_BEFORE:
            await self.die()
        if fault is Fault.FROZEN:
            self._thaws_at = play.thaw(strike.draw if strike else 0)
            await self._travel()
        if seen := play.refusal(side, step) or ("a fault" if fault is Fault.FAILED else ""):
            play.note(self.name, side.name, step.name, seen)
            raise unavailable(side, seen)
        landing = records
        if strike is not None and fault is Fault.TORN:
            landing = 1 + Random(strike.draw).randrange(records - 1)
        result = await effect(landing)
        play.note(self.name, side.name, step.name, round(asyncio.get_running_loop().time(), 9), records)
        if step in _ENDS or strike:
            await self._travel()
        if fault is Fault.KILLED_AFTER:
            await self.die()
        if fault is Fault.REPLY_LOST:
            raise unavailable(side, "no reply")
        if fault is Fault.TORN:
            raise unavailable(side, "torn")
        return result

    async def die(self) -> None:
        """End here: nothing that this process still does reaches anything."""
        self.kill()
        await asyncio.get_running_loop().create_future()  # until it is cancelled

    def kill(self) -> None:
        self.alive = False
        if self.task is not None:
            self.task.cancel()

    async def _travel(self) -> None:
        loop = asyncio.get_running_loop()
        if not self.alive:
            raise DatabaseUnavailableError(database="simulated", seen="the process that asks is dead")
        await asyncio.sleep(self.play.random.random() * 2 * LATENCY_S + _LEAST_S)
        if self._thaws_at > loop.time():
            await asyncio.sleep(self._thaws_at - loop.time())
