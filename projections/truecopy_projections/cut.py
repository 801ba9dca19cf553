"""Cuts of a history: for each partition the offset before which everything is in.

A cut may be said by offsets, by the end, by a time, or by marks. A log can't look times or marks up, so it is read; where a
replica keeps checkpoints it is read from near the place. A mark gives more than an offset: what was recorded there, by which
whoever goes back to it proves that he got there.

By a time, a partition is cut before its first record that is later, so that what is in is a prefix. Clocks do not order: where
the times of records run backwards, an earlier one behind a later one is out, and what a mark of that time covers is in.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from truecopy_bus.errors import LogUnavailableError
from truecopy_bus.limits import READ_RECORDS_MAX, READ_WAIT_S
from truecopy_bus.log import Log, Passing, identified
from truecopy_bus.record import Record, TopicState
from truecopy_projections.errors import CutError
from truecopy_projections.limits import REPLAY_STALL_S
from truecopy_projections.state import Checkpoint, MarkVerdict
from truecopy_schemas.control import CONTROL_HEADER, CONTROL_KEY, MARK, Mark, decode
from truecopy_schemas.errors import ForeignRecordError, UndecodableError

__all__ = ["Asked", "AtEnd", "AtMark", "AtOffset", "AtTime", "Cut", "Recorded", "find_cut", "read_between", "recorded_by"]


@dataclass(frozen=True, slots=True)
class AtEnd:
    """All that the log holds now."""


@dataclass(frozen=True, slots=True)
class AtOffset:
    """Before these offsets of the partitions named, or before one number in all."""

    offsets: Mapping[int, int] | int


@dataclass(frozen=True, slots=True)
class AtTime:
    """In each partition before the first record later than this, ms since 1970."""

    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AtMark:
    """Right after the marks of these numbers, in the partitions named; else in each after the last one not later than `at_ms`,
    or (None) after the newest."""

    numbers: Mapping[int, int] = field(default_factory=dict)
    at_ms: int | None = None


Asked: TypeAlias = AtEnd | AtOffset | AtTime | AtMark


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What was recorded at a mark, which lies at `offset`: the events before it, and their digests modulo 2^256.

    A checkpoint tells what its replica had (`verdict` is what it thought of the mark). Where only the log knows the mark, the
    figures are the owner's, and `row_digest` and `verdict` are None.
    """

    partition: int
    offset: int
    epoch: int
    number: int
    count: int
    input_digest: int
    row_digest: int | None
    verdict: MarkVerdict | None
    at_ms: int

    def as_json(self) -> dict[str, Any]:
        """Plain values, digests in hex."""
        return {
            "partition": self.partition,
            "offset": self.offset,
            "epoch": self.epoch,
            "number": self.number,
            "count": self.count,
            "input_digest": f"{self.input_digest:064x}",
            "row_digest": None if self.row_digest is None else f"{self.row_digest:064x}",
            "verdict": self.verdict.name if self.verdict else None,
            "at_ms": self.at_ms,
        }

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> "Recorded":
        """What `as_json` told."""
        rows, verdict = said["row_digest"], said["verdict"]
        return cls(
            **{
                **said,
                "input_digest": int(said["input_digest"], 16),
                "row_digest": None if rows is None else int(rows, 16),
                "verdict": None if verdict is None else MarkVerdict[verdict],
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Partition -> next offset, of the partitions that were asked for; by marks, also what was recorded there."""

    incarnation: str
    offsets: Mapping[int, int]
    marks: Mapping[int, Recorded] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        offsets = {str(p): offset for p, offset in sorted(self.offsets.items())}
        return {"offsets": offsets, "marks": [mark.as_json() for _, mark in sorted(self.marks.items())]}


async def find_cut(
    asked: Asked,
    log: Log,
    *,
    topic: str,
    foreign: bool = False,
    checkpoints: Sequence[Checkpoint] = (),
    partitions: Collection[int] | None = None,
    ends: Mapping[int, int] | None = None,
) -> Cut:
    """The cut that is asked for, in `partitions` (None: in all, or in those that `asked` names).

    `checkpoints` are a replica's, if there is one; `ends` are offsets beyond which nothing is looked at, for who has not read
    further. Raises CutError for what is not there, TopicMissingError, LogUnavailableError.
    """
    state = await identified(log, topic, foreign=foreign)
    named = set(_named(asked) or state.bounds) if partitions is None else set(partitions)
    if missing := named - state.bounds.keys():
        raise CutError(f"{topic} has no partition {sorted(missing)}; it has {sorted(state.bounds)}")
    bounds = {p: (start, min(end, (ends or {}).get(p, end))) for p, (start, end) in state.bounds.items() if p in named}
    incarnation = state.incarnation or ""
    kept = [c for c in checkpoints if c.partition in bounds and c.offset < bounds[c.partition][1]]
    match asked:
        case AtEnd():
            return Cut(incarnation=incarnation, offsets={p: end for p, (_, end) in bounds.items()})
        case AtOffset():
            return Cut(incarnation=incarnation, offsets=_within(asked, bounds, topic))
        case AtTime():
            return Cut(incarnation=incarnation, offsets=await _before_later(asked.at_ms, log, state, bounds, kept))
        case AtMark():
            if foreign:
                raise CutError(f"{topic} is a topic of others, which has no marks; name a time or offsets")
            marks = await _marks(asked, log, state, bounds, kept)
            offsets = {p: mark.offset + 1 for p, mark in marks.items()}
            return Cut(incarnation=incarnation, offsets=offsets, marks=marks)


def _named(asked: Asked) -> Collection[int]:
    if isinstance(asked, AtOffset) and not isinstance(asked.offsets, int):
        return asked.offsets.keys()
    return asked.numbers.keys() if isinstance(asked, AtMark) else ()


def _within(asked: AtOffset, bounds: Mapping[int, tuple[int, int]], topic: str) -> dict[int, int]:
    told = dict.fromkeys(bounds, asked.offsets) if isinstance(asked.offsets, int) else asked.offsets
    found = {p: told[p] for p in bounds if p in told}
    for p, offset in sorted(found.items()):
        start, end = bounds[p]
        if not start <= offset <= end:
            raise CutError(f"{topic}[{p}]: offset {offset} is not there; offsets from {start} to {end} can be cut at")
    return found


async def _before_later(
    at_ms: int, log: Log, state: TopicState, bounds: Mapping[int, tuple[int, int]], kept: Sequence[Checkpoint]
) -> dict[int, int]:
    """By partition the offset of the first record later than `at_ms`, or the end."""
    near = {c.partition: c.offset for c in kept if c.at_ms <= at_ms and c.verdict is not MarkVerdict.SUPERSEDED}
    ends = {p: end for p, (_, end) in bounds.items()}
    found: dict[int, int] = {}

    def look(record: Record) -> bool:
        if record.timestamp_ms > at_ms:
            found.setdefault(record.partition, record.offset)
        return record.partition not in found

    starts = {p: max(start, near.get(p, start)) for p, (start, _) in bounds.items()}
    await read_between(log, state.name, starts, ends, look)
    for p, (start, _) in sorted(bounds.items()):
        if found.get(p) == start > 0:
            raise CutError(f"{state.name}[{p}] holds nothing that old any more: what lay before offset {start} is gone")
    return {**ends, **found}


async def _marks(
    asked: AtMark, log: Log, state: TopicState, bounds: Mapping[int, tuple[int, int]], kept: Sequence[Checkpoint]
) -> dict[int, Recorded]:
    """By partition the mark that is asked for. Of two with one number it is the later."""
    searches = {p: _Search(asked, p) for p in bounds}
    for one in kept:
        if one.verdict is not MarkVerdict.SUPERSEDED:
            searches[one.partition].see(recorded_by(one))

    def look(record: Record) -> bool:
        search = searches[record.partition]
        if (mark := _mark_in(record, state)) is not None and mark.epoch >= search.epoch:
            search.see(_of_mark(record, mark))
        return not search.over

    starts = {p: max(start, searches[p].offset + 1) for p, (start, _) in bounds.items() if not searches[p].over}
    await read_between(log, state.name, starts, {p: bounds[p][1] for p in starts}, look)
    older = {p: 0 for p, search in searches.items() if search.found is None and search.is_older}
    if older:  # older than all that the replica keeps
        for p in older:
            searches[p] = _Search(asked, p)
        await read_between(log, state.name, {p: bounds[p][0] for p in older}, {p: bounds[p][1] for p in older}, look)
    return {p: search.outcome(state.name, bounds[p]) for p, search in searches.items()}


class _Search:
    """For one mark of one partition, among marks that are seen in the order of offsets. `over` once no later one can be it."""

    def __init__(self, asked: AtMark, partition: int) -> None:
        self.number, self.at_ms, self.partition = asked.numbers.get(partition), asked.at_ms, partition
        self.found: Recorded | None = None
        self.over = False
        self.offset, self.epoch = -1, 0
        self.seen: list[Recorded] = []
        """The first and the last."""

    def see(self, mark: Recorded) -> None:
        self.offset, self.epoch = mark.offset, max(self.epoch, mark.epoch)
        self.seen = [self.seen[0] if self.seen else mark, mark]
        if self.number is not None:
            fits, self.over = mark.number == self.number, mark.number >= self.number
        else:
            fits = self.at_ms is None or mark.at_ms <= self.at_ms
            self.over = not fits
        if fits:
            self.found = mark

    @property
    def is_older(self) -> bool:
        """Whether the first that was seen is beyond the one that is looked for."""
        if not self.seen:
            return False
        if self.number is not None:
            return self.seen[0].number > self.number
        return self.at_ms is not None and self.seen[0].at_ms > self.at_ms

    def outcome(self, topic: str, bounds: tuple[int, int]) -> Recorded:
        if self.found is not None:
            return self.found
        wanted = "mark" if self.at_ms is None else "mark of that time or before"
        wanted = wanted if self.number is None else f"mark {self.number}"
        there = f"there are marks {self.seen[0].number} to {self.seen[-1].number}" if self.seen else "there is none"
        raise CutError(
            f"{topic}[{self.partition}] has no {wanted} between offsets {bounds[0]} and {bounds[1]}, {there}; "
            "name one that is there: `truecopy tail --control` shows them"
        )


def recorded_by(one: Checkpoint) -> Recorded:
    """What a checkpoint recorded."""
    return Recorded(
        partition=one.partition,
        offset=one.offset,
        epoch=one.epoch,
        number=one.number,
        count=one.count,
        input_digest=one.input_digest,
        row_digest=one.row_digest,
        verdict=one.verdict,
        at_ms=one.at_ms,
    )


def _of_mark(record: Record, mark: Mark) -> Recorded:
    return Recorded(
        partition=record.partition,
        offset=record.offset,
        epoch=mark.epoch,
        number=mark.number,
        count=mark.count,
        input_digest=int.from_bytes(mark.digest),
        row_digest=None,
        verdict=None,
        at_ms=mark.at_ms,
    )


def _mark_in(record: Record, state: TopicState) -> Mark | None:
    """The mark of this topic's life that a record is, if it is one."""
    if record.key != CONTROL_KEY or dict(record.headers).get(CONTROL_HEADER) != MARK:
        return None
    try:
        said = decode(MARK, record.value)
    except (ForeignRecordError, UndecodableError):
        return None
    return said if isinstance(said, Mark) and said.incarnation == state.incarnation else None


async def read_between(
    log: Log, topic: str, starts: Mapping[int, int], ends: Mapping[int, int], look: Callable[[Record], bool]
) -> None:
    """Show `look` the records between these offsets, a batch at a time; of a partition no more once it answers False.

    Raises LogUnavailableError.
    """
    at = dict(starts)
    reader = log.reader(topic)
    stalls_at = time.monotonic() + REPLAY_STALL_S
    try:
        while left := {p: offset for p, offset in at.items() if offset < ends[p]}:
            records = await reader.read(left, records_max=READ_RECORDS_MAX, wait_s=READ_WAIT_S)
            if records:
                stalls_at = time.monotonic() + REPLAY_STALL_S
            elif time.monotonic() > stalls_at:
                raise LogUnavailableError(log=topic, seen=f"no record for {REPLAY_STALL_S:.0f} s below offsets {dict(ends)}")
            for record in records:
                p = record.partition
                if at[p] < ends[p]:
                    goes_on = record.offset < ends[p] and look(record)
                    at[p] = record.offset + 1 if goes_on else ends[p]
            if not records and isinstance(reader, Passing):
                at |= {p: max(at[p], offset) for p, offset in reader.passed().items() if p in left}
    finally:
        await reader.close()
