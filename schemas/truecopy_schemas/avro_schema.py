"""From an event class to its Avro schema, and the names and fingerprint of a schema.

The mapping is our own because both kept libraries were tried on pydantic 2.14 and fall short where
it can't be mended afterwards. py-avro-schema 3.8 gives each enum a silent default symbol, reads
field types under `from __future__ import annotations` as names of records, knows no
`Field(max_digits, decimal_places)`, and writes wrong or no defaults for UUID, bytes and decimals.
dataclasses-avroschema 0.71 wants its own base class, states datetimes in milliseconds, and writes
decimal defaults as escaped text. Translating our classes for either took more code than the table
below.

Every event schema starts with `_version` (so that it is read without the schema) and `_tx`. It
names its entity, its kind and whether it deletes as attributes of our own.
"""

from __future__ import annotations

import hashlib
import re
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from functools import cache
from inspect import cleandoc
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, Union, get_args, get_origin
from uuid import UUID

import fastavro
import orjson
from fastavro.schema import SchemaParseException

from truecopy_schemas.defaults import default_to_json
from truecopy_schemas.errors import InvalidSchemaError
from truecopy_schemas.limits import DECIMAL_DIGITS_MAX
from truecopy_schemas.record import Record

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from truecopy_schemas.event import Event

__all__ = ["AvroSchema", "avro_schema", "canonical", "fingerprint", "full_name", "optional_of", "subject"]

AvroSchema: TypeAlias = dict[str, Any]

_NO_DEFAULT = object()
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SCALARS: dict[type, Any] = {
    str: "string",
    bytes: "bytes",
    bool: "boolean",
    int: "long",  # bounds are the publisher's rule, not the wire's: tightening one changes no schema
    float: "double",
    date: {"type": "int", "logicalType": "date"},
    datetime: {"type": "long", "logicalType": "timestamp-micros"},
    UUID: {"type": "string", "logicalType": "uuid"},
}
_OWN_FIELDS: list[AvroSchema] = [
    {"name": "_version", "type": "long"},
    {"name": "_tx", "type": ["null", "string"], "default": None},
]
_SUPPORTED = (
    "write str, bytes, int, float, bool, Annotated[Decimal, Field(max_digits=..., decimal_places=...)], date, "
    "datetime, UUID, an Enum of strings, a truecopy_schemas.Record, or Optional, list or dict[str, ...] of these"
)


@cache
def avro_schema(event_class: type[Event]) -> AvroSchema:
    """The schema of an event class; the same class yields the same object, so don't change it.

    Raises InvalidSchemaError for an abstract class or a field that has no Avro type here.
    """
    if not event_class.__entity__:
        raise InvalidSchemaError(
            where=event_class.__name__,
            problem="the class is abstract, it names no entity",
            remedy=f'declare it as class {event_class.__name__}(Event, entity="<domain>.<entity>")',
        )
    if not event_class.__pydantic_complete__:
        event_class.model_rebuild()
    namespace, _, name = event_class.__event_name__.rpartition(".")
    mapping = _Mapping(namespace=namespace)
    record = mapping.record(event_class, name)
    schema = record | {
        "fields": [*_OWN_FIELDS, *record["fields"]],
        "truecopy.entity": event_class.__entity__,
        "truecopy.kind": event_class.__kind__,
        **({"truecopy.deletes": True} if event_class.__deletes__ else {}),
    }
    try:
        fastavro.parse_schema(schema)
    except (SchemaParseException, ValueError) as fault:
        remedy = "give each field a default of its own type"
        raise InvalidSchemaError(where=event_class.__name__, problem=str(fault), remedy=remedy) from fault
    return schema


def full_name(schema: AvroSchema) -> str:
    """The full name of a record schema."""
    name, namespace = str(schema["name"]), schema.get("namespace")
    return f"{namespace}.{name}" if namespace and "." not in name else name


def subject(schema: AvroSchema) -> str:
    """The subject under which an event's schema is registered: `<topic>-<full name>`."""
    return f"{schema['truecopy.entity']}-{full_name(schema)}"


def canonical(schema: Any) -> bytes:
    """A schema as bytes that are equal exactly when it means the same: sorted keys, no `doc`."""
    return orjson.dumps(_without_docs(schema), option=orjson.OPT_SORT_KEYS)


def fingerprint(schema: AvroSchema) -> bytes:
    """SHA-256 (32 bytes) of the canonical form.

    Not Avro's parsing canonical form: that drops logical types, defaults and our own attributes,
    so that a decimal and the bytes beneath it would have one fingerprint.
    """
    return hashlib.sha256(canonical(schema)).digest()


def optional_of(annotation: Any) -> Any:
    """X for `Optional[X]` and `X | None`, None for anything else."""
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [argument for argument in get_args(annotation) if argument is not type(None)]
        if len(inner) == 1 and len(get_args(annotation)) == 2:
            return inner[0]
    return None


def _without_docs(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_docs(item) for item in node]
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if key != "doc"}
        return {key: value if key == "default" else _without_docs(value) for key, value in kept.items()}
    return node


@dataclass(slots=True, kw_only=True)
class _Mapping:
    """One walk over one event class. A named type is written once, later uses are its name."""

    namespace: str
    named: dict[str, type] = field(default_factory=dict)
    unfinished: set[type] = field(default_factory=set)

    def record(self, cls: type[Record], name: str) -> AvroSchema:
        _refuse_odd_declaration(cls)
        self.named.setdefault(name, cls)
        self.unfinished.add(cls)
        fields = [self._field(f"{cls.__name__}.{item}", item, info) for item, info in cls.model_fields.items()]
        self.unfinished.remove(cls)
        return {"type": "record", "name": name, "namespace": self.namespace, **_doc(cls), "fields": fields}

    def _field(self, where: str, name: str, info: FieldInfo) -> AvroSchema:
        if info.alias or info.validation_alias or info.serialization_alias:
            raise InvalidSchemaError(where=where, problem="the field has an alias", remedy="give it one name")
        if not _NAME.fullmatch(name):
            raise InvalidSchemaError(where=where, problem="not an Avro name", remedy="use A-Z, a-z, 0-9 and _")
        stated = self._type(info.annotation, list(info.metadata), where)
        default = _default(info, optional=isinstance(stated, list))
        if isinstance(stated, list) and default not in (None, _NO_DEFAULT):
            stated = stated[::-1]  # Avro: a union's default belongs to its first branch
        result: AvroSchema = {"name": name, "type": stated}
        if info.description:
            result["doc"] = info.description
        if default is not _NO_DEFAULT:
            try:
                result["default"] = default_to_json(stated, default)
            except ValueError as fault:
                remedy = "give a constant of the field's type, an empty list or dict, or make it Optional"
                raise InvalidSchemaError(where=where, problem=f"default: {fault}", remedy=remedy) from None
        return result

    def _type(self, annotation: Any, metadata: list[Any], where: str) -> Any:
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return self._type(arguments[0], [*arguments[1:], *metadata], where)
        if annotation is Decimal:
            return _decimal(metadata, where)
        if isinstance(annotation, type) and annotation in _SCALARS:
            return _SCALARS[annotation]
        if (inner := optional_of(annotation)) is not None:
            return ["null", self._type(inner, metadata, where)]
        if origin is list:
            return {"type": "array", "items": self._type(arguments[0], [], where)}
        if origin is dict and arguments[0] is str:
            return {"type": "map", "values": self._type(arguments[1], [], where)}
        if origin is None and isinstance(annotation, type) and issubclass(annotation, Enum | Record):
            return self._named(annotation, where)
        problem = f"{getattr(annotation, '__name__', annotation)!s} has no Avro type here"
        raise InvalidSchemaError(where=where, problem=problem, remedy=_SUPPORTED)

    def _named(self, cls: type[Enum] | type[Record], where: str) -> Any:
        name = cls.__name__
        if cls in self.unfinished:
            remedy = "refer to the other by its key, because a nesting without end can't be read safely"
            raise InvalidSchemaError(where=where, problem=f"{name} contains itself", remedy=remedy)
        if name in self.named:
            if self.named[name] is not cls:
                problem = f"two classes are named {name}"
                raise InvalidSchemaError(where=where, problem=problem, remedy="rename one of them")
            return f"{self.namespace}.{name}"
        if issubclass(cls, Record):
            if not cls.model_fields or hasattr(cls, "__entity__"):
                problem = f"{name} has no fields or is an event itself"
                raise InvalidSchemaError(where=where, problem=problem, remedy="nest a Record with fields")
            return self.record(cls, name)
        self.named[name] = cls
        symbols = [member.value for member in cls]
        if not symbols or not all(isinstance(symbol, str) and _NAME.fullmatch(symbol) for symbol in symbols):
            remedy = "give its members text values of A-Z, a-z, 0-9 and _"
            raise InvalidSchemaError(where=where, problem=f"{name} has values {symbols}", remedy=remedy)
        return {"type": "enum", "name": name, "namespace": self.namespace, "symbols": symbols}


def _refuse_odd_declaration(cls: type[Record]) -> None:
    if cls.__private_attributes__:
        raise InvalidSchemaError(
            where=f"{cls.__name__}.{min(cls.__private_attributes__)}",
            problem="the field's name starts with an underscore, and pydantic keeps such a field out",
            remedy="name it without; _version and _tx are the log's own",
        )
    if cls.model_config.get("extra") != "forbid" or not cls.model_config.get("frozen"):
        raise InvalidSchemaError(
            where=cls.__name__,
            problem="its model_config takes back the strictness of an event",
            remedy='leave extra="forbid" and frozen=True as they are',
        )


def _default(info: FieldInfo, *, optional: bool) -> Any:
    if info.default_factory in (list, dict):
        return [] if info.default_factory is list else {}
    if info.default_factory is not None or info.is_required():
        return None if optional else _NO_DEFAULT
    return info.default


def _decimal(metadata: list[Any], where: str) -> AvroSchema:
    digits = _constraint(metadata, "max_digits")
    scale = _constraint(metadata, "decimal_places")
    if digits is None or scale is None or not 0 <= scale <= digits <= DECIMAL_DIGITS_MAX or not digits:
        raise InvalidSchemaError(
            where=where,
            problem=f"a Decimal of {digits} digits with {scale} places",
            remedy=f"write Annotated[Decimal, Field(max_digits=10, decimal_places=2)], at most {DECIMAL_DIGITS_MAX} digits",
        )
    return {"type": "bytes", "logicalType": "decimal", "precision": digits, "scale": scale}


def _constraint(metadata: Iterable[Any], name: str) -> int | None:
    for item in metadata:
        value: Any = getattr(item, name, None)
        if isinstance(value, int):
            return value
        nested = _constraint(getattr(item, "metadata", ()), name)
        if nested is not None:
            return nested
    return None


def _doc(cls: type) -> AvroSchema:
    text = cls.__dict__.get("__doc__")
    return {"doc": cleandoc(text).split("\n\n")[0]} if text else {}
