"""Drill-down: from places whose digests differ to the rows in them, and to the fields of those rows.

What rows are held against is a Reference: of the fold of the log, or of a peer's rows.
"""

from collections.abc import Collection
from typing import Any

from truecopy_projections.digest import bucket_of, row_hash
from truecopy_projections.folding import Place
from truecopy_projections.projection import Projection, SubKey
from truecopy_projections.reference import Reference
from truecopy_projections.replica import Snapshot
from truecopy_projections.state import StoredRow
from truecopy_projections.verdicts import Difference, Kind

__all__ = ["drill"]


async def drill(
    projection: Projection[Any],
    snapshot: Snapshot,
    reference: Reference | None,
    places: Collection[Place] | None,
) -> list[Difference]:
    """The differing rows in these places (None: in all), in the order of their keys.

    Without a reference only rows that differ from their own stored hash can be named.
    """
    if places is not None and not places:
        return []
    stored: dict[str, dict[SubKey, tuple[int, StoredRow]]] = {}
    astray: list[Difference] = []
    buckets = None if places is None else {bucket for _, bucket in places}
    async for batch in snapshot.rows(projection, buckets=buckets):
        for key, partition, row in batch:
            if row.astray is not None:
                fields = {"_bucket": (row.astray, bucket_of(key))}
                sub = projection.sub_key(row.values)
                astray.append(Difference(key=key, row=sub, kind=Kind.GHOST, version=0, fields=fields, partition=partition))
            else:
                stored.setdefault(key, {})[projection.sub_key(row.values)] = partition, row
    homes = reference.partition if reference is not None else {}
    keys = {
        key
        for key in stored.keys() | (reference.rows.keys() if reference is not None else set())
        if places is None
        or (homes.get(key, -1), bucket_of(key)) in places
        or any((p, bucket_of(key)) in places or (-1, bucket_of(key)) in places for p, _ in stored.get(key, {}).values())
    }
    versions: dict[str, int] = {}
    async for states in snapshot.keys(projection, buckets=buckets):
        versions |= {key: state.applied for key, _, state in states if key in keys}
    found = [one for key in keys for one in _in_key(projection, key, stored.get(key, {}), reference, versions.get(key, 0))]
    return sorted([*found, *astray], key=lambda one: one.key)


def _in_key(
    projection: Projection[Any],
    key: str,
    stored: dict[SubKey, tuple[int, StoredRow]],
    reference: Reference | None,
    version: int,
) -> list[Difference]:
    names = [field.column.name for field in projection.fields]
    meant = reference.rows.get(key, {}) if reference else {}
    reached = reference.applied.get(key, 0) if reference else version
    found: list[Difference] = []
    for sub in sorted(stored.keys() | meant.keys(), key=repr):
        (home, row), values = stored.get(sub, (-1, None)), meant.get(sub)
        fields: dict[str, tuple[Any, Any]] = {}
        if row is not None:
            again = row_hash(projection.id, key, row.values)
            if values is not None:
                # By canonical bytes, because one NaN is another NaN here.
                pairs = zip(names, row.values, values, strict=True)
                fields = {n: (s, e) for n, s, e in pairs if not _same(s, e)}
            if again != row.hash and not fields:
                fields = {"_hash": (row.hash, again)}
            if reference is not None and values is not None and home != reference.partition[key]:
                fields["_part"] = (home, reference.partition[key])
        if reference is not None and row is None:
            fields = {n: (None, e) for n, e in zip(names, values or (), strict=True)}
        elif reference is not None and row is not None and values is None:
            fields = {n: (s, None) for n, s in zip(names, row.values, strict=True)}
        if fields:
            kind = _kind(version, reached, there=row is not None, is_meant=values is not None or reference is None)
            found.append(
                Difference(
                    key=key,
                    row=sub,
                    kind=kind,
                    version=version,
                    fields=fields,
                    partition=reference.partition.get(key, home) if reference is not None else home,
                    stored=None if row is None else row.values,
                    meant=values,
                )
            )
    return found


def _kind(version: int, reached: int, *, there: bool, is_meant: bool) -> Kind:
    """By the key's versions where both sides know it and differ in that, by what is there otherwise."""
    if version and reached and version != reached:
        return Kind.STALE if version < reached else Kind.AHEAD
    if not there:
        return Kind.MISSING
    return Kind.DIFFERENT if is_meant else Kind.GHOST


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and (one == other or (one != one and other != other))
