"""`truecopy rebuild`: build a further number of a projection beside the live one, and drop one that nobody reads."""

from argparse import ArgumentParser, Namespace

from rich.status import Status

from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.swap import numbered, operator, swap_and_tell
from truecopy_services.cli.verb import Verb, app_argument, app_of
from truecopy_services.errors import UsageError
from truecopy_services.rebuilding import Progress, drop, rebuild
from truecopy_services.swapping import FOLLOW_S
from truecopy_services.working import answering_within, spare_collector

__all__ = ["REBUILD"]


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("projection", metavar="NAME@NUMBER", help="a number that the app declares beside the live one")
    parser.add_argument("--swap", action="store_true", help="let it take the live one's place when it is EQUAL")
    parser.add_argument("--drop", action="store_true", help="forget it with its tables; refused for the live one")


async def _rebuild(arguments: Namespace, screen: Screen) -> Exit:
    """Exit code 1 when it stops at an event, or is not EQUAL at the end."""
    if arguments.swap and arguments.drop:
        raise UsageError("--drop forgets a number and --swap shows it to readers; give one of them")
    app = app_of(arguments.app)
    projection = numbered(app, arguments.projection)
    spare_collector()
    async with app.open(store=False) as service:
        async with answering_within(service.settings.timeout_s, f"the log and replica of {projection.id}"):
            await service.log.describe(service.topic(projection))
            async with service.replica_adapter.snapshot():
                pass
        by = operator(service.name)
        if arguments.drop:
            await drop(service, projection, by=by)
            screen.say(f"{projection.id}: forgotten, with its tables")
            screen.finish({"projection": projection.id, "dropped": True})
            return Exit.GOOD
        with screen.console.status(f"building {projection.id}") as status:
            done = await rebuild(service, projection, by=by, told=lambda progress: _shown(status, projection.id, progress))
        verdict = done.report.verdict.name
        told = f"{projection.id}: {done.applied:,} events in {done.took_s:.1f} s, checked: {verdict}"
        screen.say(f"{told}; it follows, and takes the live one's place by `truecopy swap`" if done.follows else told)
        if not done.follows:
            for claim in (done.report.delivered, done.report.computed, done.report.stored):
                screen.say(f"  {claim.verdict.name}: {claim.why}")
        said = {
            "projection": projection.id,
            "verdict": verdict,
            "follows": done.follows,
            "applied": done.applied,
            "count": done.report.count,
            "seconds": round(done.took_s, 3),
        }
        if arguments.swap and done.follows:
            return await swap_and_tell(service, projection, screen, follow_s=FOLLOW_S, said=said)
    screen.finish(said)
    return Exit.GOOD if done.follows else Exit.FAILED


def _shown(status: Status, name: str, progress: Progress) -> None:
    left = "" if progress.left_s is None else f", {progress.left_s:.0f} s left"
    status.update(f"{name}: {progress.done:,} of {progress.total:,} records{left}")


REBUILD = Verb(
    name="rebuild", purpose="build a further number of a projection beside the live one", arguments=_arguments, act=_rebuild
)
