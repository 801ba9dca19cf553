"""What a check gathers before it judges: one snapshot of the replica, and the fold of the log to the same positions.

Before the snapshot it waits, for a bounded time, until the replica passed a mark that covers what the log held when the check
began. A replica that moves all the time is so compared at a point of its own, and nobody has to stop. While it waits it looks
at the newest checkpoints alone.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from truecopy_bus.errors import TopicLostError, TopicMissingError
from truecopy_bus.log import Log, identified
from truecopy_bus.record import TopicState
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.amendment import NO_AMENDMENTS, Amendments
from truecopy_projections.bookkeeping import Bookkeeping
from truecopy_projections.digest import EMPTY, Tally, bucket_of, differing, row_hash
from truecopy_projections.drill import drill
from truecopy_projections.errors import UnknownProjectionError
from truecopy_projections.folding import Folded, Place, fold_log
from truecopy_projections.following import followed
from truecopy_projections.gathered_check import GatheredFound, gathered_found
from truecopy_projections.limits import BUCKETS, CHECK_POLL_S
from truecopy_projections.projection import Projection
from truecopy_projections.reference import Reference
from truecopy_projections.replica import Replica, Snapshot
from truecopy_projections.state import Checkpoint, KeyState, MarkVerdict, PartitionState, Reason, Waiting
from truecopy_projections.verdicts import Difference

__all__ = [
    "FOLDED_ALIKE",
    "Evidence",
    "awaited",
    "gather",
    "held",
    "is_waiting",
    "judged",
    "newest",
    "scrub",
    "suspects",
    "tallied",
]

NOT_JUDGED = (MarkVerdict.LATE, MarkVerdict.SUPERSEDED)
FOLDED_ALIKE = (None, Reason.GAP, Reason.CONFLICT)
"""What the fold comes to by itself, from the log alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that a check judges. Vectors are by partition.

    `topic` is the topic as it was when the check began. `keys` are the states of all source keys on a deep check, of parked
    ones otherwise, and `homes` the partitions that they are kept under; `waiting` is the whole quarantine. `scrubbed` are the
    digests of the stored rows hashed again, `kept` those of the hashes stored beside them, `folded` those of the reference's
    `meant_rows` rows. Where the log can't be folded, `reference` is None and `why_none` says why; unless the check is deep it
    holds only keys that something points to. `stored_rows` counts what was scrubbed; `taken_at_ms` is when, by the
    clock of the replica's database. `gathered` are the rows that gather others, folded again;
    `amendments` the rulings that the fold was made by.

    A deep check also holds records that are kept against the log (`bookkeeping`), and looks for every row by its key:
    `unreachable` are source keys of rows that the index of their table does not find.
    """

    topic: TopicState
    deep: bool
    states: Mapping[int, PartitionState]
    checkpoints: Sequence[Checkpoint]
    keys: Mapping[str, KeyState]
    homes: Mapping[str, int]
    waiting: Sequence[Waiting]
    reference: Reference | None
    why_none: str
    scrubbed: Mapping[int, bytes]
    kept: Mapping[int, bytes]
    folded: Mapping[int, bytes]
    meant_rows: int
    stored_rows: int
    taken_at_ms: int
    differences: Sequence[Difference]
    bookkeeping: Bookkeeping | None = None
    amendments: Amendments = NO_AMENDMENTS
    unreachable: Sequence[str] = ()
    gathered: Sequence[GatheredFound] = ()


async def gather(
    projection: Projection[Any],
    replica: Replica,
    log: Log,
    schemas: SchemaSource,
    *,
    topic: str,
    deep: bool = False,
    wait_s: float = 0.0,
) -> Evidence:
    """Wait up to `wait_s` seconds for the replica, then collect. Raises like check."""
    described = await awaited(projection, replica, log, topic=topic, wait_s=wait_s)
    await schemas.refresh()
    async with replica.snapshot() as snapshot:
        states = await held(projection, replica, snapshot)
        keys, homes = await _keys(snapshot, projection, everything=deep)
        waiting = await snapshot.waiting(projection.id)
        amendments = await snapshot.amendments(projection.id)
        why_none = _why_not_foldable(await identified(log, topic, foreign=projection.foreign is not None), states)
        taken_at_ms = (await snapshot.scrubs(projection.id)).now_ms
        scrubbed, kept, stored_rows = await scrub(snapshot, projection, states)
        places = None if deep else suspects(states, scrubbed, kept)
        checkpoints = await snapshot.checkpoints(projection.id)
        fold: Folded | None = None
        kept_right: Bookkeeping | None = None
        if not why_none:
            stops = {key: s.applied for key, s in keys.items() if s.parked not in FOLDED_ALIKE and is_waiting(key, s, waiting)}
            if deep and projection.foreign is None:
                upto = {p: s.position for p, s in states.items()}
                kept_right = Bookkeeping(projection, upto, waiting, checkpoints, stops, amendments)
            asked = {*keys, *(w.key for w in waiting if w.key is not None)}
            fold = await fold_log(
                projection,
                log,
                schemas,
                topic=topic,
                states=states,
                stops=stops,
                keys=asked,
                places=places,
                watch=kept_right,
                amendments=amendments,
            )
            if projection.foreign is not None and (why_none := _why_not_repeated(fold.reference, states)):
                fold = None
        if places is not None and fold is not None:
            places |= suspects(states, fold.vectors)
        differences = await drill(projection, snapshot, fold.reference if fold else None, places)
        found = Evidence(
            topic=described,
            deep=deep,
            states=states,
            checkpoints=checkpoints,
            keys=keys,
            homes=homes,
            waiting=waiting,
            reference=fold.reference if fold else None,
            why_none=why_none,
            scrubbed=scrubbed,
            kept=kept,
            folded=fold.vectors if fold else {},
            meant_rows=fold.rows if fold else 0,
            stored_rows=stored_rows,
            taken_at_ms=taken_at_ms,
            differences=differences,
            gathered=await gathered_found(projection, snapshot, differences if fold else None),
            bookkeeping=kept_right,
            amendments=amendments,
            unreachable=await snapshot.unreachable(projection) if deep else (),
        )
    await replica.flush()  # nothing counts as proven that a crash could take back
    return found


async def awaited(projection: Projection[Any], replica: Replica, log: Log, *, topic: str, wait_s: float) -> TopicState:
    """Wait up to `wait_s` seconds until the replica passed a mark for what the log holds now; the topic as it is now."""
    deadline = time.monotonic() + wait_s
    described = await _appeared(log, topic, replica, projection, deadline)
    await _caught_up(projection, replica, described, deadline)
    return described


async def held(projection: Projection[Any], replica: Replica, snapshot: Snapshot) -> dict[int, PartitionState]:
    """The partitions' states. Raises UnknownProjectionError where there are none."""
    if not (states := await snapshot.states(projection.id)):
        raise UnknownProjectionError(
            f"replica {replica.name} holds no projection {projection.id}; start a worker for it once, or check the name"
        )
    return states


def judged(checkpoints: Sequence[Checkpoint]) -> dict[int, Checkpoint]:
    """The latest checkpoint of each partition that was judged at all."""
    return {c.partition: c for c in checkpoints if c.verdict not in NOT_JUDGED}


def newest(checkpoints: Sequence[Checkpoint]) -> dict[int, Checkpoint]:
    """The latest checkpoint of each partition, judged or not.

    Where it was not judged, nobody knows whether owner and log still agree: an owner that was restored from an older copy, or
    a second owner, states less than the log holds, and would never be compared.
    """
    return {c.partition: c for c in checkpoints}


def is_waiting(key: str, state: KeyState, waiting: Sequence[Waiting]) -> bool:
    """Whether the quarantine bears out that a key is parked: the replica's word alone would shield it from the fold."""
    if state.parked is None:
        return False
    mine = [w for w in waiting if w.key == key]
    if state.parked is Reason.GAP:
        return any((w.version or 0) > state.head.version for w in mine)
    if state.parked is Reason.CONFLICT:
        return any(w.reason is Reason.CONFLICT for w in mine)
    return any(w.version == state.applied + 1 for w in mine)


def tallied(
    state: PartitionState, keys: Mapping[str, KeyState], homes: Mapping[str, int], waiting: Sequence[Waiting]
) -> PartitionState:
    """The partition's state with its tallies counted anew from keys (all parked ones) and quarantine."""
    mine = [w for w in waiting if w.partition == state.partition]
    heads = {key: known.head.version for key, known in keys.items()}
    return replace(
        state,
        parked=sum(known.parked is not None and homes.get(key) == state.partition for key, known in keys.items()),
        uncounted=sum(
            w.reason not in (Reason.CONFLICT, Reason.FOREIGN) and (w.version or 0) > heads.get(w.key or "", 0) for w in mine
        ),
        waiting_bytes=sum(w.size for w in mine),
    )


async def _appeared(log: Log, topic: str, replica: Replica, projection: Projection[Any], deadline: float) -> TopicState:
    """The topic, waited for until `deadline` (monotonic, seconds): its owner makes it with the first event."""
    while True:
        try:
            return await followed(log, topic, replica, projection)
        except TopicMissingError as fault:
            if isinstance(fault, TopicLostError) or time.monotonic() >= deadline:
                raise
        await asyncio.sleep(CHECK_POLL_S)


async def _caught_up(projection: Projection[Any], replica: Replica, topic: TopicState, deadline: float) -> None:
    """Wait until every partition passed a mark for what the log held, or the time is over: the verdict then tells."""
    while True:
        async with replica.snapshot() as snapshot:
            states = await snapshot.states(projection.id)
            last = newest(await snapshot.checkpoints(projection.id, newest=1))
        there = _arrived if projection.foreign is not None else _marked
        waits = [p for p, state in states.items() if not (state.halted or there(state, last.get(p), topic))]
        if (states and not waits) or time.monotonic() >= deadline:
            return
        await asyncio.sleep(CHECK_POLL_S)


def _arrived(state: PartitionState, _: Checkpoint | None, topic: TopicState) -> bool:
    return state.position >= topic.bounds.get(state.partition, (0, 0))[1]


def _marked(state: PartitionState, last: Checkpoint | None, topic: TopicState) -> bool:
    end = topic.bounds.get(state.partition, (0, 0))[1]
    if last is not None and last.verdict in NOT_JUDGED:
        return False
    return state.position >= end and last is not None and (last.mark_count >= state.count or last.offset >= end - 1)


def _why_not_foldable(topic: TopicState, states: Mapping[int, PartitionState]) -> str:
    if states.keys() != topic.bounds.keys():
        return f"the topic has partitions {sorted(topic.bounds)}, the replica follows {sorted(states)}"
    if any(state.incarnation != topic.incarnation for state in states.values()):
        return "the log is another incarnation of the topic than the replica follows"
    if starts := {p: start for p, (start, _) in topic.bounds.items() if start > 0}:
        return f"the log no longer begins at its beginning (first stored offsets {starts}), so it can't be folded"
    if beyond := [p for p, state in states.items() if state.position > topic.bounds.get(p, (0, 0))[1]]:
        return f"the replica is beyond the end of the log in partitions {beyond}"
    return ""


def _why_not_repeated(reference: Reference, states: Mapping[int, PartitionState]) -> str:
    """Why the fold of a foreign topic may come to something else than it once did, though both were right; "" if it can't."""
    if reference.unknown:
        return f"schema ids {sorted(reference.unknown)} are not in the topic's schema source, so the log can't be folded"
    if reference.strays:
        named = ", ".join(map(repr, sorted(reference.strays)[:5]))
        return f"keys lie in two partitions ({named}), so their records have no order: let one partitioner write the topic"
    for p, state in sorted(states.items()):
        if reference.counts.get(p, 0) < state.count and reference.read.get(p, 0) < state.position:
            return (
                f"partition {p} no longer holds all of the {state.count} records that were applied (it is compacted, or lost "
                "some), so it can't be folded again"
            )
    return ""


async def _keys(
    snapshot: Snapshot, projection: Projection[Any], *, everything: bool
) -> tuple[dict[str, KeyState], dict[str, int]]:
    found: dict[str, KeyState] = {}
    homes: dict[str, int] = {}
    async for batch in snapshot.keys(projection):
        for key, partition, state in batch:
            if everything or state.parked:
                found[key], homes[key] = state, partition
    return found, homes


async def scrub(
    snapshot: Snapshot, projection: Projection[Any], states: Mapping[int, PartitionState]
) -> tuple[dict[int, bytes], dict[int, bytes], int]:
    """Hash every stored row again, and count them. Rows of a partition or a bucket that does not exist are told with -1."""
    again = {p: Tally() for p in states}
    kept = {p: Tally() for p in states}
    rows = 0
    async for batch in snapshot.rows(projection):
        rows += len(batch)
        for key, partition, row in batch:
            bucket = bucket_of(key) if row.astray is None else row.astray
            p = partition if partition in states and bucket in range(BUCKETS) else -1
            bucket = min(max(bucket, 0), BUCKETS - 1)  # with which a read of buckets meets what is beyond them
            again.setdefault(p, Tally()).add(bucket, row_hash(projection.id, key, row.values))
            kept.setdefault(p, Tally()).add(bucket, row.hash)
    return {p: one.vector() for p, one in again.items()}, {p: one.vector() for p, one in kept.items()}, rows


def suspects(states: Mapping[int, PartitionState], *sides: Mapping[int, bytes]) -> set[Place]:
    """Where any side differs from the maintained digests; in a partition that does not exist, wherever there is a row."""
    return {
        (p, bucket)
        for side in sides
        for p, sums in side.items()
        for bucket in differing(sums, states[p].rows if p in states else EMPTY)
    }
