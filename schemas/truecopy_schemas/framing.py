"""The Confluent frame around a body: a zero byte, the schema id in four bytes, the Avro body."""

from __future__ import annotations

from truecopy_schemas.errors import ForeignRecordError
from truecopy_schemas.limits import SCHEMA_ID_MAX

__all__ = ["FRAME_BYTES", "frame", "unframe"]

FRAME_BYTES = 5


def frame(schema_id: int, body: bytes) -> bytes:
    """A record's value. Raises ValueError when the id is not in 1 .. 2**31 - 1."""
    if not 1 <= schema_id <= SCHEMA_ID_MAX:
        raise ValueError(f"schema id {schema_id} is outside 1 .. {SCHEMA_ID_MAX}")
    return b"\x00" + schema_id.to_bytes(4, "big") + body


def unframe(value: bytes | None) -> tuple[int, bytes]:
    """Schema id and body of a record's value.

    Raises ForeignRecordError for a null, a short value, another first byte, or an id outside 1 .. 2**31 - 1.
    """
    if value is None:
        raise ForeignRecordError("the value is null; a delete is an event with a version like any other")
    if len(value) < FRAME_BYTES:
        raise ForeignRecordError(f"the value has {len(value)} bytes, a frame has at least {FRAME_BYTES}")
    if value[0] != 0:
        raise ForeignRecordError(f"the value starts with byte {value[0]:#04x}, a frame starts with 0x00")
    schema_id = int.from_bytes(value[1:FRAME_BYTES], "big")
    if not 1 <= schema_id <= SCHEMA_ID_MAX:
        raise ForeignRecordError(f"the frame names schema id {schema_id}, outside 1 .. {SCHEMA_ID_MAX}")
    return schema_id, value[FRAME_BYTES:]
