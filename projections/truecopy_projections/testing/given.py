"""Given these events of a key, when that happens, then these are its rows: tests of reducers, without log, replica or loop.

    given(balances, Deposited(amount=5)).when(Withdrawn(amount=2)).then(Balance("a1", 3))
    given(balances, Deposited(amount=5)).when(Withdrawn(amount=9)).then_parked("overdrawn")

Events go through their Avro bytes and rows through their stored form, so that a reducer sees here what it sees in a worker.
All of it is done twice from the beginning: a reducer that gives other rows the second time depends on more than row and event.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from truecopy_projections.projection import Change, Projection, SubKey
from truecopy_projections.reference import Rows, reduced
from truecopy_schemas import Event
from truecopy_schemas.avro_schema import avro_schema
from truecopy_schemas.codec import Decoder, encode

__all__ = ["Given", "Outcome", "given"]

R = TypeVar("R")


def given(projection: Projection[R], *events: Event, key: str = "key") -> "Given[R]":
    """The history of `key` before the test: its versions 1, 2, 3, ..., all of which must be applicable."""
    return Given(projection=projection, key=key, events=events)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given(Generic[R]):
    """A projection and what has happened so far."""

    projection: Projection[R]
    key: str
    events: tuple[Event, ...]

    def when(self, *events: Event) -> "Outcome[R]":
        """Reduce all of it. Raises AssertionError when a given event can't be applied, or the second time gives other rows."""
        first, again = self._folded(events), self._folded(events)
        if first.rows != again.rows or repr(first.fault) != repr(again.fault):
            told = _told(self.projection, self.key, again.rows, first.rows) or f"first {first.fault!r}, then {again.fault!r}"
            raise AssertionError(
                f"{self.projection.id}: the same events gave something else the second time: a reducer may depend on row, "
                f"event and change alone\n{told}"
            )
        return first

    def _folded(self, events: tuple[Event, ...]) -> "Outcome[R]":
        rows: Rows = {}
        for version, event in enumerate((*self.events, *events), start=1):
            read = self._published(event, version)
            try:
                rows = _after(self.projection, rows, read, Change(self.key, version, ()))
            except Exception as fault:
                if version > len(self.events):
                    return Outcome(given=self, when=events, rows=rows, fault=fault)
                raise AssertionError(
                    f"{self.projection.id}: given event {version}, {event!r}, can't be applied: {type(fault).__name__}: {fault}"
                ) from fault
        return Outcome(given=self, when=events, rows=rows, fault=None)

    def _published(self, event: Event, version: int) -> Event:
        """The event as a worker reads it. Raises AssertionError for one of another entity, InvalidEventError."""
        if event.__entity__ != self.projection.entity:
            seen = f"{type(event).__name__} is of entity {event.__entity__!r}"
            raise AssertionError(f"{self.projection.id}: {seen}, expected one of {self.projection.entity!r}")
        return _decoder(type(event)).decode_event(encode(event, version=version))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[R]):
    """What came of it: the canonical rows of the key, and what stopped it (None if nothing did)."""

    given: Given[R]
    when: Sequence[Event]
    rows: Mapping[SubKey, tuple[Any, ...]]
    fault: Exception | None

    def then(self, *rows: R | None) -> None:
        """All rows of the key are these, in any order; None, or nothing, stands for no row.

        Raises AssertionError, which names the fields that differ; RowRejectedError for an expected row that can't be stored.
        """
        projection = self.given.projection
        if self.fault is not None:
            raise AssertionError(
                f"{self._named()}\nexpected rows, seen {type(self.fault).__name__}: {self.fault}; in a replica the key would "
                "be parked (then_parked expects that)"
            ) from self.fault
        stored = [projection.stored(row) for row in rows if row is not None]
        expected = {projection.sub_key(values): values for values in stored}
        if len(expected) < len(stored):
            raise AssertionError(f"{self._named()}\ntwo of the expected rows have the same key {projection.key}")
        if differing := _told(projection, self.given.key, self.rows, expected):
            raise AssertionError(f"{self._named()}\n{differing}")

    def then_parked(self, match: str = "") -> None:
        """The last events can't be applied, so that the key parks; `match` is searched in the error. Raises AssertionError."""
        if self.fault is None:
            rows = [self.given.projection.restored(values) for values in self.rows.values()]
            raise AssertionError(f"{self._named()}\nexpected that the reducer refuses it, seen rows {rows}")
        said = f"{type(self.fault).__name__}: {self.fault}"
        if not re.search(match, said):
            raise AssertionError(f"{self._named()}\nexpected an error that matches {match!r}, seen {said}") from self.fault

    def _named(self) -> str:
        return "\n".join(
            (
                f"{self.given.projection.id}, key {self.given.key!r}",
                *(f"  given {event!r}" for event in self.given.events),
                *(f"  when  {event!r}" for event in self.when),
            )
        )


@cache
def _decoder(cls: type[Event]) -> Decoder[Event]:
    return Decoder(avro_schema(cls), cls)


def _after(projection: Projection[Any], rows: Rows, event: Event, change: Change) -> Rows:
    handler = projection.handlers.get(event.__event_name__)
    if handler is None:
        return {} if event.__deletes__ else rows
    return reduced(projection, rows, handler, event, change)


def _told(
    projection: Projection[Any], key: str, seen: Mapping[SubKey, tuple[Any, ...]], expected: Mapping[SubKey, tuple[Any, ...]]
) -> str:
    """The differing rows, field by field; empty if there is none."""
    lines = []
    for sub in sorted(seen.keys() | expected.keys(), key=repr):
        name = f"row {sub!r} of {key!r}" if sub else f"the row of {key!r}"
        if sub not in expected:
            lines.append(f"{name}: expected none, seen {projection.restored(seen[sub])!r}")
        elif sub not in seen:
            lines.append(f"{name}: seen none, expected {projection.restored(expected[sub])!r}")
        elif fields := _differing(projection, seen[sub], expected[sub]):
            lines += [f"{name} differs:", *fields]
    return "\n".join(lines)


def _differing(projection: Projection[Any], seen: tuple[Any, ...], expected: tuple[Any, ...]) -> list[str]:
    return [
        f"  {field.column.name}: seen {one!r}, expected {other!r}"
        for field, one, other in zip(projection.fields, seen, expected, strict=True)
        if one != other and not (one != one and other != other)  # one NaN is another here
    ]
