"""`truecopy dev`: everything of an app in one process, with real servers beside it if they are asked for."""

import asyncio
import os
from argparse import ArgumentParser, Namespace
from contextlib import AsyncExitStack

from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import APP_VARIABLE, Verb, app_argument, app_of
from truecopy_services.real_servers import real_server
from truecopy_services.working import stopped_by_signals, work

__all__ = ["DEV"]

SETTINGS_OF = {"kafka": ("TRUECOPY_LOG",), "postgres": ("TRUECOPY_STORE", "TRUECOPY_REPLICA")}


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("--kafka", action="store_true", help="with a real Kafka: the one in TRUECOPY_KAFKA, or its own")
    parser.add_argument("--postgres", action="store_true", help="with a real PostgreSQL: in TRUECOPY_POSTGRES, or its own")


async def _dev(arguments: Namespace, screen: Screen) -> Exit:
    """Without an app only the servers run, and the lines that point other processes at them are shown."""
    stop = asyncio.Event()
    told: list[str] = []
    with stopped_by_signals(stop, say=screen.say):
        async with AsyncExitStack() as stack:
            for kind in (kind for kind in SETTINGS_OF if getattr(arguments, kind)):
                given = os.environ.get(f"TRUECOPY_{kind.upper()}")
                server = await real_server(kind, given=given, stack=stack, say=screen.say)
                told.append(server.told)
                screen.say(server.told)
                for name in SETTINGS_OF[kind]:
                    os.environ[name] = server.url
                    if server.ours:  # one that was given is known, and its password is nobody else's
                        screen.say(f"export {name}='{server.url}'")
            if arguments.app or os.environ.get(APP_VARIABLE):
                app = app_of(arguments.app)
                service = await stack.enter_async_context(app.open(store=False))
                screen.say(f"{service.name}: relay, {', '.join(service.projections) or 'no projection'}; stop with Ctrl-C")
                await work(service, stop, relay=True, projections=list(service.projections.values()))
            else:
                screen.say("no app was named, so nothing but servers runs; stop with Ctrl-C")
                await stop.wait()
    screen.finish({"servers": told, "stopped": True})
    return Exit.GOOD


DEV = Verb(name="dev", purpose="run an app in one process, with servers if asked", arguments=_arguments, act=_dev)
