"""The truth of a repair from a peer: the rows of another replica that is proven right, for keys that stand where its own do.

The peer has to be certified, to be delivered, and to pass its own scrub. Where a partition holds the same history on both
sides, the peer's rows, keys and digests are taken over as they are. Elsewhere only buckets all of whose keys are at the same
link of their history are: what has moved on since is left alone, and told.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from truecopy_bus.log import Log
from truecopy_projections.certificate import newest_certificate
from truecopy_projections.claims import delivered
from truecopy_projections.digest import bucket_of, differing, row_hash, total, with_buckets
from truecopy_projections.drill import drill
from truecopy_projections.errors import RepairRefusedError
from truecopy_projections.evidence import held, scrub, suspects
from truecopy_projections.folding import Place
from truecopy_projections.gathered_check import gathered_differences, gathered_found, refolding
from truecopy_projections.limits import CHECK_WAIT_S
from truecopy_projections.log_truth import NO_FENCE, Truth
from truecopy_projections.peers import alike, incomparable, keys_of, side_of, taken
from truecopy_projections.projection import Projection
from truecopy_projections.quick import glance
from truecopy_projections.replica import Replica, Snapshot
from truecopy_projections.state import KeyState, PartitionPlan, PartitionState, StoredRow
from truecopy_projections.verdicts import Difference, Verdict

__all__ = ["peer_truth"]

_Keys = Mapping[str, tuple[int, KeyState]]


async def peer_truth(
    projection: Projection[Any],
    replica: Replica,
    peer: Replica,
    log: Log,
    *,
    topic: str,
    trusted: Collection[str] | None = None,
) -> Truth:
    """Compare a replica with a peer that may be believed: certified by one of the `trusted` keys (None: by any), and right now.

    Raises RepairRefusedError where it may not, and like check.
    """
    if why := incomparable(projection, await side_of(projection, replica), await side_of(projection, peer)):
        raise RepairRefusedError(f"{projection.id}: nothing to repair from: {peer.name}: {why}")
    await _refuse_unproven(projection, peer, log, topic, trusted)
    async with replica.snapshot() as mine, peer.snapshot() as theirs:
        own, others = await held(projection, replica, mine), await held(projection, peer, theirs)
        await _refuse_rotten(projection, peer, theirs, others)
        scrubbed, kept, rows = await scrub(mine, projection, own)
        places = suspects(own, scrubbed, kept)
        places |= {(p, bucket) for p in own for bucket in differing(own[p].rows, others[p].rows)}
        buckets = {bucket for _, bucket in places}
        reference, there = await taken(projection, theirs, buckets)
        here = await keys_of(projection, mine, buckets)
        whole = {p for p in alike(own, others) if not (own[p].parked or others[p].parked)}
        sure = _sure(places, {*whole, -1} if len(whole) == len(own) else whole, here, there)
        differences = await drill(projection, mine, reference, sure)
        gathered = await gathered_found(projection, mine, differences)
    wrong = [
        key
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key) and {here.get(key, (-1,))[0], there.get(key, (-1,))[0]} & whole
    ]
    rotten = sorted({p for p, _ in suspects(own, scrubbed, kept) - sure})
    left = f"damaged buckets of partitions {rotten} hold keys that are not where the peer's are: repair again, or from the log"
    every = [*differences, *gathered_differences(gathered)]
    plans = [
        _plan(
            projection,
            own[p],
            with_buckets(own[p].rows, others[p].rows, [bucket for q, bucket in sure if q == p]),
            # What lies in no partition is removed with the first.
            [one for one in differences if one.partition == p or (one.partition not in own and p == min(own))],
            {key: there.get(key, (p, None))[1] for key in wrong if (there.get(key) or here[key])[0] == p},
        )
        for p in own
    ]
    return Truth(
        source=peer.name,
        differences=every,
        keys=wrong,
        plans=refolding(projection, plans, every),
        rows=rows + sum(one.rows for one in gathered),
        left=left if rotten else "",
    )


async def _refuse_unproven(
    projection: Projection[Any], peer: Replica, log: Log, topic: str, trusted: Collection[str] | None
) -> None:
    seen = await glance(projection, peer, log, topic=topic, wait_s=CHECK_WAIT_S)
    claim = delivered(seen.found, foreign=projection.foreign is not None)
    if claim.verdict is not Verdict.EQUAL:
        raise RepairRefusedError(f"{projection.id}: {peer.name} is no truth: delivered is {claim.verdict.name}: {claim.why}")
    async with peer.snapshot() as theirs:
        known = await newest_certificate(projection, theirs)
    incarnation = next(iter(seen.found.states.values())).incarnation
    if known is None or known.incarnation != incarnation or not known.is_signed():
        raise RepairRefusedError(f"{projection.id}: {peer.name} has no valid certificate; certify it there first")
    if trusted is not None and known.public_key not in trusted:
        signer = f"the certificate of {peer.name} is signed by {known.public_key}, which is not trusted here"
        raise RepairRefusedError(f"{projection.id}: {signer}; ask whose key it is, and pin it")


async def _refuse_rotten(
    projection: Projection[Any], peer: Replica, theirs: Snapshot, others: Mapping[int, PartitionState]
) -> None:
    scrubbed, kept, _ = await scrub(theirs, projection, others)
    if wrong := suspects(others, scrubbed, kept):
        seen = f"rows in {len(wrong)} of its buckets are not what was written"
        raise RepairRefusedError(f"{projection.id}: {peer.name} is no truth: {seen}; repair it first")


def _sure(places: Collection[Place], whole: Collection[int], here: _Keys, there: _Keys) -> set[Place]:
    """The places of which the peer can tell all: every key is where the peer's is."""
    moved = {
        (p, bucket_of(key))
        for key in here.keys() | there.keys()
        for p in {side[key][0] for side in (here, there) if key in side}
        if here.get(key) != there.get(key) or here[key][1].parked
    }
    return {(p, bucket) for p, bucket in places if p in whole or (p >= 0 and (p, bucket) not in moved)}


def _plan(
    projection: Projection[Any],
    was: PartitionState,
    rows: bytes,
    differences: Collection[Difference],
    keys: Mapping[str, KeyState | None],
) -> PartitionPlan:
    """The plan that mends these rows and keys (None: unknown to the peer) of a partition, and makes its digests `rows`."""
    at_home = [one for one in differences if "_bucket" not in one.fields]
    return PartitionPlan(
        fence=NO_FENCE,
        was=was,
        state=replace(was, rows=rows, row_digest=total(rows)),
        puts={
            (one.key, one.row): StoredRow(one.meant, row_hash(projection.id, one.key, one.meant))
            for one in at_home
            if one.meant is not None
        },
        drops=frozenset((one.key, one.row) for one in at_home if one.meant is None),
        keys={key: state for key, state in keys.items() if state is not None},
        forgotten=frozenset(key for key, state in keys.items() if state is None),
        strays=frozenset((one.fields["_bucket"][0], (one.key, one.row)) for one in differences if "_bucket" in one.fields),
    )
