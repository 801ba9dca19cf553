"""`truecopy swap`: let another number of a projection be the one that readers see, in one transaction, if it is proven."""

import getpass
import os
import socket
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from typing import Any

from truecopy_projections.projection import Projection
from truecopy_services.app import Truecopy
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of
from truecopy_services.errors import UsageError
from truecopy_services.service import Service
from truecopy_services.swapping import FOLLOW_S, swap
from truecopy_services.working import answering_within

__all__ = ["SWAP", "follow", "numbered", "operator", "swap_and_tell", "swap_options"]

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def follow(text: str) -> float:
    """Seconds of an option: 90s, 15m, 12h, 7d."""
    unit = _UNITS_S.get(text[-1:], 0)
    if not unit or not text[:-1].isdecimal() or not int(text[:-1]):
        raise ArgumentTypeError(f"{text!r} is no time above 0, such as 90s, 15m, 12h or 7d")
    return float(int(text[:-1]) * unit)


def numbered(app: Truecopy, name: str) -> Projection[Any]:
    """The projection NAME@NUMBER of an app. Raises UsageError."""
    if "@" not in name:
        raise UsageError(f"{name!r} names no number; give NAME@NUMBER, such as {name}@2")
    return app.find(name)


def operator(service: str) -> str:
    """Who does it, for the journal."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"uid {os.getuid()}"
    return f"{user}, {service} on {socket.gethostname()}"


def swap_options(parser: ArgumentParser) -> None:
    """What a swap and the way back take."""
    told = "let it be live although it is not EQUAL: the name of its difference to the live number, as --diff tells it"
    parser.add_argument("--accept", default="", metavar="NAME-OF-DIFFERENCE", help=told)
    told = "for how long the number that was live is kept up to date, for the way back; 90s, 15m, 12h, by default 7d"
    parser.add_argument("--follow", type=follow, default=FOLLOW_S, metavar="TIME", help=told)


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("projection", metavar="NAME@NUMBER", help="the number that is to be live")
    parser.add_argument("--diff", action="store_true", help="tell what readers would see change, and its name")
    swap_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="check and compare, and change nothing")


async def _swap(arguments: Namespace, screen: Screen) -> Exit:
    """Exit code 1 when it is refused."""
    app = app_of(arguments.app)
    projection = numbered(app, arguments.projection)
    async with app.open(store=False) as service:
        return await swap_and_tell(
            service,
            projection,
            screen,
            accept=arguments.accept,
            diff=arguments.diff,
            follow_s=arguments.follow,
            dry_run=arguments.dry_run,
        )


async def swap_and_tell(
    service: Service, projection: Projection[Any], screen: Screen, *, said: Mapping[str, Any] | None = None, **how: Any
) -> Exit:
    """Swap, say what came of it, and finish with one object, `said` in it."""
    async with answering_within(service.settings.timeout_s, f"the log and replica of {projection.id}"):
        await service.log.describe(service.topic(projection))
        async with service.replica_adapter.snapshot():
            pass
    with screen.console.status(f"checking {projection.id}"):
        done = await swap(service, projection, by=operator(service.name), **how)
    if done.difference is not None:
        screen.say(f"{done.new} beside {done.old}: {done.difference}")
        for kind, key in done.difference.shown:
            screen.say(f"  {kind}: {key!r}")
    if done.done:
        screen.say(f"{done.new} is live, {done.verdict.name}; {done.old} follows; nobody applied for {done.held_s:.2f} s")
    else:
        screen.say(f"{done.new} is {done.verdict.name}; nothing was changed")
    screen.finish({**(said or {}), **done.as_json()})
    return Exit.GOOD


SWAP = Verb(name="swap", purpose="let another number of a projection be live, if it is proven", arguments=_arguments, act=_swap)
