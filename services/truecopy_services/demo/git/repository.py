"""Reading a git repository by git itself: commits in one order, what each changes against the one before it, and trees.

History is a graph and a replica is one line. So all commits that can be reached are put in a row, and a commit's changes are
those of its tree against the tree of the commit before it, as if each were checked out in turn. After them the files are those
of the commit, whichever branch it is on. Where the row passes from one branch to another some of the changes are only the way
from one to the other.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, NamedTuple

from truecopy_services.demo.git.order import in_line
from truecopy_services.errors import UsageError

__all__ = ["Commit", "File", "FileChange", "Repository", "differences", "spelled"]

READ_BYTES = 1 << 20
"""Bytes of git's output that are taken at a time."""
LEADING = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)
"""Variables that lead git to another repository than the one that is named, as in its hooks."""
RENAMES_MAX = 200
"""New and vanished files of one commit among which git looks for renames: it compares each with each."""


class File(NamedTuple):
    """What a tree holds under a path: mode as git writes it, and the id of the blob (of a submodule, its commit)."""

    mode: str
    blob: str


class FileChange(NamedTuple):
    """One path of one commit: what it holds by now (None: nothing any more), and where it came from if it was renamed."""

    path: str
    file: File | None
    renamed_from: str | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit, which is the `step`-th of the order, from 1; `branches` is whether the one before it is none of its parents."""

    id: str
    step: int
    branches: bool
    changes: Sequence[FileChange]


class Repository:
    """A local repository, bare or not. Raises UsageError if there is none, or no git."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise UsageError(f"{path} is no folder; name a git repository")
        self._git("rev-parse", "--git-dir", otherwise=f"{path} is no git repository; name one, or run `git init` there")

    def resolve(self, name: str) -> str:
        """The id of a commit, however it is named. Raises UsageError."""
        words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        found = self._git(*words, otherwise=f"{self.path} has no commit {name!r}; `git log` shows those that it has")
        return found.decode().strip()

    def order(self, rev: str, *, done: Sequence[str] = ()) -> list[tuple[str, bool]]:
        """All commits up to `rev`, parents before children; and of each whether the one before it is none of its parents.

        It begins with those that are `done`, in their order, so that what was published goes on whatever was merged since.
        """
        tip = self.resolve(rev)
        listed = (line.split() for line in self._git("rev-list", "--parents", tip).decode().splitlines())
        parents = {commit: found for commit, *found in listed}
        line = [*done, *in_line(parents, tip, done)]
        if line[-1] != tip:
            line.append(tip)  # an older commit than the last that was published: the way back to it
        return [(line[0], False), *((commit, before not in parents.get(commit, ())) for before, commit in pairwise(line))]

    def commits(self, order: Sequence[tuple[str, bool]], *, after: int = 0) -> Iterator[Commit]:
        """The commits of an order behind its first `after`, one after the other, with what each changes."""
        if len(order) <= after:
            return
        with tempfile.TemporaryFile() as asked:
            for at in range(after, len(order)):
                before = f" {order[at - 1][0]}" if at else ""
                asked.write(f"{order[at][0]}{before}\n".encode())
            asked.seek(0)
            words = ["diff-tree", "--stdin", "--root", "--always", "-r", "-z", "--raw", "--no-abbrev"]
            words += ["--ignore-submodules=none", "-M", f"-l{RENAMES_MAX}"]
            with subprocess.Popen(
                self._words(*words), stdin=asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
            ) as git:
                assert git.stdout is not None
                step = after
                for commit, changes in _changes(_tokens(git.stdout)):
                    if commit != order[step][0]:
                        raise UsageError(
                            f"git told of commit {commit}, expected {order[step][0]}; run `git fsck` in {self.path}"
                        )
                    step += 1
                    yield Commit(commit, step, order[step - 1][1], changes)
            if git.returncode or step < len(order):
                raise UsageError(f"git told of {step} of {len(order)} commits; run `git fsck` in {self.path}")

    def tree(self, commit: str) -> dict[str, File]:
        """All files of a commit, by their spelled paths: what `git ls-tree -r` says."""
        found = {}
        for line in self._git("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0"):
            if line:
                about, _, path = line.partition(b"\t")
                mode, _, blob = about.decode().split()
                found[spelled(path)] = File(mode, blob)
        return found

    def _words(self, *words: str) -> list[str]:
        return ["git", "-C", str(self.path), "-c", "diff.relative=false", *words]

    def _git(self, *words: str, otherwise: str = "") -> bytes:
        try:
            done = subprocess.run(self._words(*words), capture_output=True, check=False, env=_environment())
        except FileNotFoundError:
            raise UsageError("git is not installed here; install it: this reads repositories by it") from None
        if done.returncode:
            seen = done.stderr.decode(errors="replace").strip()
            raise UsageError(
                otherwise or f"git {words[0]} in {self.path} failed: {seen or done.returncode}; run `git fsck` there"
            )
        return done.stdout


def _environment() -> dict[str, str]:
    """That of this process, without what leads git elsewhere."""
    return {name: value for name, value in os.environ.items() if name not in LEADING} | {"LC_ALL": "C"}


def spelled(path: bytes) -> str:
    """A path as text: as it is, or quoted as git does where it is no UTF-8 or would read as quoted. One path, one text."""
    try:
        text = path.decode()
    except UnicodeDecodeError:
        pass
    else:
        if not text.startswith('"'):
            return text
    return '"' + "".join(chr(b) if 0x20 <= b < 0x7F and b not in b'"\\' else f"\\{b:03o}" for b in path) + '"'


def _tokens(source: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while chunk := source.read(READ_BYTES):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole


def _changes(tokens: Iterator[bytes]) -> Iterator[tuple[str, Sequence[FileChange]]]:
    """The commits that `git diff-tree --stdin -z --raw` tells of, each with one change for each path."""
    commit, changes = "", dict[str, FileChange]()
    for token in tokens:
        if not token.startswith(b":"):
            if commit:
                yield commit, tuple(changes.values())
            commit, changes = token.decode().strip(), {}
            continue
        _, mode, _, blob, status = token[1:].decode().split()
        path = spelled(next(tokens))
        origin: str | None = None
        if status[:1].encode() in (b"R", b"C"):
            origin, path = path, spelled(next(tokens))
            if status[0] == "R":
                changes.setdefault(origin, FileChange(origin, None))
        changes[path] = FileChange(path, None if status == "D" else File(mode, blob), origin)
    if commit:
        yield commit, tuple(changes.values())


def differences(seen: Mapping[str, File], meant: Mapping[str, File]) -> list[str]:
    """The paths under which two trees differ, sorted."""
    return sorted(path for path in {*seen, *meant} if seen.get(path) != meant.get(path))
