"""`truecopy dev`: everything of an app in one process, with real servers beside it if they are asked for."""

import asyncio
import os
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack

from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import APP_VARIABLE, Verb, app_argument, app_of
from truecopy_services.servers import Server, kafka, postgres
from truecopy_services.working import stopped_by_signals, work

__all__ = ["DEV"]


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("--kafka", action="store_true", help="start a real Kafka, or use the one in TRUECOPY_KAFKA")
    parser.add_argument("--postgres", action="store_true", help="start a real PostgreSQL, or use the one in TRUECOPY_POSTGRES")


async def _dev(arguments: Namespace, screen: Screen) -> Exit:
    """Without an app only the servers run, and the lines that point other processes at them are shown."""
    stop = asyncio.Event()
    environment: dict[str, str] = {}
    with ExitStack() as servers, stopped_by_signals(stop):
        if arguments.kafka:
            given = os.environ.get("TRUECOPY_KAFKA")
            server = await asyncio.to_thread(servers.enter_context, kafka(given=given, say=screen.say))
            environment["TRUECOPY_LOG"] = server.url
            _tell(screen, server, "TRUECOPY_LOG")
        if arguments.postgres:
            given = os.environ.get("TRUECOPY_POSTGRES")
            server = await asyncio.to_thread(servers.enter_context, postgres(given=given, say=screen.say))
            environment |= {"TRUECOPY_STORE": server.url, "TRUECOPY_REPLICA": server.url}
            _tell(screen, server, "TRUECOPY_STORE", "TRUECOPY_REPLICA")
        os.environ.update(environment)
        if arguments.app or os.environ.get(APP_VARIABLE):
            app = app_of(arguments.app)
            async with app.open(store=False) as service:
                screen.say(f"{service.name}: relay, {', '.join(service.projections) or 'no projections'}; stop with Ctrl-C")
                await work(service, stop, relay=True, projections=list(service.projections.values()))
        else:
            screen.say("no app was named: only the servers run; stop with Ctrl-C")
            await stop.wait()
    screen.finish({"environment": sorted(environment), "stopped": True})
    return Exit.GOOD


def _tell(screen: Screen, server: Server, *names: str) -> None:
    """The lines that point other processes at a server of ours; one that was given is known, and so is its password."""
    screen.say(server.rung)
    for name in names if server.machine is not None else ():
        screen.say(f"export {name}='{server.url}'")


DEV = Verb(name="dev", purpose="run an app in one process, with servers if asked", arguments=_arguments, act=_dev)
