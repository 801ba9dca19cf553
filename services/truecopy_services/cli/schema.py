"""`truecopy schema`: what is registered on the log, what differs, whether events may be registered; and a server of it."""

import asyncio
import json
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from typing import Any

from truecopy_bus.registry import Registry
from truecopy_projections.projection import Projection
from truecopy_projections.upcast_proof import prove_upcasts
from truecopy_schemas.avro_schema import avro_schema, full_name
from truecopy_schemas.errors import IncompatibleSchemaError
from truecopy_schemas.registry import Registered, RegistryState
from truecopy_services.app import Truecopy
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import APP_VARIABLE, Verb, app_argument, app_of
from truecopy_services.errors import SettingError, UsageError
from truecopy_services.operating.entities import declared_entities, declared_events, named_among
from truecopy_services.operating.lines import escaped
from truecopy_services.operating.schema_changes import Judged, Standing, changes, find, judged, verdicts
from truecopy_services.service import Service
from truecopy_services.working import answering_within, stopped_by_signals

__all__ = ["SCHEMA"]

NAMES = {
    "list": "no name",
    "show": "one ID or SUBJECT[@VERSION]",
    "diff": "two of ID or SUBJECT[@VERSION]",
    "check": "entities",
    "prove": "projections",
    "serve": "no name",
}
ADDRESS = "8081"
"""Where Confluent's own registry listens; on the loopback."""


def _arguments(parser: ArgumentParser) -> None:
    told = (
        "list: all subjects; show: one schema; diff: two, field by field; check: may the app's events be registered? (else 1); "
        "prove: do stored events of old types fold as if they were written anew? (else 1); "
        "serve: answer Confluent's clients, read-only, until SIGTERM"
    )
    parser.add_argument("what", choices=tuple(NAMES), help=told)
    app_argument(parser)
    parser.add_argument("name", metavar="NAME", nargs="*", help="; ".join(f"{what}: {names}" for what, names in NAMES.items()))
    parser.add_argument(
        "--http", metavar="HOST:PORT", default=ADDRESS, help=f"where to serve; by default {ADDRESS} on the loopback"
    )


async def _schema(arguments: Namespace, screen: Screen) -> Exit:
    app, names = _words(arguments)
    if arguments.what == "check":
        entities = named_among(declared_entities(app), names)
    projections = [app.find(name) for name in names] or list(app.projections.values()) if arguments.what == "prove" else []
    async with app.open(store=False) as service:
        async with answering_within(service.settings.timeout_s, "the registry of schemas on the log"):
            await service.registry.refresh()
        if arguments.what == "serve":
            return await _serve(service.registry, arguments.http, screen)
        if arguments.what == "prove":
            return await _prove(service, projections, screen)
        registry = service.registry.state
    match arguments.what:
        case "list":
            return _list(registry, screen)
        case "show":
            return _show(find(registry, names[0]), screen)
        case "diff":
            return _diff(find(registry, names[0]), find(registry, names[1]), screen)
    return _check(app, entities, registry, screen)


def _words(arguments: Namespace) -> tuple[Truecopy, list[str]]:
    """The app and the names. Where TRUECOPY_APP stands in for the app, the first word is a name."""
    expected = {"list": 0, "serve": 0, "show": 1, "diff": 2}.get(arguments.what)
    words = [word for word in (arguments.app, *arguments.name) if word is not None]
    if expected is None:
        return app_of(arguments.app), list(arguments.name)
    if len(words) == expected and os.environ.get(APP_VARIABLE):
        return app_of(None), words
    if len(words) != expected + 1:
        raise UsageError(f"`schema {arguments.what}` takes an app and {NAMES[arguments.what]}; see `truecopy schema --help`")
    return app_of(words[0]), words[1:]


async def _serve(registry: Registry, address: str, screen: Screen) -> Exit:
    try:
        from truecopy_services.observing.serving import listening
        from truecopy_services.registry_http import routes, served
    except ImportError as fault:
        missing = f"what serves it is not installed ({fault.name})"
        raise SettingError(setting="--http", seen=missing, remedy="run: pip install 'truecopy[control]'") from None
    stop = asyncio.Event()
    with stopped_by_signals(stop, say=screen.say), listening(address, setting="--http") as listener:
        host, port = listener.getsockname()[:2]
        async with served(routes(registry), listener):
            screen.say(f"schemas, read-only, until SIGTERM, on http://{f'[{host}]' if ':' in host else host}:{port}")
            await stop.wait()
    screen.finish({"served": True})
    return Exit.GOOD


async def _prove(service: Service, projections: Sequence[Projection[Any]], screen: Screen) -> Exit:
    """Exit code 1 where an upcast event folds to something else than the same event written as today's, or was not folded."""
    found = []
    for projection in projections:
        if projection.foreign is not None:
            continue  # events of others are told as they are
        topic = service.topic(projection)
        async with answering_within(service.settings.timeout_s, f"topic {topic}"):
            bounds = (await service.log.describe(topic)).bounds
        upto = {p: end for p, (_, end) in bounds.items()}
        with screen.console.status(f"folding {topic} both ways for {projection.id}"):
            proof = await prove_upcasts(projection, service.log, service.registry, topic=topic, upto=upto)
        found.append(proof)
        _say(screen, f"{projection.id}: {sum(proof.events.values())} upcast events of {proof.keys} keys, folded both ways")
        for name, count in sorted(proof.events.items()):
            parted = proof.partings.get(name)
            _say(screen, f"  {name}: {count} events, {'equal' if parted is None else f'parted first at {parted}'}")
        if proof.unproven:
            _say(screen, f"  {proof.unproven} events were not folded: they wait, or their key could not go on")
    screen.finish({"holds": all(one.holds for one in found), "projections": [one.as_json() for one in found]})
    return Exit.GOOD if all(one.holds for one in found) else Exit.FAILED


def _say(screen: Screen, text: str) -> None:
    """A line in which names come from the log, where anybody may have written them."""
    screen.say(escaped(text))


def _list(registry: RegistryState, screen: Screen) -> Exit:
    subjects = []
    for name in registry.subjects:
        versions = registry.versions(name)
        mode = registry.compatibility(name).value
        numbers = ", ".join(f"{one.version}: id {one.id}" for one in versions)
        _say(screen, f"{name}  {mode}  {numbers}")
        subjects.append({"subject": name, "compatibility": mode, "versions": [_registered(one) for one in versions]})
    screen.finish({"subjects": subjects})
    return Exit.GOOD


def _show(found: Registered, screen: Screen) -> Exit:
    _say(screen, f"{found.subject}@{found.version}, id {found.id}, fingerprint {found.fingerprint.hex()}")
    screen.say(json.dumps(found.schema, indent=2))
    screen.finish({**_registered(found), "subject": found.subject, "schema": found.schema})
    return Exit.GOOD


def _diff(old: Registered, new: Registered, screen: Screen) -> Exit:
    found, judgement = changes(old.schema, new.schema), verdicts(old.schema, new.schema)
    _say(screen, f"{old.subject}@{old.version} (id {old.id}) -> {new.subject}@{new.version} (id {new.id})")
    for change in found:
        _say(screen, f"  {change}")
    for mode, reader, writer in (("BACKWARD", new, old), ("FORWARD", old, new)):
        clashes = judgement[mode]
        verdict = "can't read" if clashes else "reads"
        _say(screen, f"{mode}: id {reader.id} {verdict} the events of id {writer.id}")
        for clash in clashes:
            _say(screen, f"  {clash.path or 'the event'}: {clash.reason}; {clash.remedy}")
    same = old.fingerprint == new.fingerprint
    if same:
        _say(screen, "they are the same")
    screen.finish(
        {
            "same": same,
            "old": {"subject": old.subject, **_registered(old)},
            "new": {"subject": new.subject, **_registered(new)},
            "changes": [{"path": one.path, "what": one.what, "old": one.old, "new": one.new} for one in found],
            **{mode.lower(): {"compatible": not clashes, "clashes": _clashes(clashes)} for mode, clashes in judgement.items()},
        }
    )
    return Exit.GOOD


def _check(app: Truecopy, entities: Sequence[str], registry: RegistryState, screen: Screen) -> Exit:
    """Exit code 1 where the registry would refuse an event."""
    events = [cls for cls in declared_events(app).values() if cls.__entity__ in entities]
    if not events:
        raise UsageError(f"the app declares no event of {', '.join(entities) or 'any entity'}, so there is nothing to check")
    found = [judged(registry, avro_schema(cls)) for cls in events]
    for one in found:
        _say(screen, f"{one.subject}: {_standing(one)}")
        for clash in one.clashes:
            _say(screen, f"  version {clash.version}: {clash.path or 'the event'}: {clash.reason}; {clash.remedy}")
    refused = [one for one in found if one.standing is Standing.INCOMPATIBLE]
    _say(screen, f"{len(refused)} of {len(found)} event types would be refused")
    events_told = [
        {
            "subject": one.subject,
            "type": one.type,
            "compatibility": one.mode.value,
            "standing": one.standing.name.lower(),
            "id": one.id,
            "clashes": _clashes(one.clashes),
        }
        for one in found
    ]
    screen.finish({"compatible": not refused, "events": events_told})
    return Exit.FAILED if refused else Exit.GOOD


def _standing(one: Judged) -> str:
    match one.standing:
        case Standing.REGISTERED:
            return f"registered, id {one.id}"
        case Standing.NEW:
            return "new: its first event claims an id"
        case Standing.COMPATIBLE:
            return f"may become version {one.versions + 1} under {one.mode.value}"
    return f"INCOMPATIBLE under {one.mode.value}: its events would wait in the outbox"


def _registered(one: Registered) -> dict[str, Any]:
    return {
        "id": one.id,
        "version": one.version,
        "type": full_name(one.schema),
        "fingerprint": one.fingerprint.hex(),
        "judged_by": one.compatibility.value,
    }


def _clashes(clashes: Iterable[IncompatibleSchemaError]) -> list[dict[str, Any]]:
    return [{"version": one.version, "path": one.path, "reason": one.reason, "remedy": one.remedy} for one in clashes]


SCHEMA = Verb(name="schema", purpose="list, show, compare, check, prove and serve schemas", arguments=_arguments, act=_schema)
