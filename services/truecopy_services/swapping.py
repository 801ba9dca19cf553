"""Letting one number of a projection take the place of the live one, and the way back, which is the same.

First the new number, which nobody reads, is held by the swap alone and checked as a whole, however long that takes. Then the
live one is held too, both are brought to one position, and what the new one applied since its proof is proven by folding that
tail. So nobody is held up but for a bounded time, and what an event sets off is set off by the number that was live when it was
applied. One transaction then changes view and stages under all fences.
"""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from truecopy_bus.errors import DatabaseUnavailableError
from truecopy_bus.points import Point, reached
from truecopy_projections.bounded import BoundedWorker
from truecopy_projections.check import check
from truecopy_projections.cut import AtMark, find_cut
from truecopy_projections.errors import CutError, SwapRefusedError
from truecopy_projections.limits import ALONE_LEASE_S, SWAP_ARRIVE_S, SWAP_TRIES
from truecopy_projections.log_upto import LogUpTo
from truecopy_projections.numbers_diff import NumbersDiff, compare_numbers
from truecopy_projections.projection import Projection
from truecopy_projections.stages import Stage, live_number, stage_of
from truecopy_projections.tail_proof import proven_at, wrong_since
from truecopy_projections.verdicts import Report, Verdict
from truecopy_services.errors import UsageError
from truecopy_services.service import Service

__all__ = ["FOLLOW_S", "Swapped", "swap"]

FOLLOW_S = 7 * 24 * 3600.0
"""Seconds for which the number that was live follows, so that the way back is at once."""
HELD_S = ALONE_LEASE_S / 2
"""Seconds for which both numbers may be held, proof included: well within the leases that hold them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swapped:
    """What a swap did, or a dry run would do. `held_s` is for how long nobody applied; `difference` None: not asked for."""

    new: str
    old: str
    positions: Mapping[int, int]
    verdict: Verdict
    difference: NumbersDiff | None
    accepted: bool
    done: bool
    held_s: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "new": self.new,
            "old": self.old,
            "positions": {str(p): at for p, at in self.positions.items()},
            "verdict": self.verdict.name,
            "difference": self.difference.as_json() if self.difference else None,
            "accepted": self.accepted,
            "swapped": self.done,
            "held_s": round(self.held_s, 3),
        }


async def swap(
    service: Service,
    new: Projection[Any],
    *,
    accept: str = "",
    diff: bool = False,
    follow_s: float = FOLLOW_S,
    dry_run: bool = False,
    by: str = "",
) -> Swapped:
    """Let `new` be live, unless it is not EQUAL and its difference to the live number was not accepted by its name.

    The number that was live follows for `follow_s` seconds. Raises SwapRefusedError with all as it was, UsageError for a live
    number that this app does not declare, NotCaughtUpError where one does not come to the other's position, and what is away.
    """
    old = await _replaced(service, new)
    if dry_run:
        [report] = await service.check(new)
        async with service.replica_adapter.snapshot() as snapshot:
            difference = await compare_numbers(new, old, snapshot)
        refusal = _refusal(report, difference, accept)
        if refusal and not diff:
            raise SwapRefusedError(new=new.id, old=old.id, seen=refusal, remedy=_remedy(difference))
        return _told(new, old, report, difference, accept)
    return await _swapped(service, new, old, accept=accept, diff=diff, follow_s=follow_s, by=by)


async def _swapped(
    service: Service,
    new: Projection[Any],
    old: Projection[Any],
    *,
    accept: str,
    diff: bool,
    follow_s: float,
    by: str,
) -> Swapped:
    replica, holder = service.replica_adapter, f"swap {socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    topic, schemas = service.topic(new), service.schemas(new)
    async with AsyncExitStack() as leaving:
        ours, theirs = workers = [_alone(service, one, holder) for one in (new, old)]
        for worker in workers:
            leaving.push_async_callback(worker.leave)
        await _to_a_mark(service, ours, old)
        async with _kept(ours):
            upto = LogUpTo(service.log, ours.upto)  # it is not behind what it is not to have yet
            report = await check(new, replica, upto, schemas, topic=topic, wait_s=0)
            if report.verdict is not Verdict.EQUAL and not accept:
                async with replica.snapshot() as snapshot:
                    difference: NumbersDiff | None = await compare_numbers(new, old, snapshot)
                raise SwapRefusedError(
                    new=new.id, old=old.id, seen=_refusal(report, difference, ""), remedy=_remedy(difference)
                )
        began_s = time.monotonic()
        async with asyncio.timeout(HELD_S) as held:
            try:
                positions = await _furthest(ours, theirs)
                tail = await proven_at(new, replica, service.log, schemas, topic=topic, upto=positions)
                await _together(positions, ours, theirs)
                await reached(Point.SWAP_SEIZED)
                wrong = await wrong_since(new, replica, service.log, schemas, tail, topic=topic, upto=positions)
                if wrong and not accept:
                    seen = f"since it was checked, {wrong}"
                    raise SwapRefusedError(new=new.id, old=old.id, seen=seen, remedy="see `truecopy check`, and swap again")
                difference = None
                if accept or diff or report.verdict is not Verdict.EQUAL:
                    async with replica.snapshot() as snapshot:
                        difference = await compare_numbers(new, old, snapshot)
                if refusal := _refusal(report, difference, accept):
                    raise SwapRefusedError(new=new.id, old=old.id, seen=refusal, remedy=_remedy(difference))
                said = {
                    "new": new.id,
                    "old": old.id,
                    "by": by,
                    "verdict": report.verdict.name,
                    "accepted": accept,
                    "positions": {str(p): at for p, at in positions.items()},
                    "at_ms": time.time_ns() // 1_000_000,
                }
                fences = {worker.projection.id: worker.fences for worker in workers}
                for left in reversed(range(SWAP_TRIES)):
                    try:
                        await replica.swap(new, old, fences, follow_ms=int(follow_s * 1000), by=by, journal=[("swap", said)])
                        break
                    except DatabaseUnavailableError:  # most likely somebody reads the view
                        if not left:
                            raise
            except TimeoutError:
                if not held.expired():
                    raise
                seen = f"what was applied since it was checked is not proven within {HELD_S:g} s"
                remedy = "swap when fewer events come, or accept the difference by its name (--diff)"
                raise SwapRefusedError(new=new.id, old=old.id, seen=seen, remedy=remedy) from None
        await reached(Point.SWAP_DONE)
    told = _told(new, old, report, difference, accept)
    return Swapped(
        **{name: getattr(told, name) for name in ("new", "old", "verdict", "difference", "accepted")},
        positions=positions,
        done=True,
        held_s=time.monotonic() - began_s,
    )


async def _replaced(service: Service, new: Projection[Any]) -> Projection[Any]:
    """The live number, where `new` may take its place."""
    async with service.replica_adapter.snapshot() as snapshot:
        staged = await snapshot.stages(new.name)
    live = live_number(staged)
    stage = stage_of(staged, new.number, time.time_ns() // 1_000_000)
    if live == new.number:
        raise SwapRefusedError(new=new.id, old=new.id, seen="it is live already", remedy="nothing is to be done")
    if live is None or stage is not Stage.FOLLOWING:
        seen = "it was never built" if stage is None else f"it is {stage.name.lower()}, {stage.value}"
        old = "the live number" if live is None else f"{new.name}@{live}"
        raise SwapRefusedError(new=new.id, old=old, seen=seen, remedy=f"run `truecopy rebuild` of {new.id} first")
    old_id = f"{new.name}@{live}"
    if old_id not in service.projections:
        raise UsageError(f"{old_id} is live, and this app does not declare it; declare both numbers to swap them")
    return service.projections[old_id]


def _alone(service: Service, projection: Projection[Any], holder: str) -> BoundedWorker:
    return BoundedWorker(
        projection,
        service.replica_adapter,
        service.log,
        service.schemas(projection),
        upto={},
        topic=service.topic(projection),
        holder=holder,
        wait_s=service.settings.read_wait_s,
        records_max=service.settings.batch_records,
    )


@asynccontextmanager
async def _kept(worker: BoundedWorker) -> AsyncIterator[None]:
    """Keep what a worker holds, and stand still, while the block lasts. Raises what ends the worker."""

    async def beat() -> None:
        while True:
            await worker.step()

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


async def _to_a_mark(service: Service, ours: BoundedWorker, old: Projection[Any]) -> None:
    """Hold it, and bring it to the owner's newest marks, where it can be proven; where it is beyond, wait for later ones."""
    await ours.step()
    projection, waits_s = ours.projection, service.settings.check_wait_s
    until_s = time.monotonic() + waits_s
    while True:
        async with service.replica_adapter.snapshot() as snapshot:
            kept = await snapshot.checkpoints(old.id, newest=1)
        try:
            cut = await find_cut(AtMark(), service.log, topic=ours.topic, checkpoints=kept)
        except CutError:  # there is none, as on a topic of others
            offsets: Mapping[int, int] = {}
        else:
            offsets = cut.offsets
        if all(offsets.get(p, 0) >= at for p, at in ours.positions.items()):
            break
        if projection.foreign is not None or time.monotonic() > until_s:  # then the check says what is missing
            offsets = {p: end for p, (_, end) in (await service.log.describe(ours.topic)).bounds.items()}
            break
        await ours.step()
    ours.upto = dict(offsets)
    await ours.arrive(within_s=waits_s + SWAP_ARRIVE_S)


async def _furthest(ours: BoundedWorker, theirs: BoundedWorker) -> Mapping[int, int]:
    """Hold both, and say the furthest position of either in each partition."""
    for worker in (ours, theirs):
        await worker.step()
    return {p: max(at, theirs.positions[p]) for p, at in ours.positions.items()}


async def _together(positions: Mapping[int, int], *workers: BoundedWorker) -> None:
    for worker in workers:
        worker.upto = dict(positions)
        if worker.left:
            await worker.arrive(within_s=SWAP_ARRIVE_S)


def _refusal(report: Report, difference: NumbersDiff | None, accept: str) -> str:
    """Why it is not swapped; "" if it may be."""
    if difference is not None and accept and accept != difference.name:
        return f"the difference {accept} was accepted, and it is {difference}"
    if report.verdict is Verdict.EQUAL or accept:
        return ""
    wrong = [
        f"{name} is {claim.verdict.name}, {claim.why}"
        for name, claim in (("delivered", report.delivered), ("computed", report.computed), ("stored", report.stored))
        if claim.verdict is not Verdict.EQUAL
    ]
    return f"a check says {report.verdict.name}: {'; '.join(wrong)}; to the live number: {difference}"


def _remedy(difference: NumbersDiff | None) -> str:
    name = difference.name if difference else ""
    return "see `truecopy check`, mend it, and swap again" + (f", or accept the difference: --accept {name}" if name else "")


def _told(new: Projection[Any], old: Projection[Any], report: Report, difference: NumbersDiff | None, accept: str) -> Swapped:
    return Swapped(
        new=new.id,
        old=old.id,
        positions=report.positions,
        verdict=report.verdict,
        difference=difference,
        accepted=bool(accept),
        done=False,
        held_s=0.0,
    )
