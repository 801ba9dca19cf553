"""Statements that stay on the log for ever: what a replica keeps in its journal first, and then says to everybody.

A topic of them has one partition: its order is the order in which they were published. A crash between journal and topic leaves
one that only the replica has; whoever publishes next compares the two, so one that is published twice is one.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from truecopy_bus.errors import LogUnavailableError, TopicMissingError
from truecopy_bus.lasting import ensure_lasting
from truecopy_bus.limits import READ_RECORDS_MAX, READ_WAIT_S
from truecopy_bus.log import Log
from truecopy_bus.record import Outgoing, Record
from truecopy_projections.limits import REPLAY_STALL_S
from truecopy_schemas.control import CONTROL_KEY

__all__ = ["ReadBack", "read_back", "state"]


class ReadBack(NamedTuple):
    """Whether a topic is there, and whether it begins at its beginning: one that is missing is whole."""

    is_there: bool
    is_whole: bool


async def state(log: Log, statements: Sequence[Outgoing], *, topic: str) -> None:
    """Append these; make the topic if it is missing. Raises TopicMismatchError for one that may forget, LogUnavailableError."""
    await ensure_lasting(log, topic)
    for one in statements:
        await log.append(topic, 0, [one])


async def read_back(log: Log, take: Callable[[Record], None], *, topic: str) -> ReadBack:
    """Have all statements of a topic taken, to its end. Raises LogUnavailableError."""
    try:
        start, end = (await log.describe(topic)).bounds[0]
    except TopicMissingError:
        return ReadBack(is_there=False, is_whole=True)
    reader = log.reader(topic)
    at, stalls_at = start, time.monotonic() + REPLAY_STALL_S
    try:
        while at < end:
            records = await reader.read({0: at}, records_max=READ_RECORDS_MAX, wait_s=READ_WAIT_S)
            if records:
                stalls_at = time.monotonic() + REPLAY_STALL_S
            elif time.monotonic() > stalls_at:
                raise LogUnavailableError(log=topic, seen=f"no record for {REPLAY_STALL_S:.0f} s at {at} of {end}")
            for record in records:
                at = record.offset + 1
                if record.key != CONTROL_KEY:
                    take(record)
    finally:
        await reader.close()
    return ReadBack(is_there=True, is_whole=start == 0)
