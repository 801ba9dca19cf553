"""Bodies decoded as one block are what they are one by one, or refused: for every eligible type, and for damage."""

import os
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import Field

from truecopy_schemas import Event
from truecopy_schemas.avro_schema import avro_schema
from truecopy_schemas.blocks import BlockDecoder
from truecopy_schemas.codec import Decoder, encode
from truecopy_schemas.errors import UndecodableError

os.environ["RUST_BACKTRACE"] = "0"  # a panic of polars is expected here, and a trace of each takes most of the time

Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]


class Grade(Enum):
    LOW = "low"
    MID = "mid"
    HIGH = "high"


class Flat(Event, entity="blocks.flat"):
    text: str
    number: int
    real: float
    yes: bool
    raw: bytes
    money: Money
    wide: Annotated[Decimal, Field(max_digits=38, decimal_places=9)]
    day: date
    at: datetime
    id: UUID
    grade: Grade
    text_or: str | None = None
    number_or: int | None = None
    real_or: float | None = None
    yes_or: bool | None = None
    raw_or: bytes | None = None
    money_or: Money | None = None
    day_or: date | None = None
    at_or: datetime | None = None
    id_or: UUID | None = None
    grade_or: Grade | None = None


class Nested(Event, entity="blocks.nested"):
    tags: list[str]


class Empty(Event, entity="blocks.empty"):
    """No field of its own."""


_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_TEXTS = ("", "x", "\x01", "é\U0001d11e", "y" * 63, "z" * 64, "w" * 9_000)
_NUMBERS = (0, -1, 1, 63, 64, -64, -65, 8191, 8192, 2**31, 2**55, -(2**62), 2**63 - 1, -(2**63))
_REALS = (0.0, -0.0, 1.5, float("inf"), 5e-324, -1e308)
_MONEY = ("0", "-0.01", "1.27", "1.28", "9999999999.99", "-9999999999.99", "42949672.96")
_WIDE = ("0", "-0.000000001", "99999999999999999999999999999.999999999", "-99999999999999999999999999999.999999999")
_DAYS = (date.min, date.max, date(1970, 1, 1), date(1969, 12, 31), date(2024, 2, 29))
_TIMES = (_FIRST, _LAST, datetime(1970, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))


def flat(dice: random.Random) -> Flat:
    """An event of values at the edges of their types, each optional one absent in every third."""
    values: dict[str, Any] = {
        "text": dice.choice(_TEXTS),
        "number": dice.choice((*_NUMBERS, dice.randrange(-(2**63), 2**63) >> dice.randrange(64))),
        "real": dice.choice((*_REALS, dice.gauss(0, 1e6))),
        "yes": dice.random() < 0.5,
        "raw": dice.randbytes(dice.choice((0, 1, 63, 64, 300))),
        "money": Decimal(dice.choice((*_MONEY, str(dice.randrange(-(10**12) + 1, 10**12)) + "E-2"))),
        "wide": Decimal(dice.choice(_WIDE)),
        "day": dice.choice((*_DAYS, date(1970, 1, 1) + timedelta(dice.randrange(-20_000, 40_000)))),
        "at": dice.choice((*_TIMES, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(0, 0, dice.randrange(10**15)))),
        "id": UUID(int=dice.getrandbits(128)),
        "grade": dice.choice(list(Grade)),
    }
    names = [name for name in Flat.model_fields if name.endswith("_or")]
    values |= {name: values[name.removesuffix("_or")] for name in names if dice.random() < 2 / 3}
    return Flat(**values)


def one_by_one(bodies: list[bytes], cls: type[Event] = Flat) -> list[tuple[int, dict[str, Any]]]:
    decoder: Decoder[Any] = Decoder(avro_schema(cls))
    return [(version, values) for version, _, values in map(decoder.decode, bodies)]


def as_block(bodies: list[bytes], cls: type[Event] = Flat) -> list[tuple[int, dict[str, Any]]] | None:
    decoder = BlockDecoder.of(avro_schema(cls))
    assert decoder is not None
    found = decoder.decode(bodies)
    if found is None:
        return None
    fields = [found.values(name, range(len(bodies))) for name in cls.model_fields]
    rows = zip(*fields, strict=True) if fields else [()] * len(bodies)
    return [(v, dict(zip(cls.model_fields, row, strict=True))) for v, row in zip(found.versions(), rows, strict=True)]


def told(rows: list[tuple[int, dict[str, Any]]] | None) -> str:
    """As text, in which a float's sign and NaN, a Decimal's zeros and each type show."""
    return repr(rows)


@pytest.mark.parametrize("seed", range(10))
def test_a_block_is_what_its_bodies_are(seed: int) -> None:
    dice = random.Random(seed)
    events = [flat(dice) for _ in range(60)]
    bodies = [encode(e, version=dice.choice((1, 63, 64, 2**40)), tx=dice.choice((None, "t"))) for e in events]

    assert told(as_block(bodies)) == told(one_by_one(bodies))


def test_every_eligible_type_is_in_the_test() -> None:
    """What is made eligible gets a field in Flat, so that all of the above bind it."""
    types = [f["type"][1] if isinstance(f["type"], list) else f["type"] for f in avro_schema(Flat)["fields"]]
    logical = {t.get("logicalType", t["type"]) if isinstance(t, dict) else t for t in types} - {"blocks.flat.Grade"}
    plain = {"string", "long", "double", "boolean", "bytes"}
    assert logical == plain | {"decimal", "date", "timestamp-micros", "uuid", "enum"}
    assert BlockDecoder.of(avro_schema(Nested)) is None


def test_events_without_fields_and_single_bodies_are_blocks_too() -> None:
    bodies = [encode(Empty(), version=version) for version in range(1, 300)]
    assert as_block(bodies, Empty) == one_by_one(bodies, Empty)
    assert as_block(bodies[:1], Empty) == [(1, {})]


@pytest.mark.parametrize("seed", range(10))
def test_damage_is_refused_or_means_the_same(seed: int) -> None:
    dice = random.Random(seed)
    whole = [encode(flat(dice), version=at + 1) for at in range(4)]
    refused = 0
    for _ in range(25):
        bodies = list(whole)
        at = dice.randrange(len(bodies))
        bodies[at] = damaged(bodies[at], dice)
        block = as_block(bodies)
        try:
            expected = told(one_by_one(bodies))
        except UndecodableError:
            expected = "undecodable"
        assert block is None or told(block) == expected
        refused += block is None
    assert refused > 0


def damaged(body: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(body))
    match dice.randrange(5):
        case 0:
            return body[:at] + bytes([body[at] ^ (1 << dice.randrange(8))]) + body[at + 1 :]
        case 1:
            return body[:at] + body[at + 1 :]
        case 2:
            return body[:at] + bytes([dice.choice((0, 1, 2, 0x7F, 0x80, 0xFF))]) + body[at:]
        case 3:
            return body[:at]
        case _:
            return body + bytes([dice.choice((0, 0x80))])


def test_damage_that_moves_a_border_between_two_bodies_is_refused() -> None:
    """Both bodies together are as long as before, and a reader of blocks sees two good records."""
    one, other = (encode(Flat(**{**flat(random.Random(4)).model_dump(), "text": text}), version=1) for text in ("ab", "cd"))
    assert as_block([one, other]) is not None
    assert as_block([one + other[:7], other[7:]]) is None


def test_a_decimal_with_too_many_digits_is_refused() -> None:
    """fastavro rounds it in silence, so a reader of blocks must not make another number of it."""
    dice = random.Random(1)
    event = flat(dice).model_copy(update={"money": Decimal("1.00")})
    body = encode(event, version=1)
    assert b"\x02\x64" in body
    wrong = body.replace(b"\x02\x64", b"\x0c\x7f\x7f\x7f\x7f\x7f\x7f", 1)
    assert as_block([body, wrong]) is None
