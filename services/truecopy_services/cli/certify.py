"""`truecopy certify`: a whole check of each projection, and a certificate of each that is EQUAL."""

from argparse import ArgumentParser, Namespace
from typing import Any

from truecopy_projections.verdicts import Report, Verdict
from truecopy_services.checking import answered
from truecopy_services.cli.check import amendments_shown, differences_shown, reports_table
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of
from truecopy_services.errors import UsageError
from truecopy_services.marking import fresh_mark

__all__ = ["CERTIFY"]


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("projection", metavar="PROJECTION", nargs="?", help="all of the app's if left out")
    parser.add_argument("--mark", action="store_true", help="ask the owner for a mark first, and wait for it")
    told = "why positions or counts go back, or why a chain goes on behind a fork: it stands in the certificate"
    parser.add_argument("--because", metavar="TEXT", default="", help=told)


async def _certify(arguments: Namespace, screen: Screen) -> Exit:
    app = app_of(arguments.app)
    projections = [app.find(arguments.projection)] if arguments.projection else list(app.projections.values())
    if not projections:
        raise UsageError(f"service {app.service!r} declares no projection, so there is nothing to certify; name another app")
    reports: list[Report] = []
    certificates: list[dict[str, Any]] = []
    ids: list[str] = []
    async with app.open(store=False) as service:
        for projection in projections:
            await answered(service, projection)
            if arguments.mark:
                with screen.console.status(f"waiting for a mark of {projection.entity}"):
                    await fresh_mark(service, projection, asked_by=f"truecopy certify of {service.name}")
            with screen.console.status(f"checking {projection.id}"):
                (report,) = await service.check(projection, deep=True)
            reports.append(report)
            if report.verdict is Verdict.EQUAL:
                issued = await service.certify(report, because=arguments.because)
                certificates.append(issued.as_json())
                ids.append(issued.id)
                screen.say(f"{projection.id}: certified {issued.count} events, {issued.id}")
    for line in amendments_shown(reports):
        screen.say(line)
    refused = [report for report in reports if report.verdict is not Verdict.EQUAL]
    if refused:
        screen.console.print(reports_table(service.name, refused))
        for line in differences_shown(refused):
            screen.say(line)
        screen.say(f"not certified: {', '.join(report.projection for report in refused)}; only EQUAL is")
    screen.finish(
        {"certified": not refused, "ids": ids, "certificates": certificates, "reports": [one.as_json() for one in reports]}
    )
    return Exit.FAILED if refused else Exit.GOOD


CERTIFY = Verb(
    name="certify",
    purpose="check the app's replica as a whole, and sign that it equals the log",
    arguments=_arguments,
    act=_certify,
)
