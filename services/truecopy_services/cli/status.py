"""`truecopy status`: what is behind, parked, halted or away."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from truecopy_projections.limits import BUCKETS
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of
from truecopy_services.opening import shown
from truecopy_services.status import ProjectionStatus, ServiceStatus, status

__all__ = ["STATUS"]

FIGURES = ("position", "lag", "oldest", "count", "verified", "scrubbed", "parked", "foreign")
COLUMNS = ("projection", "part", "log", *FIGURES, "holder")


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)


async def _status(arguments: Namespace, screen: Screen) -> Exit:
    app = app_of(arguments.app)
    async with app.open(store=False) as service:
        found = await status(service, log_name=shown(service.settings.log_of()))
    screen.console.print(_table(found))
    for entity in found.entities or ():
        holders = sorted({holder for holder in entity.holders.values() if holder})
        relay = ", ".join(holders) or "no relay is running"
        oldest = f", the oldest for {entity.oldest_s:.1f} s" if entity.pending else ""
        screen.say(f"outbox of {entity.entity}: {entity.pending} events wait{oldest}; {relay}")
        if entity.halted:
            screen.say(f"relay of {entity.entity} is halted: {entity.halted}")
    for subject, why in found.refused.items():
        screen.say(f"relay: events of {subject} are refused: {why}")
    if found.entities is None:
        screen.say("outbox: unknown")
    for projection in found.projections:
        through = [one for one in projection.partitions if one.certified_through is not None]
        if through:
            events = sum(one.certified_through or 0 for one in through)
            screen.say(f"{projection.id}: certified through {events} events, {through[0].certified_s:.0f} s ago")
        for one in projection.partitions:
            if one.halted:
                screen.say(f"{projection.id}: partition {one.partition} is halted: {one.halted}")
        for line in _waiting(projection):
            screen.say(line)
        if projection.unscrubbed_buckets:
            seen = f"{projection.unscrubbed_buckets} of {BUCKETS} buckets were never scrubbed, or found wrong since"
            screen.say(f"{projection.id}: {seen}; `truecopy scrub` and `truecopy check` go over them")
        for why in projection.unknown:
            screen.say(f"{projection.id}: unknown: {why}")
    for away in found.unreachable:
        screen.say(away)
    screen.finish(asdict(found))
    return Exit.UNREACHABLE if found.unreachable else Exit.GOOD


def _waiting(projection: ProjectionStatus) -> list[str]:
    """What lies in quarantine, by reason, and what was ruled."""
    lines = []
    for reason in sorted({one.reason for one in projection.waiting}):
        mine = [one for one in projection.waiting if one.reason == reason]
        records, oldest_s = sum(one.records for one in mine), max(one.oldest_s for one in mine)
        of = f" of {keys} keys" if (keys := sum(one.keys for one in mine)) else ""
        lines.append(f"{projection.id}: {records} records{of} wait: {reason}, the oldest {oldest_s:.0f} s old")
    if lines:
        share = 100 * (projection.waiting_share or 0)
        lines.append(f"{projection.id}: that is {share:.1f} % of what may wait; `truecopy quarantine list` names them")
    return [*lines, *([f"{projection.id}: {projection.amendments} events are amended"] if projection.amendments else [])]


def _table(found: ServiceStatus) -> Table:
    table = Table(title=f"{found.service} on {found.log}", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, no_wrap=True, justify="left" if column in ("projection", "holder") else "right")
    for projection in found.projections:
        scrubbed = None if projection.oldest_scrub_age_s is None else f"{projection.oldest_scrub_age_s:.0f} s ago"
        for one in projection.partitions:
            bounds = "?" if one.end is None else f"{one.start}..{one.end}"
            oldest = None if one.oldest_unapplied_s is None else f"{one.oldest_unapplied_s:.1f} s"
            verified = None if one.verified_s is None else f"{one.verified_through}, {one.verified_s:.0f} s ago"
            figures = (one.position, one.lag, oldest, one.count, verified, scrubbed, one.parked, one.foreign)
            table.add_row(
                projection.id,
                str(one.partition),
                bounds,
                *map(_told, figures),
                escape(one.holder or ("?" if one.position is None else "-")),
            )
    return table


def _told(value: Any) -> str:
    """What is not known is a question mark, never a zero."""
    return "?" if value is None else str(value)


STATUS = Verb(name="status", purpose="show lag, outbox, parked keys and leases", arguments=_arguments, act=_status)
