"""`truecopy get`: the rows of a key, at least as new as a token, or as they were at a version, a time or a mark."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic_core import to_jsonable_python

from truecopy_projections.projection import Projection
from truecopy_services.app import Truecopy
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of
from truecopy_services.operating.cuts import CUT_FORMS, cut_asked, version_asked
from truecopy_services.working import answering_within

__all__ = ["GET"]


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    told = "by its name the number that is live, or NAME@NUMBER"
    parser.add_argument("projection", metavar="PROJECTION", help=told)
    parser.add_argument("key", metavar="KEY")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--at-least", metavar="TOKEN", help="wait until the replica has applied what this token stands for")
    told = f"the rows as they were, folded from the log: version:N, or {CUT_FORMS}"
    which.add_argument("--as-of", metavar="POINT", help=told)


async def _get(arguments: Namespace, screen: Screen) -> Exit:
    app = app_of(arguments.app)
    projection = app.find(arguments.projection)
    if arguments.as_of:
        return await _get_as_of(arguments, screen, app, projection)
    async with app.open(store=False) as service:
        live = arguments.projection == projection.name
        limit_s = service.settings.timeout_s + service.settings.at_least_s
        async with answering_within(limit_s, f"replica {service.replica_adapter.name}"):
            if live:
                reader, rows = await service.replica(projection.name).read(arguments.key, at_least=arguments.at_least)
                projection = reader.projection
            else:
                rows = await service.replica(projection).rows(arguments.key, at_least=arguments.at_least)
    found = _said(rows, screen)
    if not found:
        screen.say(f"{projection.id} has no row of {arguments.key!r}")
    screen.finish({"projection": projection.id, "key": arguments.key, "rows": found})
    return Exit.GOOD


async def _get_as_of(arguments: Namespace, screen: Screen, app: Truecopy, projection: Projection[Any]) -> Exit:
    version = version_asked(arguments.as_of)
    cut = None if version is not None else cut_asked(arguments.as_of)
    async with app.open(store=False) as service:
        async with answering_within(service.settings.timeout_s, f"log and replica of {projection.id}"):
            await service.log.describe(service.topic(projection))
            async with service.replica_adapter.snapshot():
                pass
        with screen.console.status(f"folding {arguments.key!r}"):
            was = await service.as_of(projection, arguments.key, version=version, cut=cut)
    found = _said([projection.restored(values) for values in was.rows], screen)
    if not was.version:
        screen.say(f"nothing was published under {arguments.key!r} by then")
    else:
        rows = "" if found else "; it has no row there"
        screen.say(f"{projection.id} of {arguments.key!r} at version {was.version} of {was.versions}{rows}")
    told = {"as_of": arguments.as_of, "version": was.version, "versions": was.versions}
    screen.finish({"projection": projection.id, "key": arguments.key, "rows": found, **told})
    return Exit.GOOD


def _said(rows: Sequence[Any], screen: Screen) -> list[Any]:
    found = [to_jsonable_python(asdict(row)) for row in rows]
    for row in found:
        screen.say("  ".join(f"{name}={value}" for name, value in row.items()))
    return found


GET = Verb(name="get", purpose="read the rows of a key from the app's replica", arguments=_arguments, act=_get)
