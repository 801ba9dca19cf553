"""The rows of a key as they were: its events folded from the log by the independent fold, up to a version or a cut.

Only this key's records are decoded, so that memory holds the rows of one key. What a replica was told to skip or to read
otherwise is folded as that replica would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from truecopy_bus.log import Log, identified
from truecopy_bus.partitioner import partition_of
from truecopy_bus.record import Record
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.amendment import NO_AMENDMENTS, Amendments
from truecopy_projections.cut import Asked, AtEnd, find_cut
from truecopy_projections.errors import CutError, StateUnknownError, UnknownVersionError
from truecopy_projections.projection import Projection
from truecopy_projections.reference import Rows, replay
from truecopy_projections.state import Checkpoint
from truecopy_projections.verdicts import Values

__all__ = ["AsOf", "rows_as_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AsOf:
    """The rows of a key at `version`, canonical values in the order of their keys; version 0 is before its first event.

    `versions` are all of the key's that were read: on the log, or before the cut.
    """

    projection: str
    key: str
    version: int
    versions: int
    rows: Sequence[Values]


async def rows_as_of(
    projection: Projection[Any],
    log: Log,
    schemas: SchemaSource,
    *,
    topic: str,
    key: str,
    version: int | None = None,
    cut: Asked | None = None,
    checkpoints: Sequence[Checkpoint] = (),
    amendments: Amendments = NO_AMENDMENTS,
) -> AsOf:
    """Fold `key` up to `version`, or up to `cut` (None: to the end of the log), reading the partition in which it lives.

    Of a topic of others all partitions are read, as nobody knows its partitioner. `checkpoints` and `amendments` are those of a
    replica. Raises UnknownVersionError, StateUnknownError (the reducer fails before that, or an event is missing), CutError
    (no such point, or a log whose beginning is gone), and like replay.
    """
    foreign = projection.foreign is not None
    state = await identified(log, topic, foreign=foreign)
    homes = state.bounds.keys() if foreign else {partition_of(key, state.partitions)}
    if gone := {p: state.bounds[p][0] for p in sorted(homes) if state.bounds[p][0] > 0}:
        raise CutError(f"{topic} no longer begins at its beginning (first stored offsets {gone}), so {key!r} can't be folded")
    found_cut = await find_cut(cut or AtEnd(), log, topic=topic, foreign=foreign, checkpoints=checkpoints, partitions=homes)
    await schemas.refresh()
    stops = {} if version is None else {key: version}
    found = await replay(
        projection,
        log,
        schemas,
        topic=topic,
        upto=found_cut.offsets,
        stops=stops,
        watch=_Only(key),
        amendments=amendments,
    )
    head, applied = found.heads[key].version if key in found.heads else 0, found.applied.get(key, 0)
    wanted = head if version is None else version
    if wanted > head:
        raise UnknownVersionError(entity=projection.entity, key=key, wanted=wanted, head=head)
    if applied < wanted:
        why = "the reducer fails for it, or two events claim one version"
        raise StateUnknownError(entity=projection.entity, key=key, version=applied + 1, why=why)
    rows = found.rows.get(key, {})
    told = [rows[sub] for sub in sorted(rows)]
    return AsOf(projection=projection.id, key=key, version=wanted, versions=head, rows=told)


class _Only:
    """A Watch that leaves out the records of all keys but one."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def wants(self, record: Record) -> bool:
        return record.key == self._key

    def step(self, key: str, version: int, rows: Rows) -> None:
        """Nothing: only where it ends is asked for."""
