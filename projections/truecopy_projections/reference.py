"""The independent fold: what the rows must be, by the plainest way there is.

It reads the log from its beginning, one record at a time, into dicts. No batches, no columns, nothing of worker or plan: when
its rows and a replica's are equal, two programs agree, not one with itself. It is slow on purpose and holds in memory all
rows of the partitions that it is asked for.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from truecopy_bus.errors import LogUnavailableError
from truecopy_bus.fold import DIGEST_MODULUS, UNKNOWN, Head, Verdict, fold
from truecopy_bus.limits import READ_RECORDS_MAX, READ_WAIT_S
from truecopy_bus.log import Log, Passing
from truecopy_bus.record import Record
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.amendment import NO_AMENDMENTS, Amendment, Amendments, Ruling, schema_of
from truecopy_projections.limits import REPLAY_STALL_S
from truecopy_projections.projection import Change, Handler, Projection, SubKey
from truecopy_schemas import Event, avro_schema
from truecopy_schemas.avro_schema import canonical
from truecopy_schemas.codec import Decoder, RecordDecoder, read_version
from truecopy_schemas.control import CONTROL_KEY
from truecopy_schemas.errors import (
    ForeignRecordError,
    InvalidSchemaError,
    UndecodableError,
    UnknownSchemaError,
)
from truecopy_schemas.framing import unframe
from truecopy_schemas.limits import KEY_BYTES_MAX
from truecopy_schemas.upcasting import Upcaster, upcast, upcast_classes, upcaster_of

__all__ = ["Fold", "Reference", "Rows", "Watch", "Way", "fed", "reduced", "replay"]

Rows = dict[SubKey, tuple[Any, ...]]
"""The rows of a key: canonical values by sub key."""


Way = tuple[Handler, Decoder[Any] | None, list[Upcaster]]
"""What reduces a writer's events, what decodes them (None if nothing can), and the steps to the type that is reduced."""
_Schema = tuple[bytes, Way | None, bool]
"""A writer's fingerprint, how its events come to a reducer, and whether they delete."""


@dataclass(slots=True)
class Reference:
    """What the log yields up to some offsets: rows and heads by source key, count and input digest by partition.

    `applied` is the version that a key's rows are at; lower than its head's where its next event can't be applied. `conflicts`
    are keys with two events of one version, `read` the records of a partition. Of a foreign topic, `unknown` are ids without
    which rows are not what they were, and `strays` keys that lie in two partitions.
    """

    rows: dict[str, Rows] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)
    applied: dict[str, int] = field(default_factory=dict)
    partition: dict[str, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    digests: dict[int, int] = field(default_factory=dict)
    fingerprints: set[bytes] = field(default_factory=set)
    read: dict[int, int] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)
    strays: set[str] = field(default_factory=set)
    conflicts: set[str] = field(default_factory=set)


class Watch(Protocol):
    """Who looks on while a log is folded."""

    def wants(self, record: Record) -> bool:
        """Told of every record before it is folded; one that is not wanted is left out."""
        ...

    def step(self, key: str, version: int, rows: Rows) -> None:
        """The rows that an applied version of a key left. They are not changed any more."""
        ...


async def replay(
    projection: Projection[Any],
    log: Log,
    schemas: SchemaSource,
    *,
    topic: str,
    upto: Mapping[int, int],
    stops: Mapping[str, int] | None = None,
    watch: Watch | None = None,
    amendments: Amendments = NO_AMENDMENTS,
) -> Reference:
    """Fold the log from offset 0 of each partition of `upto` to before the offset given there.

    `stops` names keys whose rows are to stay at a version, because the replica has parked them there; `amendments` are what
    was ruled for that replica. Raises PositionLostError when the log no longer begins at 0, LogUnavailableError when it stops
    giving records.
    """
    fold_one = (Fold if projection.foreign is None else ForeignFold)(projection, stops or {}, watch, amendments)
    return await fed(fold_one, log, schemas, topic=topic, upto=upto)


async def fed(
    fold_one: "Fold",
    log: Log,
    schemas: SchemaSource,
    *,
    topic: str,
    upto: Mapping[int, int],
    after: Mapping[int, int] | None = None,
) -> Reference:
    """What a fold makes of the log from offset 0 on, or from those of `after`, as replay says it."""
    watch = fold_one.watch
    at = dict.fromkeys(upto, 0) if after is None else {p: after.get(p, 0) for p in upto}
    reader = log.reader(topic)
    stalls_at = time.monotonic() + REPLAY_STALL_S
    try:
        while left := {p: offset for p, offset in at.items() if offset < upto[p]}:
            records = await reader.read(left, records_max=READ_RECORDS_MAX, wait_s=READ_WAIT_S)
            if records:
                stalls_at = time.monotonic() + REPLAY_STALL_S
            elif time.monotonic() > stalls_at:
                raise LogUnavailableError(log=topic, seen=f"no record for {REPLAY_STALL_S:.0f} s below offsets {dict(upto)}")
            for record in records:
                if record.offset < upto[record.partition]:
                    if watch is None or watch.wants(record):
                        await fold_one.learn(record, schemas)
                        fold_one.take(record)
                    fold_one.found.read[record.partition] = fold_one.found.read.get(record.partition, 0) + 1
                at[record.partition] = record.offset + 1
            if not records and isinstance(reader, Passing):
                # What is left may hold no record: markers of transactions, and what was aborted.
                at |= {p: max(at[p], offset) for p, offset in reader.passed().items() if p in left}
    finally:
        await reader.close()
    return fold_one.found


class Fold:
    """The state of a replay of an entity's topic."""

    def __init__(
        self, projection: Projection[Any], stops: Mapping[str, int], watch: Watch | None, amendments: Amendments
    ) -> None:
        self.projection, self.stops, self.watch, self.found = projection, stops, watch, Reference()
        self.amendments = amendments
        self.schemas: dict[int, _Schema | None] = {}
        self.pending: dict[str, dict[int, tuple[int, bytes]]] = {}
        self.stuck: set[str] = set()

    async def learn(self, record: Record, schemas: SchemaSource) -> None:
        if record.key == CONTROL_KEY or not record.value or len(record.value) < 5:
            return
        schema_id = int.from_bytes(record.value[1:5])
        if schema_id in self.schemas:
            return
        try:
            known = await schemas.schema(schema_id)
        except UnknownSchemaError:
            self.schemas[schema_id] = None
            return
        self.schemas[schema_id] = known.fingerprint, self._way(known.schema), bool(known.schema.get("truecopy.deletes"))

    def _way(self, schema: Mapping[str, Any]) -> Way | None:
        """How events of a writer's schema come to a reducer; None if to none.

        They are read by the class whose schema it is, or else by the one of its name that is handled or that nothing of that
        name follows. From there it goes step by step to the first class that is handled.
        """
        name, handlers = _full_name(schema), {handler.event: handler for handler in self.projection.handlers.values()}
        ways: dict[type[Event], list[Upcaster]] = {cls: [] for cls in handlers}
        for cls in upcast_classes():
            at: type[Event] = cls
            steps: list[Upcaster] = []
            while at not in handlers and (step := upcaster_of(at)) is not None:
                at, steps = step.new, [*steps, step]
            if at in handlers:
                ways[cls] = steps
        named = [cls for cls in ways if cls.__event_name__ == name]
        same = [cls for cls in named if canonical(avro_schema(cls)) == canonical(schema)]
        last = [cls for cls in named if all(step.new.__event_name__ != name for step in ways[cls])]
        found = same or last
        if not found:
            return None
        cls = found[0]
        handler = handlers[ways[cls][-1].new if ways[cls] else cls]
        try:
            sure = cls in handlers or len(found) == 1
            return handler, Decoder(dict(schema), cls) if sure else None, ways[cls]
        except InvalidSchemaError:
            return handler, None, []

    def take(self, record: Record) -> None:
        if record.key is None or record.value is None or b"\0" in record.key or len(record.key) > KEY_BYTES_MAX:
            return
        try:
            key = record.key.decode()
            schema_id, framed = unframe(record.value)
            body = bytes(framed)
            version = read_version(body)
        except (UnicodeDecodeError, ForeignRecordError, UndecodableError):
            return
        self.found.partition.setdefault(key, record.partition)
        if not self._event(record.partition, key, version, schema_id, body):
            self.pending.setdefault(key, {}).setdefault(version, (schema_id, body))
        while (waiting := self.pending.get(key, {}).pop(self._head(key).version + 1, None)) is not None:
            if not self._event(record.partition, key, self._head(key).version + 1, *waiting):
                self.pending[key][self._head(key).version + 1] = waiting
                break

    def _head(self, key: str) -> Head:
        return self.found.heads.get(key, UNKNOWN)

    def _event(self, partition: int, key: str, version: int, schema_id: int, body: bytes) -> bool:
        """Take one event; False if it has to wait for another."""
        schema = self.schemas[schema_id]
        if schema is None:
            return version <= self._head(key).version
        verdict, head = fold(self._head(key), key, version, schema[0], body)
        if verdict is Verdict.GAP:
            return False
        if verdict is Verdict.CONFLICT and self.amendments.about(key, version, schema[0], body) is None:
            self.stuck.add(key)
            self.found.conflicts.add(key)
        if verdict is Verdict.APPLY:
            self.found.fingerprints.add(schema[0])
            self._chain(partition, key, head)
            self.reduce(key, version, lambda rows: self._effect(rows, schema, body, Change(key, version, ())))
        return True

    def _chain(self, partition: int, key: str, head: Head) -> None:
        old = int.from_bytes(self._head(key).element)
        self.found.heads[key] = head
        self.found.counts[partition] = self.found.counts.get(partition, 0) + 1
        digest = self.found.digests.get(partition, 0) + int.from_bytes(head.element) - old
        self.found.digests[partition] = digest % DIGEST_MODULUS

    def _effect(self, rows: Rows, schema: _Schema, body: bytes, change: Change) -> Rows:
        fingerprint, way, deletes = schema
        if (ruling := self.amendments.about(change.key, change.version, fingerprint, body)) is not None:
            return self._ruled(rows, ruling, change)
        if way is None:
            return {} if deletes else rows
        return self.told_by(way, rows, body, change)

    def told_by(self, way: Way, rows: Rows, body: bytes, change: Change) -> Rows:
        handler, decoder, steps = way
        if decoder is None:
            raise UndecodableError("the projection's class can't read this writer's schema")
        return reduced(self.projection, rows, handler, upcast(decoder.decode_event(body), steps), change)

    def _ruled(self, rows: Rows, ruling: Amendment, change: Change) -> Rows:
        """The rows after an event that was amended: as they were, or as another body in its place leaves them."""
        if ruling.ruling is Ruling.SKIPPED:
            return rows
        schema = schema_of(ruling)
        if self.projection.foreign is not None:
            handler = self.projection.handlers[_full_name(schema)]
            return reduced(self.projection, rows, handler, RecordDecoder(schema).decode(ruling.body), change)
        way = self._way(schema)
        return rows if way is None else self.told_by(way, rows, ruling.body, change)

    def reduce(self, key: str, version: int, effect: Callable[[Rows], Rows]) -> None:
        if key in self.stuck or version > self.stops.get(key, version):
            self.stuck.add(key)
            return
        try:
            rows = effect(self.found.rows.get(key, {}))
        except KeyboardInterrupt:
            raise
        except BaseException:  # whatever the user's reducer raises, the key stays where it was, as it does in a replica
            self.stuck.add(key)
            return
        self.found.rows[key] = rows
        self.found.applied[key] = version
        if self.watch is not None:
            self.watch.step(key, version, rows)


class ForeignFold(Fold):
    """The state of a replay of a topic that others write: records are numbered as they come."""

    def __init__(
        self, projection: Projection[Any], stops: Mapping[str, int], watch: Watch | None, amendments: Amendments
    ) -> None:
        super().__init__(projection, stops, watch, amendments)
        self.decoders: dict[int, RecordDecoder | None] = {}

    async def learn(self, record: Record, schemas: SchemaSource) -> None:
        value = record.value or b""
        schema_id = int.from_bytes(value[1:5])
        if len(value) < 5 or value[0] or schema_id in self.decoders:
            return
        try:
            known = await schemas.schema(schema_id)
            self.found.fingerprints.add(known.fingerprint)
            self.decoders[schema_id] = RecordDecoder(known.schema)
        except UnknownSchemaError:
            return
        except InvalidSchemaError:
            self.decoders[schema_id] = None

    def take(self, record: Record) -> None:
        name, value = record.key, record.value
        if name is None or b"\0" in name or len(name) > KEY_BYTES_MAX:
            return
        try:
            key = name.decode()
        except UnicodeDecodeError:
            return
        if self.found.partition.setdefault(key, record.partition) != record.partition:
            self.found.strays.add(key)
        version = self._head(key).version + 1
        chained = b"null" if value is None else b"value", value or b""
        _, head = fold(self._head(key), key, version, *chained)
        self._chain(record.partition, key, head)
        change = Change(key, version, ())
        if (ruling := self.amendments.about(key, version, *chained)) is not None:
            self.reduce(key, version, lambda rows: self._ruled(rows, ruling, change))
        else:
            self.reduce(key, version, lambda rows: {} if value is None else self._told(rows, value, change))

    def _told(self, rows: Rows, value: bytes, change: Change) -> Rows:
        schema_id, body = unframe(value)
        if schema_id not in self.decoders:
            self.found.unknown.add(schema_id)
        decoder = self.decoders.get(schema_id)
        if decoder is None:
            raise UndecodableError("its schema is not known, or none of a record")
        handler = self.projection.handlers.get(decoder.name)
        return rows if handler is None else reduced(self.projection, rows, handler, decoder.decode(body), change)


def reduced(projection: Projection[Any], rows: Rows, handler: Handler, event: Any, change: Change) -> Rows:
    """The rows of a key after one event, as canonical values; `rows` stays as it was.

    Raises what the reducer or `touches` raises, RowRejectedError for a row that can't be stored, ValueError for another row
    than was asked for.
    """
    after = dict(rows)
    touched = projection.touched(handler, event, change)
    for sub in sorted(rows) if touched is None else touched:
        before = projection.restored(after[sub]) if sub in after else None
        row = handler.reduce(before, event, change._replace(row=sub))
        after.pop(sub, None)
        if row is not None:
            values = projection.stored(row)
            if projection.sub_key(values) != sub:
                raise ValueError(f"asked for row {sub}, the reducer returned row {projection.sub_key(values)}")
            after[sub] = values
    return after


def _full_name(schema: Mapping[str, Any]) -> str:
    return f"{schema['namespace']}.{schema['name']}" if schema.get("namespace") else str(schema["name"])
