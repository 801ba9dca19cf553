"""`truecopy replay`: a projection up to a point of its history, in a sandbox; what is live is not touched."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

from truecopy_projections.limits import COMPARED_SAMPLES
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of, count
from truecopy_services.errors import UsageError
from truecopy_services.operating.cuts import CUT_FORMS, cut_asked
from truecopy_services.operating.moments import shown_moment
from truecopy_services.quarantine import actor
from truecopy_services.replay_reading import Difference, Survey, compare_with_live, survey
from truecopy_services.replaying import Progress, Replayed, cut_of, replay
from truecopy_services.sandboxes import opened_sandbox
from truecopy_services.selecting import Selection, replay_selected
from truecopy_services.working import answering_within

__all__ = ["REPLAY"]


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("projection", metavar="PROJECTION")
    told = "the sandbox: sqlite:PATH or postgresql://..., an empty database or one that a replay made"
    parser.add_argument("--into", metavar="ADDRESS", help=told)
    parser.add_argument("--to", default="end", metavar="WHERE", help=f"how far: {CUT_FORMS}; the end if left out")
    told = "from where on: beginning (if left out), or as --to; what comes before it is as if it had never been"
    parser.add_argument("--from", dest="begin", metavar="WHERE", default="beginning", help=told)
    parser.add_argument("--key", action="append", default=[], metavar="KEY", help="only events of this key; may be given again")
    told = "only events of this type, by its full name or its last part; may be given again"
    parser.add_argument("--type", action="append", default=[], metavar="TYPE", help=told)
    told = "only events whose fields meet this, such as 'amount>=100'; may be given again"
    parser.add_argument("--where", action="append", default=[], metavar="CONDITION", help=told)
    parser.add_argument("--anew", action="store_true", help="forget first what the sandbox holds of the projection")
    parser.add_argument("--park", action="store_true", help="put aside what can't be applied; else it ends there")
    parser.add_argument("--rate", type=count, metavar="N", help="take in no more than N records a second")
    parser.add_argument("--diff", action="store_true", help="compare it with the live replica; exit code 1 if they differ")
    told = f"with --diff: rows told of each kind of difference, and events of each; {COMPARED_SAMPLES} if left out"
    parser.add_argument("--samples", type=count, default=COMPARED_SAMPLES, metavar="N", help=told)
    parser.add_argument("--dry-run", action="store_true", help="read and count what would be replayed, and write nothing")


async def _replay(arguments: Namespace, screen: Screen) -> Exit:
    app = app_of(arguments.app)
    projection, to = app.find(arguments.projection), cut_asked(arguments.to)
    if arguments.rate == 0:
        raise UsageError("--rate 0 would never end; name a number of records a second from 1 on")
    if arguments.into is None and not arguments.dry_run:
        raise UsageError("name the sandbox by --into, or see by --dry-run what a replay would take in")
    selection = Selection(
        begin=None if arguments.begin == "beginning" else cut_asked(arguments.begin),
        keys=frozenset(arguments.key),
        types=frozenset(arguments.type),
        conditions=tuple(arguments.where),
    )
    if not selection.whole and arguments.park:
        raise UsageError("--park is of a whole replay; a selection puts nothing aside, and ends at what can't be applied")
    async with app.open(store=False) as service:
        async with answering_within(service.settings.timeout_s, f"the log of {projection.id}"):
            await service.log.describe(service.topic(projection))
        if arguments.dry_run:
            found = await survey(service, projection, await cut_of(service, projection, to), selection)
            _say_survey(screen, projection.id, found, arguments.rate)
            screen.finish({"projection": projection.id, "dry_run": True, **found.as_json(arguments.rate)})
            return Exit.GOOD
        differs: Difference | None = None
        async with opened_sandbox(service, projection, arguments.into, anew=arguments.anew) as sandbox:
            with screen.console.status(f"replaying {projection.id}") as status:

                def told(progress: Progress) -> None:
                    status.update(_shown(projection.id, progress))

                about = {"to": to, "rate": arguments.rate, "by": actor(), "told": told}
                if selection.whole:
                    done = await replay(service, projection, sandbox, parks=arguments.park, **about)
                else:
                    done = await replay_selected(service, projection, sandbox, selection, **about)
            _say_done(screen, done, selected=not selection.whole)
            if arguments.diff:
                differs = await compare_with_live(service, projection, sandbox, samples_max=arguments.samples)
                _say_difference(screen.say, differs)
    screen.finish({**done.as_json(), **({} if differs is None else {"diff": differs.as_json()})})
    return Exit.FAILED if done.marks.get("DIVERGED") or (differs is not None and differs.total) else Exit.GOOD


def _shown(name: str, progress: Progress) -> str:
    left = "" if progress.left_s is None else f", {progress.left_s:.0f} s left"
    return f"{name}: {progress.done:,} of {progress.total:,} offsets{left}"


def _say_survey(screen: Screen, name: str, found: Survey, rate: int | None) -> None:
    types = ", ".join(f"{found.selected[of]:,} of {number:,} {of}" for of, number in sorted(found.types.items())) or "none"
    keys = "very many" if found.keys is None else f"{found.keys:,}"
    screen.say(f"{name}: {found.records:,} records would be read, events applied: {types}; {found.controls:,} controls")
    if found.unreadable:
        screen.say(f"  {found.unreadable:,} can't be read by the log's schemas")
    if found.first_ms is not None and found.last_ms is not None:
        screen.say(f"  of {keys} keys, from {shown_moment(found.first_ms)} to {shown_moment(found.last_ms)}")
    for p, (first, last) in sorted(found.offsets.items()):
        screen.say(f"  partition {p}: offsets {first} to {last}")
    screen.say(f"  reading them took {found.took_s:.1f} s; a replay takes {found.least_s(rate):,.1f} s at least")
    screen.say("nothing was written")


def _say_done(screen: Screen, done: Replayed, *, selected: bool) -> None:
    parked = f", {done.parked} keys parked" if done.parked else ""
    there = f"{done.sandbox} has {done.count:,}{parked}"
    screen.say(f"{done.projection}: {done.applied:,} events applied in {done.took_s:.1f} s; {there}")
    if selected:
        screen.say("  not a copy: some events of the history, which no mark can be held against")
    elif done.equal:
        screen.say(f"  proven: {done.compared} marks of the owner compared, all EQUAL")
    elif not done.compared:
        screen.say("  not proven: the owner left no mark on the way that it could be held against")
    else:
        told = ", ".join(f"{number} {verdict}" for verdict, number in done.marks.items())
        screen.say(f"  not proven: of {done.compared} marks compared {told}")


def _say_difference(say: Callable[[str], None], found: Difference) -> None:
    plain: dict[str, Any] = found.as_json()
    if not found.total:
        say(f"  {found.rows.compared:,} rows compared with the live replica, none differs")
        return
    kinds = ", ".join(f"{number:,} {name}" for name, number in plain["differs"].items())
    say(f"  {found.rows.compared:,} rows compared with the live replica: {kinds}")
    if found.rows.ahead:
        positions = f"live {dict(found.live)}, here {dict(found.sandbox)}"
        say(f"  {found.rows.ahead:,} of them are of keys that stand at other versions; positions: {positions}")
    for one in plain["samples"]:
        live, here = (f"{one[side]} (v{one['versions'][of]})" for side, of in (("before", "live"), ("after", "sandbox")))
        say(f"  {one['kind']} {one['key']!r}: live {live}, here {here}")
        for event in one["events"]:
            place = f"partition {event['partition']} offset {event['offset']}"
            say(f"    {event['type']} v{event['version']}, {place}, {shown_moment(event['at_ms'])}")


REPLAY = Verb(
    name="replay", purpose="replay a projection into a sandbox, and never touch what is live", arguments=_arguments, act=_replay
)
