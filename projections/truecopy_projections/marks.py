"""What a mark says of the replica that reads it: judged by the count it states, never by the place where it lies.

Relays overlap when one takes over from another, so a mark may come late, or from one that is no longer the relay. Equal
counts are compared. A replica ahead of the mark has simply read on. A replica behind it misses something that was delivered,
unless what it misses is known to wait in quarantine.
"""

from truecopy_bus.record import Record
from truecopy_projections.state import Checkpoint, MarkVerdict
from truecopy_schemas.control import Mark

__all__ = ["checkpoint", "judge"]


def judge(mark: Mark, count: int, input_digest: int, relay_epoch: int, uncounted: int) -> MarkVerdict:
    """Decide. `relay_epoch` is the highest seen before; `uncounted` the waiting records that could not be counted."""
    if mark.epoch < relay_epoch:
        return MarkVerdict.SUPERSEDED
    if count > mark.count:
        return MarkVerdict.LATE
    if count == mark.count:
        return MarkVerdict.EQUAL if input_digest == int.from_bytes(mark.digest) else MarkVerdict.DIVERGED
    return MarkVerdict.PARKED if count + uncounted >= mark.count else MarkVerdict.DIVERGED


def checkpoint(
    record: Record, mark: Mark, count: int, input_digest: int, row_digest: int, relay_epoch: int, uncounted: int
) -> Checkpoint:
    """The replica's figures at a mark, with the verdict."""
    return Checkpoint(
        partition=record.partition,
        offset=record.offset,
        epoch=mark.epoch,
        number=mark.number,
        count=count,
        mark_count=mark.count,
        input_digest=input_digest,
        mark_digest=int.from_bytes(mark.digest),
        row_digest=row_digest,
        verdict=judge(mark, count, input_digest, relay_epoch, uncounted),
        at_ms=mark.at_ms,
    )
