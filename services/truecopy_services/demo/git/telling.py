"""The demo of a git repository: publish its history, replicate it, and hold the replica against git at many commits.

Publishing goes on where it was if it is run again on a folder that was kept: the version of the history says which commits are
published, in the transaction of their files.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from truecopy_bus.limits import PUBLISH_EVENTS_MAX, READ_RECORDS_MAX
from truecopy_bus.rollbacks import Outcome as KeyOutcome
from truecopy_bus.rollbacks import entries
from truecopy_projections.bounded import BoundedWorker
from truecopy_projections.replica import Replica
from truecopy_projections.replicas import MemoryReplica
from truecopy_schemas import Event
from truecopy_services.demo.git.declared import (
    COMMITS,
    FILES,
    HISTORY,
    Committed,
    FileChanged,
    FileRemoved,
    files,
    key_of,
)
from truecopy_services.demo.git.passing import back_to, ends_of
from truecopy_services.demo.git.repository import Commit, File, Repository, differences
from truecopy_services.errors import UsageError
from truecopy_services.rolling_back import open_rollback, rollback_many
from truecopy_services.service import Service
from truecopy_services.working import first_error, work

__all__ = ["Asked", "Outcome", "tell"]

TRANSACTION_EVENTS = 5_000
"""Events after which a transaction of whole commits ends."""
OUTBOX_MAX = 50_000
"""Events that may wait in the outbox before publishing waits too."""
LOOK_S = 0.05
"""Seconds between two looks at outbox and replica."""
STALL_S = 120.0
"""Seconds without any progress after which it is given up."""
ARRIVE_S = 3_600.0
"""Seconds for the proof of one commit, from the one before it."""
SHOWN = 10
"""Paths of a difference that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What of the repository: `rev`, how many commits are proven (None: all), one to prove and one to roll back to."""

    repository: Path
    rev: str = "HEAD"
    commits: int | None = 20
    at: str | None = None
    back: str | None = None
    seed: int = 1


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What happened. `events` are of files; `between` those of them that are only the way from one branch to another.

    `proven` are commits whose tree the replica as of them equals, `faults` what was not as promised.
    """

    commits: int = 0
    events: int = 0
    between: int = 0
    renames: int = 0
    removals: int = 0
    files: int = 0
    proven: int = 0
    rolled_back: int = 0
    verdict: str = ""
    publish_s: float = 0.0
    follow_s: float = 0.0
    prove_s: float = 0.0
    rollback_s: float = 0.0
    faults: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


async def tell(asked: Asked, service: Service, say: Callable[[str], None], show: Callable[[str], None]) -> Outcome:
    """Do it all on an open service. Raises UsageError for what is no repository or no commit of its order."""
    repository = await asyncio.to_thread(Repository, asked.repository)
    published = await _published(service)
    order = await asyncio.to_thread(partial(repository.order, asked.rev, done=published))
    steps: dict[str, int] = {}
    for step, (commit, _) in enumerate(order, start=1):
        steps.setdefault(commit, step)
    chosen = await asyncio.to_thread(_chosen, asked, repository, order, steps)
    back = steps[await _known(repository, asked.back, steps)] if asked.back else max(1, len(order) // 2)
    told = Outcome(commits=len(order))
    stop = asyncio.Event()
    with first_error():
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(work(service, stop, relay=True, projections=[files]))
            try:
                if published and await _was_rolled(service):  # an earlier run may have been killed on its way back
                    await _follow(service, told, show)
                    await _roll_to(service, order, len(published), told, show)
                await _publish(service, repository, order, len(published), told, show)
                await _follow(service, told, show)
                say(
                    f"{told.commits:,} commits, {told.events:,} events of {told.files:,} paths ({told.between:,} of them at "
                    f"changes of branch): published in {told.publish_s:.1f} s, followed {told.follow_s:.1f} s later"
                )
                await _prove(service, repository, order, chosen, told, say, show)
                await _roll(service, repository, order, back, told, say, show)
                [report] = await service.check(files)
                told.verdict = report.verdict.name
                if told.verdict != "EQUAL":
                    told.faults.append(f"the check says {told.verdict}")
            finally:
                stop.set()
                await asyncio.wait([working])
    return told


async def _known(repository: Repository, name: str, steps: dict[str, int]) -> str:
    commit = await asyncio.to_thread(repository.resolve, name)
    if commit not in steps:
        raise UsageError(f"{name} is commit {commit[:12]}, which is not among those replicated; choose another --rev")
    return commit


def _chosen(asked: Asked, repository: Repository, order: Sequence[tuple[str, bool]], steps: dict[str, int]) -> list[int]:
    """The steps to be proven: the first and the last, both sides of changes of branch, and others by chance."""
    if asked.at is not None:
        commit = repository.resolve(asked.at)
        if commit not in steps:
            raise UsageError(f"{asked.at} is commit {commit[:12]}, which is not among those replicated; choose another --rev")
        return [steps[commit]]
    everything = range(1, len(order) + 1)
    if asked.commits is None or asked.commits >= len(order):
        return list(everything)
    chance = random.Random(asked.seed)  # a sample that can be repeated, no secret
    parted = [step for step, (_, branches) in enumerate(order, start=1) if branches]
    some = chance.sample(parted, min(len(parted), asked.commits // 4))
    wanted = {1, len(order), *some, *(step - 1 for step in some)}
    while len(wanted) < asked.commits:
        wanted.add(chance.choice(everything))
    return sorted(wanted)


async def _publish(
    service: Service,
    repository: Repository,
    order: Sequence[tuple[str, bool]],
    after: int,
    told: Outcome,
    show: Callable[[str], None],
) -> None:
    began = time.monotonic()
    commits = repository.commits(order, after=after)
    while some := await asyncio.to_thread(_taken, commits):
        await _until(service, lambda: _has_room(service))
        changes = [event for commit in some for event in _events(commit)]
        async with service.store.transaction() as tx:
            for at in range(0, len(changes), PUBLISH_EVENTS_MAX):
                await tx.publish_many(changes[at : at + PUBLISH_EVENTS_MAX])
        done, passed = some[-1].step, time.monotonic() - began
        left_s = passed / (done - after) * (len(order) - done)
        show(f"published {done:,} of {len(order):,} commits, {left_s:.0f} s left")
    told.publish_s = time.monotonic() - began
    # What a folder that was kept holds already is counted too.
    for commit in await asyncio.to_thread(lambda: list(_counted(repository, order))):
        told.events += commit[0]
        told.between += commit[1]
        told.renames += commit[2]
        told.removals += commit[3]


def _counted(repository: Repository, order: Sequence[tuple[str, bool]]) -> Iterator[tuple[int, int, int, int]]:
    for commit in repository.commits(order):
        many = len(commit.changes)
        renames = sum(change.renamed_from is not None for change in commit.changes)
        yield many, many if commit.branches else 0, renames, sum(change.file is None for change in commit.changes)


def _taken(commits: Iterator[Commit]) -> list[Commit]:
    some: list[Commit] = []
    events = 0
    for commit in commits:
        some.append(commit)
        events += len(commit.changes) + 1
        if events >= TRANSACTION_EVENTS:
            break
    return some


def _events(commit: Commit) -> Iterator[tuple[str, Event]]:
    for path, file, origin in commit.changes:
        if file is None:
            yield key_of(path), FileRemoved(commit=commit.id, step=commit.step)
        else:
            mode, blob = file
            yield (
                key_of(path),
                FileChanged(path=path, mode=mode, blob=blob, commit=commit.id, step=commit.step, renamed_from=origin),
            )
    yield COMMITS, Committed(commit=commit.id, changes=len(commit.changes))


async def _published(service: Service) -> list[str]:
    """The commits that a folder that was kept holds, in their order."""
    history, commits = service.entity(HISTORY), list[str]()
    while len(commits) < await service.store.version(HISTORY, COMMITS):
        commits += [str(one.fields["commit"]) for one in await history.history(COMMITS, after=len(commits))]
    return commits


async def _has_room(service: Service) -> int | None:
    waiting = (await service.store.pending(FILES)).count
    return None if waiting < OUTBOX_MAX else -waiting


async def _until(service: Service, look: Callable[[], Awaitable[int | None]]) -> None:
    """Look until it is None. Any other number is progress as long as it grows. Raises UsageError when it stalls."""
    seen, since = None, time.monotonic()
    while (now := await look()) is not None:
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > STALL_S:
            raise UsageError(f"no progress for {STALL_S:.0f} s on {service.replica_adapter.name}; see `truecopy doctor`")
        await asyncio.sleep(LOOK_S)


async def _follow(service: Service, told: Outcome, show: Callable[[str], None]) -> None:
    """Wait until the live replica has all that is published."""
    began = time.monotonic()

    async def missing() -> int | None:
        async with service.store.database.snapshot() as read:
            [[published, keys]] = await read.fetch(
                "SELECT COALESCE(SUM(version), 0), COUNT(*) FROM truecopy_heads WHERE entity = $1", FILES
            )
        async with service.replica_adapter.snapshot() as snapshot:
            applied = sum(state.count for state in (await snapshot.states(files.id)).values())
        told.files = int(keys)
        show(f"replicated {applied:,} of {int(published):,} events")
        return None if applied >= int(published) else applied

    await _until(service, missing)
    told.follow_s += time.monotonic() - began


async def _prove(
    service: Service,
    repository: Repository,
    order: Sequence[tuple[str, bool]],
    chosen: Sequence[int],
    told: Outcome,
    say: Callable[[str], None],
    show: Callable[[str], None],
) -> None:
    """In one pass forward, hold a second replica, built as of each of these commits, against the commit's tree."""
    began = time.monotonic()
    topic = service.topic(files)
    sandbox = MemoryReplica()
    if told.events:
        ends = await ends_of(service.log, service.registry, topic, chosen)
        worker = BoundedWorker(
            files,
            sandbox,
            service.log,
            service.schemas(files),
            upto={},
            topic=topic,
            holder="the proof of a demo",
            stops=True,
            wait_s=service.settings.read_wait_s,
            records_max=READ_RECORDS_MAX,
        )
    for nth, step in enumerate(chosen, start=1):
        commit = order[step - 1][0]
        if told.events:
            worker.upto = ends.cuts[step]
            await worker.arrive(within_s=ARRIVE_S)
        if await _equals(sandbox, repository, commit, told, f"as of {commit[:12]}"):
            told.proven += 1
        show(f"held against {nth:,} of {len(chosen):,} commits")
    if told.events:
        await worker.leave()
    told.prove_s = time.monotonic() - began
    if await _equals(service.replica_adapter, repository, order[-1][0], told, "the live replica") if order else True:
        say(
            f"as of {told.proven:,} of {len(chosen):,} commits the replica equals `git ls-tree -r` (path, mode, blob), and the "
            f"live one that of the last, in {told.prove_s:.1f} s"
        )


async def _equals(replica: Replica, repository: Repository, commit: str, told: Outcome, what: str) -> bool:
    meant = await asyncio.to_thread(repository.tree, commit)
    seen: dict[str, File] = {}
    async with replica.snapshot() as snapshot:
        async for batch in snapshot.rows(files):
            for _, _, row in batch:
                path, mode, blob, *_ = row.values
                seen[path] = File(mode, blob)
    wrong = differences(seen, meant)
    if wrong:
        named = ", ".join(f"{path!r}: {seen.get(path)}, expected {meant.get(path)}" for path in wrong[:SHOWN])
        told.faults.append(f"{what}: {len(wrong)} of {len(meant)} paths differ from the tree of {commit[:12]}: {named}")
    return not wrong


async def _roll(
    service: Service,
    repository: Repository,
    order: Sequence[tuple[str, bool]],
    step: int,
    told: Outcome,
    say: Callable[[str], None],
    show: Callable[[str], None],
) -> None:
    """Roll the live files back to a commit, and forward to the last again: new events, each time."""
    if not told.events:
        return
    began = time.monotonic()
    for wanted in (step, len(order)):
        commit = order[wanted - 1][0]
        done = await _roll_to(service, order, wanted, told, show)
        if await _equals(service.replica_adapter, repository, commit, told, "rolled back"):
            way = "back" if wanted == step and wanted != len(order) else "forward"
            say(f"rolled {way} to {commit[:12]} by {done:,} new events: the live replica equals its tree")
        told.rolled_back += done
    told.rollback_s = time.monotonic() - began


async def _was_rolled(service: Service) -> bool:
    async with service.store.database.snapshot() as read:
        return bool(await entries(read, FILES))


async def _roll_to(
    service: Service, order: Sequence[tuple[str, bool]], step: int, told: Outcome, show: Callable[[str], None]
) -> int:
    """Bring each path to its version at a step by new events, and wait until the live replica has them. How many there were."""
    commit = order[step - 1][0]
    ends = await ends_of(service.log, service.registry, service.topic(files), (), versions=[step])
    entity = service.entity(FILES, deletes=FileRemoved)  # by name: its latest event is its state, and nothing is folded
    rollback = await open_rollback(entity, to=back_to(ends, step), why=f"to commit {commit}")
    done = 0
    async for one in rollback_many(entity, rollback):
        done += one.now - one.was
        show(f"rolled {done:,} paths to {commit[:12]}")
        if one.outcome not in (KeyOutcome.RESTORED, KeyOutcome.SAME):
            told.faults.append(f"{one.key!r} was not rolled to {commit[:12]}: {one.outcome.value}: {one.why}")
    await _follow(service, told, show)
    return done
