"""The bounds of this package, each with its unit and its reason."""

from __future__ import annotations

__all__ = [
    "DECIMAL_DIGITS_MAX",
    "ENTITY_CHARS_MAX",
    "EVENT_BODY_BYTES_MAX",
    "KEY_BYTES_MAX",
    "LONG_MAX",
    "LONG_MIN",
    "SCHEMA_BYTES_MAX",
    "SCHEMA_ID_MAX",
    "TX_BYTES_MAX",
    "VARINT_BYTES_MAX",
]

# Kafka refuses batches above 1,048,588 bytes (message.max.bytes) by default. The rest is headroom
# for the frame, the key, the headers and the batch's own header.
EVENT_BODY_BYTES_MAX = 900_000

# A key is hashed, indexed and held in memory for each applied entity. PostgreSQL's B-tree
# takes at most 2,704 bytes an entry.
KEY_BYTES_MAX = 1_024

# A schema is one record of the schema topic, and is held in memory by every process.
SCHEMA_BYTES_MAX = 256 * 1024

# Confluent deserializers read the id of a frame as a signed 32-bit number.
SCHEMA_ID_MAX = 2**31 - 1

# A transaction's id and part count: an identifier, not a place for data.
TX_BYTES_MAX = 256

# Kafka allows 249 characters in the name of a topic; the rest is room for a namespace prefix.
ENTITY_CHARS_MAX = 180

# What PostgreSQL, SQLite's text form and the column path of a batch all hold without loss.
DECIMAL_DIGITS_MAX = 38

# Avro's long.
LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1

# A 64-bit number in groups of seven bits.
VARINT_BYTES_MAX = 10
