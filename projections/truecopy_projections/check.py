"""The check: whether a replica is a true copy, as three claims with their own evidence. See claims.py for what each says.

A whole check folds the log and hashes every stored row again. A quick one reads the maintained figures alone (quick.py). Either
can be held against peers (peers.py): where the log can't be folded they are the evidence of `computed`.

What it does not prove: that the owner put the truth into the log.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from truecopy_bus.log import Log
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.claims import computed, delivered, stored, wrong_keys
from truecopy_projections.evidence import Evidence, gather, judged
from truecopy_projections.explain import explained
from truecopy_projections.gathered_check import gathered_differences
from truecopy_projections.limits import CHECK_WAIT_S
from truecopy_projections.peers import compare, drilled
from truecopy_projections.projection import Projection
from truecopy_projections.quick import by_peers, glance, quickly_computed, quickly_stored
from truecopy_projections.remembering import remember
from truecopy_projections.replica import Replica
from truecopy_projections.state import MarkVerdict
from truecopy_projections.verdicts import Claim, Comparison, Report, Verdict

__all__ = ["check", "wrong_keys"]


async def check(
    projection: Projection[Any],
    replica: Replica,
    log: Log,
    schemas: SchemaSource,
    *,
    topic: str | None = None,
    deep: bool = False,
    quick: bool = False,
    peers: Sequence[Replica] = (),
    afresh: bool = False,
    wait_s: float = CHECK_WAIT_S,
) -> Report:
    """Check one projection in one replica, waiting up to `wait_s` seconds for it to pass a fresh mark.

    A deep check also compares every row, and the version and element of every key, instead of following the digests to
    those that differ. A quick one reads neither rows nor the log's events. `peers` are other replicas of the same projection.
    `afresh` lets a check that finds other rows than the fold's start a process that folds too, and so find reducers that
    depend on the order of a set. Raises UnknownProjectionError, TopicMissingError, and what is unavailable, peers among it.
    """
    name = topic or projection.entity
    if quick:
        seen = await glance(projection, replica, log, topic=name, wait_s=wait_s)
        compared = [await compare(projection, replica, peer) for peer in peers]
        claims = (quickly_computed(seen, compared), quickly_stored(seen.scrubbed_at_ms, seen.found.taken_at_ms))
        return _report(projection, replica, seen.found, *claims, peers=compared, quick=True)
    found = await gather(projection, replica, log, schemas, topic=name, deep=deep, wait_s=wait_s)
    claims = computed(found), stored(found)
    await remember(projection, replica, found, computed=claims[0])
    compared = [await compare(projection, replica, peer) for peer in peers]
    if found.reference is None:
        found = await drilled(projection, replica, peers, found)
        claims = by_peers(compared, claims[0].facts) or claims[0], claims[1]
    else:
        found = replace(
            found,
            differences=await explained(
                projection, log, schemas, topic=name, found=found, afresh=afresh and claims[0].verdict is Verdict.DIVERGED
            ),
        )
        if parted := {name for one in found.differences if one.explanation for name in one.explanation.parted}:
            blamed = f"{claims[0].why}; the reducer is not deterministic: fields {', '.join(sorted(parted))}"
            claims = replace(claims[0], why=blamed), claims[1]
    return _report(projection, replica, found, *claims, peers=compared)


def _report(
    projection: Projection[Any],
    replica: Replica,
    found: Evidence,
    computed: Claim,
    stored: Claim,
    *,
    peers: Sequence[Comparison] = (),
    quick: bool = False,
) -> Report:
    return Report(
        projection=projection.id,
        entity=projection.entity,
        replica=replica.name,
        incarnation=next(iter(found.states.values())).incarnation,
        positions={p: state.position for p, state in found.states.items()},
        count=sum(state.count for state in found.states.values()),
        marks_compared=sum(c.verdict in (MarkVerdict.EQUAL, MarkVerdict.DIVERGED) for c in found.checkpoints),
        delivered=delivered(found, foreign=projection.foreign is not None),
        computed=computed,
        stored=stored,
        differences=[*found.differences, *gathered_differences(found.gathered)],
        parked=sorted(key for key, state in found.keys.items() if state.parked),
        fingerprints=sorted(one.hex() for one in found.reference.fingerprints) if found.reference else (),
        checked_at_ms=time.time_ns() // 1_000_000,
        quick=quick,
        peers=peers,
        counts={p: state.count for p, state in found.states.items()},
        amendments=found.amendments.all,
        marks={p: last for p, last in judged(found.checkpoints).items() if last.verdict is MarkVerdict.EQUAL},
    )
