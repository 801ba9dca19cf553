"""From the records of a batch to what they are: change events, marks, genesis records, or foreign. Nothing is decided here.

A record is foreign when it can't be a change event of ours at all: no key, no value, no frame, no readable version. What has
a version is an event of its key, even if its body does not decode: it counts as delivered, and its key waits behind it.
"""

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

from truecopy_bus.record import Record
from truecopy_projections.amendment import NO_AMENDMENTS, Amendment, Amendments, Ruling, schema_of
from truecopy_projections.projection import Change, Handler, Projection, SubKey
from truecopy_projections.state import Reason
from truecopy_schemas import Event
from truecopy_schemas.codec import Decoder, read_version
from truecopy_schemas.control import CONTROL_HEADER, CONTROL_KEY, Genesis, Mark
from truecopy_schemas.control import decode as decode_control
from truecopy_schemas.errors import (
    ForeignRecordError,
    InvalidSchemaError,
    NewerFormatError,
    TruecopyError,
    UndecodableError,
    UpcastError,
)
from truecopy_schemas.framing import FRAME_BYTES, unframe
from truecopy_schemas.limits import KEY_BYTES_MAX

__all__ = ["REMOVING", "Arrival", "Control", "Foreign", "Item", "Reading", "Writer", "control_of", "key_of", "skipped"]

_VALUE, _HEAD = itemgetter(Record._fields.index("value")), itemgetter(slice(FRAME_BYTES))


class Writer(NamedTuple):
    """A registered schema, as far as a projection has to do with it.

    `decoder` is None for types it does not handle, and hands out today's type for those that are upcast; `fault` says why its
    class can't read this writer's events ("" if it can).
    """

    fingerprint: bytes
    handler: Handler | None
    decoder: Decoder[Event] | None
    fault: str = ""


class Arrival(NamedTuple):
    """A change event as it arrived. `fingerprint` is None while its schema is unknown; `event` is a dict where others wrote it.

    `touches` are the sub keys that its reducer is called for; None for every row of the key. `fault` says why it can't be
    applied whatever the state of its key is. `overruled`: a ruling says that it has no effect; where it contradicts the event
    of its version, that one stands.
    """

    record: Record
    key: str
    version: int
    fingerprint: bytes | None
    body: bytes
    handler: Handler | None
    event: Any
    touches: tuple[SubKey, ...] | None
    fault: tuple[Reason, str] | None
    overruled: bool = False


class Control(NamedTuple):
    """A control record of the topic's owner."""

    record: Record
    said: Genesis | Mark


class Foreign(NamedTuple):
    """A record that is no change event."""

    record: Record
    why: str


Item = Arrival | Control | Foreign


def _remove(*_: object) -> None:
    """What a deleting event does where the projection has no reducer for it."""


REMOVING = Handler(Event, _remove, None)
"""Removes every row of the key."""


class Reading:
    """Reads records for one projection. It holds the schemas and the amendments that it was told, and no other state."""

    def __init__(self, projection: Projection[Any], amendments: Amendments = NO_AMENDMENTS) -> None:
        self._projection = projection
        self.amendments = amendments
        self._writers: dict[int, Writer] = {}

    def knows(self, schema_id: int) -> bool:
        return schema_id in self._writers

    def writer(self, schema_id: int) -> Writer:
        """A schema that it was told of."""
        return self._writers[schema_id]

    def learn(self, schema_id: int, *, fingerprint: bytes, schema: Mapping[str, Any]) -> None:
        """Take in a registered schema."""
        self._writers[schema_id] = self._writer(fingerprint, schema)

    def _writer(self, fingerprint: bytes, schema: Mapping[str, Any]) -> Writer:
        try:
            found = self._projection.reads(dict(schema))
        except InvalidSchemaError as raised:
            return Writer(fingerprint, None, None, str(raised))
        if found is None:
            return Writer(fingerprint, REMOVING if schema.get("truecopy.deletes") else None, None)
        return Writer(fingerprint, *found)

    def unknown(self, records: Iterable[Record]) -> frozenset[int]:
        """The schema ids among these records that it was not told of."""
        heads = set(map(_HEAD, filter(None, map(_VALUE, records))))
        ids = {int.from_bytes(head[1:]) for head in heads if len(head) == FRAME_BYTES and not head[0]}
        return frozenset(ids - self._writers.keys())

    def items(self, records: Iterable[Record]) -> list[Item]:
        """What the records are, in their order. Raises NewerFormatError for a control record of a newer Truecopy."""
        return [self._item(record) for record in records]

    def _item(self, record: Record) -> Item:
        if record.key == CONTROL_KEY:
            return control_of(record)
        if record.key is None or record.value is None:
            return Foreign(record, "its key is null" if record.key is None else "its value is null")
        try:
            key = key_of(record.key)
            schema_id, framed = unframe(record.value)
            body = bytes(framed)
            version = read_version(body)
        except (UnicodeDecodeError, ForeignRecordError, UndecodableError) as raised:
            return Foreign(record, str(raised))
        writer = self._writers.get(schema_id)
        if writer is None:
            fault = (Reason.SCHEMA, f"schema id {schema_id} is not in the registry; register it, or restore the registry")
            return Arrival(record, key, version, None, body, None, None, (), fault)
        arrival = self._arrival(record, key, version, writer, body)
        ruling = self.amendments.about(key, version, writer.fingerprint, body) if self.amendments else None
        return arrival if ruling is None else self._amended(arrival, ruling)

    def _amended(self, arrival: Arrival, ruling: Amendment) -> Arrival:
        """The event with the effect that was ruled; it is chained as it was delivered."""
        if ruling.ruling is Ruling.SKIPPED:
            return skipped(arrival)
        writer = self._writer(b"", schema_of(ruling))
        other = self._arrival(arrival.record, arrival.key, arrival.version, writer, ruling.body)
        return other._replace(fingerprint=arrival.fingerprint, body=arrival.body)

    def _arrival(self, record: Record, key: str, version: int, writer: Writer, body: bytes) -> Arrival:
        fingerprint, handler, decoder, problem = writer
        event: Event | None = None
        touches: tuple[SubKey, ...] | None = ()
        fault: tuple[Reason, str] | None = (Reason.UNDECODABLE, problem) if problem else None
        if handler is not None and not problem:
            try:
                event = decoder.decode_event(body) if decoder else None
                change = Change(key, version, ())
                touches = self._projection.touched(handler, event, change) if event else self._projection.every()
            except UndecodableError as raised:
                fault = (Reason.UNDECODABLE, str(raised))
            except UpcastError as raised:
                fault = (Reason.REJECTED, str(raised))
            except Exception as raised:  # the user's `touches`; whatever it raises parks the key with it
                fault = (Reason.REJECTED, f"touches raised {type(raised).__name__}: {raised}")
        return Arrival(record, key, version, fingerprint, body, handler, event, touches, fault)


def skipped(arrival: Arrival) -> Arrival:
    """The event without an effect on rows."""
    return arrival._replace(handler=None, event=None, touches=(), fault=None, overruled=True)


def key_of(name: bytes) -> str:
    """The key as text. Raises UnicodeDecodeError, and ForeignRecordError for one that no database index takes."""
    if len(name) > KEY_BYTES_MAX or b"\0" in name:
        raise ForeignRecordError(f"its key has {len(name)} bytes (at most {KEY_BYTES_MAX} are taken) or holds U+0000")
    return name.decode()


def control_of(record: Record) -> Control | Foreign:
    """What a record with the control key says; Foreign if it can't be read. Raises NewerFormatError."""
    kind = next((value for name, value in record.headers if name == CONTROL_HEADER), b"")
    try:
        return Control(record, decode_control(kind, record.value or b""))
    except NewerFormatError:
        raise
    except TruecopyError as raised:
        return Foreign(record, f"a control record that can't be read: {raised}")
