"""What `truecopy demo git` does, in order: publish the line and copy it, prove trees, go back and forward again, check."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from truecopy_bus.rollbacks import Outcome as RolledTo
from truecopy_projections.entity_fold import ProjectionFold
from truecopy_projections.projection import Projection
from truecopy_projections.verdicts import Verdict
from truecopy_services.cli.screen import Screen
from truecopy_services.demo.git.app import ENTITY, TreeEntry, files, going_back, tree
from truecopy_services.demo.git.line import Line, Step, load_line, write_steps
from truecopy_services.demo.git.order import Commit
from truecopy_services.demo.git.proving import Entry, Sandbox, Steps, differing, entries, sampled, steps_of
from truecopy_services.demo.git.publishing import Published, publish_line
from truecopy_services.demo.git.reading import Repository
from truecopy_services.demo.mesh import Copy
from truecopy_services.demo.places import places
from truecopy_services.entities import Entity
from truecopy_services.marking import fresh_mark
from truecopy_services.rolling_back import find_rollback, open_rollback, rollback_many
from truecopy_services.service import Service
from truecopy_services.working import first_error

__all__ = ["Asked", "Outcome", "tell"]

APP = "truecopy_services.demo.git.app"
LOOK_S = 0.1
"""Seconds between two looks at how far the replica is."""
SHOWN_MAX = 10
"""Differences of one tree that are shown."""
SETTINGS = {"mark_idle_s": 1.0, "batch_records": 5_000}
"""Marks come soon, because the check at the end waits for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked for: `number` commits drawn by `seed`, or `every` one, or `at` one; and a commit to go back to."""

    repository: Path
    rev: str = "HEAD"
    number: int = 20
    seed: int = 1
    every: bool = False
    at: str | None = None
    rollback: str | None = None


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What `truecopy demo git --json` prints. `extra` events are those that no commit made: the line changes branches."""

    commits: int = 0
    published: int = 0
    events: int = 0
    touched: int = 0
    extra: int = 0
    renames: int = 0
    removals: int = 0
    entries: int = 0
    proven: list[str] = field(default_factory=list)
    differences: dict[str, list[str]] = field(default_factory=dict)
    rollback: dict[str, Any] = field(default_factory=dict)
    verdict: str = ""
    replicated_s: float = 0.0
    proven_s: float = 0.0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def tell(
    screen: Screen, asked: Asked, *, on_kafka: bool, on_postgres: bool, keep: Path | None
) -> tuple[Outcome, list[str]]:
    """Run the demo. Returns its figures, and what was not as promised (nothing, if all is well).

    Raises GitMissingError, RepositoryError, UnknownCommitError before anything is made.
    """
    began = time.monotonic()
    repository = Repository(path=asked.repository)
    await repository.readable()
    if await repository.empty(asked.rev):
        screen.say(f"{asked.repository} has no commit on {asked.rev} yet: nothing to replicate, and nothing proven")
        return Outcome(), []
    tip = await repository.resolve(asked.rev)
    named = {name: await repository.resolve(name) for name in (asked.at, asked.rollback) if name}
    commits = await repository.commits(tip)
    async with AsyncExitStack() as stack:
        where = await stack.enter_async_context(
            places(
                keep=keep,
                on_kafka=on_kafka,
                on_postgres=on_postgres,
                settings=SETTINGS,
                say=screen.say,
                services=(files.service,),
                topics=(ENTITY,),
                resumed=f"{files.service}.store.db",
            )
        )
        service = await stack.enter_async_context(files.at(where.settings(files.service)).running())
        story = _Story(screen, repository, service, commits, await load_line(service.store))
        await story.replicate(tip)
        await story.prove(asked, named)
        if asked.rollback:
            await story.go_back(named[asked.rollback], tip)
        await story.check()
    if keep is not None:
        screen.say(f"left in {keep}: look with TRUECOPY_HOME={keep} truecopy status {APP}; run it again to go on")
    story.outcome.seconds = round(time.monotonic() - began, 1)
    return story.outcome, story.faults


class _Story:
    def __init__(
        self, screen: Screen, repository: Repository, service: Service, commits: dict[str, Commit], line: Line
    ) -> None:
        self.screen, self.repository, self.service = screen, repository, service
        self.commits, self.line = commits, line
        self.outcome, self.faults = Outcome(), list[str]()
        self.copy = Copy(service=service, projection=tree)

    async def replicate(self, tip: str) -> None:
        """Publish what is missing of the line, and wait for the replica, which ends equal to the tip's tree."""
        began = time.monotonic()
        await self._finish_rollback()
        done = await self._publish(tip)
        self.outcome.commits, self.outcome.published = len(self.line.commits()), done.commits
        self.outcome.events, self.outcome.touched = done.events, done.touched
        self.outcome.extra = done.events - done.touched
        self.outcome.renames, self.outcome.removals = done.renames, done.removals
        self.outcome.entries = await self._expect_live(tip)
        took_s = self.outcome.replicated_s = round(time.monotonic() - began, 1)
        self.screen.say(
            f"replicated {done.commits} commits as {done.events} events in {took_s} s "
            f"({done.events / max(took_s, LOOK_S):.0f} a second): {done.touched} of paths that the commits touch, "
            f"{self.outcome.extra} of changing branches"
        )

    async def _publish(self, tip: str) -> Published:
        told = Published()

        def tell(now: Published) -> None:
            nonlocal told
            told = now

        with self._progress() as progress, first_error():
            published = progress.add_task("commits published", total=None)
            copied = progress.add_task("events copied", total=None)
            async with asyncio.TaskGroup() as tasks:
                publishing = tasks.create_task(
                    publish_line(self.service.store, self.repository, self.commits, tip, self.line, tell)
                )
                while not publishing.done() or not await self._caught_up():
                    progress.update(published, completed=told.commits, total=told.total or None)
                    progress.update(copied, completed=await self.copy.count(), total=await self._stored())
                    await asyncio.sleep(LOOK_S)
                progress.update(published, completed=publishing.result().commits, total=publishing.result().total)
                progress.update(copied, completed=await self.copy.count(), total=await self._stored())
        return publishing.result()

    async def _stored(self) -> int:
        """Events that were published, ever."""
        async with self.service.store.database.snapshot() as read:
            [(count,)] = await read.fetch("SELECT COUNT(*) FROM truecopy_events WHERE entity = $1", ENTITY)
        return int(count)

    async def _caught_up(self) -> bool:
        return await self.copy.count() >= await self._stored()

    async def _wait(self) -> None:
        while not await self._caught_up():  # noqa: ASYNC110 - its worker may be another process
            await asyncio.sleep(LOOK_S)

    async def _expect_live(self, commit: str) -> int:
        """Hold the live replica against the tree of a commit; how many entries that has."""
        listed = await self.repository.tree(commit)
        self._judge(f"live at {commit}", differing(await self._live(), listed))
        return len(listed)

    async def _live(self) -> dict[str, tuple[str, Entry]]:
        return await entries(self.service.replica_adapter) if await self.copy.states() else {}

    def _judge(self, what: str, found: list[str]) -> None:
        if found:
            self.outcome.differences[what] = found[:SHOWN_MAX]
            self.faults.append(f"{what}: {len(found)} paths differ from git's tree, among them {'; '.join(found[:SHOWN_MAX])}")

    async def prove(self, asked: Asked, named: Mapping[str, str]) -> None:
        """Bring a sandbox from step to step, and compare it with git at those that are asked for."""
        began = time.monotonic()
        steps = await steps_of(self.service) if await self._stored() else Steps(ends={})
        if asked.at:
            numbers = [self.line.step_of(named[asked.at])]
        elif asked.every:
            numbers = list(range(1, len(self.line.steps) + 1))
        else:
            numbers = sampled(self.line, self.commits, steps, number=asked.number, seed=asked.seed)
        sandbox = Sandbox(self.service, steps)
        with self._progress() as progress:
            for number in progress.track(numbers, description="trees compared"):
                commit = self.line.steps[number - 1].commit
                await sandbox.arrive(number)
                self._judge(f"as of {commit}", differing(await sandbox.tree(), await self.repository.tree(commit)))
                self.outcome.proven.append(commit)
        self.outcome.proven_s = round(time.monotonic() - began, 1)
        wrong = sum(what.startswith("as of") for what in self.outcome.differences)
        self.screen.say(
            f"as of {len(numbers)} commits, {len(numbers) - wrong} trees equal what git lists, in {self.outcome.proven_s} s"
        )

    async def go_back(self, commit: str, tip: str) -> None:
        """Bring the live replica back to a commit's tree by new events, and forward again. The log is only appended to."""
        number = self.line.step_of(commit)
        steps = await steps_of(self.service)
        sandbox = Sandbox(self.service, steps)
        await sandbox.arrive(number)
        then, versions, now = await sandbox.tree(), await sandbox.versions(), await self._live()
        keys = {held[path][0] for held in (then, now) for path in held if then.get(path) != now.get(path)}
        entity = Entity(self.service.store, ProjectionFold(self._going_back(commit)), by="truecopy demo git")
        rollback = await open_rollback(entity, to={key: versions.get(key, 0) for key in keys}, why=f"back to commit {commit}")
        step = Step(commit, rollback.id)
        async with self.service.store.transaction() as tx:
            await write_steps(tx, self.line, [step])
        self.line.steps.append(step)
        back = await self._finish_rollback()
        await self._expect_live(commit)
        self.screen.say(f"rolled back to {commit}: {back} paths restored by new events, and the replica is its tree")
        forward = await self._publish(tip)
        await self._expect_live(tip)
        after = await steps_of(self.service)
        if cut_moved := {p for p, end in steps.ends.items() if after.ends[p] < end or after.cut(number) != steps.cut(number)}:
            self.faults.append(f"the log of partitions {sorted(cut_moved)} was not only appended to")
        self.screen.say(f"rolled forward to {tip}: {forward.events} events, and the replica is its tree")
        self.outcome.rollback = {"commit": commit, "restored": back, "forward": forward.events}

    def _going_back(self, commit: str) -> Projection[TreeEntry]:
        return going_back(step=len(self.line.steps) + 1, commit=commit, at_s=self.commits[commit].at_s)

    async def _finish_rollback(self) -> int:
        """Carry out the rollback that is the line's last step, if it did not end; how many paths it restored."""
        last = self.line.last
        if last is None or not last.rollback:
            return 0
        at_s = self.commits[last.commit].at_s if last.commit in self.commits else 0
        fold = ProjectionFold(going_back(step=len(self.line.steps), commit=last.commit, at_s=at_s))
        entity = Entity(self.service.store, fold, by="truecopy demo git")
        rollback = await find_rollback(entity, last.rollback)
        restored = 0
        if rollback.ended_ms is None:
            async for step in rollback_many(entity, rollback):
                restored += step.outcome is RolledTo.RESTORED
                if step.outcome not in (RolledTo.RESTORED, RolledTo.SAME):
                    self.faults.append(f"{step.key!r} was not rolled back: {step.outcome.name}: {step.why}")
        await self._wait()
        return restored

    async def check(self) -> None:
        """The three claims about the live replica."""
        if not await self._stored():
            return
        await fresh_mark(self.service, tree, asked_by="truecopy demo git")
        [report] = await self.service.check(tree)
        self.outcome.verdict = report.verdict.name
        if report.verdict is not Verdict.EQUAL:
            self.faults.append(f"the check of the replica says {report.verdict.name}, expected EQUAL")

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, TimeRemainingColumn(), console=self.screen.console)
