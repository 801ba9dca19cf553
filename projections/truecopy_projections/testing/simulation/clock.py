"""A loop whose time is no clock's: it jumps to what is due next, and runs what is ready in an order drawn from a seed.

asyncio promises no order between tasks that are ready at once, and each order is one that may happen. Work for other threads
is done at once, in the loop's own: nothing here runs beside anything else, so the same seed is the same run.
"""

import asyncio
from random import Random
from typing import Any

__all__ = ["VirtualLoop"]

_BEGINS_S = 1_000.0
_TURNS_MAX = 200_000
"""Turns after which a run is given up: something goes round and round while no time passes, or far too little."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop on a virtual clock. `random` orders what is ready."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._now_s, self._turns, self._order = _BEGINS_S, 0, random
        self._selector = self  # whom BaseEventLoop asks to wait

    def time(self) -> float:
        return self._now_s

    def select(self, timeout: float | None = None) -> list[Any]:
        """Where a loop would sleep, time jumps."""
        self._turns += 1
        if timeout is None:
            raise RuntimeError("nothing can happen any more: every task waits for another")
        if self._turns > _TURNS_MAX:
            raise RuntimeError(f"no end after {_TURNS_MAX} turns of the loop: something goes round without waiting")
        self._now_s += timeout
        ready = self._ready  # type: ignore[attr-defined]
        if len(ready) > 1:
            mixed = list(ready)
            self._order.shuffle(mixed)
            ready.clear()
            ready.extend(mixed)
        return []

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]  # noqa: ARG002
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except BaseException as fault:
            done.set_exception(fault)
        return done

    def _process_events(self, event_list: list[Any]) -> None:
        """Nothing comes from outside."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""
