"""What a check gathers before it judges: one snapshot of the replica, and the fold of the log to the same positions.

Before the snapshot it waits, for a bounded time, until the replica passed a mark that covers what the log held when the check
began. A replica that moves all the time is so compared at a point of its own, and nobody has to stop.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truecopy_bus.log import Log, identified
from truecopy_bus.record import TopicState
from truecopy_bus.registry import Registry
from truecopy_projections.digest import bucket_of, differing, row_hash, vector
from truecopy_projections.drill import drill
from truecopy_projections.errors import UnknownProjectionError
from truecopy_projections.limits import CHECK_POLL_S
from truecopy_projections.projection import Projection
from truecopy_projections.reference import Reference, replay
from truecopy_projections.replica import Replica, Snapshot
from truecopy_projections.state import Checkpoint, KeyState, MarkVerdict, PartitionState
from truecopy_projections.verdicts import Difference

__all__ = ["Evidence", "gather", "judged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that a check judges. Vectors are by partition.

    `topic` is the topic as it was when the check began. `keys` are the states of all source keys on a deep check, of parked
    ones otherwise. `scrubbed` are the digests of the stored rows hashed again, `kept` those of the hashes stored beside
    them, `folded` those of the reference's rows. Where the log can't be folded, `reference` is None and `why_none` says why.
    """

    topic: TopicState
    states: Mapping[int, PartitionState]
    checkpoints: Sequence[Checkpoint]
    keys: Mapping[str, KeyState]
    reference: Reference | None
    why_none: str
    scrubbed: Mapping[int, bytes]
    kept: Mapping[int, bytes]
    folded: Mapping[int, bytes]
    differences: Sequence[Difference]


async def gather(
    projection: Projection[Any],
    replica: Replica,
    log: Log,
    registry: Registry,
    *,
    topic: str,
    deep: bool = False,
    wait_s: float = 0.0,
) -> Evidence:
    """Wait up to `wait_s` seconds for the replica, then collect. Raises like check."""
    described = await identified(log, topic)
    await registry.refresh()
    await _caught_up(projection, replica, described, wait_s)
    async with replica.snapshot() as snapshot:
        states = await snapshot.states(projection.id)
        if not states:
            raise UnknownProjectionError(
                f"replica {replica.name} holds no projection {projection.id}; start a worker for it once, or check the name"
            )
        keys = await _keys(snapshot, projection, everything=deep)
        why_none = _why_not_foldable(await identified(log, topic), states)
        reference: Reference | None = None
        if not why_none:
            upto = {p: state.position for p, state in states.items()}
            stops = {key: state.applied for key, state in keys.items() if state.parked}
            reference = await replay(projection, log, registry, topic=topic, upto=upto, stops=stops)
        folded = _folded(projection, reference, states) if reference else {}
        scrubbed, kept = await _scrub(snapshot, projection, states)
        suspects = None if deep else _suspects(states, scrubbed, kept, folded)
        return Evidence(
            topic=described,
            states=states,
            checkpoints=await snapshot.checkpoints(projection.id),
            keys=keys,
            reference=reference,
            why_none=why_none,
            scrubbed=scrubbed,
            kept=kept,
            folded=folded,
            differences=await drill(projection, snapshot, reference, suspects),
        )


def judged(checkpoints: Sequence[Checkpoint]) -> dict[int, Checkpoint]:
    """The latest checkpoint of each partition that was judged at all."""
    passed = (MarkVerdict.LATE, MarkVerdict.SUPERSEDED)
    return {c.partition: c for c in checkpoints if c.verdict not in passed}


async def _caught_up(projection: Projection[Any], replica: Replica, topic: TopicState, wait_s: float) -> None:
    """Wait until every partition passed a mark for what the log held, or the time is over: the verdict then tells."""
    deadline = time.monotonic() + wait_s
    while True:
        async with replica.snapshot() as snapshot:
            states = await snapshot.states(projection.id)
            last = judged(await snapshot.checkpoints(projection.id))
        waits = [p for p, state in states.items() if not (state.halted or _marked(state, last.get(p), topic))]
        if (states and not waits) or time.monotonic() >= deadline:
            return
        await asyncio.sleep(CHECK_POLL_S)


def _marked(state: PartitionState, last: Checkpoint | None, topic: TopicState) -> bool:
    end = topic.bounds.get(state.partition, (0, 0))[1]
    return state.position >= end and last is not None and (last.mark_count >= state.count or last.offset >= end - 1)


def _why_not_foldable(topic: TopicState, states: Mapping[int, PartitionState]) -> str:
    if any(state.incarnation != topic.incarnation for state in states.values()):
        return "the log is another incarnation of the topic than the replica follows"
    if starts := {p: start for p, (start, _) in topic.bounds.items() if start > 0}:
        return f"the log no longer begins at its beginning (first stored offsets {starts}), so it can't be folded"
    if beyond := [p for p, state in states.items() if state.position > topic.bounds.get(p, (0, 0))[1]]:
        return f"the replica is beyond the end of the log in partitions {beyond}"
    return ""


async def _keys(snapshot: Snapshot, projection: Projection[Any], *, everything: bool) -> dict[str, KeyState]:
    found: dict[str, KeyState] = {}
    async for batch in snapshot.keys(projection):
        found |= {key: state for key, _, state in batch if everything or state.parked}
    return found


def _folded(projection: Projection[Any], reference: Reference, states: Mapping[int, PartitionState]) -> dict[int, bytes]:
    hashes: dict[int, list[tuple[int, bytes]]] = {p: [] for p in states}
    for key, rows in reference.rows.items():
        for values in rows.values():
            hashes[reference.partition[key]].append((bucket_of(key), row_hash(projection.id, key, values)))
    return {p: vector(pairs) for p, pairs in hashes.items()}


async def _scrub(
    snapshot: Snapshot, projection: Projection[Any], states: Mapping[int, PartitionState]
) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Hash every stored row again. Rows of a partition that does not exist are told with partition -1."""
    again: dict[int, list[tuple[int, bytes]]] = {p: [] for p in states}
    kept: dict[int, list[tuple[int, bytes]]] = {p: [] for p in states}
    async for batch in snapshot.rows(projection):
        for key, partition, row in batch:
            p = partition if partition in states else -1
            again.setdefault(p, []).append((bucket_of(key), row_hash(projection.id, key, row.values)))
            kept.setdefault(p, []).append((bucket_of(key), row.hash))
    return {p: vector(pairs) for p, pairs in again.items()}, {p: vector(pairs) for p, pairs in kept.items()}


def _suspects(states: Mapping[int, PartitionState], *sides: Mapping[int, bytes]) -> frozenset[int]:
    """The buckets in which any side differs from the maintained digests."""
    buckets: set[int] = set()
    for side in sides:
        for p, sums in side.items():
            buckets |= differing(sums, states[p].rows) if p in states else frozenset(range(len(sums) // 32))
    return frozenset(buckets)
