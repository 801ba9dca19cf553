"""`truecopy restore`: a live replica back to the state at a mark, proven by what was recorded there, and forward again.

A dry run by default: `--apply` carries it out. `--forward` lets the replica go on, and tells how many of the marks that were
taken back it has passed again with the same figures.
"""

from argparse import ArgumentParser, Namespace

from truecopy_projections.cut import AtMark, Recorded
from truecopy_projections.projection import Projection
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of
from truecopy_services.errors import UsageError
from truecopy_services.operating.cuts import cut_asked
from truecopy_services.service import Service
from truecopy_services.working import answering_within

__all__ = ["RESTORE"]


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("projection", metavar="PROJECTION")
    way = parser.add_mutually_exclusive_group(required=True)
    told = "the mark: mark:latest, mark:WHEN (the last that is not later), or mark:0=17,1=16 by partition"
    way.add_argument("--to", metavar="MARK", help=told)
    way.add_argument("--forward", action="store_true", help="let a restored replica go on, and compare what it passes again")
    parser.add_argument("--apply", action="store_true", help="go back; without it only what would change is told")
    parser.add_argument("--why", metavar="TEXT", default="", help="the reason, for the journal")


async def _restore(arguments: Namespace, screen: Screen) -> Exit:
    """Exit code 1 where something would change and was not applied, and where the way forward met other figures."""
    if arguments.forward and arguments.apply:
        raise UsageError("--forward needs no --apply: what it does can be taken back by another restore")
    to = AtMark() if arguments.forward else cut_asked(arguments.to)
    if not isinstance(to, AtMark):
        raise UsageError(f"--to {arguments.to!r}: a replica goes back to marks, whose figures prove it; write mark:...")
    app = app_of(arguments.app)
    projection = app.find(arguments.projection)
    async with app.open(store=False) as service:
        async with answering_within(service.settings.timeout_s, f"log and replica of {projection.id}"):
            await service.log.describe(service.topic(projection))
            async with service.replica_adapter.snapshot():
                pass
        if arguments.forward:
            return await _forward(service, projection, arguments.why, screen)
        with screen.console.status(f"applying the log of {projection.id} up to there"):
            done = await service.restore(projection, to=to, apply=arguments.apply, why=arguments.why)
    for p, state in sorted(done.before.items()):
        mark = done.cut.marks[p]
        proof = "as recorded" if mark.row_digest is not None else "count and input digest as the owner's mark states"
        screen.say(
            f"partition {p}: from offset {state.position} ({state.count} events) to {done.cut.offsets[p]} "
            f"({mark.count} events), mark {mark.number}, {proof}"
        )
    rows = f"{done.rows_put} rows put, {done.rows_dropped} dropped, {done.waiting} keys wait then"
    if done.applied:
        screen.say(f"{projection.id}: restored: {rows}; it stands there until `truecopy restore --forward`")
    else:
        screen.say(f"{projection.id}: would be restored: {rows}; do it with --apply")
    screen.finish(done.as_json())
    return Exit.GOOD if done.applied else Exit.FAILED


async def _forward(service: Service, projection: Projection[object], why: str, screen: Screen) -> Exit:
    released, found = await service.forward(projection, why=why)
    screen.say(
        f"{projection.id}: partitions {released} go on" if released else f"{projection.id}: no partition stands restored"
    )
    for before, now in found.differing:
        screen.say(f"partition {now.partition}: mark {now.number} had {_shown(before)}, and has {_shown(now)} now")
    screen.say(f"{found.equal} marks passed again as before, {len(found.differing)} otherwise, {found.ahead} still ahead")
    screen.finish({"projection": projection.id, "released": released, "retraced": found.as_json()})
    return Exit.FAILED if found.differing else Exit.GOOD


def _shown(one: Recorded) -> str:
    rows = f"{one.row_digest or 0:064x}"
    return f"{one.count} events, digests {f'{one.input_digest:064x}'[:12]}... and {rows[:12]}... of rows"


RESTORE = Verb(
    name="restore", purpose="take a replica back to the state at a mark, and forward again", arguments=_arguments, act=_restore
)
