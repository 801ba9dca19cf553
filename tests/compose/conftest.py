"""What the files in compose/ start, started here: the same commands and settings, with other addresses."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pytest
from tests.drills.processes import Role
from tests.services.conftest import Site

ROOT = Path(__file__).parent.parent.parent
COMPOSE = ROOT / "compose"
PYTHON = [sys.executable, "-m", "truecopy_services"]
ORDER = [
    {"key": "o1", "type": "Placed", "data": {"customer": "ada"}},
    {"key": "o1", "type": "LineAdded", "data": {"product": "apple", "quantity": 2, "price": "0.50"}},
]
"""Two events of one order, for both projections of the warehouse."""


class Stage:
    """The processes of a deployment in one folder, which is their working directory; none outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.roles: list[Role] = []

    async def start(self, words: Sequence[str], environment: Mapping[str, str]) -> Role:
        process = await asyncio.create_subprocess_exec(
            *_here(words),
            cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=_clean() | dict(environment),
        )
        self.roles.append(Role(process))
        return self.roles[-1]

    async def succeeds(self, words: Sequence[str], environment: Mapping[str, str], given: bytes = b"") -> None:
        process = await asyncio.create_subprocess_exec(
            *_here(words),
            cwd=self.folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=_clean() | dict(environment),
        )
        said, _ = await process.communicate(given)
        assert process.returncode == 0, said.decode()

    async def orders(self, environment: Mapping[str, str]) -> None:
        """Publish ORDER by the shop's settings, in one transaction."""
        given = b"\n".join(json.dumps(line).encode() for line in ORDER)
        await self.succeeds(["truecopy", "publish", "services.shop"], environment, given)

    async def proves(self, checker: Role) -> None:
        """Wait until the checker has said that both projections are EQUAL."""
        for projection in ("orders@1", "picks@1"):
            await checker.hears(f"{projection} is EQUAL: {len(ORDER)} events")


def _here(words: Sequence[str]) -> list[str]:
    name = PurePosixPath(words[0]).name
    return [*(PYTHON if name == "truecopy" else [sys.executable]), *words[1:]]


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TRUECOPY_")}


async def site_of(role: Role) -> Site:
    """Where a process that logs objects answers."""
    await role.hears(" on http://")
    return Site(json.loads(role.said(" on http://")[0])["message"].split(" on ")[1])


def copied() -> list[tuple[list[str], str]]:
    """(sources, target) of what the Dockerfile copies out of the tree, in its order."""
    lines = (COMPOSE / "Dockerfile").read_text().splitlines()
    words = [line.split()[1:] for line in lines if line.startswith("COPY ") and "--from" not in line]
    return [(some[:-1], some[-1]) for some in words]


@pytest.fixture
def app_folder(tmp_path: Path) -> Path:
    """The working directory of the image: what the Dockerfile copies of the example."""
    folder = tmp_path / "app"
    for (source, *_), target in copied():
        if source.startswith("examples/"):
            shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
async def stage(app_folder: Path) -> AsyncIterator[Stage]:
    found = Stage(app_folder)
    yield found
    for role in found.roles:
        await role.kill()
