"""`truecopy bootstrap`: fill this replica with a projection from a peer, proven before anybody sees it."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from rich.status import Status

from truecopy_projections.bootstrap import Progress
from truecopy_projections.signing_keys import public_key
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of
from truecopy_services.working import answering_within

__all__ = ["BOOTSTRAP"]

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _rate(text: str) -> int:
    """Bytes a second, above 0; 64K and 20M are understood."""
    unit = _UNITS.get(text[-1:].upper(), 1)
    number = text if unit == 1 else text[:-1]
    if not number.isdecimal() or not int(number):
        raise ArgumentTypeError(f"{text!r} is no number of bytes above 0, such as 500000, 512K or 20M")
    return int(number) * unit


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("projection", metavar="PROJECTION")
    parser.add_argument(
        "--from", dest="peer", metavar="ADDRESS", required=True, help="the peer: sqlite:PATH or postgresql://..."
    )
    parser.add_argument("--replace", action="store_true", help="throw away what this replica holds of the projection")
    parser.add_argument("--public-key", metavar="HEX|FILE", help="trust certificates of this key too")
    parser.add_argument("--bytes-per-second", type=_rate, metavar="N", help="copy no faster, to spare the peer; 20M is 20 MiB")
    parser.add_argument("--dry-run", action="store_true", help="prove the peer and copy nothing")


async def _bootstrap(arguments: Namespace, screen: Screen) -> Exit:
    app = app_of(arguments.app)
    projection = app.find(arguments.projection)
    async with app.open(store=False) as service:
        async with answering_within(service.settings.timeout_s, f"the log of {projection.id}"):
            await service.log.describe(service.topic(projection))
        with screen.console.status(f"reading the peer of {projection.id}") as status:
            done = await service.bootstrap(
                projection,
                arguments.peer,
                public_key=public_key(arguments.public_key) if arguments.public_key else None,
                replace=arguments.replace,
                dry_run=arguments.dry_run,
                bytes_per_second=arguments.bytes_per_second,
                told=lambda progress: _shown(status, projection.id, progress),
            )
    parked = f", {len(done.parked)} keys parked" if done.parked else ""
    told = f"{done.rows:,} rows of {done.count:,} events{parked}, proven; {done.beyond:,} records since the certificate"
    if done.applied:
        screen.say(f"{projection.id}: filled from {done.peer}: {told}; workers go on from there")
    else:
        screen.say(f"{projection.id}: {done.peer} would do: {told}; nothing was copied")
    screen.finish(done.as_json())
    return Exit.GOOD


def _shown(status: Status, name: str, progress: Progress) -> None:
    is_bytes = progress.doing == "copying"
    done, total = (
        "?" if number is None else f"{number / 1e6:,.1f} MB" if is_bytes else f"{number:,} rows"
        for number in (progress.done, progress.total)
    )
    left = "" if progress.left_s is None else f", {progress.left_s:.0f} s left"
    status.update(f"{name}: {progress.doing}, {done} of {total}{left}")


BOOTSTRAP = Verb(
    name="bootstrap", purpose="fill this replica from a peer, proven by its certificate", arguments=_arguments, act=_bootstrap
)
