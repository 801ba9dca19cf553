"""Default values of fields, from Python to Avro's JSON form and back to what a reader hands out.

Avro states a default in JSON: bytes and decimals as text with one character a byte, dates and
times as numbers. fastavro hands that JSON out as it stands, and the same object to every record,
so a reader's schema gets its defaults converted once, and lists and maps copied for each record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from truecopy_schemas.limits import DECIMAL_DIGITS_MAX

__all__ = ["default_from_json", "default_to_json"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_MICROSECOND = timedelta(microseconds=1)
_WIDE = Context(prec=2 * DECIMAL_DIGITS_MAX)  # the thread's own context would round to 28 digits


def default_to_json(schema: Any, value: Any) -> Any:
    """The Avro JSON of a field's default. Raises ValueError for a value that its type can't state."""
    if isinstance(schema, list):
        return default_to_json(schema[0], value)
    if isinstance(schema, str) or schema["type"] == "enum":
        return _plain_to_json(value)
    match schema["type"], schema.get("logicalType"), value:
        case "array", _, list():
            return [default_to_json(schema["items"], item) for item in value]
        case "map", _, dict():
            return {str(key): default_to_json(schema["values"], item) for key, item in value.items()}
        case _, "decimal", Decimal():
            shifted = value.scaleb(schema["scale"], _WIDE)
            unscaled = int(shifted)
            if unscaled != shifted or len(str(abs(unscaled))) > schema["precision"]:
                raise ValueError(f"{value} has not the declared digits")
            size = (unscaled.bit_length() + 8) // 8
            return unscaled.to_bytes(size, "big", signed=True).decode("latin-1")
        case _, "date", date():
            return value.toordinal() - _EPOCH_ORDINAL
        case _, "timestamp-micros", datetime():
            return (value - _EPOCH) // _MICROSECOND
        case _, "uuid", UUID():
            return str(value)
    raise ValueError(f"{value!r} can't be a default here")


def _plain_to_json(value: Any) -> Any:
    match value:
        case Enum():
            return value.value
        case bytes():
            return value.decode("latin-1")
        case float() if not math.isfinite(value):
            raise ValueError(f"{value!r} has no JSON form")
        case None | bool() | int() | float() | str():
            return value
    raise ValueError(f"{value!r} can't be a default here")


def default_from_json(schema: Any, stated: Any) -> Any:
    """What a decoded record holds for a default stated in Avro's JSON. The inverse of default_to_json."""
    if isinstance(schema, list):
        return default_from_json(schema[0], stated)
    if schema == "bytes":
        return stated.encode("latin-1")
    if isinstance(schema, str):
        return float(stated) if schema in ("float", "double") else stated
    if schema["type"] == "array":
        return [default_from_json(schema["items"], item) for item in stated]
    if schema["type"] == "map":
        return {key: default_from_json(schema["values"], item) for key, item in stated.items()}
    reading = _LOGICAL.get(schema.get("logicalType"))
    return reading(schema, stated) if reading else stated


def _decimal_from_json(schema: Mapping[str, Any], stated: str) -> Decimal:
    unscaled = int.from_bytes(stated.encode("latin-1"), "big", signed=True)
    return Decimal(unscaled).scaleb(-int(schema.get("scale", 0)), _WIDE)


_LOGICAL: dict[str | None, Callable[[Mapping[str, Any], Any], Any]] = {
    "decimal": _decimal_from_json,
    "date": lambda _, days: date.fromordinal(days + _EPOCH_ORDINAL),
    "timestamp-micros": lambda _, microseconds: _EPOCH + timedelta(microseconds=microseconds),
    "uuid": lambda _, text: UUID(text),
}
