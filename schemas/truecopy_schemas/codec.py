"""Avro bodies of events: encoding with every guard at publish, decoding fast and without trust.

At publish an event is validated once more by its own class, because a list in it may have been
changed since, or the object made without validation; fastavro then meets only values whose types
and bounds are known, and `strict=True` refuses a missing or a further field.

Decoding believes the schema and nothing else. Whatever fastavro raises on damaged bytes becomes
UndecodableError, bytes left over are damage too, and schemas whose damaged bodies could keep a
reader busy without end are refused before the first body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from typing import Any, Generic, TypeVar

import fastavro
from fastavro.schema import SchemaParseException
from fastavro.validation import ValidationError as MisfitError
from fastavro.validation import validate
from pydantic import ValidationError

from truecopy_schemas.avro_schema import AvroSchema, avro_schema, canonical, full_name
from truecopy_schemas.conversions import builder, plain
from truecopy_schemas.defaults import default_from_json
from truecopy_schemas.endless import refuse_endless
from truecopy_schemas.errors import InvalidEventError, InvalidSchemaError, OversizeEventError, UndecodableError
from truecopy_schemas.event import Event
from truecopy_schemas.limits import EVENT_BODY_BYTES_MAX, LONG_MAX, TX_BYTES_MAX
from truecopy_schemas.varint import leading_long

__all__ = ["Decoder", "RecordDecoder", "encode", "encode_record", "read_version"]

_E = TypeVar("_E", bound=Event)
_TOLD_CHARS_MAX = 1_000
"""Characters of what is told of an invalid event: each field of a long list may be wrong."""


def encode(event: Event, *, version: int, tx: str | None = None) -> bytes:
    """The Avro body of an event, without a frame.

    version counts the key's events from 1; tx names the transaction that it belongs to, if any.
    Raises InvalidEventError when a value breaks its declaration, OversizeEventError (one of those)
    above EVENT_BODY_BYTES_MAX, InvalidSchemaError for an event of an abstract class.
    """
    cls = type(event)
    schema = _writing(cls)
    name = cls.__event_name__
    if type(version) is not int or not 1 <= version <= LONG_MAX:
        raise InvalidEventError(event_name=name, problem=f"version {version!r} is not in 1 .. 2**63 - 1")
    if tx is not None and not 1 <= len(tx.encode(errors="replace")) <= TX_BYTES_MAX:
        raise InvalidEventError(event_name=name, problem=f"tx {tx!r:.80} has not 1 to {TX_BYTES_MAX} bytes")
    body = BytesIO()
    try:
        values = plain(cls.model_validate(event))
        fastavro.schemaless_writer(body, schema, {"_version": version, "_tx": tx, **values}, strict=True)
    except ValidationError as fault:
        raise InvalidEventError(event_name=name, problem=_told(fault)) from fault
    except (ValueError, TypeError, ArithmeticError) as fault:
        raise InvalidEventError(event_name=name, problem=str(fault)) from fault
    if body.tell() > EVENT_BODY_BYTES_MAX:
        raise OversizeEventError(event_name=name, seen_bytes=body.tell(), limit_bytes=EVENT_BODY_BYTES_MAX)
    return body.getvalue()


def read_version(body: bytes) -> int:
    """The version in a body, read without its schema.

    Raises UndecodableError when there is no number, or one below 1.
    """
    version = leading_long(body)
    if version < 1:
        raise UndecodableError(f"version {version} is below 1")
    return version


class Decoder(Generic[_E]):
    """Decodes the bodies of one writer's schema, as events of one class if that is given.

    A class whose schema differs reads through Avro's schema resolution: fields it does not know
    are dropped, fields that the writer did not know take their defaults.

    Raises InvalidSchemaError when the schema can't be parsed, is not of the class's event, or has
    an array of items without bytes or a type that contains itself.
    """

    def __init__(self, schema: AvroSchema, event_class: type[_E] | None = None) -> None:
        self.schema, self.event_class = schema, event_class
        self._writer = _parsed(schema)
        refuse_endless(self._writer, where=full_name(schema))
        self._reader: Any = None
        self._shares_defaults = False
        self._build: Callable[[dict[str, Any]], _E] | None = None if event_class is None else builder(event_class)
        if event_class is None:
            return
        own = avro_schema(event_class)
        if full_name(own) != full_name(schema):
            problem = f"a schema of {full_name(schema)} was given to decode {full_name(own)}"
            raise InvalidSchemaError(where=event_class.__name__, problem=problem, remedy="choose its own class")
        if canonical(own) != canonical(schema):
            self._reader = _parsed(own)
            self._shares_defaults = _state_defaults(self._reader)

    def decode(self, body: bytes) -> tuple[int, str | None, dict[str, Any]]:
        """Version, transaction id and fields of a body; enums as their symbols, records as dicts.

        Raises UndecodableError when the body is not what the schema says, to the last byte.
        """
        values = _values(body, self._writer, self._reader)
        try:
            version, tx = values.pop("_version"), values.pop("_tx")
        except KeyError as fault:
            raise UndecodableError(f"no field {fault}") from fault
        if version < 1:
            raise UndecodableError(f"version {version} is below 1")
        if self._shares_defaults:
            values = _copied(values)
        return version, tx, values

    def restated(self, body: bytes) -> bytes:
        """The same event once more, as version 1 and part of no transaction. Raises UndecodableError like decode."""
        again = BytesIO()
        values = {**_values(body, self._writer, None), "_version": 1, "_tx": None}
        fastavro.schemaless_writer(again, self._writer, values, strict=True)
        return again.getvalue()

    def event(self, values: dict[str, Any]) -> _E:
        """The event that decode returned the fields of. It takes the dict over."""
        if self._build is None:
            raise TypeError("this decoder was made without an event class")
        return self._build(values)

    def decode_event(self, body: bytes) -> _E:
        """The event in a body, not validated again. Raises UndecodableError like decode."""
        return self.event(self.decode(body)[2])


class RecordDecoder:
    """Decodes the bodies of one record schema of others: no version in front, no class behind. `name` is its full name.

    Raises InvalidSchemaError when it is no record's schema, can't be parsed, or is endless, as Decoder says.
    """

    def __init__(self, schema: Any) -> None:
        kind = schema.get("type") if isinstance(schema, dict) else schema
        if kind != "record":
            problem = f"a schema of {kind!r:.80} was seen, expected one of an Avro record"
            raise InvalidSchemaError(where="a foreign schema", problem=problem, remedy="look at what its id is registered for")
        self._writer = _parsed(schema)
        self.name = str(self._writer["name"])
        refuse_endless(self._writer, where=self.name)

    def decode(self, body: bytes) -> dict[str, Any]:
        """The fields of a body; enums as their symbols, records as dicts. Raises UndecodableError like Decoder.decode."""
        return _values(body, self._writer, None)


def encode_record(schema: Any, fields: Mapping[str, Any]) -> bytes:
    """The body of a record by others' schema. Raises InvalidEventError for fields that do not fit, InvalidSchemaError."""
    parsed, body = _parsed(schema), BytesIO()
    try:
        validate(dict(fields), parsed, strict=True)
        fastavro.schemaless_writer(body, parsed, dict(fields), strict=True)
    except (MisfitError, ValueError, TypeError, ArithmeticError, AttributeError) as fault:
        raise InvalidEventError(event_name=str(parsed["name"]), problem=str(fault)[:_TOLD_CHARS_MAX]) from fault
    return body.getvalue()


def _values(body: bytes, writer: Any, reader: Any) -> dict[str, Any]:
    """The fields of a body. Raises UndecodableError."""
    source = BytesIO(body)
    try:
        values: Any = fastavro.schemaless_reader(source, writer, reader)
    except Exception as fault:  # the decoder's own faults have no common class
        raise UndecodableError(f"{type(fault).__name__}: {fault!s:.200}") from fault
    if source.tell() != len(body):
        raise UndecodableError(f"{len(body) - source.tell()} bytes are left over of {len(body)}")
    fields: dict[str, Any] = values
    return fields


@cache
def _writing(cls: type[Event]) -> Any:
    return _parsed(avro_schema(cls))


def _parsed(schema: AvroSchema) -> Any:
    try:
        return fastavro.parse_schema(schema)
    except (SchemaParseException, ValueError, KeyError, TypeError) as fault:
        remedy = "register a schema that Avro can parse"
        raise InvalidSchemaError(where=str(schema.get("name")), problem=str(fault), remedy=remedy) from fault


def _state_defaults(node: Any) -> bool:
    """Replaces the JSON defaults in a parsed schema by values. Whether any of them can be changed."""
    if isinstance(node, list):
        return any([_state_defaults(item) for item in node])
    if not isinstance(node, dict):
        return False
    changeable = any([_state_defaults(node[key]) for key in ("fields", "type", "items", "values") if key in node])
    if "default" in node and "name" in node and node["type"] != "enum":
        node["default"] = default_from_json(node["type"], node["default"])
        return changeable or isinstance(node["default"], list | dict)
    return changeable


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value


def _told(fault: ValidationError) -> str:
    told = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in fault.errors(include_url=False))
    return "; ".join(told)[:_TOLD_CHARS_MAX]
