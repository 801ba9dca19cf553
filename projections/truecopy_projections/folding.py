"""The fold of the log as a check asks for it: partition by partition, and of each only what later steps look at.

A key lives in one partition, so partitions can be folded one after the other, and all but one need not be in memory. What is
kept of each is its digests, and the keys that a difference, the quarantine or a parked state points to.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from truecopy_bus.log import Log
from truecopy_bus.partitioner import partition_of
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.amendment import NO_AMENDMENTS, Amendments
from truecopy_projections.digest import Tally, bucket_of, differing, row_hash
from truecopy_projections.projection import Projection
from truecopy_projections.reference import Reference, Watch, replay
from truecopy_projections.state import PartitionState

__all__ = ["Folded", "Place", "fold_log"]

Place = tuple[int, int]
"""A partition and a bucket of the digests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """The fold to the replica's positions: vectors by partition, the number of rows, and `reference`, which holds all counts
    and digests, but of keys and rows only those that were asked for or lie where digests differ."""

    reference: Reference
    vectors: Mapping[int, bytes]
    rows: int


async def fold_log(
    projection: Projection[Any],
    log: Log,
    schemas: SchemaSource,
    *,
    topic: str,
    states: Mapping[int, PartitionState],
    stops: Mapping[str, int],
    keys: Collection[str],
    places: Collection[Place] | None,
    watch: Watch | None = None,
    amendments: Amendments = NO_AMENDMENTS,
) -> Folded:
    """Fold the log to the positions of `states`, keeping `keys`, `places`, and where the fold differs from the states' digests.

    With `places` None all is kept. `amendments` are the replica's. `watch` may see a record twice. Raises like replay.
    """
    whole = Reference()
    vectors: dict[int, bytes] = {}
    rows = 0
    upto = {p: state.position for p, state in states.items()}
    how: dict[str, Any] = {"topic": topic, "stops": stops, "watch": watch, "amendments": amendments}
    if projection.foreign is None:
        for p, position in upto.items():
            part = await replay(projection, log, schemas, upto={p: position}, **how)
            if any(partition_of(key, len(upto)) != p for key in part.partition):
                break  # a key that is not at home may have history in two partitions: these are one fold
            vectors[p] = _vectors(projection, part, [p])[p]
            rows += _kept(part, whole, _wanted(keys, places, p, vectors[p], states[p]))
        else:
            return Folded(reference=whole, vectors=vectors, rows=rows)
    everything = await replay(projection, log, schemas, upto=upto, **how)
    rows = sum(map(len, everything.rows.values()))
    return Folded(reference=everything, vectors=_vectors(projection, everything, upto), rows=rows)


def _vectors(projection: Projection[Any], part: Reference, partitions: Collection[int]) -> dict[int, bytes]:
    tallies = {p: Tally() for p in partitions}
    for key, rows in part.rows.items():
        for values in rows.values():
            tallies[part.partition[key]].add(bucket_of(key), row_hash(projection.id, key, values))
    return {p: tally.vector() for p, tally in tallies.items()}


def _wanted(
    keys: Collection[str], places: Collection[Place] | None, p: int, folded: bytes, state: PartitionState
) -> Callable[[str], bool]:
    """Whether a key of partition `p` is kept."""
    if places is None:
        return lambda _: True
    buckets = {bucket for partition, bucket in places if partition == p} | differing(folded, state.rows)
    return lambda key: key in keys or (bool(buckets) and bucket_of(key) in buckets)


def _kept(part: Reference, whole: Reference, wanted: Callable[[str], bool]) -> int:
    """Take over into `whole` what is wanted of a partition; the number of rows that it has."""
    for key, head in part.heads.items():
        if wanted(key) or part.applied.get(key, 0) != head.version:
            whole.heads[key], whole.partition[key] = head, part.partition[key]
            if key in part.applied:
                whole.applied[key], whole.rows[key] = part.applied[key], part.rows[key]
    for key in part.partition.keys() - part.heads.keys():
        whole.partition[key] = part.partition[key]
    whole.counts |= part.counts
    whole.digests |= part.digests
    whole.read |= part.read
    whole.fingerprints |= part.fingerprints
    whole.conflicts |= part.conflicts
    return sum(map(len, part.rows.values()))
