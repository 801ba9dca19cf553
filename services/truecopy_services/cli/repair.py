"""`truecopy repair`: bring a projection's rows back to what the log yields. A dry run unless `--apply`."""

from argparse import ArgumentParser, Namespace

from truecopy_projections.limits import REPAIR_ROWS_MAX
from truecopy_services.cli.check import DIFFERENCES_SHOWN
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of, count
from truecopy_services.working import answering_within

__all__ = ["REPAIR"]


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("projection", metavar="PROJECTION")
    parser.add_argument("--apply", action="store_true", help="change the rows; without it they are only named")
    parser.add_argument("--rows-max", type=count, default=REPAIR_ROWS_MAX, metavar="N", help="refuse to change more rows")


async def _repair(arguments: Namespace, screen: Screen) -> Exit:
    """Exit code 1 when a dry run finds something to mend."""
    app = app_of(arguments.app)
    projection = app.find(arguments.projection)
    async with app.open(store=False) as service:
        async with answering_within(service.settings.timeout_s, f"log and replica of {projection.id}"):
            await service.log.describe(service.topic(projection))
            async with service.replica_adapter.snapshot():
                pass
        with screen.console.status(f"folding the log for {projection.id}"):
            done = await service.repair(projection, apply=arguments.apply, rows_max=arguments.rows_max)
    for one in done.planned[:DIFFERENCES_SHOWN]:
        screen.say(str(one))
    found = bool(done.planned or done.digests or done.keys)
    told = f"{len(done.planned)} rows, {len(done.keys)} keys and the digests of {len(done.digests)} partitions"
    if not found:
        screen.say(f"{projection.id}: nothing to repair")
    else:
        screen.say(f"{projection.id}: {told} {'repaired' if done.applied else 'would be repaired; do it with --apply'}")
    screen.finish(done.as_json())
    return Exit.FAILED if found and not done.applied else Exit.GOOD


REPAIR = Verb(name="repair", purpose="mend a projection's rows from the log", arguments=_arguments, act=_repair)
