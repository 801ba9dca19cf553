"""What a quarantined event says, field by field, and the body that an operator puts in its place.

Fields are shown as JSON would have them. What is put in place is judged before anything is written, as at publish: by the
event's own class, or, where others write the topic, by the schema that the record was written by.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json, to_jsonable_python

from truecopy_bus.errors import UnavailableError
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.amendment import Amendment, schema_of
from truecopy_projections.projection import Projection
from truecopy_projections.state import Waiting
from truecopy_schemas import Event
from truecopy_schemas.avro_schema import avro_schema, full_name
from truecopy_schemas.codec import Decoder, RecordDecoder, encode, encode_record
from truecopy_schemas.errors import InvalidEventError, TruecopyError
from truecopy_schemas.framing import unframe
from truecopy_services.errors import UsageError

__all__ = ["Said", "assigned", "plain", "replacement", "said", "said_instead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a record says: the full name of its type, and its fields; `why` tells what could not be read."""

    type: str = ""
    fields: Mapping[str, Any] | None = None
    schema: Mapping[str, Any] | None = None
    why: str = ""


async def said(projection: Projection[Any], schemas: SchemaSource, waiting: Waiting) -> Said:
    """Read a record. Raises UnavailableError, and nothing for whatever bytes it has."""
    if waiting.record_value is None:
        return Said(why="its value is null")
    try:
        schema_id, body = unframe(waiting.record_value)
        schema = (await schemas.schema(schema_id)).schema
    except UnavailableError:
        raise
    except TruecopyError as fault:
        return Said(why=str(fault))
    name = full_name(schema) if isinstance(schema, dict) else ""
    return _read(projection, name, schema, bytes(body))


def said_instead(projection: Projection[Any], amendment: Amendment) -> Said:
    """What a ruling put in the place of an event."""
    schema = schema_of(amendment)
    found = _read(projection, full_name(schema), schema, amendment.body)
    return replace(found, fields=None if found.fields is None else plain(found.fields))


def _read(projection: Projection[Any], name: str, schema: Any, body: bytes) -> Said:
    try:
        if projection.foreign is not None:
            return Said(type=name, schema=schema, fields=RecordDecoder(schema).decode(body))
        if (found := projection.reads(schema)) is not None:
            event = found[1].decode_event(body)
            return Said(type=type(event).__event_name__, schema=schema, fields=event.model_dump(mode="json"))
        return Said(type=name, schema=schema, fields=plain(Decoder(schema).decode(body)[2]))
    except (TruecopyError, ValueError) as fault:
        return Said(type=name, schema=schema, why=str(fault))


def assigned(fields: Mapping[str, Any] | None, assignments: Sequence[str]) -> dict[str, Any]:
    """The fields after `NAME=VALUE` each; dots go into records. A value is read as JSON where it is JSON, and as text else.

    Raises UsageError for what is no assignment, and where there is nothing to assign to.
    """
    if fields is None:
        raise UsageError("its bytes do not decode, so no field of it can be set; give the whole of it by --body JSON")
    found: dict[str, Any] = json.loads(to_json(plain(fields)))
    for text in assignments:
        path, equals, value = text.partition("=")
        *into, name = path.strip().split(".")
        record: Any = found
        for step in into:
            record = record.get(step) if isinstance(record, dict) else None
        if not equals or not isinstance(record, dict) or name not in record:
            known = ", ".join(record) if isinstance(record, dict) else "no fields"
            raise UsageError(
                f"--set {text!r}: write FIELD=VALUE of a field that is there; {'.'.join(into) or 'it'} has {known}"
            )
        try:
            record[name] = json.loads(value)
        except ValueError:
            record[name] = value
    return found


def replacement(projection: Projection[Any], was: Said, version: int, fields: Any, *, kind: str = "") -> tuple[str, bytes]:
    """Schema (as JSON) and body of an event with these fields, of the type of `was` or of `kind`, a full or a last name.

    Raises UsageError for fields or a type that can't be.
    """
    wanted = kind or was.type
    named = [name for name in projection.handlers if wanted in (name, name.rpartition(".")[2])]
    if len(named) != 1:
        raise UsageError(
            f"{projection.id} handles no type {wanted!r}; give --type with one of {', '.join(projection.handlers)}, or skip it"
        )
    if not isinstance(fields, dict):
        raise UsageError(f"a body is an object of JSON, seen {type(fields).__name__}")
    try:
        if projection.foreign is not None:
            return _foreign(was, named[0], fields)
        cls = projection.handlers[named[0]].event
        event: Event = cls.model_validate_json(to_json(fields))
        return json.dumps(avro_schema(cls)), encode(event, version=version)
    except ValidationError as fault:
        told = (f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in fault.errors(include_url=False))
        raise UsageError(f"not a {named[0]}: {'; '.join(told)}") from None
    except InvalidEventError as fault:
        raise UsageError(str(fault)) from None


def _foreign(was: Said, name: str, fields: Mapping[str, Any]) -> tuple[str, bytes]:
    if was.schema is None or name != was.type:
        raise UsageError("of a topic of others a record is only edited by the schema that it was written by; skip it instead")
    before = was.fields or {}
    # What was not changed keeps the type that it was read with: a time as text is no time to Avro.
    told = {one: before[one] if one in before and plain(before[one]) == value else value for one, value in fields.items()}
    return json.dumps(was.schema), encode_record(was.schema, told)


def plain(fields: Any) -> Any:
    """As JSON has it; bytes in base64."""
    return to_jsonable_python(fields, bytes_mode="base64", inf_nan_mode="strings")
