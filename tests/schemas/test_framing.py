"""The Confluent frame: golden bytes, and what is foreign."""

from __future__ import annotations

import pytest

from truecopy_schemas import ForeignRecordError, frame, unframe


def test_the_frame_is_golden() -> None:
    assert frame(258, b"body") == b"\x00\x00\x00\x01\x02body"


def test_unframe_undoes_frame() -> None:
    assert unframe(frame(2**31 - 1, b"")) == (2**31 - 1, b"")


FOREIGN = [
    pytest.param(None, "null", id="a null"),
    pytest.param(b"", "0 bytes", id="nothing"),
    pytest.param(b"\x00\x00\x00\x01", "4 bytes", id="short"),
    pytest.param(b'{"json": 1}', "0x7b", id="json"),
    pytest.param(b"\x00\x00\x00\x00\x00", "schema id 0", id="id zero"),
    pytest.param(b"\x00\x80\x00\x00\x00", "schema id 2147483648", id="an id beyond 31 bits"),
]


@pytest.mark.parametrize(("value", "told"), FOREIGN)
def test_foreign_values(value: bytes | None, told: str) -> None:
    with pytest.raises(ForeignRecordError, match=told):
        unframe(value)


@pytest.mark.parametrize("schema_id", [0, -1, 2**31])
def test_ids_that_no_frame_holds(schema_id: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        frame(schema_id, b"")
