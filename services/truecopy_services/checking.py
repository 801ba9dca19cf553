"""Checking without end: round after round, until it is told to stop.

A verdict is said and counted, and the next round is made all the same; only who asks to fail fast is left at the first that is
not EQUAL. What is away, or not made yet, is no verdict: it is waited for, as relay and workers wait, and said once.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from truecopy_bus.errors import DatabaseCorruptError, TopicMissingError, UnavailableError
from truecopy_bus.log import identified
from truecopy_bus.outage import Outage
from truecopy_projections.errors import UnknownProjectionError
from truecopy_projections.projection import Projection
from truecopy_projections.verdicts import Report, Verdict
from truecopy_services.service import Service
from truecopy_services.working import answering_within

__all__ = ["UNREACHABLE", "Checked", "Round", "answered", "check_rounds"]

UNREACHABLE = "UNREACHABLE"
"""What is counted in place of a verdict where there is none."""

_log = logging.getLogger("truecopy.check")


@dataclass(slots=True, kw_only=True)
class Checked:
    """What was found of one projection so far. `verdict` is None while the last round could not be made."""

    verdict: Verdict | None = None
    at_s: float | None = None
    rounds: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round over all projections. `away` says why some have no report, `corrupt` what a database can't read of its own."""

    number: int
    reports: tuple[Report, ...]
    away: tuple[str, ...]
    corrupt: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether every replica was proven a true copy."""
        return not (self.away or self.corrupt) and all(report.agreed for report in self.reports)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        reports = [report.as_json() for report in self.reports]
        missing = {"unreachable": list(self.away), "corrupt": list(self.corrupt)}
        return {"round": self.number, "equal": self.equal, "reports": reports, **missing}


async def answered(service: Service, projection: Projection[Any]) -> None:
    """Raises UnavailableError unless log and replica answer within the time limit; a topic may be missing."""
    async with answering_within(service.settings.timeout_s, f"log and replica of {projection.id}"):
        with suppress(TopicMissingError):  # the check itself waits for it: its owner may just be making it
            await identified(service.log, service.topic(projection), foreign=projection.foreign is not None)
        async with service.replica_adapter.snapshot():
            pass


async def check_rounds(
    service: Service,
    projections: Collection[Projection[Any]],
    stop: asyncio.Event,
    *,
    every_s: float,
    deep: bool,
    fail_fast: bool,
    quick: bool = False,
    peers: Sequence[str] = (),
    checked: Mapping[str, Checked],
    tell: Callable[[Round], None],
) -> Round | None:
    """Check every `every_s` seconds, from begin to begin, until `stop` is set. Returns the last whole round.

    `tell` gets each whole round, and the first of an outage; `checked`, by projection, is kept up to date. With `fail_fast` the
    first whole round that is not EQUAL is the last. Raises what no waiting can mend, as a single check does.
    """
    outage = Outage(_log, f"check of {service.name}", about={"service": service.name})
    last: Round | None = None
    number = 0
    while not stop.is_set():
        began_s = time.monotonic()
        number += 1
        how = {"deep": deep, "quick": quick, "peers": peers}
        found = await _unless(stop, _round(service, projections, number, how=how, checked=checked))
        if found is None:
            break
        if found.away:
            if outage.fault is None:
                tell(found)
            pause_s = min(every_s, outage.strike(UnavailableError("; ".join(found.away))))
        else:
            outage.over()
            last = found
            tell(found)
            if fail_fast and not found.equal:
                break
            pause_s = max(0.0, began_s + every_s - time.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await stop.wait()
    return last


async def _unless(stop: asyncio.Event, making: Any) -> Round | None:
    """What is being made, or None when `stop` comes first: a check only reads, so it may be dropped at any point."""
    made, stopped = asyncio.ensure_future(making), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([made, stopped], return_when=asyncio.FIRST_COMPLETED)
        return made.result() if made.done() else None
    finally:
        for task in (made, stopped):
            task.cancel()
        await asyncio.gather(made, stopped, return_exceptions=True)


async def _round(
    service: Service,
    projections: Collection[Projection[Any]],
    number: int,
    *,
    how: Mapping[str, Any],
    checked: Mapping[str, Checked],
) -> Round:
    reports, away, corrupt = [], [], []
    for projection in projections:
        kept = checked[projection.id]
        try:
            await answered(service, projection)
            (report,) = await service.check(projection, **how)
        except DatabaseCorruptError as fault:  # that the disk does not hold the rows is a verdict
            kept.verdict, kept.at_s = Verdict.DIVERGED, time.time()
            kept.rounds[Verdict.DIVERGED.name] += 1
            corrupt.append(f"{projection.id}: {fault}")
            _log.error("%s is DIVERGED: %s", projection.id, fault, extra={"projection": projection.id, "round": number})
            continue
        except (UnavailableError, TopicMissingError, UnknownProjectionError) as fault:
            kept.verdict = None
            kept.rounds[UNREACHABLE] += 1
            away.append(f"{projection.id}: {fault}")
            continue
        reports.append(report)
        kept.verdict, kept.at_s = report.verdict, time.time()
        kept.rounds[report.verdict.name] += 1
        _say(report, number)
    return Round(number=number, reports=tuple(reports), away=tuple(away), corrupt=tuple(corrupt))


def _say(report: Report, number: int) -> None:
    good = report.verdict is Verdict.EQUAL
    claims = (report.delivered, report.computed, report.stored)
    why = "; ".join(claim.why for claim in claims if claim.verdict is not Verdict.EQUAL) or f"{report.count} events"
    about = {"projection": report.projection, "verdict": report.verdict.name, "count": report.count, "round": number}
    level = logging.INFO if good else logging.WARNING
    _log.log(level, "%s is %s: %s", report.projection, report.verdict.name, why, extra=about)
