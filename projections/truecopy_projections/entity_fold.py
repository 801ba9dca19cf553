"""The state of an entity at a version: what a fold makes of the first so many events of its key. Pure.

A ProjectionFold takes a projection's reducer, whether or not that projection is applied to a replica. A LatestFold needs no
declaration: an event of kind "state" is the state of its key, and a deleting event leaves none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Protocol
from uuid import UUID

import orjson

from truecopy_bus.fold import element
from truecopy_bus.histories import Snapshot, StoredEvent
from truecopy_bus.sql import Kind
from truecopy_projections.errors import StateUnknownError
from truecopy_projections.projection import Change, Handler, Projection, SubKey
from truecopy_projections.reference import Rows, reduced
from truecopy_schemas.avro_schema import AvroSchema, full_name
from truecopy_schemas.codec import Decoder

__all__ = [
    "Delta",
    "EntityFold",
    "LatestFold",
    "ProjectionFold",
    "RowDelta",
    "State",
    "delta",
    "folded",
    "snapshot_of",
    "state_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a key was after its first `version` events: its rows as canonical values, and the hash chain of the events.

    `at_ms` is when the last of them was written, 0 for version 0 and for what was read from a snapshot alone.
    """

    key: str
    version: int
    rows: Rows
    element: bytes = b""
    at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDelta:
    """How one row differs: by field its value before and after, None for all of a row that was not there."""

    row: SubKey
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None

    @property
    def fields(self) -> dict[str, tuple[Any, Any]]:
        """What differs, by field; a field of a row that is not there is None."""
        was, now = self.before or {}, self.after or {}
        return {name: (was.get(name), now.get(name)) for name in {**was, **now} if was.get(name) != now.get(name)}

    def __str__(self) -> str:
        if self.before is None or self.after is None:
            told = "added" if self.before is None else "removed"
            return f"{_named(self.row)}{told}: {_told(self.after or self.before or {})}"
        told = ", ".join(f"{name} {was!r} -> {now!r}" for name, (was, now) in self.fields.items())
        return f"{_named(self.row)}{told}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """How a key's state differs between two of its versions; empty where it is the same."""

    key: str
    before: int
    after: int
    rows: tuple[RowDelta, ...]

    def __str__(self) -> str:
        told = "; ".join(map(str, self.rows)) or "nothing"
        return f"version {self.before} to {self.after}: {told}"


class EntityFold(Protocol):
    """What makes states of a key's events."""

    entity: str

    @property
    def id(self) -> str:
        """Names the fold and what it was declared as: snapshots of another are none of its."""
        ...

    def knows(self, fingerprint: bytes) -> bool: ...

    def learn(self, fingerprint: bytes, schema: AvroSchema) -> None:
        """Take in a schema that events of the entity were written by."""
        ...

    def begins(self, version: int) -> int | None:
        """The version from whose state on events are needed for the state at `version`; None: the first, or a snapshot's."""
        ...

    def take(self, key: str, rows: Rows, event: StoredEvent) -> Rows:
        """The rows after an event; those before it stay as they were. Raises StateUnknownError."""
        ...

    def fields(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """A row's values by name."""
        ...

    def as_text(self, rows: Rows) -> str: ...

    def from_text(self, text: str) -> Rows: ...


def delta(fold: EntityFold, before: State, after: State) -> Delta:
    """How two states of a key differ, row by row."""
    found = []
    for sub in sorted({*before.rows, *after.rows}):
        was, now = before.rows.get(sub), after.rows.get(sub)
        if was != now:
            one, other = (None if values is None else fold.fields(values) for values in (was, now))
            found.append(RowDelta(row=sub, before=one, after=other))
    return Delta(key=before.key, before=before.version, after=after.version, rows=tuple(found))


def folded(fold: EntityFold, state: State, events: Sequence[StoredEvent]) -> State:
    """The state after these events, which follow it without a hole. Raises StateUnknownError."""
    rows, chain, version, at_ms = state.rows, state.element, state.version, state.at_ms
    for event in events:
        if event.version != version + 1:
            seen = f"version {event.version} follows version {version}: the history has a hole"
            raise StateUnknownError(entity=fold.entity, key=state.key, version=event.version, why=seen)
        rows = fold.take(state.key, rows, event)
        chain = element(chain, state.key, event.version, event.fingerprint, event.body)
        version, at_ms = event.version, event.at_ms
    return State(key=state.key, version=version, rows=rows, element=chain, at_ms=at_ms)


def snapshot_of(fold: EntityFold, state: State) -> Snapshot:
    """A state as it is kept."""
    return Snapshot(state.version, state.element, fold.as_text(state.rows))


def state_of(fold: EntityFold, key: str, snapshot: Snapshot) -> State:
    """A kept state. Raises ValueError for a text that is none."""
    return State(key=key, version=snapshot.version, rows=fold.from_text(snapshot.rows), element=snapshot.element)


class ProjectionFold:
    """States by a projection's reducer."""

    def __init__(self, projection: Projection[Any]) -> None:
        self.projection, self.entity = projection, projection.entity
        # By its hash: it is part of an index, and PostgreSQL refuses an entry as long as a wide row's declaration.
        declared = orjson.dumps(projection.describe(), option=orjson.OPT_SORT_KEYS)
        self.id = f"{projection.id} {blake2b(declared, digest_size=16).hexdigest()}"
        self._writers: dict[bytes, tuple[Handler | None, Decoder[Any] | None, bool]] = {}

    def knows(self, fingerprint: bytes) -> bool:
        return fingerprint in self._writers

    def learn(self, fingerprint: bytes, schema: AvroSchema) -> None:
        handler, decoder = self.projection.reads(schema) or (None, None)
        self._writers[fingerprint] = handler, decoder, bool(schema.get("truecopy.deletes"))

    def begins(self, version: int) -> int | None:  # noqa: ARG002
        return None

    def take(self, key: str, rows: Rows, event: StoredEvent) -> Rows:
        handler, decoder, deletes = self._writers[event.fingerprint]
        if handler is None or decoder is None:
            return {} if deletes else rows
        try:
            return reduced(self.projection, rows, handler, decoder.decode_event(event.body), Change(key, event.version, ()))
        except Exception as fault:  # the user's reducer, whatever it raises
            why = f"{type(fault).__name__}: {fault}"
            raise StateUnknownError(entity=self.entity, key=key, version=event.version, why=why) from fault

    def fields(self, values: tuple[Any, ...]) -> dict[str, Any]:
        return {f.column.name: value for f, value in zip(self.projection.fields, values, strict=True)}

    def as_text(self, rows: Rows) -> str:
        kinds = [f.column.kind for f in self.projection.fields]
        told = [[_to_json(kind, value) for kind, value in zip(kinds, values, strict=True)] for values in rows.values()]
        return orjson.dumps(told).decode()

    def from_text(self, text: str) -> Rows:
        kinds = [f.column.kind for f in self.projection.fields]
        read = [
            tuple(_from_json(kind, value) for kind, value in zip(kinds, values, strict=True)) for values in orjson.loads(text)
        ]
        return {self.projection.sub_key(values): values for values in read}


class LatestFold:
    """States of an entity all of whose events are of kind "state": the fields of the latest, and its type."""

    id = "the latest event"

    def __init__(self, entity: str) -> None:
        self.entity = entity
        self._writers: dict[bytes, tuple[AvroSchema, Decoder[Any]]] = {}

    def knows(self, fingerprint: bytes) -> bool:
        return fingerprint in self._writers

    def learn(self, fingerprint: bytes, schema: AvroSchema) -> None:
        self._writers[fingerprint] = schema, Decoder(schema)

    def begins(self, version: int) -> int | None:
        return max(0, version - 1)

    def take(self, key: str, rows: Rows, event: StoredEvent) -> Rows:  # noqa: ARG002
        schema, decoder = self._writers[event.fingerprint]
        if schema.get("truecopy.deletes"):
            return {}
        if schema.get("truecopy.kind") != "state":
            why = f"{full_name(schema)} is of kind delta, and no state by itself; name a projection whose reducer makes one"
            raise StateUnknownError(entity=self.entity, key=key, version=event.version, why=why)
        _, _, values = decoder.decode(event.body)
        return {(): tuple({"type": full_name(schema), **values}.items())}

    def fields(self, values: tuple[Any, ...]) -> dict[str, Any]:
        return dict(values)

    def as_text(self, rows: Rows) -> str:
        raise NotImplementedError("the latest event is its own snapshot")

    def from_text(self, text: str) -> Rows:
        raise NotImplementedError("the latest event is its own snapshot")


def _to_json(kind: Kind, value: Any) -> Any:
    if value is None or kind in (Kind.TEXT, Kind.INTEGER, Kind.BOOLEAN, Kind.JSON):
        return value
    if kind is Kind.REAL:
        return value.hex()
    if kind is Kind.BYTES:
        return value.hex()
    return str(value) if kind in (Kind.DECIMAL, Kind.UUID) else value.isoformat()


def _from_json(kind: Kind, value: Any) -> Any:
    if value is None or kind in (Kind.TEXT, Kind.INTEGER, Kind.BOOLEAN, Kind.JSON):
        return value
    return _READ[kind](value)


_READ: Mapping[Kind, Any] = {
    Kind.REAL: float.fromhex,
    Kind.BYTES: bytes.fromhex,
    Kind.DECIMAL: Decimal,
    Kind.UUID: UUID,
    Kind.DATE: date.fromisoformat,
    Kind.TIMESTAMP: datetime.fromisoformat,
}


def _named(sub: SubKey) -> str:
    return f"row {sub} " if sub else ""


def _told(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in fields.items())
