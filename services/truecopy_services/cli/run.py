"""`truecopy run`: what is deployed. The app's relay and workers in this process, until a signal stops them."""

import asyncio
import os
import sys
import threading
from argparse import ArgumentParser, Namespace

from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of, http_argument
from truecopy_services.observing import observed
from truecopy_services.opening import shown
from truecopy_services.working import Loops, spare_collector, stopped_by_signals, work

__all__ = ["RUN"]


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("--only", metavar="WHAT", help="relay, workers, or the name of one projection")
    http_argument(parser)
    parser.add_argument("--with-parent", action="store_true", help="end at once when standard input is closed")


async def _run(arguments: Namespace, screen: Screen) -> Exit:
    """The first SIGTERM or SIGINT ends it with exit code 0; a second one at once."""
    app = app_of(arguments.app)
    only = arguments.only
    relay = only in (None, "relay")
    projections = [] if only == "relay" else list(app.projections.values())
    if only not in (None, "relay", "workers"):
        projections = [app.find(only)]
    stop = asyncio.Event()
    if arguments.with_parent:
        _end_with_parent()
    spare_collector()
    with stopped_by_signals(stop, say=screen.say):
        async with app.open(store=False) as service:
            log = shown(service.settings.log_of())
            parts = [*(["relay"] if relay else []), *(projection.id for projection in projections)]
            screen.say(f"{service.name}: {', '.join(parts) or 'nothing'} on {log}, process {os.getpid()}; stop with SIGTERM")
            loops, works = Loops(), bool(projections)
            async with observed(service, loops, stop, relays=relay, works=works, given=arguments.http, say=screen.say):
                await work(service, stop, relay=relay, projections=projections, loops=loops)
    screen.say(f"{service.name}: stopped, leases given back")
    screen.finish({"service": service.name, "ran": parts, "stopped": True})
    return Exit.GOOD


def _end_with_parent() -> None:
    """Whoever started us holds the other end of our standard input: when that is gone, so is the need to leave in order."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os._exit(Exit.FAILED)

    threading.Thread(target=watch, daemon=True).start()


RUN = Verb(name="run", purpose="run an app's relay and workers", arguments=_arguments, act=_run)
