"""Refuses schemas whose damaged bodies could keep a reader busy without end.

A block of an Avro array states its number of items. Items without bytes (null, a record without
fields) let four damaged bytes demand 2**31 items, and a type that contains itself lets a body nest
as deep as it is long, which ends the process on the C stack. Our own mapping yields neither; a
schema from elsewhere may.
"""

from __future__ import annotations

from typing import Any

from truecopy_schemas.errors import InvalidSchemaError

__all__ = ["refuse_endless"]


def refuse_endless(schema: Any, *, where: str) -> None:
    """Raises InvalidSchemaError for a schema that fastavro has parsed and that is endless."""
    named = schema.get("__named_schemas", {}) if isinstance(schema, dict) else {}
    _fewest_bytes(schema, named, (), where)


def _fewest_bytes(schema: Any, named: dict[str, Any], around: tuple[str, ...], where: str) -> int:
    """The least number of bytes that a value takes, counted up to 1."""
    if isinstance(schema, list):
        for branch in schema:
            _fewest_bytes(branch, named, around, where)
        return 1  # the number of the branch
    if isinstance(schema, str):
        if schema in around:
            problem = f"{schema} contains itself"
            raise InvalidSchemaError(where=where, problem=problem, remedy="refer to it by key instead")
        if schema in named:
            return _fewest_bytes(named[schema], named, around, where)
        return 0 if schema == "null" else 1
    match schema["type"]:
        case "record" | "error":
            inside = (*around, schema["name"])
            return max([0, *(_fewest_bytes(field["type"], named, inside, where) for field in schema["fields"])])
        case "array":
            if not _fewest_bytes(schema["items"], named, around, where):
                problem = "an array has items that take no bytes"
                raise InvalidSchemaError(where=where, problem=problem, remedy="write their number as a long")
        case "map":
            _fewest_bytes(schema["values"], named, around, where)
        case "fixed":
            return 1 if schema["size"] else 0
        case inner if not isinstance(inner, str) or inner == "null" or inner in named:
            return _fewest_bytes(inner, named, around, where)
    return 1
