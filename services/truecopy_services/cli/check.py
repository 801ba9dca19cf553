"""`truecopy check`: whether the app's replica is a true copy, and which rows are not; once, or round after round."""

import asyncio
import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from truecopy_projections.projection import Projection
from truecopy_projections.verdicts import Difference, Report, Verdict
from truecopy_services.app import Truecopy
from truecopy_services.checking import Checked, Round, answered, check_rounds
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of, http_argument, peers_argument, seconds
from truecopy_services.errors import UsageError
from truecopy_services.marking import fresh_mark
from truecopy_services.observing import observed
from truecopy_services.operating.lines import escaped
from truecopy_services.working import Loops, stopped_by_signals

__all__ = ["CHECK", "amendments_shown", "differences_shown", "reports_table"]

DIFFERENCES_SHOWN = 20
"""Differing rows that are shown to a person; the JSON object has them all."""


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("projection", metavar="PROJECTION", nargs="?", help="all of the app's if left out")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--deep", action="store_true", help="compare every row and every key, not only where digests differ")
    extent.add_argument("--quick", action="store_true", help="read the maintained figures alone: neither the log nor the rows")
    peers_argument(parser)
    parser.add_argument("--mark", action="store_true", help="ask the owner for a mark first, and wait for it")
    parser.add_argument("--certify", action="store_true", help="sign a certificate of each projection that is EQUAL")
    parser.add_argument("--every", type=seconds, metavar="SECONDS", help="check again and again, until SIGTERM")
    parser.add_argument("--fail-fast", action="store_true", help="with --every: end with 1 at the first round not EQUAL")
    http_argument(parser)


async def _check(arguments: Namespace, screen: Screen) -> Exit:
    app = app_of(arguments.app)
    projections = [app.find(arguments.projection)] if arguments.projection else list(app.projections.values())
    if not projections:
        raise UsageError(f"service {app.service!r} declares no projection, so there is nothing to check; name another app")
    if arguments.certify and arguments.quick:
        raise UsageError("--certify signs what a whole check found, --quick makes none; give one of them")
    if arguments.every:
        if arguments.mark:
            raise UsageError("--mark asks for one mark, --every makes many checks; give one of them")
        if arguments.certify:
            raise UsageError("--certify signs one check, --every makes many; give one of them")
        return await _continuously(arguments, screen, app, projections)
    if arguments.fail_fast or arguments.http:
        raise UsageError(f"{'--fail-fast' if arguments.fail_fast else '--http'} goes with --every; give that too")
    reports: list[Report] = []
    certificates = []
    async with app.open(store=False) as service:
        for projection in projections:
            await answered(service, projection)
            if arguments.mark:
                with screen.console.status(f"waiting for a mark of {projection.entity}"):
                    await fresh_mark(service, projection, asked_by=f"truecopy check of {service.name}")
            with screen.console.status(f"checking {projection.id}"):
                how = {"deep": arguments.deep, "quick": arguments.quick, "peers": arguments.peer, "afresh": True}
                reports += await service.check(projection, **how)
            if arguments.certify and reports[-1].verdict is Verdict.EQUAL:
                certificates.append((await service.certify(reports[-1])).as_json())
    screen.console.print(reports_table(service.name, reports))
    for line in differences_shown(reports):
        screen.say(line)
    for line in amendments_shown(reports):
        screen.say(line)
    good = all(report.agreed for report in reports)
    screen.say("EQUAL: every replica is a true copy" if good else "not proven equal: see above")
    screen.finish({"equal": good, "reports": [report.as_json() for report in reports], "certificates": certificates})
    return Exit.GOOD if good else Exit.FAILED


async def _continuously(arguments: Namespace, screen: Screen, app: Truecopy, projections: Sequence[Projection[Any]]) -> Exit:
    """Exit code 0 when it is stopped, whatever it found, for that was said; 1 only with --fail-fast."""
    stop = asyncio.Event()
    checked = {projection.id: Checked() for projection in projections}
    with stopped_by_signals(stop, say=screen.say):
        async with app.open(store=False) as service:
            if "log_level" not in service.settings.model_fields_set:
                logging.getLogger("truecopy.check").setLevel(logging.INFO)  # verdicts are what this process is for
            screen.say(f"{service.name}: checking {', '.join(checked)} every {arguments.every:g} s; stop with SIGTERM")

            def tell(found: Round) -> None:
                for line in differences_shown(found.reports):
                    screen.say(line)
                screen.finish(found.as_json())

            async with observed(service, Loops(), stop, checks=checked, given=arguments.http, say=screen.say):
                last = await check_rounds(
                    service,
                    projections,
                    stop,
                    every_s=arguments.every,
                    deep=arguments.deep,
                    quick=arguments.quick,
                    peers=arguments.peer,
                    fail_fast=arguments.fail_fast,
                    checked=checked,
                    tell=tell,
                )
    failed = arguments.fail_fast and last is not None and not last.equal
    rounds = {name: dict(one.rounds) for name, one in checked.items()}
    screen.finish({"equal": last.equal if last else None, "rounds": rounds, "stopped": not failed})
    return Exit.FAILED if failed else Exit.GOOD


def reports_table(service: str, reports: Sequence[Report]) -> Table:
    """The three claims of each report, with the reason of any that is not EQUAL."""
    table = Table(title=f"{service}: is the replica a true copy?", title_justify="left")
    for column in ("projection", "events", "marks", "delivered", "computed", "stored", "why"):
        table.add_column(column, justify="right" if column in ("events", "marks") else "left")
    for report in reports:
        claims = (report.delivered, report.computed, report.stored)
        reasons = [claim.why for claim in claims if claim.verdict is not Verdict.EQUAL]
        table.add_row(
            report.projection,
            str(report.count),
            str(report.marks_compared),
            *(_coloured(claim.verdict) for claim in claims),
            escape("; ".join(reasons)),
        )
    return table


def differences_shown(reports: Sequence[Report]) -> list[str]:
    """What peers say, and the first differing rows: each in one line, and below it where the two sides part."""
    lines = [f"{report.projection}: {one.verdict.name}: {one.why}" for report in reports for one in report.peers]
    named = [(report.projection, one) for report in reports for one in _named(report)]
    for projection, one in named[:DIFFERENCES_SHOWN]:
        lines.append(f"{projection}: {one}")
        if one.explanation is not None:
            lines.append(f"  {one.explanation.why}")
    more = len(named) - DIFFERENCES_SHOWN
    return [*lines, *([f"and {more} more rows; --json has them all"] if more > 0 else [])]


def amendments_shown(reports: Sequence[Report]) -> list[str]:
    """What was ruled about events, by which the rows are judged."""
    named = [f"{report.projection}: amended: {one}" for report in reports for one in report.amendments]
    more = len(named) - DIFFERENCES_SHOWN
    return [*map(escaped, named[:DIFFERENCES_SHOWN]), *([f"and {more} more rulings; --json has them all"] if more > 0 else [])]


def _named(report: Report) -> list[Difference]:
    """The differing rows of a report and of its peers, each once."""
    found = {(one.key, one.row): one for peer in report.peers for one in peer.differences}
    return list({**found, **{(one.key, one.row): one for one in report.differences}}.values())


def _coloured(verdict: Verdict) -> str:
    colour = {Verdict.EQUAL: "green", Verdict.DIVERGED: "red"}.get(verdict, "yellow")
    return f"[{colour}]{verdict.name}[/{colour}]"


CHECK = Verb(name="check", purpose="prove that the app's replica equals the log", arguments=_arguments, act=_check)
