"""Replaying a projection's whole history, up to a cut, into a sandbox: a replica of its own, which proves itself at every mark.

It is applied as workers apply it, by the same plan and batches, alone and under leases of the sandbox's own. The live replica
is not written, consumer groups are told nothing, and no effect fires: in a sandbox no number is live. Rows and position commit
together, so that a replay that was killed goes on where it was, and so does one that is sent further.
"""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from random import random
from typing import Any

from truecopy_bus.leases import Fence
from truecopy_bus.log import identified
from truecopy_bus.points import Point, reached
from truecopy_projections.amendment import NO_AMENDMENTS, Amendments
from truecopy_projections.bounded import BoundedWorker
from truecopy_projections.cut import Asked, AtEnd, AtMark, AtTime, Cut, find_cut
from truecopy_projections.errors import CutError, ReplayRefusedError
from truecopy_projections.limits import READ_POLL_S
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.stages import Stage
from truecopy_projections.state import MarkVerdict, PartitionPlan
from truecopy_schemas.errors import TruecopyError
from truecopy_services.quarantine import actor
from truecopy_services.service import Service

__all__ = ["JOURNALED", "Progress", "Replayed", "cut_of", "journal", "replay", "take_rulings"]

JOURNALED = "replay"
"""The kind of a replay's entries in its sandbox's journal."""
_JUDGED = (MarkVerdict.EQUAL, MarkVerdict.DIVERGED, MarkVerdict.PARKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a replay is: offsets behind it and in all, and the seconds that it still takes at this pace, if that is known."""

    done: int
    total: int
    left_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a replay came to. `marks` counts the owner's marks that the sandbox keeps a judgement of, by what it was.

    `applied` are the events of this run, `count` those of the sandbox, `parked` its keys that wait.
    """

    projection: str
    sandbox: str
    positions: Mapping[int, int]
    began: Mapping[int, int]
    applied: int
    count: int
    parked: int
    took_s: float
    marks: Mapping[str, int] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        """Marks whose count and digest were held against the sandbox's."""
        return sum(self.marks.values())

    @property
    def equal(self) -> bool:
        """Whether there were marks, and all of them agreed."""
        return self.compared > 0 and self.marks.get("EQUAL", 0) == self.compared

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        at = {name: {str(p): offset for p, offset in getattr(self, name).items()} for name in ("positions", "began")}
        return {**asdict(self), **at, "compared": self.compared, "equal": self.equal}


async def cut_of(service: Service, projection: Projection[Any], to: Asked) -> Cut:
    """The cut that is asked for, in all partitions. Raises CutError, TopicMissingError, LogUnavailableError."""
    topic, foreign = service.topic(projection), projection.foreign is not None
    async with service.replica_adapter.snapshot() as snapshot:
        kept = await snapshot.checkpoints(projection.id) if isinstance(to, AtMark | AtTime) else ()
    found = await find_cut(to, service.log, topic=topic, foreign=foreign, checkpoints=kept)
    if missing := (await identified(service.log, topic, foreign=foreign)).bounds.keys() - found.offsets.keys():
        raise CutError(f"{topic}: no point is named for partitions {sorted(missing)}; a whole replay needs one for each")
    return found


async def replay(
    service: Service,
    projection: Projection[Any],
    sandbox: Replica,
    *,
    to: Asked | None = None,
    parks: bool = False,
    rate: int | None = None,
    by: str = "",
    told: Callable[[Progress], None] = lambda _: None,
) -> Replayed:
    """Replay the log from its beginning, or from where the sandbox stands, up to a cut (None: the end that the log has now).

    `parks` puts aside what can't be applied, as a worker does; else the first such event ends it. `rate` is in events a second.
    Raises ReplayRefusedError (the sandbox is beyond the cut, or another replay is at work on it), StoppedError, CutError,
    NotCaughtUpError where a partition halted, and what is away.
    """
    began_s, lease_s = time.monotonic(), service.settings.lease_s
    cut = await cut_of(service, projection, to or AtEnd())
    holder = f"replay {socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    await sandbox.install(projection, partitions=len(cut.offsets), incarnation=cut.incarnation)
    await sandbox.stage(projection, Stage.BUILDING, by=by)
    fences = await _alone(projection, sandbox, holder, len(cut.offsets), lease_s)
    began = await _positions(projection, sandbox)
    if beyond := {p: at for p, at in began.items() if at > cut.offsets[p]}:
        await sandbox.leave(projection, holder, fences)
        seen = f"it is at offsets {beyond} already, beyond {dict(cut.offsets)}"
        raise ReplayRefusedError(sandbox=sandbox.name, seen=seen, remedy="begin it --anew, or name a later point")
    await take_rulings(service, projection, sandbox, fences)
    worker = BoundedWorker(
        projection,
        sandbox,
        service.log,
        service.schemas(projection),
        upto=cut.offsets,
        topic=service.topic(projection),
        holder=holder,
        stops=not parks,
        lease_s=lease_s,
        wait_s=service.settings.read_wait_s,
        records_max=min(service.settings.batch_records, max(1, int((rate or service.settings.batch_records) * lease_s / 3))),
    )
    about = {"projection": projection.id, "by": by or actor(), "cut": cut.as_json(), "parks": parks, "rate": rate}
    try:
        await journal(projection, sandbox, "begun", about, began, applied=0)
        try:
            await _go(worker, rate, told)
        except TruecopyError as fault:
            await journal(projection, sandbox, f"stopped: {fault}", about, worker.positions, applied=worker.applied)
            raise
        await journal(projection, sandbox, "ended", about, worker.positions, applied=worker.applied)
    finally:
        await worker.leave()
    async with sandbox.snapshot() as snapshot:
        states = (await snapshot.states(projection.id)).values()
        judged = [one.verdict.name for one in await snapshot.checkpoints(projection.id) if one.verdict in _JUDGED]
    return Replayed(
        projection=projection.id,
        sandbox=sandbox.name,
        positions={state.partition: state.position for state in states},
        began=began,
        applied=worker.applied,
        count=sum(state.count for state in states),
        parked=sum(state.parked for state in states),
        took_s=time.monotonic() - began_s,
        marks={name: judged.count(name) for name in sorted(set(judged))},
    )


async def _alone(
    projection: Projection[Any], sandbox: Replica, holder: str, partitions: int, lease_s: float
) -> Collection[Fence]:
    """Take all leases at once, waiting for those of a replay that was killed to run out.

    What is less than all is given back: two that begin at one time must not each wait for the other's share.
    """
    gives_up_at = time.monotonic() + 2 * lease_s
    while True:
        held = (await sandbox.renew(projection, holder, (), lease_s=lease_s)).values()
        if len(held) == partitions:
            return held
        await sandbox.leave(projection, holder, held)
        if time.monotonic() > gives_up_at:
            seen = f"another replay of {projection.id} is at work on it"
            raise ReplayRefusedError(sandbox=sandbox.name, seen=seen, remedy="wait for its end, or name another")
        await asyncio.sleep(READ_POLL_S * (1 + random()))


async def take_rulings(
    service: Service, projection: Projection[Any], sandbox: Replica, fences: Collection[Fence]
) -> Amendments:
    """Give a sandbox that has read nothing the live replica's rulings about events: what was skipped there is skipped here.

    Returns those that it has, now or since it was begun.
    """
    async with sandbox.snapshot() as snapshot:
        states, known = await snapshot.states(projection.id), await snapshot.amendments(projection.id)
    if known or any(state.position or state.count for state in states.values()):
        return known
    async with service.replica_adapter.snapshot() as snapshot:
        held = bool(await snapshot.states(projection.id))
        rulings = await snapshot.amendments(projection.id) if held else NO_AMENDMENTS
    plans = [
        PartitionPlan(
            fence=fence,
            was=states[fence.partition],
            state=states[fence.partition],
            amendments=[one for one in rulings.all if one.partition == fence.partition],
        )
        for fence in fences
    ]
    if rulings:
        await sandbox.apply(projection, plans)
    return rulings


async def _positions(projection: Projection[Any], sandbox: Replica) -> dict[int, int]:
    async with sandbox.snapshot() as snapshot:
        return {p: state.position for p, state in (await snapshot.states(projection.id)).items()}


async def journal(
    projection: Projection[Any],
    sandbox: Replica,
    what: str,
    about: Mapping[str, Any],
    positions: Mapping[int, int],
    *,
    applied: int,
) -> None:
    """Enter into the sandbox's journal what a replay does."""
    at = {str(p): offset for p, offset in positions.items()}
    entry = {"what": what, **about, "positions": at, "applied": applied, "at_ms": time.time_ns() // 1_000_000}
    await sandbox.apply(projection, (), journal=[(JOURNALED, entry)])


async def _go(worker: BoundedWorker, rate: int | None, told: Callable[[Progress], None]) -> None:
    began_s, read, first = time.monotonic(), 0, None
    while True:
        read += await worker.step()
        await reached(Point.REPLAY_STEPPED, worker.applied)
        worker.refuse_standstill()
        done = sum(worker.positions.values())
        first = done - read if first is None else first
        took_s = max(time.monotonic() - began_s, 1e-9)
        pace = (done - first) / took_s
        told(Progress(done=done, total=done + worker.left, left_s=worker.left / pace if pace > 0 else None))
        if not worker.left:
            return
        if rate is not None:
            await asyncio.sleep(max(0.0, read / rate - took_s))
