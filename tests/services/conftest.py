"""An app in a folder of its own, and the command line as a process in it."""

import asyncio
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COMMAND_TIMEOUT_S = 60.0
QUICK = {"TRUECOPY_LEASE_S": "1.5", "TRUECOPY_MARK_WRITING_S": "0.2", "TRUECOPY_TIMEOUT_S": "3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A command that has ended. `object` is its last line of standard output, if that is JSON."""

    code: int
    out: str
    err: str

    @property
    def object(self) -> Any:
        return json.loads(self.out.splitlines()[-1])


class Shell:
    """Starts `python -m truecopy_services` in a folder, with settings for quick tests."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.settings = folder, dict(QUICK)
        self.running: list[asyncio.subprocess.Process] = []

    async def start(self, *words: str, piped: bool = False) -> asyncio.subprocess.Process:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRUECOPY_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "truecopy_services", *words),
            cwd=self.folder,
            stdin=asyncio.subprocess.PIPE if piped else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=inherited | self.settings,
        )
        self.running.append(process)
        return process

    async def __call__(self, *words: str, lines: str | None = None) -> Done:
        process = await self.start(*words, piped=lines is not None)
        return await ended(process, lines)


async def ended(process: asyncio.subprocess.Process, lines: str | None = None) -> Done:
    async with asyncio.timeout(COMMAND_TIMEOUT_S):
        out, err = await process.communicate(None if lines is None else lines.encode())
    assert process.returncode is not None
    return Done(code=process.returncode, out=out.decode(), err=err.decode())


class Site:
    """The HTTP side of a process, at the address that it said."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def get(self, path: str) -> tuple[int, str]:
        def fetch() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"{self.url}{path}", timeout=COMMAND_TIMEOUT_S) as found:
                    return found.status, found.read().decode()
            except urllib.error.HTTPError as refused:
                with refused:
                    return refused.code, refused.read().decode()

        return await asyncio.to_thread(fetch)

    async def until(self, path: str, code: int, words: str = "") -> str:
        """Ask until it answers with this code and these words."""
        last: tuple[int, str] | None = None
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                while last is None or last[0] != code or words not in last[1]:
                    last = await self.get(path)
        except TimeoutError:
            raise AssertionError(f"{path} never answered {code} with {words!r}, but {last}") from None
        return last[1]


async def said_address(said: asyncio.StreamReader | None) -> Site:
    """The site of a process that was started with --http, read from what it prints."""
    assert said is not None
    async with asyncio.timeout(COMMAND_TIMEOUT_S):
        async for line in said:
            if b" on http://" in line:
                return Site(line.decode().split(" on ")[1].strip())
    raise AssertionError("it ended without saying where it answers")


@pytest.fixture
async def truecopy(tmp_path: Path) -> AsyncIterator[Shell]:
    """The command line in a folder that holds the app `bank`."""
    shutil.copy(Path(__file__).with_name("bank.py"), tmp_path)
    shell = Shell(tmp_path)
    yield shell
    for process in shell.running:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def running(truecopy: Shell) -> Callable[..., Awaitable[asyncio.subprocess.Process]]:
    """Start `truecopy run bank` and wait until it has said that it runs."""

    async def start(*words: str) -> asyncio.subprocess.Process:
        process = await truecopy.start("run", "bank", *words)
        said = process.stderr if "--json" in words else process.stdout
        assert said is not None
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            line = await said.readline()
        assert line.startswith(b"bank: "), line
        return process

    return start
