"""Whether a new schema may join the earlier ones of its subject, and in plain words why not.

The verdict is that of Apache Avro's own checker. It says too little for an operator (positions
instead of names, and nothing within unions), so a second walk over the same pair finds the words.
Two rules are added, because Avro resolves schemas without them: a logical type may not change (the
bytes of a decimal would be read at another scale), and neither may entity, kind or deletion, on
which every replica has already acted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import avro.errors
import avro.schema
import orjson
from avro.compatibility import (
    ReaderWriterCompatibilityChecker,
    SchemaCompatibilityResult,
    SchemaCompatibilityType,
)

from truecopy_schemas.avro_schema import AvroSchema
from truecopy_schemas.errors import IncompatibleSchemaError, InvalidSchemaError

__all__ = ["RULES_NUMBER", "Compatibility", "incompatibilities", "judge"]

# Recorded with each claim: which rules it was judged by. Raise it when the rules change.
RULES_NUMBER = 1


class Compatibility(Enum):
    """Who must be able to read whom. Not transitive: only the latest earlier version counts."""

    NONE = "NONE"
    BACKWARD = "BACKWARD"
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD = "FORWARD"
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL = "FULL"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clash:
    path: str
    reason: str
    remedy: str


_OWN_ATTRIBUTES = ("truecopy.entity", "truecopy.kind", "truecopy.deletes")
_NEW_NAME = "declare an event under a new name instead"
_NEW_FIELD = "keep the field as it is and add a new one with a default"


def judge(subject: str, new: AvroSchema, earlier: Sequence[AvroSchema], mode: Compatibility) -> None:
    """Returns when `new` may follow the earlier schemas, oldest first, under a mode.

    Raises IncompatibleSchemaError, which names the version (from 1), the path of the field and the
    reason, or InvalidSchemaError when a schema is none. The rules of resolution are those of the
    Apache Avro 1.12 specification, "Schema Resolution".
    """
    for clash in incompatibilities(subject, new, earlier, mode):
        raise clash


def incompatibilities(
    subject: str, new: AvroSchema, earlier: Sequence[AvroSchema], mode: Compatibility
) -> Iterator[IncompatibleSchemaError]:
    """Every reason for which `judge` would refuse `new`, by version and field. Raises InvalidSchemaError."""
    if mode is Compatibility.NONE:
        return
    versions = list(enumerate(earlier, start=1))
    for version, old in versions if mode.value.endswith("_TRANSITIVE") else versions[-1:]:
        for clash in _clashes(new, old, mode):
            yield IncompatibleSchemaError(
                subject=subject,
                version=version,
                mode=mode.value,
                path=clash.path,
                reason=clash.reason,
                remedy=clash.remedy,
            )


def _clashes(new: AvroSchema, old: AvroSchema, mode: Compatibility) -> Iterator[_Clash]:
    parsed_new, parsed_old = _parsed(new), _parsed(old)
    for attribute in _OWN_ATTRIBUTES:
        if new.get(attribute) != old.get(attribute):
            reason = f"{attribute} changed from {old.get(attribute)!r} to {new.get(attribute)!r}"
            yield _Clash(path="", reason=reason, remedy=_NEW_NAME)
    direction = mode.value.removesuffix("_TRANSITIVE")
    if direction in ("BACKWARD", "FULL"):
        yield from _judged(_Pair(reader=parsed_new, writer=parsed_old, path="", reader_is_new=True))
    if direction in ("FORWARD", "FULL"):
        yield from _judged(_Pair(reader=parsed_old, writer=parsed_new, path="", reader_is_new=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Two schemas at the same place, and which of the two is the newcomer."""

    reader: Any
    writer: Any
    path: str
    reader_is_new: bool

    def inner(self, reader: Any, writer: Any, step: str = "") -> _Pair:
        path = f"{self.path}.{step}" if self.path and step and not step.startswith("[") else self.path + step
        return _Pair(reader=reader, writer=writer, path=path, reader_is_new=self.reader_is_new)

    def told(self, when_new_reads: str, when_old_reads: str, remedy: str) -> _Clash:
        return _Clash(path=self.path, reason=when_new_reads if self.reader_is_new else when_old_reads, remedy=remedy)

    def changed(self, what: str, reader: object, writer: object) -> _Clash:
        old, new = (writer, reader) if self.reader_is_new else (reader, writer)
        return _Clash(path=self.path, reason=f"{what} changed from {old} to {new}", remedy=_NEW_FIELD)


def _judged(pair: _Pair) -> Iterator[_Clash]:
    clash = None
    for clash in _found(pair):
        yield clash
    if clash is not None:
        return
    verdict = _verdict(pair.reader, pair.writer)
    if verdict.compatibility is not SchemaCompatibilityType.compatible:
        yield _Clash(path=pair.path, reason="; ".join(sorted(verdict.messages)), remedy=_NEW_NAME)


def _found(pair: _Pair) -> Iterator[_Clash]:
    reader, writer = pair.reader, pair.writer
    if "union" in (reader.type, writer.type):
        yield from _in_branches(pair)
    elif _logical(reader) != _logical(writer) or (reader.type != writer.type and not _accepts(reader, writer)):
        yield pair.changed("the type", _type_name(reader), _type_name(writer))
    elif reader.type == "array":
        yield from _found(pair.inner(reader.items, writer.items, "[]"))
    elif reader.type == "map":
        yield from _found(pair.inner(reader.values, writer.values, "[]"))
    elif reader.type in ("record", "enum", "fixed") and reader.name != writer.name:
        yield pair.changed("the name", reader.name, writer.name)
    elif reader.type == "record":
        yield from _in_fields(pair)
    elif reader.type == "enum" and not _accepts(reader, writer):
        symbols = ", ".join(sorted(set(writer.symbols) - set(reader.symbols)))
        yield pair.told(
            f"the symbols {symbols} were removed",
            f"the symbols {symbols} were added, which earlier readers do not know",
            "keep the symbols that were ever published, and add none that earlier readers must know",
        )


def _in_fields(pair: _Pair) -> Iterator[_Clash]:
    written = {field.name: field for field in pair.writer.fields}
    for field in pair.reader.fields:
        if field.name in written:
            yield from _found(pair.inner(field.type, written[field.name].type, field.name))
        elif not field.has_default:
            yield pair.inner(None, None, field.name).told(
                f"field {field.name!r} was added without a default",
                f"field {field.name!r} was removed, and earlier readers have no default for it",
                "give it a default, or make it Optional" if pair.reader_is_new else "keep the field",
            )


def _in_branches(pair: _Pair) -> Iterator[_Clash]:
    readers = _branches(pair.reader)
    for branch in _branches(pair.writer):
        same = [reader for reader in readers if reader.type == branch.type]
        accepting = same or [reader for reader in readers if _accepts(reader, branch)]
        if accepting:
            yield from _found(pair.inner(accepting[0], branch))
        else:
            yield pair.told(
                f"{_type_name(branch)} is no longer accepted",
                f"may now be {_type_name(branch)}, which earlier readers do not accept",
                _NEW_FIELD,
            )


def _branches(schema: Any) -> list[Any]:
    return list(schema.schemas) if schema.type == "union" else [schema]


def _accepts(reader: Any, writer: Any) -> bool:
    return bool(_verdict(reader, writer).compatibility is SchemaCompatibilityType.compatible)


def _verdict(reader: Any, writer: Any) -> SchemaCompatibilityResult:
    checker: Any = ReaderWriterCompatibilityChecker  # untyped
    verdict: SchemaCompatibilityResult = checker().get_compatibility(reader, writer)
    return verdict


def _logical(schema: Any) -> tuple[object, ...]:
    name = getattr(schema, "logical_type", None)
    if name is None:
        return ()
    return (name, getattr(schema, "precision", None), getattr(schema, "scale", None))


def _type_name(schema: Any) -> str:
    name, *digits = _logical(schema) or (schema.type,)
    return f"decimal{tuple(digits)}" if name == "decimal" else str(name)


def _parsed(schema: AvroSchema) -> Any:
    try:
        return avro.schema.parse(orjson.dumps(schema).decode())
    except avro.errors.AvroException as fault:
        remedy = "register a schema that Avro can parse"
        raise InvalidSchemaError(where=str(schema.get("name")), problem=str(fault), remedy=remedy) from fault
