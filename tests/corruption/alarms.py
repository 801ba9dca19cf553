"""The other half of the drill: nothing is altered, and nothing may be called DIVERGED, whatever else goes wrong.

Events flow at the full rate. One of two relays is held past its lease again and again and then appends late; appends and marks
come twice and late; versions change places; workers are killed with SIGKILL, and relay and publisher begin anew. Meanwhile
marks are compared, buckets are scrubbed, and whole checks are made.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.corruption.intended import Intent
from tests.corruption.ledger import PROJECTIONS, app
from tests.corruption.stage import QUICK, FlowProcess

from truecopy_bus.errors import TopicMissingError, UnavailableError
from truecopy_projections.errors import UnknownProjectionError
from truecopy_projections.limits import BUCKETS, CHECK_POLL_S
from truecopy_projections.projection import Projection
from truecopy_projections.scrub import scrub
from truecopy_projections.state import MarkVerdict
from truecopy_projections.verdicts import Verdict
from truecopy_services import Service, Settings

SCRUBBED_AT_ONCE = 64
"""Buckets of one scrub."""
SETTLED_WITHIN_S = 240.0
WATCHED = PROJECTIONS[:2]
EXPECTED = ("event_copies", "gaps", "late_events", "mark_copies", "worker_kills")
"""Kinds of trouble of which a run has at least one."""
TROUBLED = {"TRUECOPY_MARK_WRITING_S": "0.1", "TRUECOPY_MARK_IDLE_S": "0.2", "TRUECOPY_LEASE_S": "1"}


@dataclass(slots=True, kw_only=True)
class Alarms:
    """What was compared, what went wrong meanwhile, and what was called diverged although nothing was."""

    events: int = 0
    seconds: float = 0.0
    marks: Counter[str] = field(default_factory=Counter)
    buckets: int = 0
    checks: Counter[str] = field(default_factory=Counter)
    trouble: Counter[str] = field(default_factory=Counter)
    alarms: list[str] = field(default_factory=list)

    @property
    def compared(self) -> int:
        """Marks that were judged, and buckets that were scrubbed."""
        return self.marks["EQUAL"] + self.marks["DIVERGED"] + self.buckets


async def listen(
    addresses: Mapping[str, str], folder: Path, *, intent: Intent, rate: int, namespace: str, comparisons: int, marks: int
) -> Alarms:
    """Go on until so many comparisons were made, `marks` of them with marks; then prove that all is as it was intended."""
    variables = {"TRUECOPY_NAMESPACE": namespace, "TRUECOPY_HOME": str(folder), **QUICK, **TROUBLED, **addresses}
    given = {name.removeprefix("TRUECOPY_").lower(): value for name, value in variables.items()}
    heard, draw = Alarms(), random.Random(intent.seed)
    roles = ",".join(projection.name for projection in WATCHED)
    owner = await FlowProcess.start(variables, intent, rate=rate, roles="publish", trouble=True)
    workers = await FlowProcess.start(variables, intent, rate=rate, roles=roles)
    try:
        await owner.ask("go")
        began_s, before = time.monotonic(), await owner.ask("count")
        async with app.at(Settings.load(**given)).open(store=False) as service:
            turn = 0
            while (
                heard.compared < comparisons
                or heard.marks["EQUAL"] < marks
                or not all((heard.trouble + owner.done)[kind] for kind in EXPECTED)
            ):
                turn += 1
                for projection in WATCHED:
                    await _compare(service, projection, heard, draw)
                if turn % 3 == 0:
                    await workers.kill()
                    heard.trouble["worker_kills"] += 1
                    workers = await FlowProcess.start(variables, intent, rate=rate, roles=roles)
                if turn % 5 == 0:
                    await owner.kill()
                    heard.trouble["owner_kills"] += 1
                    heard.trouble += owner.done
                    owner = await FlowProcess.start(variables, intent, rate=rate, roles="publish", trouble=True)
                    await owner.ask("go")
                counted = await owner.ask("count") - before
                if counted > heard.events:  # an owner that has just begun anew has not counted yet
                    heard.events, heard.seconds = counted, time.monotonic() - began_s
            events = await owner.ask("end")
            heard.trouble += owner.done
            for projection in WATCHED:
                await _prove(service, projection, events, intent, heard)
    finally:
        await workers.kill()
        await owner.kill()
    return heard


async def _compare(service: Service, projection: Projection[object], heard: Alarms, draw: random.Random) -> None:
    """Scrub some buckets, make one whole check, count the marks."""
    with suppress(UnknownProjectionError, TopicMissingError, UnavailableError):
        found = await scrub(projection, service.replica_adapter, buckets=draw.sample(range(BUCKETS), SCRUBBED_AT_ONCE))
        heard.buckets += SCRUBBED_AT_ONCE
        heard.alarms += [f"{projection.id}: {one}" for one in found.findings]
        (report,) = await service.check(projection)
        heard.checks[report.verdict.name] += 1
        if report.verdict in (Verdict.DIVERGED, Verdict.INCOMPARABLE):
            heard.alarms.append(f"{projection.id}: {report.as_json()}")
        await _count(service, heard)


async def _count(service: Service, heard: Alarms) -> None:
    """The marks that were compared so far. More are kept of each partition than come in such a run."""
    heard.marks = Counter()
    async with service.replica_adapter.snapshot() as snapshot:
        for projection in WATCHED:
            for one in await snapshot.checkpoints(projection.id):
                heard.marks[one.verdict.name] += 1
                if one.verdict is MarkVerdict.DIVERGED:
                    heard.alarms.append(f"{projection.id}: {one}")


async def _prove(service: Service, projection: Projection[object], events: int, intent: Intent, heard: Alarms) -> None:
    async with asyncio.timeout(SETTLED_WITHIN_S):
        while True:
            (report,) = await service.check(projection, deep=True)
            if report.verdict is Verdict.EQUAL and report.count == events:
                break
            await asyncio.sleep(CHECK_POLL_S)
    async with service.replica_adapter.snapshot() as snapshot:
        rows = {
            (key, projection.sub_key(row.values)): row.values
            async for batch in snapshot.rows(projection)
            for key, _, row in batch
        }
    if rows != intent.rows(events)[projection.name]:
        heard.alarms.append(f"{projection.id}: its rows are not those that were intended")
    await _count(service, heard)
