"""The service `repository`: events of files, of the commits that made them, and one projection, the files as they are.

`truecopy get truecopy_services.demo.git.declared files README.md` reads the replica of a folder that the demo kept, with
TRUECOPY_HOME naming that; so do all other verbs.
"""

from dataclasses import dataclass
from hashlib import sha256

from truecopy_schemas import Event
from truecopy_schemas.limits import KEY_BYTES_MAX
from truecopy_services.app import Truecopy

__all__ = ["COMMITS", "FILES", "HISTORY", "Committed", "FileChanged", "FileRemoved", "TrackedFile", "app", "files", "key_of"]

FILES, HISTORY, COMMITS = "git.file", "git.history", "commits"
"""The entities of files and of commits, and the one key of the latter: its version is the step of the last commit."""


class FileChanged(Event, entity=FILES, kind="state"):
    """What a path holds after a commit. `step` is the commit's place in the order."""

    path: str
    mode: str
    blob: str
    commit: str
    step: int
    renamed_from: str | None = None


class FileRemoved(Event, entity=FILES, deletes=True):
    """A path that a commit left empty; without a commit, one that a rollback did."""

    commit: str = ""
    step: int = 0


class Committed(Event, entity=HISTORY, kind="state"):
    """A commit, with how many files it changed."""

    commit: str
    changes: int


@dataclass(frozen=True)
class TrackedFile:
    """A file of the tree: the row of its path."""

    path: str
    mode: str
    blob: str
    commit: str
    step: int


app = Truecopy("repository")
files = app.projection("files", entity=FILES, row=TrackedFile)
files.copies(FileChanged)


def key_of(path: str) -> str:
    """The key of a path: the path, or a hash of one that is too long for a key.

    It begins with a quotation mark and ends without: no path is spelled so.
    """
    return path if len(path.encode()) <= KEY_BYTES_MAX else f'"sha256:{sha256(path.encode()).hexdigest()}'
