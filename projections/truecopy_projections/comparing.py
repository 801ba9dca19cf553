"""Comparing the rows of two projections, in one replica or in two: what one has added, changed or removed against the other.

Rows are told apart by source key and sub key and compared field by field, over the fields that both have. It is done by a few
buckets at a time, so that no more of them are in memory. Nothing is concluded about who is right.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from truecopy_projections.limits import BUCKETS, COMPARED_BUCKETS, COMPARED_SAMPLES
from truecopy_projections.projection import Projection, SubKey
from truecopy_projections.replica import Snapshot

__all__ = ["Changed", "RowsDiff", "compare_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """One row that differs: its fields by either side, None for no row; and at which versions of its key the two are."""

    key: str
    row: SubKey
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    versions: tuple[int, int]

    @property
    def kind(self) -> str:
        """added, removed or changed."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"

    @property
    def fields(self) -> dict[str, tuple[Any, Any]]:
        """What differs where both have the row: the fields that both know."""
        before, after = self.before or {}, self.after or {}
        both = before.keys() & after.keys()
        return {name: (before[name], after[name]) for name in before if name in both and before[name] != after[name]}


@dataclass(slots=True, kw_only=True)
class RowsDiff:
    """What differs between two sets of rows. `names` counts its kinds: added, removed, and changed:FIELD for each field.

    `samples` are a few rows of each kind; `ahead` counts those among all whose keys are at other versions on the two sides.
    """

    before: str
    after: str
    compared: int = 0
    names: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[Changed]] = field(default_factory=dict)
    ahead: int = 0

    def take(self, one: Changed, *, samples_max: int) -> None:
        """Count a row that differs."""
        self.ahead += one.versions[0] != one.versions[1]
        for name in [f"changed:{name}" for name in one.fields] if one.kind == "changed" else [one.kind]:
            self.names[name] += 1
            if len(some := self.samples.setdefault(name, [])) < samples_max:
                some.append(one)


async def compare_rows(
    before: Snapshot,
    old: Projection[Any],
    after: Snapshot,
    new: Projection[Any],
    *,
    samples_max: int = COMPARED_SAMPLES,
) -> RowsDiff:
    """Hold the rows of `new` in the snapshot `after` against those of `old` in `before`."""
    found = RowsDiff(before=old.id, after=new.id)
    for first in range(0, BUCKETS, COMPARED_BUCKETS):
        buckets = range(first, min(first + COMPARED_BUCKETS, BUCKETS))
        one, other = await _rows(before, old, buckets), await _rows(after, new, buckets)
        versions = [await _versions(before, old, buckets), await _versions(after, new, buckets)]
        for key, sub in sorted({*one, *other}):
            found.compared += 1
            was, now = one.get((key, sub)), other.get((key, sub))
            changed = Changed(
                key=key, row=sub, before=was, after=now, versions=(versions[0].get(key, 0), versions[1].get(key, 0))
            )
            if changed.kind != "changed" or changed.fields:
                found.take(changed, samples_max=samples_max)
    return found


async def _rows(snapshot: Snapshot, projection: Projection[Any], buckets: range) -> dict[tuple[str, SubKey], dict[str, Any]]:
    names = [one.column.name for one in projection.fields]
    return {
        (key, projection.sub_key(row.values)): dict(zip(names, row.values, strict=True))
        async for batch in snapshot.rows(projection, buckets=buckets)
        for key, _, row in batch
    }


async def _versions(snapshot: Snapshot, projection: Projection[Any], buckets: range) -> dict[str, int]:
    return {key: state.applied async for batch in snapshot.keys(projection, buckets=buckets) for key, _, state in batch}
