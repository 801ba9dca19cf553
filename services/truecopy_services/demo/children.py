"""The demo's processes: relay and workers as they are deployed, each ended whatever happens."""

import asyncio
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from truecopy_bus.points import HELD_LINE, HOLD_VARIABLE
from truecopy_schemas.errors import TruecopyError

__all__ = ["Child", "ChildError", "Children", "children"]

STOP_TIMEOUT_S = 15.0
"""Seconds for a graceful end, after which a process is killed."""
TAIL_LINES = 15
"""Lines of a process's standard error in a message about it."""


class ChildError(TruecopyError):
    """A process of the demo ended by itself, or did not do what was waited for. Its last lines say why."""


class Child:
    """One process. `held` becomes its figure when it is held at the point that it was started with."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name, self.process = name, process
        self.held: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text)
            if text.startswith(HELD_LINE) and not self.held.done():
                self.held.set_result(int(text.split()[-1]))

    def expect_alive(self) -> None:
        """Raises ChildError when it has ended."""
        if self.process.returncode is not None:
            raise ChildError(f"{self.name} ended with {self.process.returncode}: {' | '.join(self._tail) or 'in silence'}")

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        if self.process.returncode is None:
            self.process.kill()
        await self._ended()

    async def stop(self) -> int:
        """SIGTERM, and its exit code; killed when it takes too long."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._ended()
        except TimeoutError:
            await self.kill()
        return self.process.returncode or 0

    async def _ended(self) -> None:
        await self.process.wait()
        await self.reading
        self.held.cancel()


class Children:
    """The processes that were started and have not been ended."""

    def __init__(self) -> None:
        self.alive: list[Child] = []

    async def start(self, name: str, app: str, only: str, environment: Mapping[str, str], *, hold: str = "") -> Child:
        """`truecopy run app --only ...`, held at the point `hold` if that is given."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "truecopy_services", "run", app, "--only", only, "--with-parent"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**environment, **({HOLD_VARIABLE: hold} if hold else {})},
        )
        child = Child(name, process)
        self.alive.append(child)
        return child

    async def kill(self, child: Child) -> None:
        self.alive.remove(child)
        await child.kill()

    async def stop(self) -> dict[str, int]:
        """Stop all at once; their exit codes by name."""
        ending, self.alive = self.alive, []
        codes = await asyncio.gather(*(child.stop() for child in ending))
        return {child.name: code for child, code in zip(ending, codes, strict=True)}

    def expect_alive(self) -> None:
        """Raises ChildError when one has ended."""
        for child in self.alive:
            child.expect_alive()


@asynccontextmanager
async def children() -> AsyncIterator[Children]:
    """None of them outlives the block; nor this process, however it ends."""
    started = Children()
    try:
        yield started
    finally:
        await asyncio.gather(*(child.kill() for child in started.alive))
