"""The history of a repository in one line, and what its paths are called. Pure.

A history is a graph and a replica is one line. The commits of the line are put so that each comes behind its parents, and the
events of a commit are what its tree differs in from the tree of the commit before it. So what the line holds up to a commit is
the tree of that commit, for any of them; and where the line changes from one branch to another, it costs events that no
commit made.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from truecopy_schemas.limits import KEY_BYTES_MAX

__all__ = ["Commit", "Touch", "in_line", "key_of", "spelt", "touches"]

_ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit's parents, and its time in seconds since 1970 as it says itself."""

    parents: tuple[str, ...]
    at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """What became of one path: its mode and blob id, or neither where it is gone; `other` is where it came from, or went."""

    path: str
    mode: str = ""
    blob: str = ""
    other: str | None = None


def in_line(commits: Mapping[str, Commit], tip: str, done: Collection[str] = ()) -> list[str]:
    """The ancestors of `tip` and itself, without those `done`, each behind its parents.

    Side branches come before the first parent's, so that a merge follows its first parent and costs what the merge says it
    changes; the line leaves a first parent's chain where a branch begins, and comes back by undoing that branch, which is
    mostly the smaller half. A parent that is not in `commits` (a shallow clone ends there) is none.
    """
    seen, line, stack = set(done), list[str](), [tip]
    while stack:
        commit = stack[-1]
        if commit in seen:
            stack.pop()
            continue
        left = [parent for parent in commits[commit].parents if parent not in seen and parent in commits]
        if left:
            stack.append(left[-1])
        else:
            stack.pop()
            seen.add(commit)
            line.append(commit)
    return line


def spelt(path: bytes) -> str:
    """A path as text, and no two alike: itself, or quoted as git quotes where it is no UTF-8 or begins with a quote."""
    if not path.startswith(b'"'):
        try:
            return path.decode()
        except UnicodeDecodeError:
            pass
    return '"' + "".join(_ESCAPES.get(one) or (chr(one) if 32 <= one < 127 else f"\\{one:03o}") for one in path) + '"'


def key_of(path: str) -> str:
    """The key of a spelt path: itself, or what it hashes to where it is longer than keys may be.

    A quoted path ends with a quote and the hash does not, so that nothing else is called so.
    """
    if len(path.encode()) <= KEY_BYTES_MAX:
        return path
    return f'"sha256:{hashlib.sha256(path.encode()).hexdigest()}'


def touches(status: str, mode: str, blob: str, paths: Sequence[bytes]) -> list[Touch]:
    """What one entry of a difference of trees says of its paths: two for a rename, one for all else."""
    named = [spelt(path) for path in paths]
    if status == "D":
        return [Touch(path=named[0])]
    if status == "R":
        was, now = named
        return [Touch(path=was, other=now), Touch(path=now, mode=mode, blob=blob, other=was)]
    return [Touch(path=named[-1], mode=mode, blob=blob)]  # of a copy, the new path alone
