"""Building a further number of a projection beside the live one, which serves and follows meanwhile.

The live one puts aside what it can't apply and flows; a rebuild stops there and says why, and goes on from there when that is
mended. At the end of the log it is checked by the independent fold, while it goes on following; what is found EQUAL follows
from then on by the workers of `truecopy run`.
"""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from truecopy_bus.log import identified
from truecopy_bus.points import Point, reached
from truecopy_projections.bounded import BoundedWorker
from truecopy_projections.errors import RebuildRefusedError
from truecopy_projections.projection import Projection
from truecopy_projections.stages import Stage, live_number, stage_of
from truecopy_projections.verdicts import Report, Verdict
from truecopy_services.service import Service
from truecopy_services.working import first_error

__all__ = ["Progress", "Rebuilt", "drop", "rebuild"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a rebuild is: offsets behind it and in all, and the seconds that it still takes at this pace."""

    done: int
    total: int
    left_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What a rebuild came to. It follows from now on if `follows`; `applied` are the events of this run, `took_s` its time."""

    report: Report
    follows: bool
    applied: int
    took_s: float


async def rebuild(
    service: Service, projection: Projection[Any], *, by: str = "", told: Callable[[Progress], None] = lambda _: None
) -> Rebuilt:
    """Build a number to the log's end, check it, and let it follow if it is EQUAL, or waits for nothing but the log.

    Raises RebuildRefusedError (it is live, or another rebuild is at work), StoppedError at the first event that it can't
    apply, NotCaughtUpError where a partition halted, TopicMissingError, and what is away.
    """
    replica, began_s = service.replica_adapter, time.monotonic()
    holder = f"rebuild {socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    await _begin(service, projection, holder, by)
    worker = BoundedWorker(
        projection,
        replica,
        service.log,
        service.schemas(projection),
        upto={},
        topic=service.topic(projection),
        holder=holder,
        stops=True,
        lease_s=service.settings.lease_s,
        wait_s=service.settings.read_wait_s,
        records_max=service.settings.batch_records,
        durable=service.settings.durable,
    )
    try:
        await worker.step()
        await _catch_up(service, worker, told)
        stop = asyncio.Event()
        with first_error():
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_follow(service, worker, stop))
                try:
                    [report] = await service.check(projection)
                finally:
                    stop.set()
        await reached(Point.REBUILD_PROVEN, report.count)
        follows = report.verdict in (Verdict.EQUAL, Verdict.PARKED)
        if follows:
            await replica.stage(projection, Stage.FOLLOWING, by=by)
        return Rebuilt(report=report, follows=follows, applied=worker.applied, took_s=time.monotonic() - began_s)
    finally:
        await worker.leave()


async def drop(service: Service, projection: Projection[Any], *, by: str = "") -> None:
    """Forget a number with its tables. Raises SwapRefusedError for the live one, RebuildRefusedError for one being built."""
    async with service.replica_adapter.snapshot() as snapshot:
        states = await snapshot.states(projection.id)
    if states:
        await _alone(service, projection, "drop", len(states))
    await service.replica_adapter.drop(projection, by=by)


async def _begin(service: Service, projection: Projection[Any], holder: str, by: str) -> None:
    """Install it, and refuse what is not to be rebuilt."""
    replica = service.replica_adapter
    async with replica.snapshot() as snapshot:
        staged = await snapshot.stages(projection.name)
    live, now_ms = live_number(staged), time.time_ns() // 1_000_000
    if live is None:
        seen, remedy = (
            f"no number of {projection.name} is live",
            "`truecopy run` begins the first; nothing is beside it to rebuild",
        )
        raise RebuildRefusedError(projection=projection.id, seen=seen, remedy=remedy)
    if live == projection.number:
        remedy = "give what is changed the next number, and rebuild that"
        raise RebuildRefusedError(projection=projection.id, seen="readers see it: it is live", remedy=remedy)
    topic = await identified(service.log, service.topic(projection), foreign=projection.foreign is not None)
    await replica.install(projection, partitions=topic.partitions, incarnation=topic.incarnation or "")
    if stage_of(staged, projection.number, now_ms) is Stage.RETIRED:
        await replica.stage(projection, Stage.BUILDING, by=by)
    if stage_of(staged, projection.number, now_ms) is not Stage.FOLLOWING:  # workers hold one that follows
        await _alone(service, projection, holder, topic.partitions)


async def _alone(service: Service, projection: Projection[Any], holder: str, partitions: int) -> None:
    """Raises RebuildRefusedError while somebody else is at work on it."""
    replica = service.replica_adapter
    held = await replica.renew(projection, holder, (), lease_s=service.settings.lease_s)
    if len(held) < partitions:
        await replica.leave(projection, holder, held.values())
        seen = (
            f"somebody holds {partitions - len(held)} of its {partitions} partitions: another rebuild is at work, or was killed"
        )
        remedy = f"wait for its end, or {service.settings.lease_s:g} s"
        raise RebuildRefusedError(projection=projection.id, seen=seen, remedy=remedy)
    if holder == "drop":
        await replica.leave(projection, holder, held.values())


async def _catch_up(service: Service, worker: BoundedWorker, told: Callable[[Progress], None]) -> None:
    """Apply to the end that the log has when it is reached."""
    began_s, first = time.monotonic(), sum(worker.positions.values())
    while True:
        await _raise_end(service, worker)
        if not worker.left:
            return
        while worker.left:
            await worker.step()
            await reached(Point.REBUILD_STEPPED, worker.applied)
            worker.refuse_standstill()
            done = sum(worker.positions.values())
            pace = (done - first) / max(time.monotonic() - began_s, 1e-9)
            told(Progress(done=done, total=done + worker.left, left_s=worker.left / pace if pace else None))


async def _follow(service: Service, worker: BoundedWorker, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await _raise_end(service, worker)
        await worker.step()
        worker.refuse_standstill()


async def _raise_end(service: Service, worker: BoundedWorker) -> None:
    topic = await service.log.describe(worker.topic)
    worker.upto = {p: end for p, (_, end) in topic.bounds.items()}
