"""Reading a foreign topic: the n-th record of its key is the key's version n, whatever it says. Nothing is decided here.

A record's number is taken from the key's head in the replica, which commits together with the position. So a record that is
read again after a crash gets the number that it had, and one that was committed is never numbered again.

Every record with a key is an event of that key: it counts and is chained by its whole value before anybody looks into it, so
neither depends on a schema that may come late. What can't be read parks its key, as anywhere. A null value removes the rows
of its key.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from truecopy_bus.record import Record
from truecopy_projections.amendment import NO_AMENDMENTS, Amendments, Ruling, schema_of
from truecopy_projections.arrival import REMOVING, Arrival, Foreign, Item, control_of, key_of, skipped
from truecopy_projections.projection import Change, Handler, Projection, SubKey
from truecopy_projections.state import NEW_KEY, KeyState, Reason
from truecopy_schemas.codec import RecordDecoder
from truecopy_schemas.control import CONTROL_KEY, Genesis
from truecopy_schemas.errors import ForeignRecordError, InvalidSchemaError, UndecodableError
from truecopy_schemas.framing import FRAME_BYTES, unframe

__all__ = ["ForeignReading", "Ordinals", "chained_as", "keys_in", "ordinals"]

Ordinals = Mapping[tuple[int, int], int]
"""The version of the record at (partition, offset)."""
_VALUE, _NULL = b"value", b"null"
"""What stands in the chain for a schema's fingerprint: the value that follows holds its schema's id."""


def keys_in(records: Iterable[Record]) -> dict[bytes, str]:
    """The keys of these records that are keys at all, by their bytes."""
    found = {}
    for name in {record.key for record in records if record.key is not None and record.key != CONTROL_KEY}:
        try:
            found[name] = key_of(name)
        except (UnicodeDecodeError, ForeignRecordError):
            continue
    return found


def ordinals(records: Iterable[Record], heads: Mapping[str, KeyState], positions: Mapping[int, int]) -> Ordinals:
    """Number the records from the heads of their keys on. One below its partition's position was numbered before: left out."""
    records = list(records)
    keys = keys_in(records)
    latest: dict[tuple[int, str], int] = {}
    found: dict[tuple[int, int], int] = {}
    for partition, offset, name, *_ in records:
        key = None if name is None else keys.get(name)
        if key is not None and offset >= positions.get(partition, 0):
            before = latest.get((partition, key), heads.get(key, NEW_KEY).head.version)
            latest[partition, key] = found[partition, offset] = before + 1
    return found


class ForeignReading:
    """What Reading is to topics of ours. It holds the schemas and the amendments that it was told, and no other state."""

    def __init__(self, projection: Projection[Any], amendments: Amendments = NO_AMENDMENTS) -> None:
        self._projection = projection
        self.amendments = amendments
        self._writers: dict[int, RecordDecoder | str] = {}

    def learn(self, schema_id: int, *, fingerprint: bytes, schema: Any) -> None:  # noqa: ARG002  # the chain has the whole value
        """Take in a schema, or why it can't be read."""
        try:
            self._writers[schema_id] = RecordDecoder(schema)
        except InvalidSchemaError as fault:
            self._writers[schema_id] = str(fault)

    def unknown(self, records: Iterable[Record]) -> frozenset[int]:
        """The schema ids among these records that it was not told of."""
        heads = {r.value[:FRAME_BYTES] for r in records if r.value and len(r.value) >= FRAME_BYTES and r.key != CONTROL_KEY}
        return frozenset(int.from_bytes(head[1:]) for head in heads if head[0] == 0) - self._writers.keys()

    def items(self, records: Iterable[Record], versions: Ordinals) -> list[Item]:
        """What the records are, in their order, without keyed ones that have no version."""
        return [item for record in records if (item := self._item(record, versions)) is not None]

    def _item(self, record: Record, versions: Ordinals) -> Item | None:
        if record.key == CONTROL_KEY:
            return _genesis(record)
        if record.key is None:
            return Foreign(record, "its key is null")
        try:
            key = key_of(record.key)
        except (UnicodeDecodeError, ForeignRecordError) as raised:
            return Foreign(record, str(raised))
        version = versions.get((record.partition, record.offset))
        if version is None:
            return None
        ruling = self.amendments.about(key, version, *chained_as(record)) if self.amendments else None
        if record.value is None:
            arrival = Arrival(record, key, version, _NULL, b"", REMOVING, None, self._projection.every(), None)
            return arrival if ruling is None else skipped(arrival)
        if ruling is not None and ruling.ruling is Ruling.SKIPPED:
            return skipped(Arrival(record, key, version, _VALUE, record.value, None, None, (), None))
        told: Any = None
        handler: Handler | None = None
        touches: tuple[SubKey, ...] | None = ()
        fault: tuple[Reason, str] | None = None
        try:
            handler, told = (
                self._told(record.value) if ruling is None else self._read(RecordDecoder(schema_of(ruling)), ruling.body)
            )
            if handler is not None:
                touches = self._projection.touched(handler, told, Change(key, version, ()))
        except _UnknownIdError as raised:
            fault = Reason.SCHEMA, str(raised)
        except (ForeignRecordError, UndecodableError) as raised:
            fault = Reason.UNDECODABLE, str(raised)
        except Exception as raised:  # the user's `touches`; whatever it raises parks the key with it
            fault = Reason.REJECTED, f"touches raised {type(raised).__name__}: {raised}"
        return Arrival(record, key, version, _VALUE, record.value, handler, told, touches, fault)

    def _told(self, value: bytes) -> tuple[Handler | None, Any]:
        """Who reduces a value, and its fields; None where nobody does."""
        schema_id, body = unframe(value)
        writer = self._writers.get(schema_id)
        if writer is None:
            seen = f"schema id {schema_id} is not in the topic's schema source"
            raise _UnknownIdError(f"{seen}; register it, or restore the source")
        if isinstance(writer, str):
            raise UndecodableError(writer)
        return self._read(writer, body)

    def _read(self, decoder: RecordDecoder, body: bytes) -> tuple[Handler | None, Any]:
        handler = self._projection.handlers.get(decoder.name)
        return handler, None if handler is None else decoder.decode(body)


def chained_as(record: Record) -> tuple[bytes, bytes]:
    """What of a foreign record goes into the chain, in place of a schema's fingerprint and a body."""
    return (_NULL, b"") if record.value is None else (_VALUE, record.value)


class _UnknownIdError(Exception):
    """A schema that nobody told of yet."""


def _genesis(record: Record) -> Item:
    """Embedded logs begin every topic with a genesis; a mark is from an owner, whose topic is none of others."""
    item = control_of(record)
    if isinstance(item, Foreign) or isinstance(item.said, Genesis):
        return item
    return Foreign(record, "a mark: its topic is Truecopy's own; declare the projection without ForeignTopic")
