"""The scrub: stored rows, read from the disk and hashed again, against the hashes beside them and the maintained digests.

Any buckets can be scrubbed by themselves, and while workers write: rows and digests come from one snapshot. Three sums are made
of each bucket of a partition; the one that stands alone tells what was altered: the rows, the hashes beside them or the digest.
Where hash and row differ the row is named; that a row is missing, or is one too many, only its bucket tells. Such a bucket is
read once more without the index by which it was found: if it adds up then, the index is broken and not the table.

What it does not prove: that the rows were right when they were written. That is what a check folds the log for.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from truecopy_bus.fold import DIGEST_MODULUS
from truecopy_projections.columns import encoded
from truecopy_projections.digest import buckets_of, row_hash, row_hashes, sum_of, total
from truecopy_projections.errors import RowRejectedError, UnknownProjectionError
from truecopy_projections.limits import BUCKETS, SCRUB_ROWS_NAMED_MAX
from truecopy_projections.projection import Projection, SubKey
from truecopy_projections.replica import Replica, Snapshot
from truecopy_projections.state import PartitionState, StoredRow
from truecopy_projections.verdicts import Verdict

__all__ = ["BadRow", "Finding", "Readings", "Scrub", "Side", "judged", "read", "scrub"]

_Batch = Sequence[tuple[str, int, StoredRow]]
_UNREADABLE = (RowRejectedError, ValueError, TypeError, ArithmeticError)
"""What hashing a value raises that no column of ours holds."""


class Side(Enum):
    """What of a bucket is not as it was written."""

    ROWS = "the rows were altered: the hashes beside them still add up to the digest"
    HASHES = "the hashes beside the rows were altered: the rows themselves still add up to the digest"
    INDEX = "the rows add up where the table is read without its index, which has lost some or made some up: REINDEX the table"
    DIGEST = "rows and hashes agree, the digest does not: rows are missing, too many or forged, or the digest was altered"
    SEVERAL = "rows, hashes and digest all differ"
    TOTAL = "the digest of the partition is not the sum of its buckets"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that is not what was written, or not where: its source key, its `key` fields, and what is wrong."""

    key: str
    row: SubKey
    partition: int
    bucket: int
    why: str

    def __str__(self) -> str:
        return f"{self.key!r}{f' {self.row}' if self.row else ''}: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A bucket of a partition that does not add up; with `bucket` None, the partition's total. `rows` are those to blame."""

    partition: int
    bucket: int | None
    side: Side
    rows: Sequence[BadRow] = ()

    def __str__(self) -> str:
        place = f"partition {self.partition}" + ("" if self.bucket is None else f", bucket {self.bucket}")
        return f"{place}: {self.side.value}" + (f" ({'; '.join(map(str, self.rows))})" if self.rows else "")

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = [{"key": one.key, "row": [str(part) for part in one.row], "why": one.why} for one in self.rows]
        said = {"partition": self.partition, "bucket": self.bucket, "side": self.side.name, "why": self.side.value}
        return {**said, "rows": rows}


@dataclass(slots=True)
class Readings:
    """What was read of some buckets: sums by (partition, bucket) as they are stored, and the rows that are wrong by themselves.

    `again` sums what the rows hash to, `altered` by how much the hashes kept beside them differ from that. `bytes`
    counts the canonical form of what was hashed. Of bad rows the first SCRUB_ROWS_NAMED_MAX are kept.
    """

    rows: int = 0
    bytes: int = 0
    again: dict[tuple[int, int], int] = field(default_factory=dict)
    altered: dict[tuple[int, int], int] = field(default_factory=dict)
    bad: list[BadRow] = field(default_factory=list)

    def take(self, projection: Projection[Any], batch: _Batch) -> None:
        """Hash these rows again, and add them."""
        keys = [key for key, _, _ in batch]
        hashes, size = _hashed(projection, keys, [row.values for _, _, row in batch])
        self.rows += len(batch)
        self.bytes += size
        sums = self.again
        for (key, partition, (values, kept, astray)), again, own in zip(batch, hashes, buckets_of(keys), strict=True):
            place = partition, own if astray is None else astray
            sums[place] = sums.get(place, 0) + int.from_bytes(again)
            if again == kept and astray is None:
                continue
            self.altered[place] = self.altered.get(place, 0) + int.from_bytes(kept) - int.from_bytes(again)
            if len(self.bad) < SCRUB_ROWS_NAMED_MAX:
                why = "it differs from the hash beside it" if astray is None else f"its own bucket is {own}"
                sub = projection.sub_key(values)
                self.bad.append(BadRow(key=key, row=sub, partition=partition, bucket=place[1], why=why))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrub:
    """What a scrub of `buckets` found. `at_ms` is when its snapshot was opened, by the clock of the replica's database."""

    projection: str
    replica: str
    buckets: frozenset[int]
    at_ms: int
    rows: int
    bytes: int
    findings: Sequence[Finding]

    @property
    def good(self) -> frozenset[int]:
        """The buckets in which nothing was found. Rows under buckets that do not exist count against the first or the last."""
        return self.buckets - self.by_bucket.keys()

    @property
    def by_bucket(self) -> dict[int | None, tuple[Finding, ...]]:
        """The findings by the bucket that they count against; None for the totals of partitions."""
        found: dict[int | None, tuple[Finding, ...]] = {}
        for one in self.findings:
            bucket = None if one.bucket is None else min(max(one.bucket, 0), BUCKETS - 1)
            found[bucket] = (*found.get(bucket, ()), one)
        return found

    @property
    def times(self) -> dict[int, int]:
        """What Replica.scrubbed is told of it."""
        return dict.fromkeys(self.buckets, 0) | dict.fromkeys(self.good, self.at_ms)

    @property
    def verdict(self) -> Verdict:
        return Verdict.DIVERGED if self.findings else Verdict.EQUAL

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "projection": self.projection,
            "replica": self.replica,
            "verdict": self.verdict.name,
            "buckets": len(self.buckets),
            "rows": self.rows,
            "bytes": self.bytes,
            "at_ms": self.at_ms,
            "findings": [one.as_json() for one in self.findings],
        }


async def scrub(projection: Projection[Any], replica: Replica, *, buckets: Collection[int] | None = None) -> Scrub:
    """Scrub these buckets (None: all) in one snapshot. It takes no lease, and writes nothing: see Replica.scrubbed.

    Raises UnknownProjectionError, DatabaseCorruptError where the database itself can't read its files, and what is unavailable.
    """
    asked = frozenset(range(BUCKETS) if buckets is None else buckets)
    async with replica.snapshot() as snapshot:
        states = await snapshot.states(projection.id)
        if not states:
            seen = f"replica {replica.name} holds no projection {projection.id}"
            raise UnknownProjectionError(f"{seen}; start a worker for it once, or check the name")
        at_ms = (await snapshot.scrubs(projection.id)).now_ms
        readings = await read(projection, snapshot, buckets)
        findings = judged(states, readings, asked)
        doubted = {one.bucket for one in findings if one.bucket in asked and one.side is Side.DIGEST}
        if buckets is not None and doubted:
            table = await read(projection, snapshot, doubted, indexed=False)
            still = {one.bucket for one in judged(states, table, doubted)}
            findings = [replace(one, side=Side.INDEX) if one.bucket in doubted - still else one for one in findings]
    return Scrub(
        projection=projection.id,
        replica=replica.name,
        buckets=asked,
        at_ms=at_ms,
        rows=readings.rows,
        bytes=readings.bytes,
        findings=findings,
    )


async def read(
    projection: Projection[Any], snapshot: Snapshot, buckets: Collection[int] | None, *, indexed: bool = True
) -> Readings:
    """Read the rows of these buckets (None: of all), and hash them again; see Snapshot.rows."""
    readings = Readings()
    async for batch in snapshot.rows(projection, buckets=buckets, indexed=indexed):
        readings.take(projection, batch)
    return readings


def judged(states: Mapping[int, PartitionState], readings: Readings, buckets: Collection[int]) -> list[Finding]:
    """What of these buckets is not as it was written. Pure."""
    found = [
        Finding(partition=p, bucket=None, side=Side.TOTAL)
        for p, state in sorted(states.items())
        if total(state.rows) != state.row_digest
    ]
    blamed: dict[tuple[int, int], list[BadRow]] = {}
    for one in readings.bad:
        blamed.setdefault((one.partition, one.bucket), []).append(one)
    for place in sorted({*readings.again, *_places(states, buckets)}):
        again = readings.again.get(place, 0)
        side = _side(again, again + readings.altered.get(place, 0), _maintained(states, *place))
        if side is not None or place in blamed:
            found.append(
                Finding(partition=place[0], bucket=place[1], side=side or Side.HASHES, rows=tuple(blamed.get(place, ())))
            )
    return found


def _side(again: int, kept: int, maintained: int) -> Side | None:
    again, kept = again % DIGEST_MODULUS, kept % DIGEST_MODULUS
    if again == kept:
        return None if kept == maintained else Side.DIGEST
    if kept == maintained:
        return Side.ROWS
    return Side.HASHES if again == maintained else Side.SEVERAL


def _places(states: Mapping[int, PartitionState], buckets: Collection[int]) -> Iterator[tuple[int, int]]:
    return ((p, bucket) for p in states for bucket in buckets)


def _maintained(states: Mapping[int, PartitionState], partition: int, bucket: int) -> int:
    return sum_of(states[partition].rows, bucket) if partition in states and bucket in range(BUCKETS) else 0


def _hashed(projection: Projection[Any], keys: Sequence[str], values: Sequence[tuple[Any, ...]]) -> tuple[list[bytes], int]:
    """The hashes of rows, b"" for one that has none, and the bytes of their canonical form."""
    try:
        columns = [encoded(column) for column in zip(*values, strict=True)]
        return row_hashes(projection.id, keys, columns), sum(sum(map(len, column)) for column in columns)
    except _UNREADABLE:
        hashes = []
        for key, row in zip(keys, values, strict=True):
            hashes.append(b"")
            with suppress(*_UNREADABLE):
                hashes[-1] = row_hash(projection.id, key, row)
        return hashes, 0
