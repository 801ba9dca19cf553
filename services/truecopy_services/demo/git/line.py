"""The line as it was published: a table of the owner's own, written in the transaction of its events.

It is how a run that was killed knows where it was, and which step a commit is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from truecopy_bus.store import EventStore, Transaction
from truecopy_services.demo.git.reading import UnknownCommitError

__all__ = ["Line", "Step", "load_line", "write_steps"]

_TABLE = "CREATE TABLE IF NOT EXISTS git_line (step BIGINT PRIMARY KEY, commit_id TEXT NOT NULL, rollback_id TEXT NOT NULL)"


@dataclass(frozen=True, slots=True)
class Step:
    """A commit of the line; `rollback` is the id of the rollback that went back to it, "" where the line went on to it."""

    commit: str
    rollback: str = ""


@dataclass(slots=True)
class Line:
    """Steps from 1 on."""

    steps: list[Step] = field(default_factory=list)

    @property
    def last(self) -> Step | None:
        return self.steps[-1] if self.steps else None

    def commits(self) -> dict[str, int]:
        """By commit the step at which the line first came to it."""
        found: dict[str, int] = {}
        for number, step in enumerate(self.steps, start=1):
            found.setdefault(step.commit, number)
        return found

    def step_of(self, commit: str) -> int:
        """Raises UnknownCommitError for a commit that is not in the line."""
        step = self.commits().get(commit)
        if step is None:
            raise UnknownCommitError(
                f"commit {commit} is none of the {len(self.steps)} that were replicated; name an ancestor of the last"
            )
        return step


async def load_line(store: EventStore) -> Line:
    """What was published, as committed now."""
    async with store.transaction() as tx:
        await tx.execute(_TABLE)
        rows = await tx.execute("SELECT commit_id, rollback_id FROM git_line ORDER BY step")
    return Line([Step(*row) for row in rows])


async def write_steps(tx: Transaction, line: Line, steps: Sequence[Step]) -> None:
    """Enter the steps that follow those of `line`, which stays as it is: the caller has not committed yet."""
    for number, step in enumerate(steps, start=len(line.steps) + 1):
        await tx.execute("INSERT INTO git_line VALUES ($1, $2, $3)", number, step.commit, step.rollback)
