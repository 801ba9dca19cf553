"""How old the oldest event is that a replica has not applied: the record at its position, as the log has it.

The lag that matters to a reader is the age of what it does not see yet, and not of what was applied last: with a worker that is
dead the latter stands still. The record's timestamp is the owner's commit time. What was found is kept until the position
moves past it, one look reads a bounded number of records of each partition within a bounded time, and a partition that could
not be looked at is left out: its age is unknown.

Marks and genesis are no events. Events in quarantine are behind the position: they are counted as parked, and not here.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from truecopy_bus.errors import PositionLostError, TopicMissingError, UnavailableError
from truecopy_bus.log import Log
from truecopy_bus.record import TopicState
from truecopy_schemas.control import CONTROL_KEY

__all__ = ["Unapplied"]

LOOK_RECORDS = 100
"""Records of a partition that one look reads: nearly always the first is an event, and a mark comes at most every second."""
LOOK_WAIT_S = 0.5
"""Seconds that one look waits for the records of a partition."""
LOOK_S = 2.0
"""Seconds that one look at a topic takes at the most; partitions after that are unknown until the next look."""


class _Found(NamedTuple):
    """From `start` up to `event` there is no event; there is one of this time, or, with None, nobody has looked further."""

    incarnation: str | None
    start: int
    event: int
    at_ms: int | None


class Unapplied:
    """Looks into `log`, and remembers."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._found: dict[tuple[str, int], _Found] = {}

    async def ages_s(self, topic: TopicState, positions: Mapping[int, int]) -> dict[int, float]:
        """The seconds since the oldest event at or after each position was committed; 0 where there is none.

        What could not be learned within LOOK_S is left out. Raises nothing for a log that is away.
        """
        ages: dict[int, float] = {}
        reader = self._log.reader(topic.name)
        try:
            async with asyncio.timeout(LOOK_S):
                for p, position in sorted(positions.items()):
                    end = topic.bounds.get(p, (0, 0))[1]
                    found = self._known(topic, p, position)
                    if found.at_ms is None and found.event < end:
                        records = await reader.read({p: found.event}, records_max=LOOK_RECORDS, wait_s=LOOK_WAIT_S)
                        event = next((record for record in records if record.key != CONTROL_KEY), None)
                        if event is not None:
                            found = found._replace(event=event.offset, at_ms=event.timestamp_ms)
                        elif records:
                            found = found._replace(event=records[-1].offset + 1)
                        self._found[topic.name, p] = found
                    if found.at_ms is not None:
                        ages[p] = max(0.0, time.time() - found.at_ms / 1000)
                    elif found.event >= end:
                        ages[p] = 0.0
        except (TimeoutError, UnavailableError, PositionLostError, TopicMissingError):
            pass  # what is away is told by whoever asked for the topic
        finally:
            with suppress(UnavailableError):
                await reader.close()
        return ages

    def _known(self, topic: TopicState, p: int, position: int) -> _Found:
        found = self._found.get((topic.name, p))
        if found is None or found.incarnation != topic.incarnation or not found.start <= position <= found.event:
            return _Found(topic.incarnation, position, position, None)
        return found
