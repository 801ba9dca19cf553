"""`truecopy scrub`: read the replica's rows from the disk, bucket after bucket, and say what is not as it was written."""

import asyncio
import logging
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of, count, http_argument
from truecopy_services.errors import UsageError
from truecopy_services.observing import observed
from truecopy_services.scrubbing import CYCLE_S, Pace, Scrubbed, Told, scrub_rounds
from truecopy_services.working import Loops, stopped_by_signals

__all__ = ["SCRUB", "duration"]

_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def duration(text: str) -> float:
    """A time of an option in seconds: 90, 90s, 15m, 24h, 7d."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None or not float(found[1]):
        raise ArgumentTypeError(f"{text!r} is no time above 0, as 90s, 15m, 24h or 7d are")
    return float(found[1]) * _UNITS_S[found[2]]


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("projection", metavar="PROJECTION", nargs="*", help="all of the app's if left out")
    parser.add_argument("--once", action="store_true", help="scrub all rows once, as fast as it goes, and end")
    parser.add_argument("--cycle", type=duration, metavar="TIME", help="scrub all rows within TIME, by default 20h")
    parser.add_argument("--bytes-per-second", type=count, metavar="BYTES", help="read no faster, and let the cycle take longer")
    http_argument(parser)


async def _scrub(arguments: Namespace, screen: Screen) -> Exit:
    """Exit code 0 when it is stopped, whatever it found, for that was said; with --once 1 if anything was found."""
    app = app_of(arguments.app)
    projections = [app.find(name) for name in arguments.projection] or list(app.projections.values())
    if not projections:
        raise UsageError(f"service {app.service!r} declares no projection, so there is nothing to scrub; name another app")
    if arguments.once and (arguments.cycle or arguments.bytes_per_second or arguments.http):
        raise UsageError("--once is one cycle as fast as it goes; leave out --cycle, --bytes-per-second and --http")
    cycle_s = arguments.cycle or CYCLE_S
    pace = Pace(cycle_s=cycle_s, projections=len(projections), bytes_per_s=arguments.bytes_per_second or None)
    stop, loops = asyncio.Event(), Loops()
    scrubbed = {one.id: Scrubbed() for one in projections}

    def tell(told: Told) -> None:
        if screen.json:
            screen.finish(told.as_json())
        else:
            screen.say(f"{told.projection}: {told.text}")

    with stopped_by_signals(stop, say=screen.say):
        async with app.open(store=False) as service:
            if "log_level" not in service.settings.model_fields_set:
                logging.getLogger("truecopy.scrub").setLevel(logging.INFO)
            if not arguments.once:
                screen.say(f"{service.name}: scrubbing {', '.join(scrubbed)} in {cycle_s:g} s each cycle; stop with SIGTERM")
            async with observed(service, loops, stop, scrubs=scrubbed, given=arguments.http, say=screen.say):
                await scrub_rounds(
                    service,
                    projections,
                    stop,
                    pace=None if arguments.once else pace,
                    scrubbed=scrubbed,
                    tell=tell,
                    outages=loops.outages,
                )
    clean = all(one.clean for one in scrubbed.values())
    for name, one in scrubbed.items():
        said = "all as they were written" if one.clean else "not all as they were written: see above"
        screen.say(f"{name}: {one.rows} rows in {one.buckets} buckets, {said}")
    whole = not arguments.once or not stop.is_set()
    screen.finish({"clean": clean, "whole": whole, "projections": {name: one.as_json() for name, one in scrubbed.items()}})
    return Exit.FAILED if arguments.once and not (clean and whole) else Exit.GOOD


SCRUB = Verb(name="scrub", purpose="hash the replica's rows again, bucket after bucket", arguments=_arguments, act=_scrub)
