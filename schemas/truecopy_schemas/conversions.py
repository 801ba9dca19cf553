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

__all__ = ["plain", "typed"]

_Converter: TypeAlias = Callable[[Any], Any]
_R = TypeVar("_R", bound=Record)


def plain(record: Record) -> dict[str, Any]:
    """A record as the dict that fastavro writes. The caller has validated it."""
    values = record.__dict__.copy()
    for name, convert in _converters(type(record), _to_plain):
        values[name] = convert(values[name])
    return values


def typed(cls: type[_R], values: dict[str, Any]) -> _R:
    """A record from the dict that fastavro has read, which it takes over. Nothing is validated.

    The schema has done that: values have the types of the fields, though the bounds that only
    the class declares (ge, le, lengths) are not looked at again.
    """
    for name, convert in _converters(cls, _to_typed):
        values[name] = convert(values[name])
    record = cls.__new__(cls)
    _set(record, "__dict__", values)
    _set(record, "__pydantic_fields_set__", set(values))
    _set(record, "__pydantic_extra__", None)
    _set(record, "__pydantic_private__", None)
    return record


_set = object.__setattr__  # a frozen model refuses its own


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
        return None if convert is None else lambda value: None if value is None else convert(value)
    if origin is list:
        convert = _converter(arguments[0], leaf)
        return None if convert is None else lambda value: [convert(item) for item in value]
    if origin is dict:
        convert = _converter(arguments[1], leaf)
        return None if convert is None else lambda value: {key: convert(item) for key, item in value.items()}
    if isinstance(annotation, type) and issubclass(annotation, Enum | Record):
        return leaf(annotation)
    return None


def _to_plain(cls: type[Enum] | type[Record]) -> _Converter:
    return plain if issubclass(cls, Record) else lambda member: member.value


def _to_typed(cls: type[Enum] | type[Record]) -> _Converter:
    if issubclass(cls, Record):
        return lambda values: typed(cls, values)
    return {member.value: member for member in cls}.__getitem__
