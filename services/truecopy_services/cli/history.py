"""`truecopy history`: the versions of a key in its owner's store, its state at one of them, and what differs between two."""

from argparse import ArgumentParser, Namespace

from pydantic_core import to_jsonable_python

from truecopy_projections.entity_fold import Delta, RowDelta
from truecopy_services.app import Truecopy
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of, count
from truecopy_services.entities import HISTORY_VERSIONS, Entity
from truecopy_services.errors import UsageError
from truecopy_services.operating.entities import declared_entities, declared_events
from truecopy_services.operating.moments import as_datetime, moment, shown_moment
from truecopy_services.service import Service

__all__ = ["HISTORY", "delta_json", "entity_of", "what_argument"]


def what_argument(parser: ArgumentParser) -> None:
    """WHAT: an entity, or a projection whose reducer makes its states."""
    told = 'an entity whose events are all of kind "state", or a projection (NAME or NAME@N) whose reducer makes its states'
    parser.add_argument("what", metavar="WHAT", help=told)


def entity_of(app: Truecopy, service: Service, what: str) -> Entity:
    """The entity that WHAT names. Raises UsageError."""
    if what in declared_entities(app):
        ends = [
            one
            for one in declared_events(app).values()
            if one.__entity__ == what and one.__deletes__ and not any(f.is_required() for f in one.model_fields.values())
        ]
        return service.entity(what, deletes=ends[0] if ends else None)
    return service.entity(app.find(what))


def delta_json(found: Delta) -> list[dict[str, object]]:
    """Plain values."""
    return [_row_json(one) for one in found.rows]


def _row_json(one: RowDelta) -> dict[str, object]:
    return {
        "row": to_jsonable_python(one.row),
        "before": to_jsonable_python(one.before),
        "after": to_jsonable_python(one.after),
    }


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    what_argument(parser)
    parser.add_argument("key", metavar="KEY")
    parser.add_argument("--at", metavar="VERSION|TIME", help="the state at a version, or at a time such as 2h (ago)")
    parser.add_argument("--diff", nargs=2, type=count, metavar="VERSION", help="what differs between two versions")
    told = "fold the key from its first event and from its snapshots, and compare"
    parser.add_argument("--verify", action="store_true", help=told)
    told = f"tell of the last N versions; {HISTORY_VERSIONS} if left out"
    parser.add_argument("--limit", type=count, default=HISTORY_VERSIONS, metavar="N", help=told)


async def _history(arguments: Namespace, screen: Screen) -> Exit:
    app = app_of(arguments.app)
    if sum(map(bool, (arguments.at, arguments.diff, arguments.verify))) > 1:
        raise UsageError("one of --at, --diff and --verify is asked at a time")
    async with app.open() as service:
        entity = entity_of(app, service, arguments.what)
        key = arguments.key
        if arguments.verify:
            versions = await entity.verify(key)
            screen.say(f"{entity.fold.entity} {key!r}: {versions} versions fold to the same from the first and from a snapshot")
            screen.finish({"entity": entity.fold.entity, "key": key, "verified": versions})
        elif arguments.diff:
            found = await entity.diff(key, *arguments.diff)
            screen.say(f"{entity.fold.entity} {key!r}, {found}")
            screen.finish({"entity": entity.fold.entity, "key": key, "diff": arguments.diff, "rows": delta_json(found)})
        elif arguments.at:
            await _at(entity, key, arguments.at, screen)
        else:
            await _list(entity, key, arguments.limit, screen)
    return Exit.GOOD


async def _at(entity: Entity, key: str, at: str, screen: Screen) -> None:
    if at.isascii() and at.isdecimal():
        state = await entity.at(key, version=int(at))
    else:
        state = await entity.at(key, time=as_datetime(moment(at)))
    rows = [entity.fold.fields(values) for values in state.rows.values()]
    screen.say(f"{entity.fold.entity} {key!r} at version {state.version}{'' if rows else ' has no state'}")
    for row in rows:
        screen.say("  ".join(f"{name}={value}" for name, value in row.items()))
    told = to_jsonable_python(rows)
    screen.finish({"entity": entity.fold.entity, "key": key, "version": state.version, "rows": told})


async def _list(entity: Entity, key: str, limit: int, screen: Screen) -> None:
    versions = await entity.history(key, limit=limit, newest=True)
    for one in versions:
        fields = ", ".join(f"{name}={value!r}" for name, value in one.fields.items())
        waits = "" if one.published else "  (not on the log yet)"
        screen.say(f"{one.version}  {shown_moment(one.at_ms)}  {one.type.rpartition('.')[2]}({fields}){waits}")
    told = [one.as_json() for one in versions]
    screen.finish({"entity": entity.fold.entity, "key": key, "versions": told})


HISTORY = Verb(
    name="history",
    purpose="the versions of a key at its owner, a state, a diff",
    arguments=_arguments,
    act=_history,
)
