"""`truecopy repair`: bring a projection's rows back to what the log yields, or a certified peer holds. A dry run by default."""

from argparse import ArgumentParser, Namespace
from typing import Any

from truecopy_projections.limits import REPAIR_ROWS_FREE, REPAIR_ROWS_MAX, REPAIR_SHARE_MAX
from truecopy_projections.verdicts import Verdict
from truecopy_services.cli.check import DIFFERENCES_SHOWN
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of, count, share
from truecopy_services.errors import UsageError
from truecopy_services.marking import fresh_mark
from truecopy_services.working import answering_within

__all__ = ["REPAIR"]


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("projection", metavar="PROJECTION")
    parser.add_argument("--apply", action="store_true", help="change the rows; without it they are only named")
    told = "a certified replica whose rows are the truth, in place of the log: sqlite:PATH or postgresql://..."
    parser.add_argument("--from-peer", metavar="ADDRESS", help=told)
    parser.add_argument("--rows-max", type=count, default=REPAIR_ROWS_MAX, metavar="N", help="refuse to change more rows")
    told = f"refuse to change a larger share of all rows, if that is more than {REPAIR_ROWS_FREE} rows"
    parser.add_argument("--share-max", type=share, default=REPAIR_SHARE_MAX, metavar="SHARE", help=told)
    parser.add_argument(
        "--certify", action="store_true", help="with --apply: ask for a mark, check all, and sign what is EQUAL"
    )


async def _repair(arguments: Namespace, screen: Screen) -> Exit:
    """Exit code 1 when a dry run finds something to mend, or what was mended is not certified."""
    if arguments.certify and not arguments.apply:
        raise UsageError("--certify signs what was repaired; give --apply too")
    app = app_of(arguments.app)
    projection = app.find(arguments.projection)
    certificate: dict[str, Any] | None = None
    async with app.open(store=False) as service:
        async with answering_within(service.settings.timeout_s, f"log and replica of {projection.id}"):
            await service.log.describe(service.topic(projection))
            async with service.replica_adapter.snapshot():
                pass
        with screen.console.status(f"comparing {projection.id}"):
            done = await service.repair(
                projection,
                apply=arguments.apply,
                rows_max=arguments.rows_max,
                share_max=arguments.share_max,
                peer=arguments.from_peer,
            )
        for one in done.planned[:DIFFERENCES_SHOWN]:
            screen.say(str(one))
        found = bool(done.planned or done.digests or done.keys)
        told = f"{len(done.planned)} rows, {len(done.keys)} keys and the digests of {len(done.digests)} partitions"
        if not found:
            screen.say(f"{projection.id}: nothing to repair from {done.source}")
        else:
            ended = f"repaired from {done.source}" if done.applied else "would be repaired; do it with --apply"
            screen.say(f"{projection.id}: {told} {ended}")
        if done.left:
            screen.say(f"{projection.id}: {done.left}")
        good = not done.left and (done.applied or not found)
        if arguments.certify:
            with screen.console.status(f"certifying {projection.id}"):
                await fresh_mark(service, projection, asked_by=f"truecopy repair of {service.name}")
                (report,) = await service.check(projection, deep=True)
            if report.verdict is Verdict.EQUAL:
                certificate = (await service.certify(report)).as_json()
            good = certificate is not None
            screen.say(f"{projection.id} is {report.verdict.name}{' and certified' if good else ', so it is not certified'}")
    screen.finish({**done.as_json(), **({"certificate": certificate} if arguments.certify else {})})
    return Exit.GOOD if good else Exit.FAILED


REPAIR = Verb(
    name="repair", purpose="mend a projection's rows from the log, or from a certified peer", arguments=_arguments, act=_repair
)
