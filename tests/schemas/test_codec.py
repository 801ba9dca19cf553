"""Bodies of events: encoded with every guard, decoded to the same event or refused."""

from __future__ import annotations

import struct
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import fastavro
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from truecopy_schemas import (
    Decoder,
    Event,
    InvalidEventError,
    InvalidSchemaError,
    OversizeEventError,
    Record,
    UndecodableError,
    avro_schema,
    encode,
    read_version,
)
from truecopy_schemas.limits import EVENT_BODY_BYTES_MAX, LONG_MAX, LONG_MIN, TX_BYTES_MAX


class Tier(Enum):
    BASIC = "basic"
    GOLD = "gold"


Money = Annotated[Decimal, Field(max_digits=38, decimal_places=4)]


class Address(Record):
    street: str
    tier: Tier = Tier.BASIC
    tags: list[str] = Field(default_factory=list)


class Everything(Event, entity="shop.customer"):
    text: str
    seal: bytes
    number: int
    rate: float
    paid: bool
    amount: Money
    day: date
    at: datetime
    order: UUID
    tier: Tier
    maybe: Money | None
    maybe_tier: Tier | None
    maybe_address: Address | None
    numbers: list[int]
    tiers: dict[str, Tier]
    address: Address
    addresses: list[Address]
    by_name: dict[str, Address]
    deep: dict[str, list[Address | None]]


class Small(Event, entity="shop.customer"):
    name: str = ""
    age: Annotated[int, Field(ge=0)] = 0
    tags: list[str] = Field(default_factory=list)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
NUMBERS = st.integers(LONG_MIN, LONG_MAX)
MONEY = st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: Decimal(f"{n}E-4"))
ADDRESSES = st.builds(Address, street=TEXT, tier=st.sampled_from(Tier), tags=st.lists(TEXT, max_size=2))
EVENTS = st.builds(
    Everything,
    text=TEXT,
    seal=st.binary(max_size=8),
    number=NUMBERS,
    rate=st.floats(allow_nan=False),
    paid=st.booleans(),
    amount=MONEY,
    day=st.dates(),
    at=st.datetimes(timezones=st.just(UTC)),
    order=st.uuids(),
    tier=st.sampled_from(Tier),
    maybe=st.none() | MONEY,
    maybe_tier=st.none() | st.sampled_from(Tier),
    maybe_address=st.none() | ADDRESSES,
    numbers=st.lists(NUMBERS, max_size=3),
    tiers=st.dictionaries(TEXT, st.sampled_from(Tier), max_size=2),
    address=ADDRESSES,
    addresses=st.lists(ADDRESSES, max_size=2),
    by_name=st.dictionaries(TEXT, ADDRESSES, max_size=2),
    deep=st.dictionaries(TEXT, st.lists(st.none() | ADDRESSES, max_size=2), max_size=2),
)
EVERYTHING = Decoder(avro_schema(Everything), Everything)
SMALL = Decoder(avro_schema(Small), Small)


@given(EVENTS, st.integers(1, LONG_MAX), st.none() | TEXT.filter(bool))
def test_round_trip(event: Everything, version: int, tx: str | None) -> None:
    body = encode(event, version=version, tx=tx)

    decoded = EVERYTHING.decode_event(body)

    assert decoded == event
    assert EVERYTHING.decode(body)[:2] == (version, tx)
    assert read_version(body) == version
    assert encode(decoded, version=version, tx=tx) == body
    assert type(decoded.address) is Address
    assert [type(value) for value in decoded.__dict__.values()] == [type(v) for v in event.__dict__.values()]


def test_a_decoded_event_behaves_as_a_constructed_one() -> None:
    event = Small(name="a", age=1, tags=["x"])

    decoded = SMALL.decode_event(encode(event, version=1))

    assert decoded.model_dump() == event.model_dump()
    assert decoded.model_copy(update={"age": 2}).age == 2
    assert repr(decoded) == repr(event)
    with pytest.raises(ValidationError):
        decoded.age = 2  # type: ignore[misc]


def test_plain_decoding_yields_symbols_and_dicts() -> None:
    class Moved(Event, entity="shop.customer"):
        tier: Tier
        address: Address

    body = encode(Moved(tier=Tier.GOLD, address=Address(street="x")), version=3, tx="t/2")

    decoded = Decoder(avro_schema(Moved)).decode(body)

    assert decoded == (3, "t/2", {"tier": "gold", "address": {"street": "x", "tier": "basic", "tags": []}})


def test_nan_survives() -> None:
    class Measured(Event, entity="lab.probe"):
        value: float

    body = encode(Measured(value=float("nan")), version=1)

    assert struct.pack(">d", Decoder(avro_schema(Measured)).decode(body)[2]["value"]) == struct.pack(">d", float("nan"))


def test_the_body_is_golden() -> None:
    body = encode(Small(name="Ada", age=36, tags=["x"]), version=7, tx="t")

    assert body == b"\x0e" + b"\x02\x02t" + b"\x06Ada" + b"\x48" + b"\x02\x02x\x00"


def tampered(**values: Any) -> Small:
    return Small.model_construct(**values)


def lengthened() -> Small:
    event = Small()
    event.tags.append(3)  # type: ignore[arg-type]
    return event


def enriched() -> Small:
    event = Small()
    event.__dict__["nmae"] = "Ada"
    return event


REFUSED = [
    pytest.param(tampered(age=1.9), "age", id="a float for an integer"),
    pytest.param(tampered(age=1.0), "age", id="a whole float for an integer"),
    pytest.param(tampered(age=True), "age", id="a bool for an integer"),
    pytest.param(tampered(age=2**63), "age", id="more than 64 bits"),
    pytest.param(tampered(age=-1), "age", id="below its bound"),
    pytest.param(tampered(name="\ud800"), "name", id="a lone surrogate"),
    pytest.param(tampered(name=None), "name", id="a null"),
    pytest.param(lengthened(), "tags.0", id="a list that was changed after validation"),
    pytest.param(enriched(), "nmae", id="a misspelt field"),
]


@pytest.mark.parametrize(("event", "told"), REFUSED)
def test_publish_refuses_what_construction_did_not_see(event: Small, told: str) -> None:
    with pytest.raises(InvalidEventError, match=told) as caught:
        encode(event, version=1)

    assert caught.value.event_name == "shop.customer.Small"


def test_publish_refuses_a_missing_field() -> None:
    with pytest.raises(InvalidEventError, match="floor: Field required"):
        encode(Old.model_construct(street="x"), version=1)


ENVELOPES = [
    pytest.param(0, None, id="version 0"),
    pytest.param(-1, None, id="a negative version"),
    pytest.param(True, None, id="a bool as version"),
    pytest.param(1.0, None, id="a float as version"),
    pytest.param(2**63, None, id="a version above 64 bits"),
    pytest.param(1, "", id="an empty transaction"),
    pytest.param(1, "t" * (TX_BYTES_MAX + 1), id="a long transaction"),
    pytest.param(1, "\ud800", id="a transaction that is no text"),
]


@pytest.mark.parametrize(("version", "tx"), ENVELOPES)
def test_publish_refuses_a_bad_envelope(version: Any, tx: str | None) -> None:
    with pytest.raises(InvalidEventError):
        encode(Small(), version=version, tx=tx)


def test_an_oversize_event_names_the_limit() -> None:
    with pytest.raises(OversizeEventError, match=str(EVENT_BODY_BYTES_MAX)) as caught:
        encode(Small(name="x" * EVENT_BODY_BYTES_MAX), version=1)

    assert caught.value.seen_bytes > caught.value.limit_bytes == EVENT_BODY_BYTES_MAX


def test_an_abstract_event_is_refused() -> None:
    class Abstract(Event):
        x: int

    with pytest.raises(InvalidSchemaError, match="abstract"):
        encode(Abstract(x=1), version=1)


BODY = encode(Small(name="Ada", age=36, tags=["x"]), version=7)
DAMAGED = [
    pytest.param(b"", "undecodable", id="nothing"),
    pytest.param(BODY[:-1], "EOFError|IndexError", id="the last byte is missing"),
    pytest.param(BODY + b"\x00", "1 bytes are left over", id="one byte too many"),
    pytest.param(b"\x00" + BODY[1:], "version 0", id="version 0"),
    pytest.param(b"\x01" + BODY[1:], "version -1", id="a negative version"),
    pytest.param(b"\x0e\x04" + BODY[2:], "IndexError", id="a branch that does not exist"),
    pytest.param(b"\x0e\x00\x06\xff\xfe\xfd\x48\x00", "Unicode", id="text that is not UTF-8"),
    pytest.param(b"\x0e\x00" + b"\xfe" * 8 + b"\x7f", "undecodable", id="a text of exabytes"),
    pytest.param(b"\x0e\x00\x05", "undecodable", id="a text of negative length"),
]


@pytest.mark.parametrize(("body", "told"), DAMAGED)
def test_damaged_bodies_are_undecodable(body: bytes, told: str) -> None:
    with pytest.raises(UndecodableError, match=told):
        SMALL.decode_event(body)


FULL_BODY = encode(
    Everything(
        text="text",
        seal=b"seal",
        number=-5,
        rate=0.5,
        paid=True,
        amount=Decimal("12.5"),
        day=date(2026, 1, 2),
        at=datetime(2026, 1, 2, tzinfo=UTC),
        order=UUID(int=9),
        tier=Tier.GOLD,
        maybe=Decimal(1),
        maybe_tier=Tier.GOLD,
        maybe_address=Address(street="x", tags=["a"]),
        numbers=[1, 2],
        tiers={"a": Tier.GOLD},
        address=Address(street="y"),
        addresses=[Address(street="z")],
        by_name={"b": Address(street="w")},
        deep={"c": [None, Address(street="v")]},
    ),
    version=300,
)


@given(st.data())
@pytest.mark.filterwarnings("error")
def test_mutated_bytes_decode_or_are_undecodable(data: st.DataObject) -> None:
    body = bytearray(FULL_BODY)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=10))
    try:
        event = EVERYTHING.decode_event(bytes(body))
    except UndecodableError:
        return
    assert isinstance(event, Everything)


@given(st.binary(max_size=64))
@example(b"")
@example(b"\xff" * 11)
def test_any_bytes_have_a_version_or_are_undecodable(body: bytes) -> None:
    try:
        version = read_version(body)
    except UndecodableError:
        return
    assert 1 <= version <= LONG_MAX


BAD_VERSIONS = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"\x80", id="an end within the number"),
    pytest.param(b"\x00", id="zero"),
    pytest.param(b"\x01", id="negative"),
    pytest.param(b"\xfe" + b"\xff" * 8 + b"\x02", id="65 bits"),
    pytest.param(b"\xff" * 10 + b"\x01", id="eleven bytes"),
]


@pytest.mark.parametrize("body", BAD_VERSIONS)
def test_bad_versions(body: bytes) -> None:
    with pytest.raises(UndecodableError):
        read_version(body)


class Old(Event, entity="shop.customer", name="Moved"):
    street: str
    floor: int
    dropped: str = "x"


class New(Event, entity="shop.customer", name="Moved"):
    street: str
    floor: float
    tags: list[str] = Field(default_factory=list)
    names: dict[str, str] = Field(default_factory=dict)
    amount: Annotated[Decimal, Field(max_digits=6, decimal_places=2)] = Decimal("-1.5")
    day: date = date(1969, 12, 31)
    at: datetime = datetime(1969, 12, 31, 23, 59, 59, 5, UTC)
    order: UUID = UUID(int=3)
    tier: Tier = Tier.GOLD
    seal: bytes = b"\xff"
    maybe: int | None = None
    five: int | None = 5


def test_an_older_body_is_read_with_typed_defaults() -> None:
    body = encode(Old(street="x", floor=3), version=1)

    event = Decoder(avro_schema(Old), New).decode_event(body)

    assert event == New(street="x", floor=3.0)
    expected = New(street="x", floor=3.0)
    assert {name: type(value) for name, value in event} == {name: type(value) for name, value in expected}
    assert encode(event, version=1) == encode(New(street="x", floor=3.0), version=1)


def test_defaults_are_not_shared_between_events() -> None:
    decoder = Decoder(avro_schema(Old), New)
    body = encode(Old(street="x", floor=3), version=1)

    decoder.decode_event(body).tags.append("changed")
    decoder.decode_event(body).names["a"] = "changed"

    assert decoder.decode_event(body) == New(street="x", floor=3.0)


def test_a_field_that_the_writer_lacks_without_default_is_undecodable() -> None:
    class Demanding(Event, entity="shop.customer", name="Moved"):
        demanded: str

    with pytest.raises(UndecodableError, match="demanded"):
        Decoder(avro_schema(Old), Demanding).decode_event(encode(Old(street="x", floor=3), version=1))


def test_a_decoder_refuses_the_class_of_another_event() -> None:
    with pytest.raises(InvalidSchemaError, match=r"shop\.customer\.Moved was given to decode shop\.customer\.Small"):
        Decoder(avro_schema(Old), Small)


def test_a_decoder_without_a_class_makes_no_events() -> None:
    with pytest.raises(TypeError):
        Decoder(avro_schema(Small)).decode_event(BODY)


def foreign(*fields: dict[str, Any]) -> dict[str, Any]:
    own = [{"name": "_version", "type": "long"}, {"name": "_tx", "type": ["null", "string"]}]
    return {"type": "record", "name": "Foreign", "fields": [*own, *fields]}


NOTHING = {"type": "record", "name": "Nothing", "fields": [{"name": "n", "type": "null"}]}
NODE = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
ENDLESS = [
    pytest.param({"type": "array", "items": "null"}, "no bytes", id="an array of nulls"),
    pytest.param({"type": "array", "items": NOTHING}, "no bytes", id="an array of empty records"),
    pytest.param({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}, "no bytes", id="of size 0"),
    pytest.param(["null", {"type": "map", "values": NODE}], "contains itself", id="a record in itself"),
    pytest.param({"type": "array", "items": "Missing"}, "Missing", id="a name without a type"),
]


@pytest.mark.parametrize(("avro_type", "told"), ENDLESS)
def test_a_decoder_refuses_endless_schemas(avro_type: Any, told: str) -> None:
    with pytest.raises(InvalidSchemaError, match=told):
        Decoder(foreign({"name": "field", "type": avro_type}))


def test_a_decoder_takes_foreign_schemas_with_named_types() -> None:
    mood = {"type": "enum", "name": "Mood", "symbols": ["calm"]}
    schema = foreign({"name": "a", "type": mood}, {"name": "b", "type": {"type": "array", "items": "Mood"}})

    assert Decoder(schema).decode(b"\x02\x00\x00\x02\x00\x00") == (1, None, {"a": "calm", "b": ["calm"]})


def test_a_schema_without_the_first_two_fields_decodes_nothing() -> None:
    schema = {"type": "record", "name": "Foreign", "fields": [{"name": "x", "type": "int"}]}
    fastavro.parse_schema(schema)

    with pytest.raises(UndecodableError, match="_version"):
        Decoder(schema).decode(b"\x02")
