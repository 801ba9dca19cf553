"""What the replica suite is made of: two projections with every type of column, hostile values, and short ways to plans."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import Field

from truecopy_bus.fold import Head
from truecopy_bus.leases import Fence
from truecopy_projections.digest import row_hash
from truecopy_projections.projection import Address, Projection
from truecopy_projections.replica import Replica
from truecopy_projections.state import (
    Checkpoint,
    KeyState,
    MarkVerdict,
    PartitionPlan,
    PartitionState,
    Reason,
    StoredRow,
    Waiting,
)

__all__ = [
    "EVERYTHING",
    "HOSTILE_ROWS",
    "HOSTILE_TEXTS",
    "INCARNATION",
    "LINES",
    "Everything",
    "Line",
    "checkpoint_at",
    "everything",
    "gathered",
    "head",
    "key_states",
    "line",
    "moved_on",
    "rows_of",
    "taken",
    "unstorable",
    "waiting_at",
]

T = TypeVar("T")

INCARNATION = "the-first-life"


class Colour(Enum):
    """An enum whose names and values differ."""

    RED = "r"
    NONE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """A row with every type of column, with and without None, under names that SQL keeps for itself."""

    order: str
    offset: int
    real: float
    user: bool
    binary: bytes
    camelCase: Annotated[Decimal, Field(max_digits=38, decimal_places=9)]
    day: date
    time: datetime
    uuid: UUID
    document: dict[str, Any]
    colour: Colour
    text_or_none: str | None = None
    integer_or_none: int | None = None
    real_or_none: float | None = None
    boolean_or_none: bool | None = None
    binary_or_none: bytes | None = None
    decimal_or_none: Annotated[Decimal, Field(max_digits=12, decimal_places=2)] | None = None
    day_or_none: date | None = None
    time_or_none: datetime | None = None
    uuid_or_none: UUID | None = None
    document_or_none: list[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row of many for its source key, told apart by two fields."""

    shop: str
    number: int
    amount: int


EVERYTHING = Projection("suite_everything", entity="suite.everything", row=Everything)
LINES = Projection("suite_lines", entity="suite.lines", row=Line, key=("shop", "number"))

HOSTILE_TEXTS = (
    "",
    " ",
    " padded ",
    "NULL",
    "null",
    "NaN",
    "\\N",
    "\\.",
    "\\x00",
    "a\tb\nc\rd",
    'it\'s "quoted"; DROP TABLE truecopy_meta; --',
    "$1 %s ? :a {b}",
    "{1,2}",
    "\x01\x1f\x7f",
    "\u00e9",
    "e\u0301",
    "\u200b\u2028\ufeff",
    "\U0001d11e\U0010ffff",
    "x" * 70_000,
)
_INTEGERS = (0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
_REALS = (
    0.0,
    -0.0,
    0.1 + 0.2,
    5e-324,
    -1.7976931348623157e308,
    math.inf,
    -math.inf,
    math.nan,
    1e16,
    2.0**53,
    9007199254740993.0,
)
_BYTES = (b"", b"\0", bytes(range(256)), b"\\x00", b"NaN", b"\xff" * 70_000)
_DECIMALS = (
    "0",
    "-0",
    "1",
    "1.100000000",
    "0.000000001",
    "-0.000000001",
    "99999999999999999999999999999.999999999",
    "-99999999999999999999999999999.999999999",
    "12345678901234567.000000001",
    "1E+20",
)
_DAYS = (date(1970, 1, 1), date.min, date.max, date(2000, 2, 29), date(1582, 10, 10))
_MOMENTS = (
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2024, 2, 29, 23, 59, 59, 1, tzinfo=timezone(timedelta(hours=-9, minutes=-30))),
    datetime(1883, 11, 18, 12, 3, 58, tzinfo=timezone(timedelta(seconds=4_321))),
)
_UUIDS = (UUID(int=0), UUID(int=2**128 - 1), UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8"))
_DOCUMENTS: tuple[dict[str, Any], ...] = (
    {},
    {"b": 1, "a": [1, 2.5, None, True, "x"], "": {"deep": {"er": []}}},
    {"1.0": 1.0, "big": 2**53 + 1, "\u00e9 \u2028": 'it\'s "so"'},
)


def _turn(values: Sequence[T], at: int) -> T:
    return values[at % len(values)]


def everything(at: int, **changes: Any) -> Everything:
    """The row that takes the at-th hostile value of every type; every third has None where it may."""
    row = Everything(
        order=_turn(HOSTILE_TEXTS, at),
        offset=_turn(_INTEGERS, at),
        real=_turn(_REALS, at),
        user=bool(at % 2),
        binary=_turn(_BYTES, at),
        camelCase=Decimal(_turn(_DECIMALS, at)),
        day=_turn(_DAYS, at),
        time=_turn(_MOMENTS, at),
        uuid=_turn(_UUIDS, at),
        document=_turn(_DOCUMENTS, at),
        colour=_turn(tuple(Colour), at),
    )
    if at % 3:
        row = replace(
            row,
            text_or_none=row.order,
            integer_or_none=row.offset,
            real_or_none=row.real,
            boolean_or_none=row.user,
            binary_or_none=row.binary,
            decimal_or_none=Decimal(at) / 4,
            day_or_none=row.day,
            time_or_none=row.time,
            uuid_or_none=row.uuid,
            document_or_none=[at, -at],
        )
    return replace(row, **changes)


HOSTILE_ROWS = tuple(everything(at) for at in range(len(HOSTILE_TEXTS)))


def line(shop: str = "s", number: int = 1, amount: int = 0) -> Line:
    return Line(shop=shop, number=number, amount=amount)


def rows_of(projection: Projection[Any], rows: Mapping[str, Sequence[Any]]) -> dict[Address, StoredRow]:
    """These rows by address, as a plan puts them."""
    found: dict[Address, StoredRow] = {}
    for key, several in rows.items():
        for row in several:
            values = projection.stored(row)
            found[key, projection.sub_key(values)] = StoredRow(values, row_hash(projection.id, key, values))
    return found


def unstorable(projection: Projection[Any], key: str) -> dict[Address, StoredRow]:
    """A row that no database takes: None in every column. No projection yields it."""
    return {(key, ()): StoredRow((None,) * len(projection.fields), b"")}


def head(version: int) -> Head:
    """A head with elements of full length."""
    return Head(version, version.to_bytes(32), (version - 1).to_bytes(32) if version > 1 else b"")


def waiting_at(partition: int, offset: int, key: str | None, reason: Reason = Reason.BEHIND, **changes: Any) -> Waiting:
    waiting = Waiting(
        partition=partition,
        offset=offset,
        key=key,
        version=offset,
        reason=reason,
        detail="",
        record_key=None if key is None else key.encode(),
        record_value=b"\0body",
        headers=(),
        timestamp_ms=1_700_000_000_000,
    )
    return replace(waiting, **changes)


def checkpoint_at(partition: int, offset: int, **changes: Any) -> Checkpoint:
    checkpoint = Checkpoint(
        partition=partition,
        offset=offset,
        epoch=1,
        number=offset,
        count=offset,
        mark_count=offset,
        input_digest=1,
        mark_digest=2,
        row_digest=3,
        verdict=MarkVerdict.EQUAL,
        at_ms=1_700_000_000_000,
    )
    return replace(checkpoint, **changes)


def key_states(*keys: str, version: int = 1) -> dict[str, KeyState]:
    return {key: KeyState(head(version), version, None) for key in keys}


def moved_on(fence: Fence, was: PartitionState, *, records: int = 1, **changes: Any) -> PartitionPlan:
    """The plan that moves a partition on by some records and makes these changes there."""
    state = replace(was, position=was.position + records, count=was.count + records)
    return PartitionPlan(fence=fence, was=was, state=state, **changes)


async def taken(
    replica: Replica, projection: Projection[Any], *, partitions: int = 2, holder: str = "one"
) -> tuple[Mapping[int, Fence], dict[int, PartitionState]]:
    """Install the projection and take all of it; the fences and the states."""
    await replica.install(projection, partitions=partitions, incarnation=INCARNATION)
    fences = await replica.renew(projection, holder, [], lease_s=60.0)
    async with replica.snapshot() as snapshot:
        return fences, await snapshot.states(projection.id)


async def gathered(batches: AsyncIterator[Sequence[T]]) -> list[T]:
    return [one async for batch in batches for one in batch]
