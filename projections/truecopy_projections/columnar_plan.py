"""The plan of a batch of columns. It makes what `plan` makes of the same records, digest for digest, or nothing.

Every event must be the next of a key that is not parked: then its effect is its link in the key's chain, and only the rows that
keys have at a mark or at the end become values and hashes.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from truecopy_bus.fold import DIGEST_MODULUS, UNKNOWN, Head, follow
from truecopy_bus.leases import Fence
from truecopy_projections.columnar import Batch, Part, Rows, Run
from truecopy_projections.digest import bucket_of_name, row_hashes, shifted
from truecopy_projections.marks import checkpoint
from truecopy_projections.projection import Address, Projection
from truecopy_projections.state import Checkpoint, KeyState, Known, PartitionPlan, PartitionState, StoredRow, Wanted
from truecopy_schemas.control import Mark

__all__ = ["plan_columns", "wanted_by"]

_Head = tuple[int, bytes, bytes]


def wanted_by(batch: Batch) -> Wanted:
    """What a plan of the batch has to know."""
    keys = frozenset(batch.keys.values())
    return Wanted(keys=keys, hashes=keys)


def plan_columns(
    projection: Projection[Any],
    states: Mapping[int, PartitionState],
    fences: Mapping[int, Fence],
    batch: Batch,
    known: Known,
) -> list[PartitionPlan] | None:
    """One plan for each partition of the batch that is held, or None: plan it record by record."""
    if any(state.parked is not None for state in known.keys.values()):
        return None
    if len(batch.parts) > 1 and sum(len(_names(batch, part)) for part in batch.parts) != len(batch.keys):
        return None  # a key in two partitions
    plans = []
    for part in batch.parts:
        if part.partition in states and part.partition in fences:
            share = _Share(projection, batch, known, states[part.partition])
            if not share.follow(part):
                return None
            plans.append(share.finished(fences[part.partition]))
    return plans


def _names(batch: Batch, part: Part) -> set[bytes]:
    return set(batch.names[part.runs[0].start : part.runs[-1].end])


class _Share:
    """One partition's share of the plan while it is made."""

    def __init__(self, projection: Projection[Any], batch: Batch, known: Known, was: PartitionState) -> None:
        self.projection, self.batch, self.known, self.was = projection, batch, known, was
        self.heads: dict[bytes, _Head] = {}
        self.hashes: dict[bytes, bytes] = {}
        self.puts: dict[Address, StoredRow] = {}
        self.drops: set[Address] = set()
        self.checkpoints: list[Checkpoint] = []
        self.state = was

    def follow(self, part: Part) -> bool:
        """Take in all of the partition's events and marks; False if one is not what it is expected to be."""
        keys, known = self.batch.keys, self.known
        for name in _names(self.batch, part):
            key = keys[name]
            state = known.keys.get(key)
            self.heads[name] = UNKNOWN if state is None else state.head
            if key in known.hashes:
                self.hashes[name] = known.hashes[key]
        return all(self._run(run) for run in part.runs)

    def _run(self, run: Run) -> bool:
        batch, heads = self.batch, self.heads
        span = slice(run.start, run.end)
        names = batch.names[span]
        last = dict(zip(names, range(run.start, run.end), strict=True))
        moved = -sum([int.from_bytes(heads[name][1]) for name in last])
        if not follow(heads, names, batch.versions[span], batch.fingerprints[span], batch.bodies[span]):
            return False
        moved += sum([int.from_bytes(heads[name][1]) for name in last])
        moves: dict[int, int] = {}
        self._settle(run, last, moves)
        state = self.state
        self.state = replace(
            state,
            position=run.position,
            count=state.count + run.end - run.start,
            input_digest=(state.input_digest + moved) % DIGEST_MODULUS,
            rows=shifted(state.rows, moves),
            row_digest=(state.row_digest + sum(moves.values())) % DIGEST_MODULUS,
        )
        return run.control is None or self._control(run)

    def _settle(self, run: Run, last: Mapping[bytes, int], moves: dict[int, int]) -> None:
        """Bring the rows to what the last events of their keys make of them; add up how far each bucket moves."""
        batch = self.batch
        if len(batch.rows) == 1:
            self._change(batch.rows[0], last, last.values(), moves)
            return
        inside = range(run.start, run.end)
        last = {batch.names[at]: at for at in inside if batch.rows[batch.which[at]].way.effect}
        for number, rows in enumerate(batch.rows):
            mine = {name: at for name, at in last.items() if batch.which[at] == number}
            self._change(rows, mine, [batch.place[at] for at in mine.values()], moves)

    def _change(self, rows: Rows, names: Collection[bytes], places: Collection[int], moves: dict[int, int]) -> None:
        """Replace or remove the rows of these keys by the events at these places of their block."""
        way, columns = rows.way, rows.columns
        if not way.effect or not names:
            return
        keys = [self.batch.keys[name] for name in names]
        if way.sources is None or columns is None:
            for name, key in zip(names, keys, strict=True):
                self._move(name, b"", moves)
                self.puts.pop((key, ()), None)
                if key in self.known.hashes:
                    self.drops.add((key, ()))
            return
        fields = [source.values(columns, list(places), keys) for source in way.sources]
        hashes = row_hashes(self.projection.id, keys, fields)
        for name, key, values, new in zip(names, keys, zip(*fields, strict=True), hashes, strict=True):
            self._move(name, new, moves)
            self.puts[key, ()] = StoredRow(values, new)
        self.drops.difference_update(self.puts)

    def _move(self, name: bytes, new: bytes, moves: dict[int, int]) -> None:
        old = self.hashes.get(name, b"")
        if new != old:
            bucket = bucket_of_name(name)
            moves[bucket] = moves.get(bucket, 0) - int.from_bytes(old) + int.from_bytes(new)
            self.hashes[name] = new

    def _control(self, run: Run) -> bool:
        assert run.control is not None
        state, record, said = self.state, run.control.record, run.control.said
        if said.incarnation != state.incarnation:
            return False
        if type(said) is Mark:
            figures = (state.count, state.input_digest, state.row_digest, state.relay_epoch, state.uncounted)
            self.checkpoints.append(checkpoint(record, said, *figures))
            self.state = replace(state, relay_epoch=max(state.relay_epoch, said.epoch))
        return True

    def finished(self, fence: Fence) -> PartitionPlan:
        keys = self.batch.keys
        return PartitionPlan(
            fence=fence,
            was=self.was,
            state=self.state,
            keys={keys[name]: KeyState(Head(*head), head[0], None) for name, head in self.heads.items()},
            puts=self.puts,
            drops=frozenset(self.drops),
            checkpoints=tuple(self.checkpoints),
            applied=self.state.count - self.was.count,
        )
