"""The strict pydantic base of events and of the records nested in them.

Pydantic's strict mode refuses what fastavro would quietly rewrite: 1.9 and 1.0 and True for an
integer, text for a number, misspelt fields. What it leaves open is closed on the core schema that
pydantic compiles for each class, so that there is one guard and it runs at compiled speed:

- integers are bounded to Avro's long, inside whatever bounds the field declares;
- text must be encodable as UTF-8, which lone surrogates are not, and hold no U+0000, for which PostgreSQL has no place:
  replicas could not carry it alike;
- a float inside of a list, a map or a nested record must be a number: what holds those in a replica is JSON, which has
  neither NaN nor infinities. A field of the event itself may be any float;
- datetimes must know their zone, have at most microseconds, and come out in UTC;
- decimals come out with exactly the declared scale, are never rounded, and are never read from a
  JSON number with a fraction, because a binary float has already rounded it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from truecopy_schemas.limits import DECIMAL_DIGITS_MAX, LONG_MAX, LONG_MIN

__all__ = ["Record"]

_EXACT = Context(prec=2 * DECIMAL_DIGITS_MAX, traps=[Inexact])
_SCALARS = frozenset({"bool", "bytes", "date", "datetime", "decimal", "enum", "float", "int", "str", "uuid"})
_INNER_KEYS = ("schema", "items_schema", "keys_schema", "values_schema")


def _guarded(schema: Any, *, outermost: bool = False, finite: bool = False) -> Any:
    """The core schema with its guards; `finite` where floats must be numbers."""
    if schema["type"] in _SCALARS:
        return _guarded_scalar(schema | {"allow_inf_nan": False} if finite and schema["type"] == "float" else schema)
    if schema["type"] == "model" and not outermost:
        return schema  # its own class has guarded it
    finite = finite or schema["type"] in ("list", "dict")
    inner = {key: _guarded(schema[key], finite=finite) for key in _INNER_KEYS if isinstance(schema.get(key), dict)}
    if isinstance(schema.get("fields"), dict):
        inner["fields"] = {name: _guarded(field, finite=finite) for name, field in schema["fields"].items()}
    merged: CoreSchema = schema | inner
    return merged


def _guarded_scalar(schema: Any) -> Any:
    strict = schema | {"strict": True}
    match schema["type"]:
        case "int":
            low, high = schema.get("ge", LONG_MIN), schema.get("le", LONG_MAX)
            return strict | {"ge": max(low, LONG_MIN), "le": min(high, LONG_MAX)}
        case "str":  # any length bound makes pydantic read the text as UTF-8, which refuses lone surrogates
            unicode = strict | {"min_length": schema.get("min_length", 0)}
            return core_schema.no_info_after_validator_function(_without_nul, unicode)
        case "datetime":
            aware = strict | {"tz_constraint": "aware", "microseconds_precision": "error"}
            return core_schema.no_info_after_validator_function(_in_utc, aware)
        case "decimal":
            scale = schema.get("decimal_places", 0)
            # A before-validator hands pydantic a Python value, which strict mode would refuse as text.
            from_json = core_schema.no_info_before_validator_function(_exactly_stated, schema | {"strict": False})
            either = core_schema.json_or_python_schema(from_json, strict)
            return core_schema.no_info_after_validator_function(lambda value: _scaled(value, scale), either)
    return strict


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("the text holds U+0000, which PostgreSQL has no place for; leave it out")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is outside the years 1 to 9999 in UTC") from None


def _scaled(value: Decimal, scale: int) -> Decimal:
    try:
        return value.quantize(Decimal(1).scaleb(-scale), context=_EXACT)
    except ArithmeticError:
        raise ValueError(f"the decimal has more than {scale} places; round it yourself") from None


def _exactly_stated(value: object) -> object:
    if isinstance(value, bool | float):
        raise ValueError('a fraction in JSON is already rounded; write the decimal as text, "12.50"')
    return value


class Record(BaseModel):
    """A record nested in an event: frozen, strict, and without fields that nobody declared."""

    __outermost__: ClassVar[bool] = False
    """Whether its fields are an event's own."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        revalidate_instances="always",
        validate_default=True,
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        guarded: CoreSchema = _guarded(handler(source), outermost=True, finite=not cls.__outermost__)
        return guarded
