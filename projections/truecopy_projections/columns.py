"""The types of a row's fields: which column holds each, and the one form in which a value is hashed and stored.

A value is brought to its canonical form before it is hashed *and* before it is stored, so that storing is the identity and
a hash over what is read back can be compared with the hash over what was meant. Decimals get the column's scale (half to
even), times are UTC to the microsecond, there is one NaN and no negative zero, maps are ordered, enums are their values,
and U+0000 is refused because PostgreSQL has no place for it.

Fields are hashed with a type letter and a length in front, so that no value can reach into its neighbour.
"""

import struct
import types
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from enum import Enum
from math import isnan, nan
from operator import itemgetter
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin
from uuid import UUID

import orjson
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from truecopy_bus.sql import Column, Kind
from truecopy_projections.errors import ProjectionError, RowRejectedError

__all__ = ["Field", "encode", "encoded", "encoded_times", "field_of"]

_INT64 = range(-(1 << 63), 1 << 63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Field(NamedTuple):
    """A row's field: its column, and the ways to the canonical value and back to the declared type."""

    column: Column
    store: Callable[[Any], Any]
    restore: Callable[[Any], Any] | None


def field_of(name: str, annotation: Any) -> Field:
    """The field that `annotation` declares. Raises ProjectionError for a type that has no column."""
    kind, nullable = _without_none(annotation)
    precision, scale = 0, 0
    if get_origin(kind) is Annotated:
        inner, *notes = get_args(kind)
        kind, inside = _without_none(inner)
        nullable = nullable or inside
        for note in notes:
            for part in note.metadata if isinstance(note, FieldInfo) else [note]:
                precision = getattr(part, "max_digits", None) or precision
                scale = getattr(part, "decimal_places", None) or scale
    store, restore, column_kind = _ways(name, kind, precision, scale)
    column = Column(name=name, kind=column_kind, nullable=nullable, precision=precision, scale=scale)
    return Field(column, store, restore)


def encode(value: Any) -> bytes:
    """A canonical value as bytes for a hash: a letter for its type, a 4-byte length, its content."""
    kind = type(value)
    if kind is str:
        letter, content = b"s", value.encode()
    elif value is None:
        letter, content = b"n", b""
    elif kind is int:
        letter, content = b"i", b"%d" % value
    elif kind is bool:
        letter, content = b"b", b"1" if value else b"0"
    elif kind is Decimal:
        letter, content = b"d", format(value, "f").encode()
    elif kind is float:
        letter, content = b"f", struct.pack(">d", nan if value != value else value)
    elif kind is datetime:
        since = value - _EPOCH
        letter, content = b"t", b"%d" % ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)
    elif kind is date:
        letter, content = b"y", value.isoformat().encode()
    elif isinstance(value, UUID):  # asyncpg has a subclass of its own
        letter, content = b"u", value.bytes
    elif kind is bytes:
        letter, content = b"x", value
    else:
        raise RowRejectedError(f"a stored value of type {kind.__name__} has no canonical form")
    return b"%c%b%b" % (letter, len(content).to_bytes(4), content)


def encoded(values: Sequence[Any]) -> list[bytes]:
    """`encode` of a column's values, without bytecode for each where they are all of one of the common types."""
    kinds = set(map(type, values))
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is str:
        return _prefixed(b"s", list(map(str.encode, values)))
    if kind is int:
        return _prefixed(b"i", list(map(b"%d".__mod__, values)))
    if kind is bytes:
        return _prefixed(b"x", values)
    if kind is bool:
        return list(map({True: encode(True), False: encode(False)}.__getitem__, values))
    if kind is float:
        return _encoded_reals(values)
    if kind is datetime:
        return encoded_times([(value - _EPOCH) // _MICROSECOND for value in values])
    return [encode(value) for value in values]


def encoded_times(micros: Sequence[int | None]) -> list[bytes]:
    """`encoded` of datetimes that are given in microseconds since 1970."""
    if None in micros:
        return [encode(None) if value is None else encoded_times([value])[0] for value in micros]
    return _prefixed(b"t", list(map(b"%d".__mod__, micros)))


def _encoded_reals(values: Sequence[float]) -> list[bytes]:
    if any(map(isnan, values)):  # all NaNs are one
        values = [nan if value != value else value for value in values]
    packed = struct.pack(f">{len(values)}d", *values)
    return list(map((b"f" + (8).to_bytes(4)).__add__, map(itemgetter(0), struct.iter_unpack("8s", packed))))


def _prefixed(letter: bytes, contents: Sequence[bytes]) -> list[bytes]:
    lengths = list(map(len, contents))
    heads = {length: letter + length.to_bytes(4) for length in set(lengths)}
    return list(map(bytes.__add__, map(heads.__getitem__, lengths), contents))


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json(adapter: TypeAdapter[Any], value: Any) -> bytes:
    return orjson.dumps(adapter.dump_python(value, mode="json", warnings="error"), option=orjson.OPT_SORT_KEYS)


def _holds_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_nul(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(map(_holds_nul, value))
    return isinstance(value, str) and "\0" in value


def _holds_naive(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_naive(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return any(map(_holds_naive, value))
    return isinstance(value, datetime) and value.tzinfo is None


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [arg for arg in get_args(annotation) if arg is not type(None)]
        if len(rest) == 1 and len(rest) < len(get_args(annotation)):
            return rest[0], True
    return annotation, False


def _ways(name: str, kind: Any, precision: int, scale: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any] | None, Kind]:
    def wrong(value: object, wanted: str) -> RowRejectedError:
        return RowRejectedError(f"field {name!r}: seen {value!r:.80}, expected {wanted}; change the reducer")

    def text(value: Any) -> str:
        if type(value) is not str or "\0" in value or not (value.isascii() or _is_unicode(value)):
            raise wrong(value, "a str without U+0000 and without lone surrogates")
        return value

    def integer(value: Any) -> int:
        if type(value) is not int or value not in _INT64:
            raise wrong(value, "an int of 64 bits")
        return value

    def real(value: Any) -> float:
        if type(value) not in (float, int):
            raise wrong(value, "a float")
        return nan if value != value else float(value) + 0.0

    def boolean(value: Any) -> bool:
        if type(value) is not bool:
            raise wrong(value, "a bool")
        return value

    def binary(value: Any) -> bytes:
        if type(value) is not bytes:
            raise wrong(value, "bytes")
        return value

    exponent = Decimal(1).scaleb(-scale)
    context = Context(prec=precision or 1, rounding=ROUND_HALF_EVEN)

    def decimal(value: Any) -> Decimal:
        if type(value) is int:
            value = Decimal(value)
        if type(value) is not Decimal or not value.is_finite():
            raise wrong(value, "a finite Decimal")
        try:
            found: Decimal = value.quantize(exponent, context=context)
        except InvalidOperation:
            raise wrong(value, f"a Decimal of {precision} digits, {scale} of them after the point") from None
        return found or exponent * 0  # there is one zero

    def day(value: Any) -> date:
        if type(value) is not date:
            raise wrong(value, "a date")
        return value

    def moment(value: Any) -> datetime:
        if type(value) is not datetime or value.tzinfo is None:
            raise wrong(value, "a datetime with a time zone")
        return value.astimezone(UTC)

    def uuid(value: Any) -> UUID:
        if not isinstance(value, UUID):
            raise wrong(value, "a UUID")
        return value

    plain: dict[Any, tuple[Callable[[Any], Any], Kind]] = {
        str: (text, Kind.TEXT),
        int: (integer, Kind.INTEGER),
        float: (real, Kind.REAL),
        bool: (boolean, Kind.BOOLEAN),
        bytes: (binary, Kind.BYTES),
        date: (day, Kind.DATE),
        datetime: (moment, Kind.TIMESTAMP),
        UUID: (uuid, Kind.UUID),
    }
    if kind is Decimal:
        if not precision:
            raise ProjectionError(
                f"field {name!r}: a Decimal needs its digits, as in Annotated[Decimal, Field(max_digits=12, decimal_places=2)]"
            )
        return decimal, None, Kind.DECIMAL
    if kind in plain:
        return plain[kind][0], None, plain[kind][1]
    if isinstance(kind, type) and issubclass(kind, Enum):
        if not all(isinstance(member.value, str) for member in kind):
            raise ProjectionError(f"field {name!r}: an Enum's values must be str; seen {kind.__name__}")
        return (lambda value: text(kind(value).value)), kind, Kind.TEXT
    record = isinstance(kind, type) and (issubclass(kind, BaseModel) or is_dataclass(kind))
    if get_origin(kind) in (list, dict, tuple) or record:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        described = str(adapter.json_schema())
        may_hold_times = "date-time" in described or "Any" in str(kind)
        if "uniqueItems" in described:
            raise ProjectionError(f"field {name!r}: a set has no order to be hashed in; use a sorted list")

        def document(value: Any) -> str:
            try:
                found = _json(adapter, value)
                # What reads back otherwise (a NaN becomes null) would make storing something else than the identity.
                again = _json(adapter, adapter.validate_json(found))
            except (ValueError, TypeError) as fault:
                raise wrong(value, f"a value that JSON can hold ({fault!s:.200})") from None
            if again != found or _holds_nul(orjson.loads(found)):
                raise wrong(value, "a value that JSON gives back unchanged, without U+0000")
            if may_hold_times and _holds_naive(adapter.dump_python(value)):
                raise wrong(value, "datetimes with a time zone")
            return found.decode()

        return document, adapter.validate_json, Kind.JSON
    raise ProjectionError(
        f"field {name!r}: {kind!r} has no column; use str, int, float, bool, bytes, Decimal, date, datetime, UUID, "
        "a str Enum, a list, a dict, a dataclass, or one of them or None"
    )
