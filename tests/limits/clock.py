"""A clock that jumps: an event loop whose time moves only while nothing else can, so that a wait of an hour takes no time.

What is due is exact to the nanosecond, and the same on every run. Threads are waited for in real time, and so is what is on
its way over a socket, once the clock `listens`; a bound is then met by the far side's silence alone.
"""

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from types import ModuleType
from typing import Any

import pytest

__all__ = ["Clock", "clock"]


class _Selector(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Where the loop would sleep, the clock jumps instead."""

    jump: Callable[[float], None]
    is_busy: Callable[[], bool]
    network_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0 or self.is_busy():
            return super().select(timeout)
        found = super().select(self.network_s)
        if not found:
            self.jump(timeout)
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now_ns, self.at_work, self.hops = 1_000_000_000_000, 0, 0
        self.own = _Selector()
        self.own.jump, self.own.is_busy = self.jump, lambda: self.at_work > 0
        super().__init__(self.own)

    def time(self) -> float:
        return self.now_ns / 1e9

    def jump(self, seconds: float) -> None:
        self.now_ns += max(1, round(seconds * 1e9))

    def run_in_executor(self, *args: Any) -> Any:
        future = super().run_in_executor(*args)
        self.at_work += 1
        self.hops += 1
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _: Any) -> None:
        self.at_work -= 1


class Clock:
    """The time of one drive, in seconds since it began. Also what modules take for `time`, once they are `ruled`."""

    time_ns = staticmethod(time.time_ns)
    sleep = staticmethod(time.sleep)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._loop = _Loop()
        self._began_s = self._loop.time()

    @property
    def now_s(self) -> float:
        return round(self._loop.time() - self._began_s, 9)

    @property
    def hops(self) -> int:
        """How often something was done in a thread so far."""
        return self._loop.hops

    async def reaches(self, seconds: float) -> None:
        """Wait until it is so late."""
        await asyncio.sleep(seconds - self.now_s)

    def monotonic(self) -> float:
        return self._loop.time()

    def forward(self, seconds: float) -> None:
        """Let time pass at once, as for a process that was frozen."""
        self._loop.jump(seconds)

    def rule(self, *modules: ModuleType) -> None:
        """Give these modules this clock for the `time` that they have imported."""
        for module in modules:
            self._monkeypatch.setattr(module, "time", self)

    def listens(self, *, to_silence: bool) -> None:
        """Before each jump wait, in real time, for what comes over a socket: little to silence, long to an answer."""
        self._loop.own.network_s = 0.1 if to_silence else 30.0

    def run(self, drive: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(drive)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock(monkeypatch)
    yield made
    made._loop.close()
