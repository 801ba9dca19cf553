"""Genesis and marks: golden bytes, newer formats refused by name, damage and foreign kinds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truecopy_schemas import (
    ForeignRecordError,
    Genesis,
    Mark,
    NewerFormatError,
    TruecopyError,
    UndecodableError,
    control,
    fingerprint,
)

LIFE = "0123456789abcdef" * 2
GENESIS = Genesis(incarnation=LIFE, topic="shop.customer", partition=1, partitions=3, created_at_ms=1_700_000_000_000)
MARK = Mark(
    incarnation=LIFE,
    epoch=2,
    number=3,
    count=64,
    digest=bytes(range(32)),
    digest_algorithm=1,
    at_ms=1_700_000_000_000,
)
TIME = b"\x80\xa0\xab\xfe\xf9\x62"
GOLDEN = [
    pytest.param(
        GENESIS,
        b"genesis",
        b"\x00\x00\x00\x00\x01" + b"\x02" + b"\x40" + LIFE.encode() + b"\x1ashop.customer" + b"\x02\x06" + TIME,
        id="genesis",
    ),
    pytest.param(
        MARK,
        b"mark",
        b"\x00\x00\x00\x00\x02" + b"\x02" + b"\x40" + LIFE.encode() + b"\x04\x06\x80\x01" + bytes(range(32)) + b"\x02" + TIME,
        id="mark",
    ),
]


@pytest.mark.parametrize(("record", "kind", "value"), GOLDEN)
def test_control_records_are_golden(record: Genesis | Mark, kind: bytes, value: bytes) -> None:
    assert control.encode(record).hex() == value.hex()
    assert control.decode(kind, value) == record


def test_the_reserved_names_and_ids_are_golden() -> None:
    assert control.CONTROL_KEY == b"\x00truecopy"
    assert control.CONTROL_HEADER == "truecopy"
    assert (control.GENESIS, control.MARK) == (b"genesis", b"mark")
    assert (control.GENESIS_SCHEMA_ID, control.MARK_SCHEMA_ID, control.FIRST_CLAIMABLE_ID) == (1, 2, 16)


def test_the_control_schemas_are_golden() -> None:
    assert fingerprint(control.GENESIS_SCHEMA).hex() == "2a90043902a487d169533f8296f7df0ea9652af503dfaa4b14dee16c595106ec"
    assert fingerprint(control.MARK_SCHEMA).hex() == "b3f3e7d9e2d0edcc566b06783d3c95c7ce51c38606e0340ae6b7912943207c3f"


@pytest.mark.parametrize(("record", "kind", "value"), GOLDEN)
def test_a_newer_format_is_refused_by_name(record: Genesis | Mark, kind: bytes, value: bytes) -> None:
    newer = value[:5] + b"\x04" + b"whatever comes then"

    with pytest.raises(NewerFormatError, match=f"{kind.decode()}: format 2 was seen, up to 1 is known") as caught:
        control.decode(kind, newer)

    assert (caught.value.seen, caught.value.known) == (2, record.format)


VALUE = control.encode(MARK)
BROKEN = [
    pytest.param(b"later", VALUE, ForeignRecordError, id="an unknown kind"),
    pytest.param(b"genesis", VALUE, ForeignRecordError, id="the id of the other kind"),
    pytest.param(b"mark", None, ForeignRecordError, id="a null"),
    pytest.param(b"mark", VALUE[:5], UndecodableError, id="an empty body"),
    pytest.param(b"mark", VALUE[:-1], UndecodableError, id="the last byte is missing"),
    pytest.param(b"mark", VALUE + b"\x00", UndecodableError, id="one byte too many"),
    pytest.param(b"mark", VALUE[:5] + b"\x00" + VALUE[6:], UndecodableError, id="format 0"),
    pytest.param(b"mark", VALUE.replace(b"0123", b"012X"), UndecodableError, id="an incarnation that is none"),
]


@pytest.mark.parametrize(("kind", "value", "error"), BROKEN)
def test_broken_control_records(kind: bytes, value: bytes | None, error: type[TruecopyError]) -> None:
    with pytest.raises(error):
        control.decode(kind, value)


@given(st.sampled_from([b"genesis", b"mark"]), st.binary(max_size=120))
def test_any_bytes_decode_or_are_refused_on_purpose(kind: bytes, body: bytes) -> None:
    frame = b"\x00\x00\x00\x00" + (b"\x01" if kind == b"genesis" else b"\x02")
    try:
        control.decode(kind, frame + body)
    except TruecopyError:
        return


INVALID = [
    pytest.param(Mark, {"incarnation": "short"}, id="a short incarnation"),
    pytest.param(Mark, {"digest": b"short"}, id="a short digest"),
    pytest.param(Mark, {"count": -1}, id="a negative count"),
    pytest.param(Genesis, {"partition": 3}, id="a partition beyond the last"),
]


@pytest.mark.parametrize(("cls", "values"), INVALID)
def test_invalid_control_records(cls: type[Mark] | type[Genesis], values: dict[str, Any]) -> None:
    valid = MARK if cls is Mark else GENESIS
    fields = {name: getattr(valid, name) for name in valid.__dataclass_fields__}

    with pytest.raises(ValueError, match=r"incarnation|digest|negative|partition"):
        cls(**fields | values)
