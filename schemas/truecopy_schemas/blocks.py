"""Many bodies of one flat schema decoded at once, as columns: the fast way, which must tell what the slow one tells.

The bodies are joined under the header of an Avro object container and read by polars. Inside of such a block nobody knows where
a body ends, so one damaged body would shift all that follow, in silence. Therefore each row's length is computed again from its
values and held against its body's. Logical types are read as the plain type beneath them and judged here, because polars and
fastavro differ on a boolean of 2, a date out of range, an unknown enum symbol. Whatever is not exactly as it should be is
answered by None: decode those bodies one by one, which finds the culprit.

Eligible are flat records of scalars, each perhaps with null. Needs the extra `fast`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from io import BytesIO
from typing import Any, NamedTuple
from uuid import UUID

import fastavro
import orjson

from truecopy_schemas.avro_schema import AvroSchema
from truecopy_schemas.limits import LONG_MAX, VARINT_BYTES_MAX

try:
    import polars
except ImportError:  # without the extra every body is decoded by itself
    polars = None  # type: ignore[assignment]

__all__ = ["BlockDecoder", "Columns"]

_MARKER = b"truecopy/block/1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_MICROSECOND = timedelta(microseconds=1)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_MICROS = ((_FIRST - _EPOCH) // _MICROSECOND, (_LAST - _EPOCH) // _MICROSECOND)
_DAYS = (date.min.toordinal() - _EPOCH_DAY, date.max.toordinal() - _EPOCH_DAY)
_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_VARINT_GROUPS = range(1, VARINT_BYTES_MAX)
_BRANCHES = {0, 2}

_Values = list[Any]


class _Column(NamedTuple):
    """How one field is read: its type in the block, what all its values must fulfil, and the way to Python's values."""

    wire: str
    optional: bool
    sound: Callable[[Any], Any] | None
    convert: Callable[[_Values], _Values] | None


@dataclass(frozen=True, slots=True)
class Columns:
    """Decoded bodies. Values are those of `Decoder.decode`: enums as their symbols, times in UTC."""

    _frame: Any
    _fields: dict[str, tuple[str, _Column]]

    def versions(self) -> list[int]:
        found: list[int] = self._frame["f0"].to_list()
        return found

    def values(self, field: str, rows: Sequence[int]) -> _Values:
        """The field's values in these rows."""
        name, column = self._fields[field]
        found: _Values = self._frame[name].gather(rows).to_list()
        if column.convert is None:
            return found
        if not column.optional:
            return column.convert(found)
        present = iter(column.convert([value for value in found if value is not None]))
        return [None if value is None else next(present) for value in found]

    def numbers(self, field: str, rows: Sequence[int]) -> list[int | None]:
        """A timestamp field in these rows, in microseconds since 1970."""
        found: list[int | None] = self._frame[self._fields[field][0]].gather(rows).to_list()
        return found

    def holds_nul(self, field: str) -> bool:
        """Whether any value of a string field holds U+0000."""
        return bool(self._frame[self._fields[field][0]].str.contains("\0", literal=True).any())


class BlockDecoder:
    """Decodes the bodies of one writer's schema. Make it with `of`."""

    def __init__(self, columns: dict[str, _Column]) -> None:
        named = [(f"f{at}", column) for at, column in enumerate(columns.values())]
        self._fields = dict(zip(columns, named, strict=True))
        types = [{"name": name, "type": ["null", c.wire] if c.optional else c.wire} for name, c in named]
        schema = {"type": "record", "name": "Block", "fields": types}
        header = BytesIO(b"Obj\x01")
        header.seek(0, 2)
        metadata = {"avro.schema": orjson.dumps(schema), "avro.codec": b"null"}
        fastavro.schemaless_writer(header, {"type": "map", "values": "bytes"}, metadata)
        self._header = header.getvalue() + _MARKER

    @classmethod
    def of(cls, schema: AvroSchema) -> BlockDecoder | None:
        """The decoder of an event's schema; None where it is not eligible, or the extra is not installed."""
        if polars is None:
            return None
        named: dict[str, Any] = {}
        columns = {field["name"]: _column(field["type"], named, schema.get("namespace", "")) for field in schema["fields"]}
        if None in columns.values() or list(columns)[:2] != ["_version", "_tx"]:
            return None
        columns["_version"] = _Column("long", False, _within(1, LONG_MAX), None)
        return cls({name: column for name, column in columns.items() if column is not None})

    def decode(self, bodies: Sequence[bytes]) -> Columns | None:
        """The bodies as columns, or None: decode them one by one."""
        data = b"".join(bodies)
        block = BytesIO(b"".join((self._header, _long(len(bodies)), _long(len(data)), data, _MARKER)))
        try:
            frame = polars.read_avro(block)
        except KeyboardInterrupt:
            raise
        except BaseException:  # polars' panics are no Exceptions; whatever it is, the slow way tells it by the body
            return None
        if frame.height != len(bodies):
            return None
        lengths = polars.Series(list(map(len, bodies)), dtype=polars.Int64)
        ends = lengths.cum_sum()
        place = ends - lengths
        for name, column in self._fields.values():
            values = frame[name]
            # polars takes every branch of a union but the first for the second; both branches that there are have one byte.
            branches = (
                set(map(data.__getitem__, place.to_list())) if column.optional and values.null_count() < len(values) else ()
            )
            if not _BRANCHES.issuperset(branches):
                return None
            if column.sound is not None and not column.sound(values).all():
                return None
            place = place + _length(values, column)
            if place[-1] > len(data):
                return None
        return Columns(frame, self._fields) if place.equals(ends, check_names=False) else None


def _column(avro: Any, named: dict[str, Any], namespace: str) -> _Column | None:
    """None for a type that is not eligible. `named` gathers the enums, which are spelled out at their first use only."""
    optional = isinstance(avro, list)
    if optional:
        if len(avro) != 2 or avro[0] != "null":
            return None
        avro = avro[1]
    avro = named.get(avro, avro) if isinstance(avro, str) else avro
    kind, logical = (avro["type"], avro.get("logicalType")) if isinstance(avro, dict) else (avro, None)
    if logical is None and kind in ("string", "bytes", "double", "float"):
        return _Column(kind, optional, None, None)
    if logical is None and kind in ("int", "long"):
        return _Column("long", optional, None, None)
    if kind == "boolean":  # its byte, 0 or 1, is the zigzag number 0 or -1
        return _Column("long", optional, _within(-1, 0), lambda values: [value == -1 for value in values])
    if kind == "enum":
        symbols: list[str] = avro["symbols"]
        named |= {avro["name"]: avro, f"{avro.get('namespace', namespace)}.{avro['name']}": avro}
        return _Column("long", optional, _within(0, len(symbols) - 1), lambda values: [symbols[at] for at in values])
    match kind, logical:
        case "int", "date":
            return _Column("long", optional, _within(*_DAYS), _dates)
        case "long", "timestamp-micros":
            return _Column("long", optional, _within(*_MICROS), _datetimes)
        case "string", "uuid":
            return _Column("string", optional, lambda column: column.str.contains(_UUID), lambda v: [UUID(text) for text in v])
        case "bytes", "decimal":
            return _Column("bytes", optional, *_decimals(avro["precision"], avro.get("scale", 0)))
    return None


def _within(low: int, high: int) -> Callable[[Any], Any]:
    return lambda column: (column >= low) & (column <= high)


def _dates(values: _Values) -> _Values:
    return [date.fromordinal(value + _EPOCH_DAY) for value in values]


def _datetimes(values: _Values) -> _Values:
    return [_EPOCH + timedelta(0, 0, value) for value in values]


def _decimals(precision: int, scale: int) -> tuple[Callable[[Any], Any], Callable[[_Values], _Values]]:
    context, limit = Context(prec=precision), int(10**precision)

    def convert(values: _Values) -> _Values:
        return [context.scaleb(Decimal(int.from_bytes(value, signed=True)), -scale) for value in values]

    def fits(value: bytes) -> bool:  # fastavro rounds a number that has more digits than the schema states
        return abs(int.from_bytes(value, signed=True)) < limit

    return lambda column: column.map_elements(fits, polars.Boolean), convert


def _length(values: Any, how: _Column) -> Any:
    """The bytes that each of these values takes in a body."""
    if how.wire in ("string", "bytes"):
        size = (values.str.len_bytes() if how.wire == "string" else values.bin.size()).cast(polars.Int64)
        taken = size + _varint(size)
    elif how.wire in ("double", "float"):
        taken = values.is_not_null().cast(polars.Int64) * (8 if how.wire == "double" else 4)
    else:
        taken = _varint(polars.select(polars.when(values < 0).then(-(values + 1)).otherwise(values)).to_series())
    return taken.fill_null(0) + 1 if how.optional else taken


def _varint(size: Any) -> Any:
    """The bytes of zigzag numbers, given if not negative, else their complements."""
    largest = size.max() or 0
    taken = size * 0 + 1
    for group in _VARINT_GROUPS:
        if largest < (bound := 1 << (7 * group - 1)):
            break
        taken = taken + (size >= bound).cast(polars.Int64)
    return taken


def _long(value: int) -> bytes:
    assert 0 <= value <= LONG_MAX
    out = BytesIO()
    fastavro.schemaless_writer(out, "long", value)
    return out.getvalue()
