"""Between the values of an event and the plain values that fastavro writes and reads.

Only enums and nested records differ: fastavro knows symbols and dicts. A converter is built once
for each annotation, and is None where nothing differs, so that a flat event costs nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_origin

from truecopy_schemas.avro_schema import optional_of
from truecopy_schemas.record import Record

__all__ = ["builder", "plain"]

_Converter: TypeAlias = Callable[[Any], Any]
_R = TypeVar("_R", bound=Record)


def plain(record: Record) -> dict[str, Any]:
    """A record as the dict that fastavro writes. The caller has validated it."""
    values = record.__dict__.copy()
    for name, convert in _converters(type(record), _to_plain):
        values[name] = convert(values[name])
    return values


@cache
def builder(cls: type[_R]) -> Callable[[dict[str, Any]], _R]:
    """What makes a record of the dict that fastavro has read, which it takes over, unvalidated.

    The schema has validated it: values have the types of the fields, though the bounds that only
    the class declares (ge, le, lengths) are not looked at again.
    """
    converters = _converters(cls, _to_typed)
    new, put = object.__new__, object.__setattr__  # a frozen model refuses its own __setattr__

    def build(values: dict[str, Any]) -> _R:
        for name, convert in converters:
            values[name] = convert(values[name])
        record = new(cls)
        put(record, "__dict__", values)
        put(record, "__pydantic_fields_set__", set(values))
        put(record, "__pydantic_extra__", None)
        put(record, "__pydantic_private__", None)
        return record

    return build


@cache
def _converters(
    cls: type[Record], leaf: Callable[[type[Enum] | type[Record]], _Converter]
) -> tuple[tuple[str, _Converter], ...]:
    found = ((name, _converter(info.annotation, leaf)) for name, info in cls.model_fields.items())
    return tuple((name, convert) for name, convert in found if convert is not None)


def _converter(annotation: Any, leaf: Callable[[type[Enum] | type[Record]], _Converter]) -> _Converter | None:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _converter(arguments[0], leaf)
    if (inner := optional_of(annotation)) is not None:
        convert = _converter(inner, leaf)
        return convert and _over_optional(convert)
    if origin in (list, dict):
        convert = _converter(arguments[-1], leaf)
        return convert and (_over_list(convert) if origin is list else _over_dict(convert))
    if isinstance(annotation, type) and issubclass(annotation, Enum | Record):
        return leaf(annotation)
    return None


def _to_plain(cls: type[Enum] | type[Record]) -> _Converter:
    return plain if issubclass(cls, Record) else lambda member: member.value


def _to_typed(cls: type[Enum] | type[Record]) -> _Converter:
    if issubclass(cls, Record):
        return builder(cls)
    return {member.value: member for member in cls}.__getitem__


def _over_optional(convert: _Converter) -> _Converter:
    return lambda value: None if value is None else convert(value)


def _over_list(convert: _Converter) -> _Converter:
    return lambda values: [convert(value) for value in values]


def _over_dict(convert: _Converter) -> _Converter:
    return lambda values: {key: convert(value) for key, value in values.items()}
