"""`truecopy get`: the rows of a key, at least as new as a token."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from pydantic_core import to_jsonable_python

from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of
from truecopy_services.working import answering_within

__all__ = ["GET"]


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("projection", metavar="PROJECTION")
    parser.add_argument("key", metavar="KEY")
    parser.add_argument("--at-least", metavar="TOKEN", help="wait until the replica has applied what this token stands for")


async def _get(arguments: Namespace, screen: Screen) -> Exit:
    app = app_of(arguments.app)
    projection = app.find(arguments.projection)
    async with app.open(store=False) as service:
        reader = service.replica(projection)
        limit_s = service.settings.timeout_s + service.settings.at_least_s
        async with answering_within(limit_s, f"replica {service.replica_adapter.name}"):
            rows = await reader.rows(arguments.key, at_least=arguments.at_least)
    found = [to_jsonable_python(asdict(row)) for row in rows]
    for row in found:
        screen.say("  ".join(f"{name}={value}" for name, value in row.items()))
    if not found:
        screen.say(f"{projection.id} has no row of {arguments.key!r}")
    screen.finish({"projection": projection.id, "key": arguments.key, "rows": found})
    return Exit.GOOD


GET = Verb(name="get", purpose="read the rows of a key from the app's replica", arguments=_arguments, act=_get)
