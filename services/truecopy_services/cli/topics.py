"""`truecopy topics`: what topics an app needs and what the log has, what can be mended, and what lies in them."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from truecopy_bus.errors import TableAlteredError, TopicMismatchError, TopicMissingError
from truecopy_bus.lasting import lasting_spec
from truecopy_bus.record import TopicSpec
from truecopy_bus.registry import SCHEMAS_TOPIC
from truecopy_bus.relay_tail import last_marks
from truecopy_bus.upkeep import Upkeep
from truecopy_projections.amendments_topic import AMENDMENTS_TOPIC
from truecopy_projections.certificates_topic import CERTIFICATES_TOPIC
from truecopy_schemas.control import Mark
from truecopy_services.app import Truecopy
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import APP_VARIABLE, Verb, app_argument, app_of
from truecopy_services.opening import file_of
from truecopy_services.operating.entities import Owned, declared_entities, named_among
from truecopy_services.operating.topic_care import Act, Difference, Need, Seen, differences
from truecopy_services.service import Service
from truecopy_services.working import answering_within

__all__ = ["TOPICS", "needed", "published", "seen"]


def _arguments(parser: ArgumentParser) -> None:
    told = "plan: name what differs (exit code 1); apply: create and mend; describe: show life, bounds, settings, last marks"
    parser.add_argument("what", choices=("plan", "apply", "describe"), help=told)
    app_argument(parser)
    parser.add_argument(
        "entity", metavar="ENTITY", nargs="*", help="only these; an app that is named as owner by it may create"
    )


async def _topics(arguments: Namespace, screen: Screen) -> Exit:
    app = app_of(arguments.app)
    async with app.open(store=False) as service:
        needs = await needed(app, service, arguments.entity)
        if arguments.what == "describe":
            return await _describe(service, needs, screen)
        command = f"truecopy topics apply {arguments.app or os.environ[APP_VARIABLE]}"
        found = await _differences(service, needs, command)
        done: list[Difference] = []
        if arguments.what == "apply":
            done = await _apply(service, needs, found, screen)
            found = await _differences(service, needs, command)
    for one in found:
        screen.say(str(one))
    if not found:
        screen.say(f"{len(needs)} topics are as {app.service} needs them")
    screen.finish(
        {
            "as_needed": not found,
            "topics": [need.spec.name for need in needs],
            "differences": [_as_json(one) for one in found],
            **({"done": [_as_json(one) for one in done]} if arguments.what == "apply" else {}),
        }
    )
    return Exit.FAILED if found else Exit.GOOD


async def needed(app: Truecopy, service: Service, names: Sequence[str] = ()) -> list[Need]:
    """The topics of the app's entities, or of `names` among them, of the schemas, and of certificates and rulings if there are.

    Raises UsageError for a name that is not the app's, UnavailableError for a store that is away.
    """
    owned = await published(service)
    entities = named_among(sorted({*declared_entities(app), *owned}), names)
    projected = {projection.entity for projection in app.projections.values()}
    prefix = service.settings.topic_prefix
    needs = [Need(spec=lasting_spec(prefix + SCHEMAS_TOPIC), ours=True, partitions_known=True)]
    stated = [prefix + name for name in (CERTIFICATES_TOPIC, AMENDMENTS_TOPIC)]
    stated = [name for name in stated if (await seen(service, name)).state is not None]
    for entity in entities:
        one = Owned(entity=entity, partitions=owned.get(entity), projected=entity in projected)
        spec = TopicSpec(name=prefix + entity, partitions=one.partitions or app.partitions)
        needs.append(Need(spec=spec, ours=one.ours or entity in names, partitions_known=one.partitions is not None))
    # The first certificate and the first ruling make theirs; of requests for marks nothing depends on what is kept.
    needs += [Need(spec=lasting_spec(name), ours=True, partitions_known=True) for name in stated]
    if isinstance(log := service.log, Upkeep):
        return [Need(spec=log.completed(n.spec), ours=n.ours, partitions_known=n.partitions_known) for n in needs]
    return needs


async def published(service: Service) -> Mapping[str, int]:
    """The entities that the service's store has events of, and their numbers of partitions; none where there is no store yet.

    Makes nothing. Raises UnavailableError.
    """
    file = file_of(service.settings.store_of(service.name))
    if file is not None and not file.exists():
        return {}
    try:
        async with answering_within(service.settings.timeout_s, f"store {service.store.database.name}"):
            return await service.store.entities()
    except TableAlteredError:
        return {}  # a database in which no owner has been at work


async def seen(service: Service, topic: str) -> Seen:
    """The topic as it is, made by no question about it. Raises UnavailableError."""
    log = service.log
    async with answering_within(service.settings.timeout_s, f"topic {topic} of the log"):
        try:
            state = await log.describe(topic)
        except TopicMissingError:
            return Seen(state=None)
        if not isinstance(log, Upkeep):
            return Seen(state=state)
        return Seen(state=state, settings=await log.settings(topic), copies=await log.copies(topic))


async def _differences(service: Service, needs: Sequence[Need], command: str) -> list[Difference]:
    found: list[Difference] = []
    prefix = len(service.settings.topic_prefix)
    for need in needs:
        name = need.spec.name
        found += differences(need, await seen(service, name), command=f"{command} {name[prefix:]}")
    return found


async def _apply(service: Service, needs: Sequence[Need], found: Sequence[Difference], screen: Screen) -> list[Difference]:
    """Create and mend what may be. What the log refuses is told, and stays among the differences."""
    done: list[Difference] = []
    for need in needs:
        mine = [one for one in found if one.topic == need.spec.name]
        settings = {one.what: one.expected for one in mine if one.act is Act.MEND}
        try:
            if any(one.act in (Act.CREATE, Act.COMPLETE) for one in mine):
                await service.log.create(need.spec)
            if settings and isinstance(service.log, Upkeep):
                await service.log.mend(need.spec.name, settings)
        except (ValueError, TopicMismatchError) as refusal:
            screen.say(str(refusal))
            continue
        now = [one for one in mine if one.act is not Act.REFUSE]
        for one in now:
            screen.say(f"{one.topic}: {one.what} was {one.seen}, is {one.expected}")
        done += now
    return done


async def _describe(service: Service, needs: Sequence[Need], screen: Screen) -> Exit:
    """Exit code 1 where a topic is missing, or has records and no identity."""
    topics = [await _described(service, need) for need in needs]
    for topic in topics:
        screen.say(f"{topic['topic']}: {_life(topic)}")
        for partition in topic["partitions"]:
            mark = partition["mark"]
            own = topic["topic"].endswith((SCHEMAS_TOPIC, CERTIFICATES_TOPIC, AMENDMENTS_TOPIC))
            none = "there are no marks in it" if own else "no mark among the last records"
            told = _mark(mark) if mark else none
            screen.say(f"  [{partition['partition']}] offsets {partition['start']} to {partition['end']}; {told}")
        for name, value in topic["settings"].items():
            screen.say(f"  {name}={value}")
    screen.finish({"topics": topics})
    good = all(topic["there"] and (topic["incarnation"] or not topic["records"]) for topic in topics)
    return Exit.GOOD if good else Exit.FAILED


async def _described(service: Service, need: Need) -> dict[str, Any]:
    name = need.spec.name
    found = await seen(service, name)
    partitions: list[dict[str, Any]] = []
    bounds = found.state.bounds if found.state else {}
    for partition, (start, end) in sorted(bounds.items()):
        async with answering_within(service.settings.timeout_s, f"the last marks of {name}[{partition}]"):
            marks = await last_marks(service.log, name, partition, (start, end))
        held, in_step = (found.copies or {}).get(partition, (None, None))
        one = {"partition": partition, "start": start, "end": end, "copies": held, "in_step": in_step}
        newest = max(marks, key=lambda mark: (mark.epoch, mark.number), default=None)
        partitions.append({**one, "mark": None if newest is None else _marked(newest)})
    return {
        "topic": name,
        "there": found.state is not None,
        "incarnation": found.state.incarnation if found.state else None,
        "records": any(end for _, end in bounds.values()),
        "settings": {each: (found.settings or {}).get(each) for each in sorted(need.spec.settings)} if found.settings else {},
        "partitions": partitions,
    }


def _marked(mark: Mark) -> dict[str, Any]:
    kept = asdict(mark)
    return {name: kept[name] for name in ("epoch", "number", "count", "at_ms", "incarnation")} | {"digest": mark.digest.hex()}


def _mark(mark: Mapping[str, Any]) -> str:
    at = datetime.fromtimestamp(mark["at_ms"] / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"last mark: {mark['count']} events, epoch {mark['epoch']}, number {mark['number']}, {at}, digest {mark['digest']}"


def _life(topic: Mapping[str, Any]) -> str:
    if not topic["there"]:
        return "missing; `topics plan` says who makes it"
    if topic["incarnation"] is None:
        return (
            "records, but neither genesis nor mark: not Truecopy's, or its beginning is gone" if topic["records"] else "empty"
        )
    return f"incarnation {topic['incarnation']}, {len(topic['partitions'])} partitions"


def _as_json(one: Difference) -> dict[str, Any]:
    return {**asdict(one), "act": one.act.name.lower()}


TOPICS = Verb(name="topics", purpose="plan, mend and describe the topics of an app", arguments=_arguments, act=_topics)
