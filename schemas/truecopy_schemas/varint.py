"""The one piece of Avro that is read without a schema: a zigzag number at the front of a body."""

from __future__ import annotations

from truecopy_schemas.errors import UndecodableError
from truecopy_schemas.limits import LONG_MAX, VARINT_BYTES_MAX

__all__ = ["leading_long"]


def leading_long(body: bytes) -> int:
    """The first number of an Avro body, without its schema.

    Raises UndecodableError when the body ends early or the number has more than 64 bits.
    Source: Apache Avro 1.12 specification, "Binary encoding", int and long.
    """
    raw = 0
    for index, byte in enumerate(body[:VARINT_BYTES_MAX]):
        raw |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if raw > 2 * LONG_MAX + 1:
                break
            return (raw >> 1) ^ -(raw & 1)
    raise UndecodableError(f"no 64-bit number at the front of {len(body)} bytes")
