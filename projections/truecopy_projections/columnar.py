"""Reading a batch as columns, for projections that copy: the fast way to a plan, taken by whole batches or not at all.

Bodies are decoded as one block for each schema. At the first thing out of the ordinary (a key or a value that is not one of
ours, a body that does not decode, a text that no column takes, a reducer of the user's) the answer is None, and the batch is
read record by record, which finds out what it is.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from math import isnan
from operator import itemgetter
from typing import Annotated, Any, NamedTuple

from truecopy_bus.record import Record
from truecopy_bus.sql import Kind
from truecopy_projections.arrival import Control, Reading, Writer, control_of
from truecopy_projections.columns import Field, encoded, encoded_times, field_of
from truecopy_projections.errors import ProjectionError
from truecopy_projections.projection import Handler, Projection
from truecopy_schemas import Event
from truecopy_schemas.avro_schema import AvroSchema, avro_schema
from truecopy_schemas.blocks import BlockDecoder, Columns
from truecopy_schemas.codec import read_version
from truecopy_schemas.control import CONTROL_KEY
from truecopy_schemas.defaults import default_from_json
from truecopy_schemas.errors import UndecodableError
from truecopy_schemas.framing import FRAME_BYTES
from truecopy_schemas.limits import KEY_BYTES_MAX
from truecopy_schemas.upcasting import UpcastingDecoder

__all__ = ["Batch", "Columnar", "Part", "Rows", "Run"]

_Values = Sequence[Any]

# One call each for a whole batch, and no bytecode for each of its records.
_PARTITION, _KEY, _VALUE = (itemgetter(Record._fields.index(name)) for name in ("partition", "key", "value"))
_HEAD, _BODY = itemgetter(slice(FRAME_BYTES)), itemgetter(slice(FRAME_BYTES, None))


class Source(NamedTuple):
    """Where a field of the row comes from: the event's field of that name, a constant (one value), or else the source key."""

    event: str = ""
    kind: Kind = Kind.TEXT
    constant: tuple[Any, ...] = ()
    store: Callable[[Any], Any] | None = None

    def values(self, columns: Columns, at: Sequence[int], keys: Sequence[str]) -> _Values:
        if not self.event:
            return self.constant * len(at) or keys
        found, store = columns.values(self.event, at), self.store
        if store is None:
            return found
        if self.kind is Kind.REAL and None not in found and not any(map(isnan, found)):
            return list(map((0.0).__add__, found))  # there is one zero
        return [None if value is None else store(value) for value in found]

    def encoded(self, columns: Columns, at: Sequence[int], keys: Sequence[str]) -> list[bytes]:
        """The values' canonical bytes."""
        if self.event and self.kind is Kind.TIMESTAMP:
            return encoded_times(columns.numbers(self.event, at))
        return encoded(self.values(columns, at, keys))


class Way(NamedTuple):
    """What is done with the events of one schema. Without `block`, nothing of a body but its version is read.

    `sources` are the fields of the row, None where the row is removed. Without `effect` rows stay as they are. `texts` are
    fields that must not hold U+0000.
    """

    fingerprint: bytes
    block: BlockDecoder | None = None
    sources: tuple[Source, ...] | None = None
    texts: tuple[str, ...] = ()
    effect: bool = True


class Rows(NamedTuple):
    """Events of one schema, their bodies as columns."""

    way: Way
    columns: Columns | None


class Run(NamedTuple):
    """Change events that follow each other in a partition, from `start` to before `end` among those of the batch.

    `position` is the next offset after them and after the `control` record that ends them, if one does.
    """

    start: int
    end: int
    position: int
    control: Control | None


class Part(NamedTuple):
    partition: int
    runs: Sequence[Run]


class Batch(NamedTuple):
    """The change events of a batch, ordered by partition and offset, in parallel columns; `keys` has each name's key.

    `rows` are the same events by schema; `which` of them an event belongs to, and at which `place` there.
    """

    parts: Sequence[Part]
    names: Sequence[bytes]
    keys: Mapping[bytes, str]
    versions: Sequence[int]
    fingerprints: Sequence[bytes]
    bodies: Sequence[bytes]
    rows: Sequence[Rows]
    which: Sequence[int]
    place: Sequence[int]


class Columnar:
    """Reads batches for one projection, by the schemas that `reading` has learned."""

    def __init__(self, projection: Projection[Any], reading: Reading) -> None:
        self._projection, self._reading = projection, reading
        self._ways: dict[int, Way | None] = {}

    def read(self, records: Sequence[Record]) -> Batch | None:
        """The batch as columns, or None. Raises NewerFormatError."""
        found = _parted(records)
        if found is None:
            return None
        parts, ordered = found
        names: list[Any] = list(map(_KEY, ordered))
        values: list[Any] = list(map(_VALUE, ordered))
        keys = _keys(set(names))
        if keys is None or None in values:
            return None
        heads, bodies = list(map(_HEAD, values)), list(map(_BODY, values))
        ways = {head: self._way(head) for head in set(heads)}
        rows: list[Rows] = []
        total = len(bodies)
        versions, fingerprints, which = [0] * total, [b""] * total, [0] * total
        place: list[int] = [0] * total
        for number, (head, way) in enumerate(ways.items()):
            at: Sequence[int] = range(total) if len(ways) == 1 else [index for index, each in enumerate(heads) if each == head]
            some = _decoded(way, [bodies[index] for index in at])
            if way is None or some is None:
                return None
            rows.append(some[0])
            if len(ways) == 1:
                versions, fingerprints, place = some[1], [way.fingerprint] * total, list(at)
                break
            for row, (index, version) in enumerate(zip(at, some[1], strict=True)):
                versions[index], fingerprints[index], which[index], place[index] = version, way.fingerprint, number, row
        return Batch(parts, names, keys, versions, fingerprints, bodies, rows, which, place)

    def _way(self, head: bytes) -> Way | None:
        schema_id = int.from_bytes(head[1:])
        if len(head) < FRAME_BYTES or head[0] or not self._reading.knows(schema_id):
            return None
        if schema_id not in self._ways:
            self._ways[schema_id] = _way_of(self._projection, self._reading.writer(schema_id))
        return self._ways[schema_id]


def _parted(records: Sequence[Record]) -> tuple[list[Part], list[Record]] | None:
    """The batch by partition, cut at its control records; None if one of those can't be read."""
    by_partition: dict[int, list[Record]] = {}
    for partition, some in groupby(records, _PARTITION):
        by_partition.setdefault(partition, []).extend(some)
    ordered: list[Record] = []
    parts = []
    for partition, found in by_partition.items():
        runs, start, names = [], 0, list(map(_KEY, found))
        for _ in range(names.count(CONTROL_KEY)):
            end = names.index(CONTROL_KEY, start)
            control = control_of(found[end])
            if not isinstance(control, Control):
                return None
            first = len(ordered)
            ordered += found[start:end]
            runs.append(Run(first, len(ordered), found[end].offset + 1, control))
            start = end + 1
        first = len(ordered)
        ordered += found[start:]
        runs.append(Run(first, len(ordered), found[-1].offset + 1, None))
        parts.append(Part(partition, runs))
    return parts, ordered


def _keys(names: set[bytes | None]) -> dict[bytes, str] | None:
    try:
        keys = {name: name.decode() for name in names if name is not None}
    except UnicodeDecodeError:
        return None
    sound = len(keys) == len(names) and max(map(len, keys), default=0) <= KEY_BYTES_MAX and b"\0" not in b"".join(keys)
    return keys if sound else None


def _decoded(way: Way | None, bodies: Sequence[bytes]) -> tuple[Rows, list[int]] | None:
    """Bodies of one schema as columns, and their versions; a version that can't be read is 0, which none is."""
    if way is None:
        return None
    if way.block is None:
        return Rows(way, None), list(map(_version, bodies))
    columns = way.block.decode(bodies)
    if columns is None or any(map(columns.holds_nul, way.texts)):
        return None
    return Rows(way, columns), columns.versions()


def _version(body: bytes) -> int:
    try:
        return read_version(body)
    except UndecodableError:
        return 0


def _way_of(projection: Projection[Any], writer: Writer) -> Way | None:
    """None where only the reducer knows what to do, or a field's type is not the row's own."""
    handler = writer.handler
    if writer.fault or projection.key:
        return None
    if handler is None:
        return Way(writer.fingerprint, effect=False)
    if writer.decoder is None:
        return Way(writer.fingerprint)
    if isinstance(writer.decoder, UpcastingDecoder):
        return None  # only its upcaster knows what the event says
    if not handler.copies or (block := BlockDecoder.of(writer.decoder.schema)) is None:
        return None
    sources = _sources(projection, handler, writer.decoder.schema)
    if sources is None:
        return None
    pairs = zip(sources, projection.fields, strict=True)
    texts = tuple(
        source.event for source, field in pairs if source.event and field.column.kind is Kind.TEXT and not field.restore
    )
    return Way(writer.fingerprint, block, sources, texts)


def _sources(projection: Projection[Any], handler: Handler, schema: AvroSchema) -> tuple[Source, ...] | None:
    """Evolution goes so far: the writer's fields have the types that the event class states, or are new and have a default."""
    written = {field["name"]: field["type"] for field in schema["fields"]}
    own = {field["name"]: field for field in avro_schema(handler.event)["fields"]}
    if any(name in written and written[name] != field["type"] for name, field in own.items()):
        return None
    found = []
    for field in projection.fields:
        name, store = field.column.name, field.store if field.column.kind in (Kind.REAL, Kind.DECIMAL) else None
        if name == handler.key_field:
            if field.column.kind is not Kind.TEXT or field.restore is not None:
                return None
            found.append(Source())
            continue
        if not _same(field, _declared(handler.event, name)):
            return None
        if name in written:
            found.append(Source(event=name, kind=field.column.kind, store=store))
        else:
            default = default_from_json(own[name]["type"], own[name]["default"])
            found.append(Source(constant=(default if default is None or store is None else store(default),)))
    return tuple(found)


def _declared(event: type[Event], name: str) -> Field | None:
    info = event.model_fields[name]
    try:
        return field_of(name, Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation)
    except ProjectionError:
        return None


def _same(row: Field, event: Field | None) -> bool:
    """Whether every value of the event's field is one that the row's field takes, as it is or rounded to its own scale."""
    if event is None or row.column.kind is not event.column.kind or row.restore is not event.restore:
        return False
    if row.column.kind is Kind.JSON or (event.column.nullable and not row.column.nullable):
        return False
    return row.column.scale == event.column.scale and row.column.precision >= event.column.precision
