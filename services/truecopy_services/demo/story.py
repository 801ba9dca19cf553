"""What the demo does, in order: publish and copy, kill and take over, prove, compare, damage, find, repair, certify."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from truecopy_projections.certificate import Standing
from truecopy_projections.verdicts import Report, Verdict, difference_json
from truecopy_services.cli.check import differences_shown, reports_table
from truecopy_services.cli.screen import Screen
from truecopy_services.demo.children import Child, children
from truecopy_services.demo.mesh import STEP_TIMEOUT_S, Copy, Mesh, mesh
from truecopy_services.demo.places import Places, places
from truecopy_services.demo.source import published_summary, read_purchases
from truecopy_services.working import first_error

__all__ = ["Outcome", "tell"]

BARS_S = 0.2
"""Seconds between moves of the bars."""
MARKS_MIN = 20
"""Marks that each replica is to be compared at, at the least."""
SETTINGS: Mapping[str, Any] = {"mark_events": 100, "batch_records": 500, "lease_s": 2.0, "mark_idle_s": 5.0}
"""Small batches and frequent marks: the history is short, and the point is to see them."""
APPS = "truecopy_services.demo"


@dataclass(slots=True)
class Outcome:
    """What `truecopy demo --json` prints. `killed_at` and `resumed_at` are events of the killed worker's projection."""

    published: int = 0
    applied: int = 0
    redelivered: int = 0
    killed_at: int = 0
    resumed_at: int = 0
    oracle_rows: int = 0
    oracle_equal: int = 0
    marks_compared: int = 0
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    damaged: dict[str, Any] = field(default_factory=dict)
    found: list[dict[str, Any]] = field(default_factory=list)
    repaired: int = 0
    certificate: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def tell(screen: Screen, *, on_kafka: bool, on_postgres: bool, keep: Path | None) -> tuple[Outcome, list[str]]:
    """Run the demo. Returns its figures, and what was not as promised (nothing, if all is well)."""
    began = time.monotonic()
    outcome, faults = Outcome(), list[str]()
    async with AsyncExitStack() as stack:
        where = await stack.enter_async_context(
            places(keep=keep, on_kafka=on_kafka, on_postgres=on_postgres, settings=SETTINGS, say=screen.say)
        )
        processes = await stack.enter_async_context(children())
        watched = await stack.enter_async_context(mesh(where, processes))
        story = _Story(screen, where, watched, outcome, faults)
        await story.copy_through_a_kill()
        await story.prove()
        await story.compare_with_the_published()
        await story.damage_and_repair()
        codes = await processes.stop()
        story.expect(not any(codes.values()), f"the processes' exit codes are {codes}, expected 0 after SIGTERM")
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome, faults


class _Story:
    def __init__(self, screen: Screen, where: Places, watched: Mesh, outcome: Outcome, faults: list[str]) -> None:
        self.screen, self.where, self.mesh, self.outcome, self.faults = screen, where, watched, outcome, faults

    def expect(self, met: bool, otherwise: str) -> None:
        if not met:
            self.faults.append(otherwise)

    async def copy_through_a_kill(self) -> None:
        """The shop publishes, two services copy; one worker is held half-way, killed, and replaced."""
        purchases = await asyncio.to_thread(read_purchases)
        total, victim = len(purchases), self.mesh.copies[0]
        name = victim.projection.name
        start = self.mesh.processes.start
        await start("shop relay", f"{APPS}.shop", "relay", self.where.environment("shop"))
        held = await start("worker 1", f"{APPS}.marketing", name, self.where.environment("marketing"),
                           hold=f"worker.applying@{total // 2}")  # fmt: skip
        await start("worker 2", f"{APPS}.marketing", "purchases", self.where.environment("marketing"))
        await start("worker 3", f"{APPS}.billing", "workers", self.where.environment("billing"))
        with _progress(self.screen) as progress, first_error():
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(_watch(progress, self.mesh, total))
                publishing = tasks.create_task(self.mesh.publish(purchases))
                await self._kill(held, victim)
                await start("worker 4", f"{APPS}.marketing", name, self.where.environment("marketing"))
                await publishing
                for copy in self.mesh.copies:
                    await self.mesh.wait(f"{copy.name} to be proven", partial(copy.proven, total))
                watching.cancel()
        self.outcome.published = self.mesh.published

    async def _kill(self, held: Child, victim: Copy) -> None:
        async with asyncio.timeout(STEP_TIMEOUT_S):
            either: set[asyncio.Future[Any]] = {held.held, held.reading}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        held.expect_alive()
        self.outcome.killed_at = held.held.result()
        await self.mesh.processes.kill(held)
        self.outcome.resumed_at = await victim.count()
        self.screen.say(
            f"killed the worker of {victim.name} (SIGKILL) as it was about to commit event {self.outcome.killed_at}; "
            f"its replica is at {self.outcome.resumed_at}, another worker goes on from there"
        )

    async def prove(self) -> None:
        """Check all replicas: three claims each."""
        reports = await self._check(self.mesh.copies)
        counts = [report.count for report in reports.values()]
        duplicates = sum(report.delivered.facts["duplicates"] for report in reports.values())
        self.outcome.applied = min(counts)
        self.outcome.redelivered = self.outcome.killed_at - self.outcome.resumed_at + duplicates
        self.outcome.marks_compared = min(report.marks_compared for report in reports.values())
        for copy, report in reports.items():
            self.outcome.verdicts[copy] = {
                "verdict": report.verdict.name,
                "delivered": report.delivered.verdict.name,
                "computed": report.computed.verdict.name,
                "stored": report.stored.verdict.name,
                "count": report.count,
                "marks": report.marks_compared,
                "duplicates": report.delivered.facts["duplicates"],
            }
            self.expect(report.verdict is Verdict.EQUAL, f"{copy} is {report.verdict.name}, expected EQUAL")
        self.expect(set(counts) == {self.outcome.published}, f"applied {counts}, published {self.outcome.published}")
        self.expect(self.outcome.marks_compared >= MARKS_MIN, f"compared at {self.outcome.marks_compared} marks")
        self.expect(self.outcome.redelivered > 0, "nothing was redelivered, so the kill hit no batch")

    async def _check(self, copies: Sequence[Copy]) -> dict[str, Report]:
        """Check them, and show it. Reports by name."""
        with self.screen.console.status("folding the log once more for each replica, and comparing"):
            reports = {copy.name: (await copy.service.check(copy.projection))[0] for copy in copies}
        for service in dict.fromkeys(copy.service.name for copy in copies):
            own = [report for name, report in reports.items() if name.startswith(f"{service}/")]
            self.screen.console.print(reports_table(service, own))
            for line in differences_shown(own):
                self.screen.say(line)
        return reports

    async def compare_with_the_published(self) -> None:
        """Hold the rows, read by plain SQL, against figures that others published for the same purchases."""
        summary = published_summary()
        equal = []
        for service in ("marketing", "billing"):
            rows = await self.where.sql(service, "SELECT customer, frequency, recency, t FROM customer_value")
            seen = {customer: (frequency, Decimal(recency), Decimal(t)) for customer, frequency, recency, t in rows}
            equal.append(sum(seen.get(customer) == figures for customer, figures in summary.items()))
            self.expect(seen.keys() == summary.keys(), f"{service} has {len(seen)} customers, expected {len(summary)}")
        self.outcome.oracle_rows, self.outcome.oracle_equal = len(summary), min(equal)
        self.expect(min(equal) == len(summary), f"{min(equal)} of {len(summary)} rows equal the published summary")
        self.screen.say(f"published summary of these customers: {min(equal)} of {len(summary)} rows equal, in both replicas")

    async def damage_and_repair(self) -> None:
        """Change one row behind Truecopy's back; find it, mend it from the log, and sign that it is equal again."""
        copy = next(one for one in self.mesh.copies if one.name.startswith("billing/customer_value"))
        table = copy.projection.table
        [(customer, before)] = await self.where.sql(
            "billing", f"SELECT customer, dollars FROM {table} ORDER BY customer LIMIT 1 OFFSET 1234"
        )
        after = Decimal(before) + Decimal("100.00")
        value = f"'{after}'" if not self.where.databases else f"{after}"
        await self.where.sql("billing", f"UPDATE {table} SET dollars = {value} WHERE customer = '{customer}'")
        self.outcome.damaged = {
            "replica": copy.name, "key": customer, "field": "dollars", "before": str(before), "after": str(after),
        }  # fmt: skip
        self.screen.say(f"changed one row of {copy.name} by plain SQL: customer {customer}, dollars {before} -> {after}")
        report = (await self._check([copy]))[copy.name]
        self.outcome.found = [difference_json(one) for one in report.differences]
        self.outcome.verdicts[copy.name]["after_damage"] = report.verdict.name
        seen = [(one.key, sorted(one.fields)) for one in report.differences]
        self.expect(seen == [(customer, ["dollars"])], f"the check found {seen}, expected {customer}'s dollars alone")
        self.expect(report.stored.verdict is Verdict.DIVERGED, f"stored is {report.stored.verdict.name}, expected DIVERGED")
        done = await copy.service.repair(copy.projection, apply=True)
        self.outcome.repaired = len(done.planned) if done.applied else 0
        self.expect(self.outcome.repaired == 1, f"repaired {self.outcome.repaired} rows, expected 1")
        self.screen.say(f"repaired {self.outcome.repaired} row from the log")
        report = (await self._check([copy]))[copy.name]
        self.outcome.verdicts[copy.name]["after_repair"] = report.verdict.name
        self.expect(report.verdict is Verdict.EQUAL, f"after the repair it is {report.verdict.name}, expected EQUAL")
        if report.verdict is Verdict.EQUAL:
            certificate = await copy.service.certify(report)
            self.outcome.certificate = certificate.as_json()
            found = await copy.service.verify(certificate)
            self.expect(found.standing is Standing.VALID, f"the certificate is {found.standing.name}: {found.findings}")


def _progress(screen: Screen) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=screen.console)


async def _watch(progress: Progress, watched: Mesh, total: int) -> None:
    """Move the bars until cancelled."""
    published = progress.add_task("published by shop", total=total)
    tasks = {copy.name: progress.add_task(copy.name, total=total) for copy in watched.copies}
    try:
        while True:
            await _moved(progress, watched, published, tasks)
            await asyncio.sleep(BARS_S)
    finally:
        await _moved(progress, watched, published, tasks)


async def _moved(progress: Progress, watched: Mesh, published: Any, tasks: Mapping[str, Any]) -> None:
    progress.update(published, completed=watched.published)
    for name, count in (await watched.counts()).items():
        progress.update(tasks[name], completed=count)
