"""The topic of amendments: every ruling of every replica of a log, for ever, so that anybody sees it without the replica.

A record's value is a ruling's one form in bytes, so that its SHA-256 is its id, by which certificates name it; its key is the
projection's id. Nobody signs a ruling: what is signed are the certificates that state it.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress

from truecopy_bus.log import Log
from truecopy_bus.record import Outgoing, Record
from truecopy_projections.amendment import Amendment
from truecopy_projections.errors import InvalidAmendmentError
from truecopy_projections.statements import read_back, state
from truecopy_schemas.errors import NewerFormatError

__all__ = ["AMENDMENTS_TOPIC", "publish_missing", "published_amendments"]

AMENDMENTS_TOPIC = "_truecopy.amendments"
"""The topic's name, which a namespace may precede."""


async def published_amendments(log: Log, wanted: Collection[str], *, topic: str) -> dict[str, Amendment]:
    """The rulings with these ids that the topic holds. Raises LogUnavailableError."""
    found: dict[str, Amendment] = {}

    def take(record: Record) -> None:
        with suppress(InvalidAmendmentError, NewerFormatError):  # anybody may have written it
            one = Amendment.read(record.value or b"")
            if one.id in wanted:
                found[one.id] = one

    if wanted:
        await read_back(log, take, topic=topic)
    return found


async def publish_missing(log: Log, amendments: Iterable[Amendment], *, topic: str) -> int:
    """Publish those of a replica's rulings that the topic lacks: new ones, and what a crash left. Returns how many.

    Raises TopicMismatchError for a topic that may forget, LogUnavailableError.
    """
    by_id = {one.id: one for one in amendments}
    there = await published_amendments(log, by_id.keys(), topic=topic)
    missing = sorted((one for name, one in by_id.items() if name not in there), key=lambda one: (one.at_ms, one.id))
    if missing:
        await state(log, [Outgoing(one.projection.encode(), one.canonical(), one.at_ms) for one in missing], topic=topic)
    return len(missing)
