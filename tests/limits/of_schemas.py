"""Drives of the bounds of `schemas`: numbers, names and bytes of events."""

from decimal import Decimal
from typing import Annotated, Any

import orjson
import pytest
from pydantic import Field, ValidationError, create_model
from tests.limits.drives import drives
from tests.projections.bank import SCHEMA_IDS, Balance, Deposited, balance, reading, record

from truecopy_bus.fold import UNKNOWN, Verdict, fold, follow
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.publish import prepare
from truecopy_bus.record import Outgoing, TopicSpec
from truecopy_bus.registry import Registry
from truecopy_projections.arrival import Arrival, Foreign
from truecopy_projections.columnar import Columnar
from truecopy_projections.projection import Projection
from truecopy_projections.reference import replay
from truecopy_schemas import Event, limits
from truecopy_schemas.avro_schema import avro_schema, canonical, fingerprint
from truecopy_schemas.blocks import BlockDecoder
from truecopy_schemas.codec import Decoder, encode, read_version
from truecopy_schemas.errors import (
    ForeignRecordError,
    InvalidEventError,
    InvalidSchemaError,
    OversizeEventError,
    UndecodableError,
)
from truecopy_schemas.framing import frame, unframe
from truecopy_schemas.registry import Outcome, RegistryState
from truecopy_schemas.varint import leading_long
from truecopy_services.config import NAMESPACE_CHARS_MAX, Settings
from truecopy_services.errors import SettingError

TOPIC_CHARS_MAX = 249
"""Kafka's own bound on the name of a topic."""


class Noted(Event, entity="limits.note"):
    text: str = ""


def declared(*, entity: str = "limits.made", name: str = "Made", **fields: Any) -> type[Event]:
    """A new event class."""
    return create_model(name, __base__=Event, __cls_kwargs__={"entity": entity}, **fields)


@drives("schemas.DECIMAL_DIGITS_MAX")
def decimal_digits() -> None:
    def paid(digits: int) -> type[Event]:
        return declared(amount=(Annotated[Decimal, Field(max_digits=digits, decimal_places=9)], Decimal("0.5")))

    cls = paid(limits.DECIMAL_DIGITS_MAX)
    widest = Decimal("9" * (limits.DECIMAL_DIGITS_MAX - 9) + "." + "9" * 9)
    assert Decoder(avro_schema(cls), cls).decode_event(encode(cls(amount=widest), version=1)) == cls(amount=widest)
    with pytest.raises(ValidationError, match=f"no more than {limits.DECIMAL_DIGITS_MAX} digits"):
        cls(amount=Decimal(f"9{widest}"))
    with pytest.raises(InvalidSchemaError, match=f"at most {limits.DECIMAL_DIGITS_MAX} digits"):
        paid(limits.DECIMAL_DIGITS_MAX + 1)


@drives("schemas.ENTITY_CHARS_MAX")
def entity_chars() -> None:
    longest = "limits." + "x" * (limits.ENTITY_CHARS_MAX - 7)

    assert declared(entity=longest).__entity__ == longest
    with pytest.raises(InvalidSchemaError, match=f"at most {limits.ENTITY_CHARS_MAX} characters"):
        declared(entity=longest + "x")
    namespace = "n" * NAMESPACE_CHARS_MAX
    assert len(Settings(namespace=namespace).topic_prefix + longest) <= TOPIC_CHARS_MAX
    with pytest.raises(SettingError, match=str(NAMESPACE_CHARS_MAX)):
        Settings.load(namespace=namespace + "n")


@drives("schemas.EVENT_BODY_BYTES_MAX")
async def event_body() -> None:
    most = limits.EVENT_BODY_BYTES_MAX
    room = most - (len(encode(Noted(text="x" * 800_000), version=1)) - 800_000)

    body = encode(Noted(text="x" * room), version=1)
    assert len(body) == most
    with pytest.raises(OversizeEventError, match=str(most)) as caught:
        encode(Noted(text="x" * (room + 1)), version=1)
    assert (caught.value.seen_bytes, caught.value.limit_bytes) == (most + 1, most)

    log = MemoryLog()  # the largest event under the largest key, with the highest version, is a record that logs take
    await log.create(TopicSpec(name="limits.note", partitions=1))
    grown = body[1:] + bytes(limits.VARINT_BYTES_MAX)
    await log.append("limits.note", 0, [Outgoing(b"k" * limits.KEY_BYTES_MAX, frame(16, grown), 0)])


@drives("schemas.KEY_BYTES_MAX")
def a_published_key() -> None:
    longest = "ü" * (limits.KEY_BYTES_MAX // 2)

    assert [one.key for one in prepare([(longest, Noted())], None)] == [longest]
    with pytest.raises(InvalidEventError, match=f"1 to {limits.KEY_BYTES_MAX} bytes"):
        prepare([(longest + "k", Noted())], None)


@drives("schemas.KEY_BYTES_MAX")
async def an_arriving_key() -> None:
    longest = "k" * limits.KEY_BYTES_MAX
    there, beyond = record(1, longest, 1, Deposited(amount=1)), record(2, longest + "k", 1, Deposited(amount=1))

    taken, refused = reading(balance).items([there, beyond])
    assert isinstance(taken, Arrival)
    verdict, head = fold(UNKNOWN, longest, 1, b"f" * 32, taken.body)
    assert verdict is Verdict.APPLY
    heads: dict[bytes, tuple[int, bytes, bytes]] = {longest.encode(): UNKNOWN}
    assert follow(heads, [longest.encode()], [1], [b"f" * 32], [taken.body])
    assert heads == {longest.encode(): tuple(head)}
    assert isinstance(refused, Foreign)
    assert f"at most {limits.KEY_BYTES_MAX}" in refused.why

    idle: Projection[Any] = Projection("idle", entity="bank.account", row=Balance)
    assert Columnar(idle, reading(idle)).read([there]) is not None
    assert Columnar(idle, reading(idle)).read([there, beyond]) is None

    log = MemoryLog()
    registry = Registry(log)
    await registry.ensure()
    assert await registry.register(avro_schema(Deposited)) == SCHEMA_IDS[Deposited]
    await log.create(TopicSpec(name="bank.account", partitions=1))
    await log.append("bank.account", 0, [Outgoing(one.key, one.value, 0) for one in (there, beyond)])
    folded = await replay(balance, log, registry, topic="bank.account", upto={0: 3})
    assert set(folded.rows) == {longest}


def counted() -> type[Event]:
    """An event with two numbers, one of which declares bounds of its own that are wider."""
    return declared(number=(int, ...), wide=(Annotated[int, Field(ge=-(10**30), le=10**30)], 0))


@drives("schemas.LONG_MAX")
def the_highest_number() -> None:
    high, cls = limits.LONG_MAX, counted()
    body = encode(cls(number=high, wide=high), version=high)

    assert read_version(body) == high
    assert Decoder(avro_schema(cls), cls).decode_event(body) == cls(number=high, wide=high)
    block = BlockDecoder.of(avro_schema(cls))
    assert block is not None
    columns = block.decode([body])
    assert columns is not None
    assert columns.versions() == [high]
    for field in ("number", "wide"):
        with pytest.raises(ValidationError, match=f"{field}\n.*less than or equal to {high}"):
            cls(**{"number": 0, field: high + 1})
    with pytest.raises(InvalidEventError, match=r"not in 1 \.\. 2\*\*63 - 1"):
        encode(cls(number=0), version=high + 1)
    assert leading_long(zigzag(2 * high)) == high
    with pytest.raises(UndecodableError, match="64-bit"):
        leading_long(zigzag(2 * high + 2))


@drives("schemas.LONG_MIN")
def the_lowest_number() -> None:
    low, cls = limits.LONG_MIN, counted()
    body = encode(cls(number=low, wide=low), version=1)

    assert Decoder(avro_schema(cls), cls).decode_event(body) == cls(number=low, wide=low)
    for field in ("number", "wide"):
        with pytest.raises(ValidationError, match=f"{field}\n.*greater than or equal to {low}"):
            cls(**{"number": 0, field: low - 1})
    assert leading_long(zigzag(-2 * low - 1)) == low


@drives("schemas.SCHEMA_BYTES_MAX")
def schema_bytes() -> None:
    schema = avro_schema(Noted)
    room = limits.SCHEMA_BYTES_MAX - len(canonical(schema | {"note": ""}))

    assert isinstance(RegistryState().claim("notes", schema | {"note": "x" * room}), bytes)
    with pytest.raises(InvalidSchemaError, match=f"{limits.SCHEMA_BYTES_MAX + 1} bytes.* limit is {limits.SCHEMA_BYTES_MAX}"):
        RegistryState().claim("notes", schema | {"note": "x" * (room + 1)})


@drives("schemas.SCHEMA_ID_MAX")
def schema_ids() -> None:
    highest = limits.SCHEMA_ID_MAX

    assert unframe(frame(highest, b"body")) == (highest, b"body")
    with pytest.raises(ValueError, match=str(highest)):
        frame(highest + 1, b"")
    with pytest.raises(ForeignRecordError, match=str(highest)):
        unframe(b"\0" + (highest + 1).to_bytes(4) + b"body")


@drives("schemas.SCHEMA_ID_MAX")
def claimed_ids() -> None:
    state, schema = RegistryState(), avro_schema(Noted)
    claim = state.claim("notes", schema)
    assert isinstance(claim, bytes)

    def applied(claim: bytes, subject: str, schema_id: int) -> Outcome:
        return state.apply(subject.encode(), orjson.dumps(orjson.loads(claim) | {"id": schema_id}))

    assert applied(claim, "notes", limits.SCHEMA_ID_MAX + 1) is Outcome.IGNORED
    assert applied(claim, "notes", limits.SCHEMA_ID_MAX - 1) is Outcome.CLAIMED
    last = state.claim("counts", avro_schema(counted()))
    assert isinstance(last, bytes)
    assert orjson.loads(last)["id"] == limits.SCHEMA_ID_MAX
    assert applied(last, "counts", limits.SCHEMA_ID_MAX) is Outcome.CLAIMED
    assert state.by_id(limits.SCHEMA_ID_MAX).fingerprint == fingerprint(avro_schema(counted()))
    with pytest.raises(InvalidSchemaError, match=str(limits.SCHEMA_ID_MAX)):
        state.claim("more", avro_schema(declared(entity="limits.more")))


@drives("schemas.TX_BYTES_MAX")
def transaction_ids() -> None:
    longest = "ü" * (limits.TX_BYTES_MAX // 2)

    assert Decoder(avro_schema(Noted)).decode(encode(Noted(), version=1, tx=longest))[1] == longest
    with pytest.raises(InvalidEventError, match=f"1 to {limits.TX_BYTES_MAX} bytes"):
        encode(Noted(), version=1, tx=longest + "t")


@drives("schemas.VARINT_BYTES_MAX")
def varint_bytes() -> None:
    # A number may be spelled with groups of zeros behind it; nobody writes it so, and a reader must come to an end.
    assert leading_long(b"\x80" * (limits.VARINT_BYTES_MAX - 1) + b"\0") == 0
    with pytest.raises(UndecodableError):
        leading_long(b"\x80" * limits.VARINT_BYTES_MAX + b"\0")
    assert len(zigzag(2 * limits.LONG_MAX + 1)) == limits.VARINT_BYTES_MAX

    cls = counted()
    longest = encode(cls(number=limits.LONG_MIN), version=limits.LONG_MAX)
    assert len(longest) == 2 * limits.VARINT_BYTES_MAX + 2
    block = BlockDecoder.of(avro_schema(cls))
    assert block is not None
    assert block.decode([longest]) is not None


def zigzag(raw: int) -> bytes:
    """A number that is zigzag already, in groups of seven bits."""
    out = bytearray()
    while raw > 0x7F:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    return bytes(out) + bytes([raw])
