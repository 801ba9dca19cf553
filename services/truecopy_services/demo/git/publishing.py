"""Publishing a repository's line: a commit's events in one transaction with its step, several small commits together.

A second publisher of the same folder runs into the first one's steps, and stops.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from truecopy_bus.limits import PUBLISH_EVENTS_MAX
from truecopy_bus.publish import Change
from truecopy_bus.store import EventStore
from truecopy_services.demo.git.app import ENTITY, event_of
from truecopy_services.demo.git.line import Line, Step, write_steps
from truecopy_services.demo.git.order import Commit, in_line
from truecopy_services.demo.git.reading import Repository

__all__ = ["Published", "publish_line"]

BATCH_EVENTS = 2_000
"""Events after which a transaction takes no further commit."""
BATCH_COMMITS = 500
"""Commits of one transaction, however little they change."""
OUTBOX_MAX = 20_000
"""Events that may wait for the relay before the publisher waits too."""
LOOK_S = 0.05
"""Seconds between two looks at the outbox."""


@dataclass(slots=True, kw_only=True)
class Published:
    """What was published: `touched` paths are those that differ from the first parents of the commits."""

    commits: int = 0
    total: int = 0
    events: int = 0
    touched: int = 0
    renames: int = 0
    removals: int = 0


async def publish_line(
    store: EventStore,
    repository: Repository,
    commits: Mapping[str, Commit],
    tip: str,
    line: Line,
    told: Callable[[Published], None],
) -> Published:
    """Publish what is missing in `line` up to `tip`, and enter it there. Raises RepositoryError, and what the store raises."""
    before = line.last.commit if line.last else None
    todo = in_line(commits, tip, line.commits())
    if (todo[-1] if todo else before) != tip:
        todo.append(tip)  # the line went back, or elsewhere, after it had been there
    pairs: list[tuple[str, str | None]] = list(zip(todo, [before, *todo], strict=False))
    done = Published(total=len(todo))
    aside = []
    changes: list[Change] = []
    steps: list[Step] = []
    async for commit, found in repository.differences(pairs):
        previous = pairs[done.commits][1]
        step, at_s = len(line.steps) + len(steps) + 1, commits[commit].at_s
        changes += [event_of(one, step=step, commit=commit, at_s=at_s) for one in found]
        steps.append(Step(commit))
        done.commits += 1
        done.events += len(found)
        done.renames += sum(bool(one.other) and bool(one.mode) for one in found)
        done.removals += sum(not one.mode for one in found)
        parents = [one for one in commits[commit].parents if one in commits]
        if parents and previous not in parents[:1]:
            aside.append((commit, parents[0]))
        elif parents or previous is None:
            done.touched += len(found)
        if len(changes) >= BATCH_EVENTS or len(steps) >= BATCH_COMMITS:
            await _publish(store, line, steps, changes)
            told(done)
            changes, steps = [], []
    await _publish(store, line, steps, changes)
    done.touched += await repository.touched(aside)
    told(done)
    return done


async def _publish(store: EventStore, line: Line, steps: list[Step], changes: list[Change]) -> None:
    while (await store.pending(ENTITY)).count > OUTBOX_MAX:  # noqa: ASYNC110 - the relay works on another transaction
        await asyncio.sleep(LOOK_S)
    async with store.transaction() as tx:
        await write_steps(tx, line, steps)
        for at in range(0, len(changes), PUBLISH_EVENTS_MAX):
            await tx.publish_many(changes[at : at + PUBLISH_EVENTS_MAX])
    line.steps += steps
