"""Whether what a replica keeps of single records is what the log holds: its quarantine, and the owner's side of checkpoints.

Both are held against the log while that is folded. A quarantined record must be the log's, whole; one that is no change event
must be in quarantine. A checkpoint must repeat the mark at its offset, and its verdict must be what its figures say. What a
checkpoint tells of a replica that was no true copy then, and of the rows, can't be known from the log.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from truecopy_bus.record import Record
from truecopy_projections.amendment import Amendments
from truecopy_projections.arrival import Arrival, Control, Foreign, Reading
from truecopy_projections.projection import Projection
from truecopy_projections.reference import Rows
from truecopy_projections.state import Checkpoint, MarkVerdict, Reason, Waiting
from truecopy_schemas.control import Mark

__all__ = ["Bookkeeping"]

_At = tuple[int, int]
"""Partition and offset of a record."""


class Bookkeeping:
    """A Watch of a whole fold. Afterwards `waiting` and `checkpoints` are what must be kept in place of what is, by place.

    A quarantined record that must not be there is None. `parked` has, by key, the version that a parked one is applied to: all
    that comes after it must wait.
    """

    def __init__(
        self,
        projection: Projection[Any],
        upto: Mapping[int, int],
        waiting: Sequence[Waiting],
        checkpoints: Sequence[Checkpoint],
        parked: Mapping[str, int],
        amendments: Amendments,
    ) -> None:
        self.waiting: dict[_At, Waiting | None] = {
            (w.partition, w.offset): None for w in waiting if w.offset < upto.get(w.partition, 0)
        }
        self.checkpoints: dict[_At, Checkpoint] = {}
        self._kept = {(w.partition, w.offset): w for w in waiting}
        self._held = {(w.key, w.version) for w in waiting}
        self._parked = parked
        self._compared = {(c.partition, c.offset): c for c in checkpoints}
        self._epochs: dict[int, int] = {}
        self._next: dict[int, int] = {}
        self._reading = Reading(projection)
        self._amendments = amendments

    def relay_epoch(self, partition: int) -> int:
        """The highest that a mark below the position has: what later marks are judged by."""
        return self._epochs.get(partition, 0)

    def mended(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """The quarantine with what must be kept in place of what is."""
        return [
            *(w for w in waiting if (w.partition, w.offset) not in self.waiting),
            *(w for w in self.waiting.values() if w is not None),
        ]

    @property
    def places(self) -> list[_At]:
        """Where what is kept is not what the log holds."""
        return sorted({*self.waiting, *self.checkpoints})

    def wants(self, record: Record) -> bool:
        """Look at a record before it is folded."""
        place = record.partition, record.offset
        if record.offset < self._next.get(record.partition, 0):
            return True  # folded once more, with all partitions at a time
        self._next[record.partition] = record.offset + 1
        (item,) = self._reading.items([record])
        if isinstance(item, Control) and isinstance(item.said, Mark):
            self._mark(place, item.said)
        kept = self._kept.get(place)
        if kept is None and (not self._lacks(item) if not isinstance(item, Foreign) else self._is_dismissed(record)):
            return True
        meant = _meant(record, item, kept)
        if meant == kept:
            self.waiting.pop(place, None)
        else:
            self.waiting[place] = meant
        return True

    def _lacks(self, item: Arrival | Control) -> bool:
        """Whether an event should wait, and no copy of it does: a position that was moved ahead has passed it."""
        if not isinstance(item, Arrival) or item.version <= self._parked.get(item.key, item.version):
            return False
        lacks = (item.key, item.version) not in self._held
        self._held.add((item.key, item.version))
        return lacks

    def _is_dismissed(self, record: Record) -> bool:
        """Whether it was ruled that a foreign record need not be kept."""
        return self._amendments.about_foreign(record) is not None

    def step(self, key: str, version: int, rows: Rows) -> None:
        """Nothing: rows are not its business."""

    def _mark(self, place: _At, said: Mark) -> None:
        highest = self._epochs.get(place[0], 0)
        self._epochs[place[0]] = max(highest, said.epoch)
        kept = self._compared.get(place)
        if kept is None:
            return
        told = replace(
            kept,
            epoch=said.epoch,
            number=said.number,
            mark_count=said.count,
            mark_digest=int.from_bytes(said.digest),
            at_ms=said.at_ms,
        )
        if said.epoch < highest:
            told = replace(told, verdict=MarkVerdict.SUPERSEDED)
        elif (told.count, told.input_digest) == (told.mark_count, told.mark_digest):
            told = replace(told, verdict=MarkVerdict.EQUAL)
        elif told.verdict is MarkVerdict.EQUAL:
            told = replace(told, count=told.mark_count, input_digest=told.mark_digest)
        if told != kept:
            self.checkpoints[place] = told


def _meant(record: Record, item: Arrival | Control | Foreign, kept: Waiting | None) -> Waiting | None:
    """What the quarantine must hold of a record; the reason and its details are taken as they are kept, where they can be."""
    if isinstance(item, Control):
        return None
    foreign = isinstance(item, Foreign)
    reason = Reason.FOREIGN if foreign else Reason.BEHIND
    if kept is not None and (kept.reason is Reason.FOREIGN) is foreign:
        reason = kept.reason
    return Waiting(
        partition=record.partition,
        offset=record.offset,
        key=None if isinstance(item, Foreign) else item.key,
        version=None if isinstance(item, Foreign) else item.version,
        reason=reason,
        detail=kept.detail if kept is not None else "put back by a repair",
        record_key=record.key,
        record_value=record.value,
        headers=record.headers,
        timestamp_ms=record.timestamp_ms,
    )
