"""Reading a repository: git's own plumbing, streamed; nothing is written, and no setting of its user changes what is read."""

import asyncio
import os
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from truecopy_services.demo.git.order import Commit, Touch, spelt, touches
from truecopy_services.errors import UsageError

__all__ = ["GitMissingError", "Repository", "RepositoryError", "UnknownCommitError"]

CHUNK_BYTES = 256 * 1024
"""Bytes of git's output that are read at once."""
RENAMES_MAX = 400
"""Files that a commit may add, and remove, to be compared by content; a rename of equal content is always found."""
_REDIRECTING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_NAMESPACE")
"""Variables that would lead git to another repository than the one that was named."""

_Stream = tuple[asyncio.subprocess.Process, Callable[[bytes], AsyncIterator[bytes]]]
"""A process, and what reads its output up to each separator."""


class GitMissingError(UsageError):
    """There is no git here. Install it."""


class RepositoryError(UsageError):
    """Git can't read the repository. Do what it says, or name another."""


class UnknownCommitError(UsageError):
    """The repository, or what was replicated of it, has no such commit. Name another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A local repository, of any kind that git reads. Its methods raise GitMissingError and RepositoryError."""

    path: Path

    async def resolve(self, name: str) -> str:
        """The id of the commit that `name` means. Raises UnknownCommitError."""
        code, out, err = await self._run("rev-parse", "--verify", f"{name}^{{commit}}")
        if code:
            await self.readable()
            raise UnknownCommitError(
                f"{self.path} has no commit {name!r}: git said {err!r}; name a branch, a tag or an id that it has"
            )
        return out.decode().strip()

    async def readable(self) -> None:
        """Raises RepositoryError unless it is a repository."""
        code, _, err = await self._run("rev-parse", "--git-dir")
        if code:
            raise RepositoryError(f"{self.path} can't be read as a git repository: git said {err!r}; name one that can")

    async def empty(self, name: str) -> bool:
        """Whether `name` is a branch without a commit yet."""
        code, _, _ = await self._run("rev-parse", "--quiet", "--verify", f"{name}^{{commit}}")
        unborn, _, _ = await self._run("symbolic-ref", "--quiet", name)
        return bool(code) and not unborn

    async def commits(self, tip: str) -> dict[str, Commit]:
        """All that `tip` descends from, and itself."""
        found = {}
        async with self._streaming("rev-list", "--parents", "--timestamp", tip) as (_, tokens):
            async for line in tokens(b"\n"):
                at, commit, *parents = line.decode().split()
                found[commit] = Commit(tuple(parents), int(at))
        return found

    async def differences(self, line: Sequence[tuple[str, str | None]]) -> AsyncIterator[tuple[str, list[Touch]]]:
        """For each (commit, before) what the tree of the first differs in from that of the second, in their order.

        Without a commit before it, one differs from nothing.
        """
        asked = (f"{commit} {before}\n" if before else f"{commit}\n" for commit, before in line)
        words = ("diff-tree", "--stdin", "-r", "-z", "--raw", "--root", "--always", "--no-ext-diff", "--ignore-submodules=none")
        async with self._streaming(*words, "-M", f"-l{RENAMES_MAX}", asked=asked) as (process, tokens):
            commit, found = "", list[Touch]()
            fields = tokens(b"\0")
            async for token in fields:
                if not token.startswith(b":"):
                    if commit:
                        yield commit, found
                    commit, found = token.decode(), []
                    continue
                _, mode, _, blob, status = token.decode().split()
                paths = [await anext(fields) for _ in range(2 if status[0] in "RC" else 1)]
                found += touches(status[0], mode, blob, paths)
            if commit:
                yield commit, found
            await process.wait()

    async def touched(self, line: Sequence[tuple[str, str]]) -> int:
        """How many paths differ, over all these (commit, before)."""
        asked = (f"{commit} {before}\n" for commit, before in line)
        words = (
            "diff-tree",
            "--stdin",
            "-r",
            "-z",
            "--name-only",
            "--no-renames",
            "--no-commit-id",
            "--ignore-submodules=none",
        )
        count = 0
        async with self._streaming(*words, asked=asked) as (_, tokens):
            async for _ in tokens(b"\0"):
                count += 1
        return count

    async def tree(self, commit: str) -> dict[str, tuple[str, str]]:
        """By spelt path the mode and the id of each entry, as `git ls-tree -r` lists them."""
        found = {}
        async with self._streaming("ls-tree", "-r", "-z", "--full-tree", commit) as (_, tokens):
            async for entry in tokens(b"\0"):
                about, _, path = entry.partition(b"\t")
                mode, _, blob = about.decode().split()
                found[spelt(path)] = mode, blob
        return found

    async def _run(self, *words: str) -> tuple[int, bytes, str]:
        process = await self._start(words, asyncio.subprocess.DEVNULL)
        out, err = await process.communicate()
        return process.returncode or 0, out, " ".join(err.decode(errors="replace").split())

    async def _start(self, words: Sequence[str], stdin: int) -> asyncio.subprocess.Process:
        if shutil.which("git") is None:
            raise GitMissingError("found no git on the path, expected it to read a repository with; install git")
        kept = {name: value for name, value in os.environ.items() if name not in _REDIRECTING}
        return await asyncio.create_subprocess_exec(
            *("git", "-C", str(self.path), "-c", "diff.relative=false", "--no-pager", *words),
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**kept, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        )

    @asynccontextmanager
    async def _streaming(self, *words: str, asked: Iterable[str] = ()) -> AsyncIterator[_Stream]:
        """The process, and what reads its output up to each separator. Raises RepositoryError when git fails."""
        process = await self._start(words, asyncio.subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        said = deque[str](maxlen=1)
        beside = [asyncio.create_task(_feed(process.stdin, asked)), asyncio.create_task(_hear(process.stderr, said))]
        try:
            yield process, lambda separator: _tokens(process.stdout, separator)  # type: ignore[arg-type]
            await process.wait()
            await asyncio.gather(*beside)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            for task in beside:
                task.cancel()
        if process.returncode:
            raise RepositoryError(
                f"{self.path}: git {words[0]} ended with {process.returncode}: {''.join(said) or 'in silence'}"
            )


async def _feed(stdin: asyncio.StreamWriter, asked: Iterable[str]) -> None:
    try:
        for line in asked:
            stdin.write(line.encode())
            await stdin.drain()
        stdin.close()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it ended before its time, and its exit code says so


async def _hear(stderr: asyncio.StreamReader, said: deque[str]) -> None:
    async for line in stderr:
        said.append(line.decode(errors="replace").strip())


async def _tokens(stdout: asyncio.StreamReader, separator: bytes) -> AsyncIterator[bytes]:
    rest = b""
    while chunk := await stdout.read(CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(separator)
        for token in whole:
            yield token
