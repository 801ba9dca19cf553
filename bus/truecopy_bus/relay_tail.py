"""What the log already states about a partition, before a relay adds to it.

A mark is appended only after its figures were recorded in the owner's store. So a log whose marks state more than the store
has recorded was filled by another store than this one: a newer copy of it, or another owner's.
"""

from contextlib import suppress

from truecopy_bus.genesis import control_of
from truecopy_bus.limits import READ_RECORDS_MAX, READ_WAIT_S, TAIL_RECORDS_FIRST, TAIL_RECORDS_MAX
from truecopy_bus.log import Log
from truecopy_schemas.control import Mark
from truecopy_schemas.errors import ForeignRecordError, UndecodableError

__all__ = ["last_marks", "stated"]


async def stated(log: Log, topic: str, part: int, bounds: tuple[int, int]) -> int:
    """The highest count that a mark among the last records states; 0 if none is near. Raises like Reader.read."""
    return max((mark.count for mark in await last_marks(log, topic, part, bounds)), default=0)


async def last_marks(log: Log, topic: str, part: int, bounds: tuple[int, int]) -> list[Mark]:
    """The marks among the last records of a partition, in their order; none if none is near. Raises like Reader.read."""
    start, end = bounds
    for records_max in (TAIL_RECORDS_FIRST, TAIL_RECORDS_MAX):
        first = max(start, end - records_max)
        found = await _marks(log, topic, part, first, end)
        if found or first == start:
            return found
    return []


async def _marks(log: Log, topic: str, part: int, first: int, end: int) -> list[Mark]:
    found: list[Mark] = []
    reader = log.reader(topic)
    try:
        while first < end and (records := await reader.read({part: first}, records_max=READ_RECORDS_MAX, wait_s=READ_WAIT_S)):
            for record in records:
                with suppress(ForeignRecordError, UndecodableError):
                    if isinstance(said := control_of(record), Mark):
                        found.append(said)
            first = records[-1].offset + 1
    finally:
        await reader.close()
    return found
