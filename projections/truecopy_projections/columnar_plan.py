"""The plan of a batch of columns. It makes what `plan` makes of the same records, digest for digest, or nothing.

Every event must be the next of a key that is not parked: then its effect is its link in the key's chain, and only the rows that
keys have at a mark or at the end are hashed, and only those that they have at the end become values.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from operator import itemgetter, sub
from typing import Any, NamedTuple

from truecopy_bus.fold import DIGEST_MODULUS, UNKNOWN, follow
from truecopy_bus.leases import Fence
from truecopy_projections.columnar import Batch, Run
from truecopy_projections.digest import bucket_of_name, row_hashes, shifted
from truecopy_projections.marks import checkpoint
from truecopy_projections.projection import Address, Projection
from truecopy_projections.state import Checkpoint, Copies, PartitionPlan, PartitionState, head_state
from truecopy_schemas.control import Mark

__all__ = ["Latest", "Planned", "plan_columns"]

_Head = tuple[int, bytes, bytes]
Latest = tuple[int, bytes, bytes]
"""What is known of a key that is not parked: its version, that version's element, and the hash of its row (b"": none)."""


class Planned(NamedTuple):
    """The plans of a batch, and what is known of its keys once they are committed."""

    plans: Sequence[PartitionPlan]
    latest: Mapping[str, Latest]


_element = itemgetter(1)


def plan_columns(
    projection: Projection[Any],
    states: Mapping[int, PartitionState],
    fences: Mapping[int, Fence],
    batch: Batch,
    known: Mapping[str, Latest],
) -> Planned | None:
    """One plan for each partition of the batch that is held, or None: plan it record by record.

    `known` has what is known of the batch's keys; what it lacks is new.
    """
    names = [set(batch.names[part.runs[0].start : part.runs[-1].end]) for part in batch.parts]
    if sum(map(len, names)) != len(batch.keys):
        return None  # a key in two partitions
    plans = []
    latest: dict[str, Latest] = {}
    for part, own in zip(batch.parts, names, strict=True):
        if part.partition in states and part.partition in fences:
            share = _Share(projection, batch, known, states[part.partition], own)
            if not all(map(share.take, part.runs)):
                return None
            plans.append(share.finished(fences[part.partition]))
            latest |= share.latest()
    return Planned(plans, latest)


class _Share:
    """One partition's share of the plan while it is made. `rows` has the last event of each key that set its row."""

    def __init__(
        self,
        projection: Projection[Any],
        batch: Batch,
        known: Mapping[str, Latest],
        was: PartitionState,
        names: Collection[bytes],
    ) -> None:
        self.projection, self.batch, self.was, self.state = projection, batch, was, was
        found = map(known.get, map(batch.keys.__getitem__, names), repeat(UNKNOWN))
        # To begin with, the third of a head is its row's hash and not the element before: `follow` replaces it unseen.
        self.heads: dict[bytes, _Head] = dict(zip(names, found, strict=True))
        self.stored = {name: row for name, (_, _, row) in self.heads.items() if row}
        self.hashes = dict(self.stored)
        self.rows: dict[bytes, int] = {}
        self.checkpoints: list[Checkpoint] = []

    def take(self, run: Run) -> bool:
        """Take in events that follow each other, and the mark behind them; False if one is not what it is expected to be."""
        batch, heads, span = self.batch, self.heads, slice(run.start, run.end)
        names = batch.names[span]
        last = dict(zip(names, range(run.start, run.end), strict=True))
        moved = -_sum_of(map(_element, map(heads.__getitem__, last)))
        if not follow(heads, names, batch.versions[span], batch.fingerprints[span], batch.bodies[span]):
            return False
        moved += _sum_of(map(_element, map(heads.__getitem__, last)))
        if len(batch.rows) > 1:
            last = {batch.names[at]: at for at in range(run.start, run.end) if batch.rows[batch.which[at]].way.effect}
        state = self.state
        self.state = replace(
            state,
            position=run.position,
            count=state.count + run.end - run.start,
            input_digest=(state.input_digest + moved) % DIGEST_MODULUS,
            row_digest=(state.row_digest + self._settle(last)) % DIGEST_MODULUS,
        )
        return run.control is None or self._mark(run)

    def _settle(self, last: dict[bytes, int]) -> int:
        """Let the rows be what these last events of their keys make of them. Returns how far the row digest moves."""
        batch, moved = self.batch, 0
        for number, rows in enumerate(batch.rows):
            mine = last if len(batch.rows) == 1 else {name: at for name, at in last.items() if batch.which[at] == number}
            if not mine or not rows.way.effect:
                continue
            hashes: Sequence[bytes]
            if rows.way.sources is None or rows.columns is None:
                hashes = [b""] * len(mine)
            else:
                keys, places = list(map(batch.keys.__getitem__, mine)), list(map(batch.place.__getitem__, mine.values()))
                fields = [source.encoded(rows.columns, places, keys) for source in rows.way.sources]
                hashes = row_hashes(self.projection.id, keys, fields)
            moved += _sum_of(hashes) - _sum_of(map(self.hashes.get, mine, repeat(b"")))
            self.hashes.update(zip(mine, hashes, strict=True))
            self.rows.update(mine)
        return moved

    def _sums(self) -> bytes:
        """The digest's buckets after all rows that were settled."""
        moves: dict[int, int] = {}
        new = map(int.from_bytes, map(self.hashes.__getitem__, self.rows))
        old = map(int.from_bytes, map(self.stored.get, self.rows, repeat(b"")))
        for bucket, move in zip(map(bucket_of_name, self.rows), map(sub, new, old), strict=True):
            moves[bucket] = moves.get(bucket, 0) + move
        return shifted(self.was.rows, moves)

    def _mark(self, run: Run) -> bool:
        assert run.control is not None
        state, record, said = self.state, run.control.record, run.control.said
        if said.incarnation != state.incarnation:
            return False
        if type(said) is Mark:
            figures = (state.count, state.input_digest, state.row_digest, state.relay_epoch, state.uncounted)
            self.checkpoints.append(checkpoint(record, said, *figures))
            self.state = replace(state, relay_epoch=max(state.relay_epoch, said.epoch))
        return True

    def latest(self) -> dict[str, Latest]:
        versions, elements, _ = zip(*self.heads.values(), strict=True) if self.heads else ((), (), ())
        hashes = map(self.hashes.get, self.heads, repeat(b""))
        return dict(
            zip(map(self.batch.keys.__getitem__, self.heads), zip(versions, elements, hashes, strict=True), strict=True)
        )

    def finished(self, fence: Fence) -> PartitionPlan:
        batch, hashes, heads = self.batch, self.hashes, self.heads
        copies = []
        gone: set[Address] = set()
        for number, rows in enumerate(batch.rows):
            whole = len(batch.rows) == 1
            mine = self.rows if whole else {name: at for name, at in self.rows.items() if batch.which[at] == number}
            keys = list(map(batch.keys.__getitem__, mine))
            if rows.way.sources is None or rows.columns is None:
                gone |= {(key, ()) for name, key in zip(mine, keys, strict=True) if name in self.stored}
                continue
            places = list(map(batch.place.__getitem__, mine.values()))
            fields = [source.values(rows.columns, places, keys) for source in rows.way.sources]
            own = list(map(heads.__getitem__, mine))
            copies.append(Copies(keys, fields, list(map(hashes.__getitem__, mine)), own))
        others = self.heads.keys() - {name for name in self.rows if hashes.get(name)}
        return PartitionPlan(
            fence=fence,
            was=self.was,
            state=replace(self.state, rows=self._sums()),
            keys={batch.keys[name]: head_state(heads[name]) for name in others},
            drops=frozenset(gone),
            copies=tuple(copies),
            checkpoints=tuple(self.checkpoints),
            applied=self.state.count - self.was.count,
        )


def _sum_of(elements: Iterable[bytes]) -> int:
    return sum(map(int.from_bytes, elements))
