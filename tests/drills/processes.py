"""Publisher, relay, workers and certifier as processes that a drill starts, listens to, stops, wakes and kills."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.drills.ledger import MENDED, USER, WAITING

from truecopy_bus.points import HELD_LINE, HOLD_VARIABLE, PASSED_LINE, Point

ROOT = Path(__file__).parent.parent.parent
HEARD_WITHIN_S = 30.0
AWAY = "trying again until it answers"
BACK = "works again"


class Role:
    """One process of the app. `heard` are the lines of its standard error so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.heard: list[str] = []
        self._more = asyncio.Condition()
        self._listening = asyncio.create_task(self._listen())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            async with self._more:
                self.heard.append(line.decode().rstrip())
                self._more.notify_all()

    def said(self, words: str) -> list[str]:
        return [line for line in self.heard if words in line]

    async def hears(self, words: str, times: int = 1) -> None:
        """Wait until it has said these words so often."""
        try:
            async with asyncio.timeout(HEARD_WITHIN_S), self._more:
                await self._more.wait_for(lambda: len(self.said(words)) >= times)
        except TimeoutError:
            raise AssertionError(f"process {self._process.pid} did not say {words!r}, but {self.heard}") from None

    async def held(self, *points: Point) -> None:
        """Wait until it stays at each of these, or at any if none is named."""
        await self.hears(HELD_LINE)
        for point in points:
            await self.hears(f"{HELD_LINE} {point.value} ")

    def passed(self, point: Point) -> bool:
        return bool(self.said(f"{PASSED_LINE} {point.value} "))

    def go(self) -> None:
        """Let it begin that was started to wait."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, and its end awaited."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._listening

    async def end(self) -> int:
        """SIGTERM; its exit code."""
        self.signal(signal.SIGTERM)
        return await self.over()

    async def over(self) -> int:
        """Its exit code, when it has ended by itself."""
        async with asyncio.timeout(HEARD_WITHIN_S):
            code = await self._process.wait()
            await self._listening
        return code


def _running(only: str) -> Sequence[str]:
    return "-m", "truecopy_services", "run", "tests.drills.ledger", "--only", only


class Cast:
    """All processes of a drill; none outlives it."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = settings
        self._roles: list[Role] = []

    async def start(self, only: str, *, hold: str = "", user: int | None = None) -> Role:
        """`truecopy run --only ...`, held at a point if one is named; as another user if a uid is."""
        return await self._start(_running(only), hold, {} if user is None else {USER: str(user)})

    async def victim(self, only: str, *, hold: str) -> Role:
        """The same, with reducers that are mended; it begins when it is told to go, and need not start up then."""
        return await self._start(_running(only), hold, {MENDED: "yes", WAITING: "yes"})

    async def verb(self, *words: str, hold: str, replica: str) -> Role:
        """`truecopy WORDS` on another replica, held at a point."""
        return await self._start(("-m", "truecopy_services", *words), hold, {"TRUECOPY_REPLICA": replica})

    async def publisher(self, notes: Path, *, seed: int = 7, hold: str = "") -> Role:
        """A publisher that writes down in `notes` what it does."""
        return await self._start(("-m", "tests.drills.publisher", str(notes), str(seed)), hold, {})

    async def certifier(self, projection: str, *, hold: str) -> Role:
        """`truecopy certify` of one projection."""
        return await self._start(("-m", "truecopy_services", "certify", "tests.drills.ledger", projection), hold, {})

    async def _start(self, words: Sequence[str], hold: str, more: Mapping[str, str]) -> Role:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRUECOPY_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE if WAITING in more else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**inherited, **self._settings, **more, **({HOLD_VARIABLE: hold} if hold else {})},
        )
        self._roles.append(Role(process))
        return self._roles[-1]

    async def leave(self) -> None:
        for role in self._roles:
            await role.kill()
