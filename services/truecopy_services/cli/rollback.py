"""`truecopy rollback`: bring a key, or many, back to an earlier state by new events, or a projection to another number."""

from argparse import ArgumentParser, Namespace
from collections import Counter

from truecopy_bus.rollbacks import Outcome
from truecopy_services.app import Truecopy
from truecopy_services.cli.history import delta_json, entity_of, what_argument
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.swap import numbered, swap_and_tell, swap_options
from truecopy_services.cli.verb import Verb, app_argument, app_of, count
from truecopy_services.entities import Entity
from truecopy_services.errors import UsageError
from truecopy_services.operating.moments import moment
from truecopy_services.rolling_back import Step, find_rollback, open_rollback, rollback_many

__all__ = ["ROLLBACK"]

STEPS_SHOWN = 20
"""Keys of each outcome that are told of; the journal in the store has them all."""


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    what_argument(parser)
    parser.add_argument("key", metavar="KEY", nargs="?", help="the key; with --since all that changed since")
    parser.add_argument("--to", type=count, metavar="VERSION", help="the version whose state comes back; 0: before the first")
    told = "all keys that changed later than this, each to the version that it had then: 2026-05-01T12:00:00Z, or 2h (ago)"
    parser.add_argument("--since", metavar="TIME", help=told)
    told = "with --since: only keys whose state meets this, such as 'amount>=100'; may be given again"
    parser.add_argument("--where", action="append", default=[], metavar="CONDITION", help=told)
    parser.add_argument("--expected-version", type=count, metavar="N", help="refuse if the key is not at this version")
    parser.add_argument("--why", default="", metavar="TEXT", help="kept in the journal")
    parser.add_argument("--dry-run", action="store_true", help="tell what would be done, and publish nothing")
    told = "go on with a rollback of many keys that did not end; without ID say which ones did not"
    parser.add_argument("--resume", nargs="?", const="", metavar="ID", help=told)
    swap_options(parser)


async def _rollback(arguments: Namespace, screen: Screen) -> Exit:
    app = app_of(arguments.app)
    if "@" in arguments.what:
        return await _number(app, arguments, screen)
    _refuse_mixtures(arguments)
    async with app.open() as service:
        entity = entity_of(app, service, arguments.what)
        if arguments.key is not None:
            return await _one(entity, arguments, screen)
        return await _many(entity, arguments, screen)


async def _number(app: Truecopy, arguments: Namespace, screen: Screen) -> Exit:
    """The way back to a number that was live before: a swap like another."""
    given = (arguments.key, arguments.to, arguments.since, arguments.expected_version, arguments.resume)
    if any(one is not None for one in given) or arguments.where:
        raise UsageError(
            f"{arguments.what} is a projection's number, which comes back as a whole; only --dry-run and --accept go"
        )
    async with app.open(store=False) as service:
        how = {"accept": arguments.accept, "follow_s": arguments.follow, "dry_run": arguments.dry_run}
        return await swap_and_tell(service, numbered(app, arguments.what), screen, **how)


def _refuse_mixtures(arguments: Namespace) -> None:
    asked = [
        name
        for name, given in (
            ("KEY with --to", arguments.key is not None and arguments.to is not None),
            ("--since", arguments.since is not None),
            ("--resume", arguments.resume is not None),
        )
        if given
    ]
    if len(asked) != 1 or (arguments.key is not None) is not (arguments.to is not None):
        raise UsageError("a rollback is of one KEY --to a version, of all keys --since a time, or goes on by --resume ID")
    if arguments.where and arguments.since is None:
        raise UsageError("--where is for --since: it chooses among many keys")
    if arguments.expected_version is not None and arguments.key is None:
        raise UsageError("--expected-version is of one KEY")
    if arguments.resume is not None and arguments.dry_run:
        raise UsageError("--resume goes on with what was begun; a dry run is of --since")


async def _one(entity: Entity, arguments: Namespace, screen: Screen) -> Exit:
    done = await entity.rollback(
        arguments.key,
        to=arguments.to,
        expected_version=arguments.expected_version,
        why=arguments.why,
        dry_run=arguments.dry_run,
    )
    about = f"{entity.fold.entity} {done.key!r}"
    if not done.delta.rows or not (done.tokens or arguments.dry_run):
        screen.say(f"{about}: its state at version {done.was} is that of version {done.to}: nothing to restore")
    elif arguments.dry_run:
        screen.say(f"{about}, {done.delta}: would be restored")
    else:
        screen.say(f"{about}, {done.delta}: restored by {', '.join(f'version {token.version}' for token in done.tokens)}")
    screen.finish(
        {
            "entity": entity.fold.entity,
            "key": done.key,
            "was": done.was,
            "to": done.to,
            "rows": delta_json(done.delta),
            "tokens": [str(token) for token in done.tokens],
            "dry_run": arguments.dry_run,
        }
    )
    return Exit.GOOD


async def _many(entity: Entity, arguments: Namespace, screen: Screen) -> Exit:
    """Exit code 1 when keys were left as they are for a conflict, or because nothing restores them."""
    since_ms = None if arguments.since is None else moment(arguments.since)
    if arguments.resume is not None:
        rollback = await find_rollback(entity, arguments.resume)
    elif not arguments.dry_run:
        rollback = await open_rollback(entity, since_ms=since_ms, conditions=arguments.where, why=arguments.why)
    else:
        rollback = None
    if rollback is not None:
        screen.say(f"rollback {rollback.id}; if it is interrupted, go on with --resume {rollback.id}")
    outcomes = Counter[Outcome]()
    shown: list[Step] = []
    async for step in rollback_many(entity, rollback, since_ms=since_ms, conditions=arguments.where):
        outcomes[step.outcome] += 1
        if step.outcome is not Outcome.LEFT and outcomes[step.outcome] <= STEPS_SHOWN:
            shown.append(step)
            would = "would be " if rollback is None and step.outcome is Outcome.RESTORED else ""
            screen.say(f"{step.key!r}: {would}{step.outcome.value}{f': {step.why}' if step.why else ''}")
    told = ", ".join(f"{number} {outcome.name}" for outcome, number in outcomes.items()) or "no key changed since"
    screen.say(f"{entity.fold.entity}: {told}{' (a dry run: nothing was published)' if rollback is None else ''}")
    screen.finish(
        {
            "entity": entity.fold.entity,
            "rollback": None if rollback is None else rollback.id,
            "outcomes": {outcome.name: outcomes[outcome] for outcome in Outcome if outcome is not Outcome.PLANNED},
            "keys": [step.as_json() for step in shown],
            "dry_run": rollback is None,
        }
    )
    return Exit.FAILED if outcomes[Outcome.CONFLICT] or outcomes[Outcome.REFUSED] else Exit.GOOD


ROLLBACK = Verb(
    name="rollback", purpose="bring a key, or many, back to an earlier state by new events", arguments=_arguments, act=_rollback
)
