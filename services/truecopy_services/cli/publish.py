"""`truecopy publish`: events into an app's store, one from the command line or many as JSON lines."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import from_json, to_json
from rich.progress import Progress

from truecopy_bus.errors import VersionConflictError
from truecopy_bus.publish import Change
from truecopy_schemas import Event, InvalidEventError
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of, count
from truecopy_services.errors import UsageError
from truecopy_services.loading import event_type
from truecopy_services.service import Service

__all__ = ["PUBLISH", "strictly"]

BATCH_EVENTS = 1_000
"""Lines that become one transaction."""
_FIELDS = {"key": str, "type": str, "data": dict, "expect": int}


class _Line(NamedTuple):
    number: int
    change: Change


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    told = (
        "an event type (or an entity that has only one), a key, and the event as JSON. Left out: JSON lines "
        '{"key", "type", "data", "expect"} are read from standard input'
    )
    parser.add_argument("event", metavar="TYPE KEY JSON", nargs="*", help=told)
    parser.add_argument("--expect", metavar="N", type=count, help="refuse unless the key is at version N now (0: new)")


async def _publish(arguments: Namespace, screen: Screen) -> Exit:
    words = [word for word in (arguments.app, *arguments.event) if word is not None]
    if len(words) not in (0, 1, 3, 4):
        raise UsageError("publish takes TYPE, KEY and JSON, or none of them and JSON lines on standard input")
    app = app_of(words[0] if len(words) in (1, 4) else None)
    if len(words) > 1:
        name, key, text = words[-3:]
        event = _event(name, text.encode())
        async with app.open() as service:
            token = await service.publish(key, event, expected_version=arguments.expect)
        screen.say(f"{token.entity} {key!r} is at version {token.version}; token {token}")
        screen.finish({"published": 1, "entity": token.entity, "key": key, "version": token.version, "token": str(token)})
        return Exit.GOOD
    async with app.open() as service:
        published, last = await _lines(service, screen)
    screen.say(f"published {published} events")
    screen.finish({"published": published, "token": last})
    return Exit.GOOD


async def _lines(service: Service, screen: Screen) -> tuple[int, str | None]:
    """Publish standard input. A line that is refused ends it; what came before its batch stays published."""
    published, last = 0, None
    changes = _read()
    with Progress(console=screen.console, transient=True) as progress:
        task = progress.add_task("publishing", total=None)
        while True:
            at = published
            try:
                batch = list(islice(changes, BATCH_EVENTS))
                if not batch:
                    return published, last
                tokens = await service.publish_many(line.change for line in batch)
            except (UsageError, InvalidEventError, VersionConflictError) as fault:
                fault.args = (f"{fault} (the {at} events of the batches before are published, none of this one)",)
                raise
            published += len(tokens)
            last = str(tokens[-1])
            progress.update(task, completed=published, description=f"published {published}")


def _read() -> Iterator[_Line]:
    for number, text in enumerate(sys.stdin.buffer, 1):
        if text.strip():
            try:
                yield _Line(number, _change(text))
            except UsageError as fault:
                raise UsageError(f"line {number}: {fault}") from None


def _change(text: bytes) -> Change:
    line = strictly(text)
    if not isinstance(line, dict) or not {"key", "type", "data"} <= line.keys() <= _FIELDS.keys():
        raise UsageError('a line is an object of "key", "type", "data" and, if it matters, "expect"')
    for name, value in line.items():
        if type(value) is not _FIELDS[name] and not (name == "expect" and value is None):
            raise UsageError(f"{name!r} is {type(value).__name__}, expected {_FIELDS[name].__name__}")
    if (line.get("expect") or 0) < 0:
        raise UsageError(f"'expect' is {line['expect']}, expected a version: 0 for a new key, or more")
    return line["key"], _event(line["type"], to_json(line["data"])), line.get("expect")


def strictly(text: bytes) -> Any:
    """The value of a JSON text. Raises UsageError for what is none, or may be read in two ways: a name said twice, a NaN."""

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"{twice!r} is said twice in one object; say it once")
        return found

    try:
        value = from_json(text, allow_inf_nan=False)
        json.loads(text, object_pairs_hook=distinct)  # which lets pass what the other refuses, and the other way round
    except ValueError as fault:
        raise UsageError(f"not JSON: {fault}") from None
    return value


def _event(name: str, text: bytes) -> Event:
    cls = event_type(name)
    strictly(text)
    try:
        return cls.model_validate_json(text)
    except ValidationError as fault:
        told = (f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in fault.errors(include_url=False))
        raise UsageError(f"not a {cls.__event_name__}: {'; '.join(told)}") from None


PUBLISH = Verb(name="publish", purpose="publish events through the app's store", arguments=_arguments, act=_publish)
