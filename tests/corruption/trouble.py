"""A log on which things go wrong that are no fault of the replica's: late appends, copies, late marks, gaps that fill later.

It stands between a relay and the real log. Held, an append waits until it is let go: a relay that was frozen past its lease,
and wakes up when another has taken over.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from truecopy_bus.log import Log
from truecopy_bus.record import Appended, Outgoing
from truecopy_schemas.control import CONTROL_KEY

COPIED_SHARE = 0.1
"""Share of appends that are appended once more, at once or later."""
SWAPPED_SHARE = 0.3
"""Share of appends in which two versions of a key change places."""
REMEMBERED = 50
"""Appends that may still be copied."""
OVERDUE = 2.5
"""Leases for which a relay is held: another has taken over by then."""


class TroubledLog:
    """See Log; everything but `append` is the log's own."""

    def __init__(self, log: Log, *, seed: int, done: Counter[str]) -> None:
        self._log, self._draw, self._done = log, random.Random(seed), done
        self._before: deque[tuple[str, int, Sequence[Outgoing]]] = deque(maxlen=REMEMBERED)
        self.caught = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        is_mark = records[0].key == CONTROL_KEY
        if not self.free.is_set():
            self.caught.set()
            await self.free.wait()
            self._done["late_marks" if is_mark else "late_events"] += len(records)
        sent = records if is_mark else self._swapped(records)
        appended = await self._log.append(topic, partition, sent)
        if self._draw.random() < COPIED_SHARE and self._before:
            again = (topic, partition, sent) if self._draw.random() < 0.5 else self._draw.choice(self._before)
            self._done["mark_copies" if again[2][0].key == CONTROL_KEY else "event_copies"] += len(again[2])
            await self._log.append(*again)
        self._before.append((topic, partition, sent))
        return appended

    def _swapped(self, records: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """The same with two neighbouring versions of a key in each other's place: a gap, which fills in the same batch."""
        if self._draw.random() >= SWAPPED_SHARE:
            return records
        last: dict[bytes | None, int] = {}
        for at, record in enumerate(records):
            if record.key in last:
                swapped = list(records)
                swapped[last[record.key]], swapped[at] = record, records[last[record.key]]
                self._done["gaps"] += 1
                return swapped
            last[record.key] = at
        return records


async def zombies(log: TroubledLog, stop: asyncio.Event, *, lease_s: float) -> None:
    """Hold the relay on this log past its lease, and let it go, again and again."""
    stopped = asyncio.ensure_future(stop.wait())
    while not stop.is_set():
        await asyncio.wait([stopped], timeout=2 * lease_s)
        log.caught.clear()
        log.free.clear()
        caught = asyncio.ensure_future(log.caught.wait())
        await asyncio.wait([stopped, caught], return_when=asyncio.FIRST_COMPLETED)
        caught.cancel()
        await asyncio.wait([stopped], timeout=OVERDUE * lease_s)
        log.free.set()
