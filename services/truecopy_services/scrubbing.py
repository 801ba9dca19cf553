"""Scrubbing without end: bucket after bucket, the one that has waited longest first, so that a kill costs little.

A bucket is read at once, and then nothing for a while: the pace is that of a whole cycle, or slower where bytes are limited.
When buckets were right is kept in the replica some times a cycle. Beside that the newest marks are judged as they come. A
finding is said when it is made, and again when it is gone; what is away is waited for, and said once.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from truecopy_bus.errors import DatabaseCorruptError, TopicMissingError, UnavailableError
from truecopy_bus.outage import Outage
from truecopy_projections.check import check
from truecopy_projections.errors import UnknownProjectionError
from truecopy_projections.limits import BUCKETS
from truecopy_projections.projection import Projection
from truecopy_projections.scrub import Finding, Scrub, scrub
from truecopy_projections.verdicts import Claim, Verdict
from truecopy_services.service import Service

__all__ = ["CYCLE_S", "MARKS_S", "NOTED_BUCKETS", "SNAPSHOT_S", "TURN_S", "Pace", "Scrubbed", "Told", "scrub_rounds"]

CYCLE_S = 20 * 3600.0
"""Seconds that a cycle takes by default: what is kept of any row is so never a day old, with some hours to spare."""
NOTED_BUCKETS = 64
"""Buckets until their times are kept in the replica: sixteen small writes a cycle, and a kill costs a sixteenth of one."""
SNAPSHOT_S = 5.0
"""Seconds that a snapshot is meant to be open at the most: as long it keeps the database from cleaning up behind writers."""
TURN_S = 0.05
"""Seconds from turn to turn at the least: a quicker cycle takes more buckets at a time."""
MARKS_S = 2.0
"""Seconds between looks at the newest marks; their owner states one a second."""
_GRAVE = (Verdict.DIVERGED, Verdict.INCOMPARABLE, Verdict.PARKED)
"""Verdicts on what was delivered that a checker says by itself. To be behind, and so unproven, is a writer's everyday life."""

_log = logging.getLogger("truecopy.scrub")


@dataclass(slots=True, kw_only=True)
class Scrubbed:
    """What was done of one projection by this process.

    `bad` are its findings that stand, by bucket (None: totals of partitions); `corrupt` are those that can't be read, and why.
    """

    rows: int = 0
    bytes: int = 0
    buckets: int = 0
    bad: dict[int | None, tuple[Finding, ...]] = field(default_factory=dict)
    corrupt: dict[int, str] = field(default_factory=dict)
    delivered: Verdict | None = None

    @property
    def clean(self) -> bool:
        """Whether nothing that was found still stands."""
        return not (self.bad or self.corrupt or self.delivered in _GRAVE)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "rows": self.rows,
            "bytes": self.bytes,
            "buckets": self.buckets,
            "findings": [one.as_json() for found in self.bad.values() for one in found],
            "corrupt": dict(self.corrupt),
            "delivered": self.delivered.name if self.delivered else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One thing that is said when it is noticed: `what` is finding, mended, corrupt or delivered."""

    projection: str
    what: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"projection": self.projection, "said": self.what, "text": self.text, **self.facts}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast: a cycle over all buckets of `projections` takes `cycle_s` seconds, or longer by `bytes_per_s`."""

    cycle_s: float
    projections: int
    bytes_per_s: float | None = None

    @property
    def buckets(self) -> int:
        """Buckets of a turn."""
        return min(BUCKETS, max(1, ceil(TURN_S / self._share_s)))

    @property
    def _share_s(self) -> float:
        return self.cycle_s / (BUCKETS * self.projections)

    def turn_s(self, size: int) -> float:
        """Seconds from the begin of a turn that read so many bytes to that of the next."""
        return max(self.buckets * self._share_s, size / self.bytes_per_s if self.bytes_per_s else 0.0)


class _Turns:
    """The buckets of one projection, those first that have waited longest."""

    def __init__(
        self, service: Service, projection: Projection[Any], seen: Scrubbed, tell: Callable[[Told], None], *, size: int
    ) -> None:
        self._replica, self._projection, self._seen, self._tell = service.replica_adapter, projection, seen, tell
        self._waiting: list[int] = []
        self._singly = 0
        self._times: dict[int, int] = {}
        self.size, self.left = size, BUCKETS

    async def turn(self) -> int:
        """Scrub the next buckets. Returns the bytes read. Raises what is unavailable."""
        if not self._waiting:
            await self.note()
            async with self._replica.snapshot() as snapshot:
                self._waiting = (await snapshot.scrubs(self._projection.id)).oldest_first()
        group = self._waiting[: 1 if self._singly else self.size]
        try:
            found = await scrub(self._projection, self._replica, buckets=group)
        except DatabaseCorruptError as fault:
            if len(group) > 1:  # which of them it is
                self._singly = len(group)
                return 0
            self._unreadable(group[0], fault)
            size = 0
        else:
            self._take(found)
            size = found.bytes
        self._singly = max(0, self._singly - 1)
        self.left -= len(group)
        del self._waiting[: len(group)]
        if len(self._times) >= NOTED_BUCKETS:
            await self.note()
        return size

    async def note(self) -> None:
        """Keep the times of what was scrubbed. Nothing counts that a crash could take back."""
        if not self._times:
            return
        try:
            await self._replica.flush()
            await self._replica.scrubbed(self._projection, self._times)
        except DatabaseCorruptError as fault:
            _log.error("%s: when buckets were right can't be kept: %s", self._projection.id, fault)
        self._times = {}

    def _take(self, found: Scrub) -> None:
        seen, name = self._seen, self._projection.id
        seen.rows += found.rows
        seen.bytes += found.bytes
        seen.buckets += len(found.buckets)
        self._times |= found.times
        now = found.by_bucket
        for bucket in {b for b in (*seen.bad, *seen.corrupt) if b is None or b in found.buckets} - now.keys():
            place = "the totals of the partitions add" if bucket is None else f"bucket {bucket} adds"
            self._tell(Told(projection=name, what="mended", text=f"{place} up again", facts={"bucket": bucket}))
        for bucket, findings in now.items():
            if seen.bad.get(bucket) != findings:
                for one in findings:
                    self._tell(Told(projection=name, what="finding", text=str(one), facts=one.as_json()))
        seen.corrupt = {b: why for b, why in seen.corrupt.items() if b not in found.buckets}
        seen.bad = {**{b: kept for b, kept in seen.bad.items() if b is not None and b not in found.buckets}, **now}

    def _unreadable(self, bucket: int, fault: DatabaseCorruptError) -> None:
        self._times[bucket] = 0
        if bucket not in self._seen.corrupt:
            text = f"bucket {bucket} can't be read: {fault}"
            self._tell(Told(projection=self._projection.id, what="corrupt", text=text, facts={"bucket": bucket}))
        self._seen.corrupt[bucket] = str(fault)


async def scrub_rounds(
    service: Service,
    projections: Collection[Projection[Any]],
    stop: asyncio.Event,
    *,
    pace: Pace | None,
    scrubbed: Mapping[str, Scrubbed],
    tell: Callable[[Told], None],
    outages: dict[str, Outage],
) -> None:
    """Scrub at this pace until `stop` is set; without one, a single cycle as fast as it goes. `scrubbed` is kept up to date.

    Raises what no waiting can mend; a single cycle also what is away.
    """
    about = {"service": service.name}
    rows = outages["scrub"] = Outage(_log, f"scrub of {service.name}", about=about)
    marks = outages["marks"] = Outage(_log, f"marks of {service.name}", about=about)
    size = pace.buckets if pace else NOTED_BUCKETS // 4
    turns = [_Turns(service, one, scrubbed[one.id], tell, size=size) for one in projections]
    due_s = marks_s = time.monotonic()
    try:
        while not stop.is_set() and (pace or turns):
            began_s = time.monotonic()
            if began_s >= marks_s:
                await _judge_marks(service, projections, scrubbed, tell, marks)
                marks_s = began_s + MARKS_S
            if began_s >= due_s:
                turn = turns.pop(0)
                try:
                    read = await turn.turn()
                    rows.over()
                    due_s = began_s + (pace.turn_s(read) if pace else 0.0)
                except (UnavailableError, UnknownProjectionError) as fault:
                    if pace is None:
                        raise
                    due_s = time.monotonic() + rows.strike(fault)
                if pace is None:
                    turn.size = _resized(turn.size, time.monotonic() - began_s)
                if pace or turn.left > 0:
                    turns.append(turn)
                else:
                    await turn.note()
            elif rows.fault is None:
                rows.over()  # between its turns it is well
            await _until(stop, min(due_s, marks_s))
    finally:
        with suppress(UnavailableError):
            for turn in turns:
                await turn.note()


async def _until(stop: asyncio.Event, until_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
            await stop.wait()


def _resized(size: int, took_s: float) -> int:
    if took_s > SNAPSHOT_S:
        return max(1, size // 2)
    return min(BUCKETS, size * 2) if took_s < SNAPSHOT_S / 4 else size


async def _judge_marks(
    service: Service,
    projections: Collection[Projection[Any]],
    scrubbed: Mapping[str, Scrubbed],
    tell: Callable[[Told], None],
    outage: Outage,
) -> None:
    """What the owners' newest marks say of the replica: said when it becomes grave, and when it is grave no longer."""
    try:
        for one in projections:
            claim = await _delivered(service, one)
            seen, before = scrubbed[one.id], scrubbed[one.id].delivered
            seen.delivered = claim.verdict
            if claim.verdict is not before and (claim.verdict in _GRAVE or before in _GRAVE):
                text = f"delivered is {claim.verdict.name}: {claim.why}"
                facts = {"verdict": claim.verdict.name, "why": claim.why}
                tell(Told(projection=one.id, what="delivered", text=text, facts=facts))
        outage.over()
    except (UnavailableError, TopicMissingError, UnknownProjectionError) as fault:
        outage.strike(fault)


async def _delivered(service: Service, projection: Projection[Any]) -> Claim:
    report = await check(
        projection,
        service.replica_adapter,
        service.log,
        service.schemas(projection),
        topic=service.topic(projection),
        quick=True,
        wait_s=0,
    )
    return report.delivered
