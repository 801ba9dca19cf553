"""Control records: genesis, which gives a topic its identity, and marks, which state what it holds.

They lie in entity topics under a key that no entity can have, carry a header that names their
kind, and have schemas of their own under reserved ids, so that any Confluent deserializer reads
them. `format` is the first field and is read without the schema: a newer one is refused by name.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any, TypeAlias

import fastavro

from truecopy_schemas.errors import ForeignRecordError, NewerFormatError, UndecodableError
from truecopy_schemas.framing import frame, unframe
from truecopy_schemas.varint import leading_long

__all__ = [
    "CONTROL_HEADER",
    "CONTROL_KEY",
    "FIRST_CLAIMABLE_ID",
    "GENESIS",
    "GENESIS_FORMAT",
    "GENESIS_SCHEMA",
    "GENESIS_SCHEMA_ID",
    "MARK",
    "MARK_FORMAT",
    "MARK_SCHEMA",
    "MARK_SCHEMA_ID",
    "ControlRecord",
    "Genesis",
    "Mark",
    "decode",
    "encode",
]

CONTROL_KEY = b"\x00truecopy"
CONTROL_HEADER = "truecopy"
GENESIS, MARK = b"genesis", b"mark"
GENESIS_FORMAT, MARK_FORMAT = 1, 1
GENESIS_SCHEMA_ID, MARK_SCHEMA_ID = 1, 2
FIRST_CLAIMABLE_ID = 16  # 1 to 15 are the log's own

_INCARNATION = re.compile(r"[0-9a-f]{32}")
_DIGEST_BYTES = 32


def _record(name: str, **fields: Any) -> dict[str, Any]:
    stated = [{"name": field, "type": avro_type} for field, avro_type in fields.items()]
    return {"type": "record", "name": name, "namespace": "truecopy", "fields": stated}


GENESIS_SCHEMA = _record(
    "Genesis",
    format="int",
    incarnation="string",
    topic="string",
    partition="int",
    partitions="int",
    created_at_ms="long",
)
MARK_SCHEMA = _record(
    "Mark",
    format="int",
    incarnation="string",
    epoch="long",
    number="long",
    count="long",
    digest={"type": "fixed", "name": "Digest", "namespace": "truecopy", "size": _DIGEST_BYTES},
    digest_algorithm="int",
    at_ms="long",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """The first record of each partition: whose life the topic lives. Times are ms since 1970, UTC."""

    incarnation: str
    topic: str
    partition: int
    partitions: int
    created_at_ms: int
    format: int = GENESIS_FORMAT

    def __post_init__(self) -> None:
        _refuse_other_incarnations(self.incarnation)
        if not 0 <= self.partition < self.partitions:
            raise ValueError(f"partition {self.partition} is not one of {self.partitions}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What the owner has put into a partition: `count` events, whose elements sum to `digest`.

    epoch is the relay's, number counts its marks, at_ms is ms since 1970 in UTC.
    """

    incarnation: str
    epoch: int
    number: int
    count: int
    digest: bytes
    digest_algorithm: int
    at_ms: int
    format: int = MARK_FORMAT

    def __post_init__(self) -> None:
        _refuse_other_incarnations(self.incarnation)
        if min(self.epoch, self.number, self.count) < 0:
            raise ValueError(f"epoch {self.epoch}, number {self.number} and count {self.count} can't be negative")
        if len(self.digest) != _DIGEST_BYTES:
            raise ValueError(f"a digest has {_DIGEST_BYTES} bytes, this one {len(self.digest)}")


ControlRecord: TypeAlias = Genesis | Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    name: str
    cls: type[Genesis] | type[Mark]
    schema_id: int
    schema: Any
    known_format: int


_KINDS = {
    GENESIS: _Kind(
        name="genesis",
        cls=Genesis,
        schema_id=GENESIS_SCHEMA_ID,
        schema=fastavro.parse_schema(GENESIS_SCHEMA),
        known_format=GENESIS_FORMAT,
    ),
    MARK: _Kind(
        name="mark",
        cls=Mark,
        schema_id=MARK_SCHEMA_ID,
        schema=fastavro.parse_schema(MARK_SCHEMA),
        known_format=MARK_FORMAT,
    ),
}


def encode(record: ControlRecord) -> bytes:
    """The framed value of a control record."""
    kind = _KINDS[GENESIS if isinstance(record, Genesis) else MARK]
    body = BytesIO()
    fastavro.schemaless_writer(body, kind.schema, asdict(record), strict=True)
    return frame(kind.schema_id, body.getvalue())


def decode(kind: bytes, value: bytes | None) -> ControlRecord:
    """The control record in a framed value; kind is the value of its header.

    Raises NewerFormatError for a format above the known one, ForeignRecordError for an unknown
    kind or another frame, UndecodableError for damaged bytes.
    """
    if kind not in _KINDS:
        raise ForeignRecordError(f"control records are genesis or mark, this one says {kind!r:.40}")
    known = _KINDS[kind]
    schema_id, body = unframe(value)
    if schema_id != known.schema_id:
        raise ForeignRecordError(f"a {known.name} has schema id {known.schema_id}, this one {schema_id}")
    seen = leading_long(body)
    if seen > known.known_format:
        raise NewerFormatError(what=known.name, seen=seen, known=known.known_format)
    source = BytesIO(body)
    try:
        fields: Any = fastavro.schemaless_reader(source, known.schema, None)
        record = known.cls(**fields)
    except Exception as fault:  # the decoder's own faults have no common class
        raise UndecodableError(f"{known.name}: {type(fault).__name__}: {fault!s:.200}") from fault
    if source.tell() != len(body) or record.format < 1:
        raise UndecodableError(f"{known.name}: format {record.format}, {len(body) - source.tell()} bytes left over")
    return record


def _refuse_other_incarnations(incarnation: str) -> None:
    if not _INCARNATION.fullmatch(incarnation):
        raise ValueError(f"an incarnation is 32 hexadecimal digits, not {incarnation!r:.40}")
