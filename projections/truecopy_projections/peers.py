"""Peers: two replicas of one projection held against each other, with nothing of the log but the owner's marks.

At a mark that both passed with equal counts their row digests are equal, or one of them is wrong. Nobody stops for it: the
verdict is for the last common mark of each partition. Where digests differ, two snapshots are compared bucket by bucket and
then row by row, and only rows whose key is at the same link of its history are judged: such rows must be equal, however far
either replica has gone. Without such a row the digests are looked at again at a later common mark. So replicas that move, or
that have parked a key for a while, give no false alarm.

Which of the two is wrong a comparison can't tell; a whole check of each can.
"""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from truecopy_bus.errors import UnavailableError
from truecopy_bus.fold import DIGEST_MODULUS
from truecopy_projections.amendment import NO_AMENDMENTS, Amendments
from truecopy_projections.digest import differing
from truecopy_projections.drill import drill
from truecopy_projections.errors import ProjectionError
from truecopy_projections.evidence import Evidence, suspects
from truecopy_projections.folding import Place
from truecopy_projections.limits import CHECK_POLL_S, MARKS_LOOKED_MAX, PEER_WAIT_S
from truecopy_projections.projection import Projection
from truecopy_projections.reference import Reference
from truecopy_projections.replica import Replica, Snapshot
from truecopy_projections.state import Checkpoint, KeyState, PartitionState
from truecopy_projections.verdicts import Comparison, Difference, Verdict, worst

__all__ = ["Side", "alike", "common", "compare", "drilled", "incomparable", "keys_of", "settled", "side_of", "taken"]

_COMPARED = "compared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One replica's figures, and what was ruled there. `checkpoints` are the newest, `nonce` what the last comparison wrote."""

    name: str
    states: Mapping[int, PartitionState]
    checkpoints: Sequence[Checkpoint]
    nonce: str
    amendments: Amendments = NO_AMENDMENTS


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Digests that differed at a common mark though no row was named: how far both had read by then, and by how much."""

    position: int
    moved: int


async def compare(projection: Projection[Any], replica: Replica, peer: Replica, *, wait_s: float = PEER_WAIT_S) -> Comparison:
    """Hold `replica` against `peer`, waiting up to `wait_s` seconds for a common mark, or a later one where there is doubt.

    A peer that is away, or has no common mark, proves nothing: UNPROVEN. One that holds another number, declaration,
    incarnation or partitions is INCOMPARABLE. Raises UnavailableError for the replica itself.
    """
    deadline = time.monotonic() + wait_s
    nonce = uuid4().hex
    await replica.remember(projection, _COMPARED, {"nonce": nonce})
    doubts: dict[int, _Doubt] = {}
    while True:
        mine = await side_of(projection, replica)
        try:
            theirs = await side_of(projection, peer)
            if why := incomparable(projection, mine, theirs) or ("it is this replica itself" * (theirs.nonce == nonce)):
                return Comparison(peer=peer.name, verdict=Verdict.INCOMPARABLE, why=f"{peer.name}: {why}")
            found = await _judged(projection, replica, peer, mine, theirs, doubts)
        except ProjectionError as fault:
            return Comparison(peer=peer.name, verdict=Verdict.INCOMPARABLE, why=f"{peer.name}: {fault}")
        except UnavailableError as fault:
            found = Comparison(peer=peer.name, verdict=Verdict.UNPROVEN, why=f"the peer is away: {fault}")
        if found.verdict in (Verdict.EQUAL, Verdict.DIVERGED) or time.monotonic() >= deadline:
            return found
        await asyncio.sleep(CHECK_POLL_S)


async def side_of(projection: Projection[Any], replica: Replica) -> Side:
    """A replica's figures in one snapshot. Raises ProjectionError where it holds the projection declared otherwise."""
    async with replica.snapshot() as snapshot:
        await snapshot.get(projection, "")  # which refuses another declaration
        said = await snapshot.remembered(projection.id, _COMPARED) or {}
        return Side(
            name=replica.name,
            states=await snapshot.states(projection.id),
            checkpoints=await snapshot.checkpoints(projection.id, newest=MARKS_LOOKED_MAX),
            nonce=str(said.get("nonce", "")),
            amendments=await snapshot.amendments(projection.id),
        )


def incomparable(projection: Projection[Any], mine: Side, theirs: Side) -> str:
    """Why two sides can't be compared; "" if they can. Pure."""
    if not theirs.states:
        return f"it holds no {projection.id}; another number is another projection"
    if mine.states.keys() != theirs.states.keys():
        return f"it has partitions {sorted(theirs.states)}, this replica {sorted(mine.states)}"
    for p, state in sorted(mine.states.items()):
        if (other := theirs.states[p].incarnation) != state.incarnation:
            return f"it follows incarnation {other} of the topic, this replica {state.incarnation}"
    return _ruled_apart(mine.amendments, theirs.amendments)


def _ruled_apart(mine: Amendments, theirs: Amendments) -> str:
    """What was ruled on one side alone, so that the two rightly hold other rows; "" if both do the same. Pure."""
    if (one := mine.differing(theirs)) is None:
        return ""
    where = "only here" if one.effect in mine.effects else "only there"
    return f"their rows rest on other rulings: {where} {one}; rule there as here (`truecopy quarantine export` and `import`)"


def common(mine: Side, theirs: Side) -> dict[int, tuple[Checkpoint, Checkpoint]]:
    """The last mark of each partition that both sides passed with equal counts. Pure."""
    there = {(c.partition, c.epoch, c.number): c for c in theirs.checkpoints}
    found = {}
    for one in mine.checkpoints:
        other = there.get((one.partition, one.epoch, one.number))
        if other is not None and one.count == other.count == one.mark_count == other.mark_count:
            found[one.partition] = one, other
    return found


def settled(one: PartitionState, other: PartitionState) -> bool:
    """Whether two partitions hold exactly the same history, so that all of them can be compared. Pure."""
    return (one.count, one.input_digest, one.incarnation) == (other.count, other.input_digest, other.incarnation)


async def _judged(
    projection: Projection[Any], replica: Replica, peer: Replica, mine: Side, theirs: Side, doubts: dict[int, _Doubt]
) -> Comparison:
    told: dict[int, tuple[Verdict, str]] = {}
    through: dict[int, int] = {}
    differing_in: dict[int, tuple[Checkpoint, Checkpoint] | None] = {}
    marks = common(mine, theirs)
    for p, state in sorted(mine.states.items()):
        other = theirs.states[p]
        pair = marks.get(p)
        if settled(state, other):
            through[p] = state.count
            if (state.rows, state.row_digest) != (other.rows, other.row_digest):
                differing_in[p] = None
        elif pair is None:
            told[p] = Verdict.UNPROVEN, "no mark among the newest was passed by both with equal counts"
        elif pair[0].input_digest != pair[1].input_digest:
            told[p] = Verdict.INCOMPARABLE, f"at mark {pair[0].number} the two were delivered other histories; check each"
        else:
            through[p] = pair[0].count
            if pair[0].row_digest != pair[1].row_digest:
                differing_in[p] = pair
    named = await _named(projection, replica, peer, differing_in) if differing_in else {}
    for p, mark in differing_in.items():
        told[p] = _verdict(p, mark, mine, theirs, named.get(p, ()), doubts)
    for p in mine.states.keys() - differing_in.keys():
        doubts.pop(p, None)
    reasons = [f"partition {p}: {why}" for p, (_, why) in sorted(told.items())]
    count = sum(through.values())
    equal = f"row digests equal those of {theirs.name} at the last common mark of each partition, {count} events"
    return Comparison(
        peer=theirs.name,
        verdict=worst([verdict for verdict, _ in told.values()]),
        why=f"compared with {theirs.name}: {'; '.join(reasons)}" if reasons else equal,
        through=through,
        differences=[one for p in sorted(named) for one in named[p]],
    )


def _verdict(
    p: int,
    mark: tuple[Checkpoint, Checkpoint] | None,
    mine: Side,
    theirs: Side,
    named: Sequence[Difference],
    doubts: dict[int, _Doubt],
) -> tuple[Verdict, str]:
    """What differing digests of a partition mean: at a mark, or (None) of two that hold the same history now."""
    where = f"at mark {mark[0].number} ({mark[0].count} events)" if mark else f"at {mine.states[p].count} events"
    if named:
        return Verdict.DIVERGED, f"row digests differ {where}, in {len(named)} rows: a whole check of each tells who is wrong"
    if mine.states[p].parked or theirs.states[p].parked:
        doubts.pop(p, None)
        return Verdict.PARKED, f"row digests differ {where}, and keys wait in quarantine"
    if mark is None:
        return Verdict.DIVERGED, f"row digests differ {where}, and no row: the digests themselves were altered"
    moved = (mark[0].row_digest - mark[1].row_digest) % DIGEST_MODULUS
    read = max(mine.states[p].position, theirs.states[p].position)
    before = doubts.setdefault(p, _Doubt(read, moved))
    if mark[0].offset >= before.position and moved == before.moved:
        return (
            Verdict.DIVERGED,
            f"row digests differ {where} as they did at a mark before: a whole check of each tells who is wrong",
        )
    if moved != before.moved:
        doubts[p] = _Doubt(read, moved)
    return (
        Verdict.UNPROVEN,
        f"row digests differ {where}, but no row that both have at one version: compare again at a later mark",
    )


async def _named(
    projection: Projection[Any],
    replica: Replica,
    peer: Replica,
    partitions: Collection[int],
) -> dict[int, list[Difference]]:
    """The rows that differ for sure, by partition, from two snapshots of now."""
    async with replica.snapshot() as mine, peer.snapshot() as theirs:
        own, others = await mine.states(projection.id), await theirs.states(projection.id)
        places = {
            (p, bucket) for p in partitions if p in own and p in others for bucket in differing(own[p].rows, others[p].rows)
        }
        return await _differing(projection, mine, theirs, places, alike(own, others))


def alike(own: Mapping[int, PartitionState], others: Mapping[int, PartitionState]) -> set[int]:
    """The partitions that hold exactly the same history on both sides. Pure."""
    return {p for p in own.keys() & others.keys() if settled(own[p], others[p])}


async def _differing(
    projection: Projection[Any], mine: Snapshot, theirs: Snapshot, places: Collection[Place], whole: Collection[int]
) -> dict[int, list[Difference]]:
    """The differing rows of `places` by partition.

    Outside of the partitions `whole` only of keys that are at the same link of their history as the peer's.
    """
    if not places:
        return {}
    buckets = {bucket for _, bucket in places}
    reference, there = await taken(projection, theirs, buckets)
    here = await keys_of(projection, mine, buckets)
    found: dict[int, list[Difference]] = {}
    for one in await drill(projection, mine, reference, places):
        p, known = here.get(one.key, (one.partition, None))
        other = there.get(one.key, (p, None))[1]
        waits = any(state is not None and state.parked for state in (known, other))
        if not waits and (p in whole or (known == other and known is not None)):
            found.setdefault(p, []).append(one)
    return found


async def keys_of(projection: Projection[Any], snapshot: Snapshot, buckets: Collection[int]) -> dict[str, tuple[int, KeyState]]:
    """The source keys in these buckets, each with its partition."""
    found: dict[str, tuple[int, KeyState]] = {}
    async for batch in snapshot.keys(projection, buckets=buckets):
        found |= {key: (p, state) for key, p, state in batch}
    return found


async def taken(
    projection: Projection[Any], snapshot: Snapshot, buckets: Collection[int]
) -> tuple[Reference, dict[str, tuple[int, KeyState]]]:
    """A peer's rows in these buckets, to hold others against, and its keys there."""
    reference = Reference()
    known = await keys_of(projection, snapshot, buckets)
    for key, (p, state) in known.items():
        reference.heads[key], reference.applied[key], reference.partition[key] = state.head, state.applied, p
    async for batch in snapshot.rows(projection, buckets=buckets):
        for key, p, row in batch:
            if row.astray is None:
                reference.partition.setdefault(key, p)
                reference.rows.setdefault(key, {})[projection.sub_key(row.values)] = row.values
    return reference, known


async def drilled(projection: Projection[Any], replica: Replica, peers: Sequence[Replica], found: Evidence) -> Evidence:
    """The evidence with rows that rotted on the disk named by a peer, where there is no fold of the log to name them by."""
    places = suspects(found.states, found.scrubbed, found.kept)
    for peer in peers if places else ():
        try:
            async with replica.snapshot() as mine, peer.snapshot() as theirs:
                own, others = await mine.states(projection.id), await theirs.states(projection.id)
                apart = (await mine.amendments(projection.id)).differing(await theirs.amendments(projection.id))
                if own.keys() == others.keys() and apart is None:
                    by_partition = await _differing(projection, mine, theirs, places, alike(own, others))
                    named = {(one.key, one.row): one for p in sorted(by_partition) for one in by_partition[p]}
                    rest = [one for one in found.differences if (one.key, one.row) not in named]
                    return replace(found, differences=sorted([*named.values(), *rest], key=lambda one: one.key))
        except (UnavailableError, ProjectionError):
            continue  # the comparison with it says so
    return found
