"""`truecopy check`: whether the app's replica is a true copy, and which rows are not."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress

from rich.markup import escape
from rich.table import Table

from truecopy_bus.errors import TopicMissingError
from truecopy_bus.log import identified
from truecopy_projections.verdicts import Report, Verdict
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of
from truecopy_services.errors import UsageError
from truecopy_services.working import answering_within

__all__ = ["CHECK", "differences_shown", "reports_table"]

DIFFERENCES_SHOWN = 20
"""Differing rows that are shown to a person; the JSON object has them all."""


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("projection", metavar="PROJECTION", nargs="?", help="all of the app's if left out")
    parser.add_argument("--deep", action="store_true", help="compare every row and every key, not only where digests differ")
    parser.add_argument("--certify", action="store_true", help="sign a certificate of each projection that is EQUAL")


async def _check(arguments: Namespace, screen: Screen) -> Exit:
    app = app_of(arguments.app)
    projections = [app.find(arguments.projection)] if arguments.projection else list(app.projections.values())
    if not projections:
        raise UsageError(f"service {app.service!r} declares no projection, so there is nothing to check; name another app")
    reports: list[Report] = []
    certificates = []
    async with app.open(store=False) as service:
        for projection in projections:
            async with answering_within(service.settings.timeout_s, f"log and replica of {projection.id}"):
                with suppress(TopicMissingError):  # the check itself waits for it: its owner may just be making it
                    await identified(service.log, service.topic(projection), foreign=projection.foreign is not None)
                async with service.replica_adapter.snapshot():
                    pass
            with screen.console.status(f"checking {projection.id}"):
                reports += await service.check(projection, deep=arguments.deep)
            if arguments.certify and reports[-1].verdict is Verdict.EQUAL:
                certificates.append(dict(await service.certify(reports[-1])))
    screen.console.print(reports_table(service.name, reports))
    for line in differences_shown(reports):
        screen.say(line)
    good = all(report.verdict is Verdict.EQUAL for report in reports)
    screen.say("EQUAL: every replica is a true copy" if good else "not proven equal: see above")
    screen.finish({"equal": good, "reports": [report.as_json() for report in reports], "certificates": certificates})
    return Exit.GOOD if good else Exit.FAILED


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
    """The first differing rows, each in one line."""
    lines = [f"{report.projection}: {one}" for report in reports for one in report.differences]
    more = len(lines) - DIFFERENCES_SHOWN
    return [*lines[:DIFFERENCES_SHOWN], *([f"and {more} more rows; --json has them all"] if more > 0 else [])]


def _coloured(verdict: Verdict) -> str:
    colour = {Verdict.EQUAL: "green", Verdict.DIVERGED: "red"}.get(verdict, "yellow")
    return f"[{colour}]{verdict.name}[/{colour}]"


CHECK = Verb(name="check", purpose="prove that the app's replica equals the log", arguments=_arguments, act=_check)
