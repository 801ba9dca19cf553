"""The app of the demo: it owns `git.file`, one entity for each path of a repository, and keeps the tree in a replica.

With a folder that `truecopy demo git --keep` left, the other verbs work on it too.
"""

from dataclasses import dataclass

from truecopy_projections.projection import Change, Projection
from truecopy_schemas import Event
from truecopy_services.app import Truecopy
from truecopy_services.demo.git.order import Touch, key_of

__all__ = ["ENTITY", "FileChanged", "FileRemoved", "TreeEntry", "event_of", "files", "going_back", "tree"]

ENTITY = "git.file"


class FileChanged(Event, entity="git.file", kind="state"):
    """A path has this mode and this blob from the commit of this step of the line on."""

    step: int
    commit: str
    committed_s: int
    path: str
    mode: str
    blob: str
    renamed_from: str | None = None


class FileRemoved(Event, entity="git.file", deletes=True):
    """A path is gone from the commit of this step of the line on."""

    step: int
    commit: str
    committed_s: int
    renamed_to: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEntry:
    """One entry of the tree. `key` is the path, but for paths that are longer than keys."""

    key: str
    path: str
    mode: str
    blob: str
    commit: str
    step: int


def _declared() -> Projection[TreeEntry]:
    declared = Projection("tree", entity=ENTITY, row=TreeEntry)

    @declared.on(FileChanged)
    def changed(_: TreeEntry | None, event: FileChanged, change: Change) -> TreeEntry:
        return TreeEntry(
            key=change.key, path=event.path, mode=event.mode, blob=event.blob, commit=event.commit, step=event.step
        )

    @declared.on(FileRemoved)
    def removed(_: TreeEntry | None, event: FileRemoved, change: Change) -> None:  # noqa: ARG001
        return None

    return declared


def event_of(touch: Touch, *, step: int, commit: str, at_s: int) -> tuple[str, Event]:
    """The key and the event of what a commit did to a path."""
    key = key_of(touch.path)
    if not touch.mode:
        return key, FileRemoved(step=step, commit=commit, committed_s=at_s, renamed_to=touch.other)
    return key, FileChanged(
        step=step,
        commit=commit,
        committed_s=at_s,
        path=touch.path,
        mode=touch.mode,
        blob=touch.blob,
        renamed_from=touch.other,
    )


def going_back(*, step: int, commit: str, at_s: int) -> Projection[TreeEntry]:
    """The projection with what brings a path back to what it was in `commit`, as a step of its own.

    An event that were merely stated again would say the step that it had, and steps would ascend no more.
    """
    declared = _declared()

    @declared.restores(leaving=("commit", "step"))
    def restore(now: TreeEntry | None, then: TreeEntry | None, change: Change) -> Event:  # noqa: ARG001
        if then is None:
            return FileRemoved(step=step, commit=commit, committed_s=at_s)
        return FileChanged(step=step, commit=commit, committed_s=at_s, path=then.path, mode=then.mode, blob=then.blob)

    return declared


tree = _declared()
files = Truecopy("git", partitions=4)
files.add(tree)
