"""The commits of a repository in a row: each behind its parents, and changes of branch made cheap. Pure."""

from collections.abc import Collection, Mapping, Sequence

__all__ = ["in_line"]


def in_line(parents: Mapping[str, Sequence[str]], tip: str, done: Collection[str] = ()) -> list[str]:
    """The ancestors of `tip`, and itself, without those `done`, each behind its parents.

    Other parents come before the first, so that a merge stands right behind its first parent and changes what it says; the way
    between branches is then to undo the branch that was merged, mostly the smaller side. A parent that is not in `parents`
    is none: a shallow clone ends there.
    """
    seen, line, stack = set(done), list[str](), [tip]
    while stack:
        commit = stack[-1]
        if commit in seen:
            stack.pop()
        elif left := [parent for parent in parents[commit] if parent in parents and parent not in seen]:
            stack.append(left[-1])
        else:
            stack.pop()
            seen.add(commit)
            line.append(commit)
    return line
