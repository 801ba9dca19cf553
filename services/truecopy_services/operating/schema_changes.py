"""Schemas of a registry for people: found by number or name, compared field by field, and judged before they are claimed."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from truecopy_schemas.avro_schema import AvroSchema, fingerprint, full_name, subject
from truecopy_schemas.compatibility import Compatibility, incompatibilities
from truecopy_schemas.errors import IncompatibleSchemaError, UnknownSchemaError
from truecopy_schemas.registry import Registered, RegistryState
from truecopy_services.errors import UsageError

__all__ = ["Change", "Judged", "Standing", "changes", "find", "judged", "verdicts"]

SUBJECTS_NAMED = 20
"""Subjects that a message lists when none is meant."""
_ATTRIBUTES = ("truecopy.entity", "truecopy.kind", "truecopy.deletes")
_NOTHING = object()


class Standing(Enum):
    """How a declared event stands with a registry. There is no fifth case."""

    REGISTERED = "this very schema has an id"
    NEW = "the subject has no schema yet"
    COMPATIBLE = "it may become the subject's next version"
    INCOMPATIBLE = "the registry would refuse it, and its events would wait in the outbox"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A declared event under its subject's mode. `id` is the schema's if it has one, `clashes` why it would be refused."""

    subject: str
    type: str
    mode: Compatibility
    standing: Standing
    id: int | None = None
    versions: int = 0
    clashes: tuple[IncompatibleSchemaError, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What differs at one place: a field that was added or removed, or its type, its default, or an attribute that changed.

    `old` and `new` are types, or JSON of values; "" where there is none.
    """

    path: str
    what: str
    old: str
    new: str

    def __str__(self) -> str:
        if self.what in ("added", "removed"):
            return f"{self.path}: {self.what}: {self.new or self.old}"
        return f"{self.path}: {self.what}: {self.old or 'none'} -> {self.new or 'none'}"


def find(registry: RegistryState, text: str) -> Registered:
    """The schema that an id, a subject, an event's full name or its last part means, the latest or `@version`.

    Raises UsageError, which names what there is.
    """
    if text.isascii() and text.isdecimal():
        try:
            return registry.by_id(int(text))
        except UnknownSchemaError:
            raise UsageError(f"no schema has id {text}; see `truecopy schema list`") from None
    name, at, version = text.rpartition("@")
    name = name if at else text
    found = [one for one in registry.subjects if name == one]
    found = found or [one for one in registry.subjects if name in (_type(one), _type(one).rpartition(".")[2])]
    if len(found) != 1:
        some = ", ".join((found or registry.subjects)[:SUBJECTS_NAMED])
        told = f"{len(found)} subjects are meant by {name!r}" if found else f"there is no subject {name!r}"
        raise UsageError(f"{told}; name one of {some}, or an id")
    versions = registry.versions(found[0])
    if not at:
        return versions[-1]
    if not (version.isascii() and version.isdecimal() and 1 <= int(version) <= len(versions)):
        raise UsageError(f"{found[0]} has no version {version!r}; it has 1 to {len(versions)}")
    return versions[int(version) - 1]


def judged(registry: RegistryState, schema: AvroSchema) -> Judged:
    """How an event's schema stands with a registry. Claims nothing. Raises InvalidSchemaError."""
    name = subject(schema)
    mode, versions = registry.compatibility(name), registry.versions(name)
    held = registry.find(name, fingerprint(schema))
    clashes: tuple[IncompatibleSchemaError, ...] = ()
    if held is not None:
        standing = Standing.REGISTERED
    elif not versions:
        standing = Standing.NEW
    else:
        clashes = _distinct(incompatibilities(name, schema, [one.schema for one in versions], mode))
        standing = Standing.INCOMPATIBLE if clashes else Standing.COMPATIBLE
    return Judged(
        subject=name,
        type=full_name(schema),
        mode=mode,
        standing=standing,
        id=held.id if held else None,
        versions=len(versions),
        clashes=clashes,
    )


def verdicts(old: AvroSchema, new: AvroSchema) -> dict[str, tuple[IncompatibleSchemaError, ...]]:
    """What stands against "the new one reads the old one's events" (BACKWARD) and the other way round (FORWARD)."""
    return {
        mode.value: _distinct(incompatibilities(full_name(new), new, [old], mode))
        for mode in (Compatibility.BACKWARD, Compatibility.FORWARD)
    }


def changes(old: AvroSchema, new: AvroSchema) -> tuple[Change, ...]:
    """Field by field, nested ones under their path; the order is that of the fields, removed ones last."""
    before, after = dict(_fields(old)), dict(_fields(new))
    found = [
        Change(path=name, what="attribute", old=_json(old.get(name, _NOTHING)), new=_json(new.get(name, _NOTHING)))
        for name in _ATTRIBUTES
        if old.get(name) != new.get(name)
    ]
    if full_name(old) != full_name(new):
        found.append(Change(path="the record", what="name", old=full_name(old), new=full_name(new)))
    for path, (kind, default) in after.items():
        if path not in before:
            found.append(Change(path=path, what="added", old="", new=kind + _defaulted(default)))
            continue
        kind_before, default_before = before[path]
        if kind != kind_before:
            found.append(Change(path=path, what="type", old=kind_before, new=kind))
        if _json(default) != _json(default_before):
            found.append(Change(path=path, what="default", old=_json(default_before), new=_json(default)))
    gone = ((path, *said) for path, said in before.items() if path not in after)
    found += [Change(path=path, what="removed", old=kind + _defaulted(default), new="") for path, kind, default in gone]
    return tuple(found)


def _distinct(clashes: Iterator[IncompatibleSchemaError]) -> tuple[IncompatibleSchemaError, ...]:
    """Each once: a field that changed clashes with every version, and in both directions."""
    first: dict[tuple[str, str], IncompatibleSchemaError] = {}
    for one in clashes:
        first.setdefault((one.path, one.reason), one)
    return tuple(first.values())


def _type(subject: str) -> str:
    return subject.partition("-")[2]


def _json(value: Any) -> str:
    return "" if value is _NOTHING else json.dumps(value, sort_keys=True)


def _defaulted(default: Any) -> str:
    return "" if default is _NOTHING else f", default {json.dumps(default, sort_keys=True)}"


def _fields(schema: AvroSchema) -> Iterator[tuple[str, tuple[str, Any]]]:
    """(path, (type, default)) of every field, those of nested records too."""
    yield from _inside(schema, "", {}, str(schema.get("namespace") or ""), frozenset())


def _inside(
    node: Any, path: str, named: dict[str, Any], space: str, within: frozenset[str]
) -> Iterator[tuple[str, tuple[str, Any]]]:
    if isinstance(node, list):
        for branch in node:
            yield from _inside(branch, path, named, space, within)
        return
    if isinstance(node, str):
        node = named.get(node, named.get(f"{space}.{node}"))
    if not isinstance(node, Mapping):
        return
    match node.get("type"):
        case "array":
            yield from _inside(node["items"], f"{path}[]", named, space, within)
        case "map":
            yield from _inside(node["values"], f"{path}[]", named, space, within)
        case "record" | "error":
            name = full_name({"namespace": space, **node})
            named[name] = node
            if name in within:
                return
            for field in node["fields"]:
                here = f"{path}.{field['name']}" if path else str(field["name"])
                yield here, (_kind(field["type"]), field.get("default", _NOTHING))
                yield from _inside(field["type"], here, named, name.rpartition(".")[0], within | {name})
        case dict() | list() as inner:
            yield from _inside(inner, path, named, space, within)


def _kind(node: Any) -> str:
    """A type in words."""
    if isinstance(node, list):
        return " | ".join(map(_kind, node))
    if isinstance(node, str):
        return node
    if logical := node.get("logicalType"):
        return f"decimal({node.get('precision')}, {node.get('scale', 0)})" if logical == "decimal" else str(logical)
    match node["type"]:
        case "array":
            return f"array of {_kind(node['items'])}"
        case "map":
            return f"map of {_kind(node['values'])}"
        case "enum":
            return f"enum {node['name']}({', '.join(node['symbols'])})"
        case "fixed":
            return f"fixed {node['name']}({node['size']})"
        case "record" | "error":
            return f"record {node['name']}"
        case inner:
            return _kind(inner)
