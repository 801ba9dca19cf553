"""Drill-down: from buckets whose digests differ to the rows in them, and to the fields of those rows."""

from collections.abc import Collection
from typing import Any

from truecopy_projections.digest import bucket_of, row_hash
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
    buckets: Collection[int] | None,
) -> list[Difference]:
    """The differing rows in these buckets (None: in all), in the order of their keys.

    Without a reference only rows that differ from their own stored hash can be named.
    """
    if buckets is not None and not buckets:
        return []
    stored: dict[str, dict[SubKey, tuple[int, StoredRow]]] = {}
    astray: list[Difference] = []
    async for batch in snapshot.rows(projection, buckets=buckets):
        for key, partition, row in batch:
            if row.astray is not None:
                fields = {"_bucket": (row.astray, bucket_of(key))}
                sub = projection.sub_key(row.values)
                astray.append(Difference(key=key, row=sub, kind=Kind.GHOST, version=0, fields=fields))
            else:
                stored.setdefault(key, {})[projection.sub_key(row.values)] = partition, row
    keys = set(stored)
    if reference is not None:
        keys |= {key for key in reference.rows if buckets is None or bucket_of(key) in buckets}
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
        if reference is None:
            kind = Kind.DIFFERENT
        elif row is None:
            kind = Kind.MISSING
            fields = {n: (None, e) for n, e in zip(names, values or (), strict=True)}
        elif values is None:
            kind = Kind.GHOST
            fields = {n: (s, None) for n, s in zip(names, row.values, strict=True)}
        else:
            kind = Kind.STALE if version < reached else Kind.AHEAD if version > reached else Kind.DIFFERENT
        if fields:
            found.append(Difference(key=key, row=sub, kind=kind, version=version, fields=fields))
    return found


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and (one == other or (one != one and other != other))
