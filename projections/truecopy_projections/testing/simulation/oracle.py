"""The oracle: what the owner was told is published, kept outside of the system, and the rows that must come of it.

A history is a list for each key. Its rows are what the reducers yield one after the other, or what the caller of the simulation
says that they must be. Nothing of worker, plan, digest or reference is used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from truecopy_projections.projection import Change, Projection, SubKey
from truecopy_schemas import Event

__all__ = ["Expected", "Oracle", "folded"]

Values = dict[SubKey, tuple[Any, ...]]
Expected = Callable[[str, Sequence[Event]], Sequence[Any]]
"""From a key and its whole history to the rows that it must have."""


@dataclass(slots=True)
class Oracle:
    """By entity and key: the events that were acknowledged, in the order of their versions."""

    histories: dict[str, dict[str, list[Event]]] = field(default_factory=dict)

    def acknowledged(self, key: str, event: Event, version: int) -> str:
        """Note an event; what is wrong with its version, "" if nothing is."""
        history = self.histories.setdefault(type(event).__entity__, {}).setdefault(key, [])
        history.append(event)
        return "" if version == len(history) else f"{key!r}: event {len(history)} was told that it is version {version}"

    def of(self, entity: str) -> Mapping[str, Sequence[Event]]:
        return self.histories.get(entity, {})

    def count(self, entity: str) -> int:
        return sum(map(len, self.of(entity).values()))


def folded(projection: Projection[Any], key: str, history: Sequence[Event], expected: Expected | None = None) -> Values:
    """The rows of one key by their sub keys, as the values that are stored."""
    if expected is not None:
        stored = [projection.stored(row) for row in expected(key, history)]
        return {projection.sub_key(values): values for values in stored}
    rows: dict[SubKey, Any] = {}
    for version, event in enumerate(history, 1):
        handler = projection.handlers.get(type(event).__event_name__)
        if handler is None:
            rows = {} if type(event).__deletes__ else rows
            continue
        touched = projection.touched(handler, event, Change(key, version, ()))
        for sub in sorted(rows) if touched is None else touched:
            row = handler.reduce(rows.pop(sub, None), event, Change(key, version, sub))
            if row is not None:
                rows[sub] = projection.restored(projection.stored(row))
    return {sub: projection.stored(row) for sub, row in rows.items()}
