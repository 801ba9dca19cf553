"""The quick check: what the maintained figures say, without the log's events and without the rows.

It reads the partitions' states, the newest checkpoints by index, and what the last whole check left: as much for a million
rows as for ten. `delivered` is judged as ever. `computed` is EQUAL while nothing has changed since the last fold that proved
it, or where a peer agrees at a common mark. `stored` is EQUAL while all rows were hashed again not long ago. Else both are
UNPROVEN, and say what was proven last, and when.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from truecopy_bus.log import Log
from truecopy_projections.digest import total
from truecopy_projections.evidence import Evidence, awaited, held
from truecopy_projections.limits import MARKS_LOOKED_MAX, SCRUB_AGE_MAX_S
from truecopy_projections.projection import Projection
from truecopy_projections.remembering import Proof, remembered_proof
from truecopy_projections.replica import Replica
from truecopy_projections.state import PartitionState
from truecopy_projections.verdicts import Claim, Comparison, Verdict

__all__ = ["Glance", "by_peers", "glance", "quickly_computed", "quickly_stored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """All that a quick check reads of a replica. `found` holds no fold, no rows and no keys."""

    found: Evidence
    proof: Proof | None
    scrubbed_at_ms: int | None


async def glance(projection: Projection[Any], replica: Replica, log: Log, *, topic: str, wait_s: float) -> Glance:
    """Wait up to `wait_s` seconds for the replica, as every check does, then read. Raises like check."""
    described = await awaited(projection, replica, log, topic=topic, wait_s=wait_s)
    async with replica.snapshot() as snapshot:
        scrubs = await snapshot.scrubs(projection.id)
        found = Evidence(
            topic=described,
            deep=False,
            states=await held(projection, replica, snapshot),
            checkpoints=await snapshot.checkpoints(projection.id, newest=MARKS_LOOKED_MAX),
            keys={},
            homes={},
            waiting=(),
            reference=None,
            why_none="a quick check does not fold the log",
            scrubbed={},
            kept={},
            folded={},
            meant_rows=0,
            stored_rows=0,
            taken_at_ms=scrubs.now_ms,
            differences=(),
            amendments=await snapshot.amendments(projection.id),
        )
        proof = await remembered_proof(projection, snapshot)
    await replica.flush()  # nothing counts as proven that a crash could take back
    scrubbed_at_ms = scrubs.oldest_ms
    if projection.gathers:  # gathered rows are in no bucket: a whole check folds them again, a scrub does not
        scrubbed_at_ms = min(scrubbed_at_ms, proof.at_ms) if scrubbed_at_ms and proof else None
    return Glance(found=found, proof=proof, scrubbed_at_ms=scrubbed_at_ms)


def quickly_computed(seen: Glance, peers: Sequence[Comparison]) -> Claim:
    """What can be said of the row digests without a fold. Pure."""
    states, proof = seen.found.states, seen.proof
    facts: dict[str, Any] = {"digests": {str(p): f"{s.row_digest:064x}" for p, s in sorted(states.items())}}
    if proof is not None:
        facts |= {"folded_count": proof.count, "folded_at_ms": proof.at_ms}
    if wrong := [p for p, s in sorted(states.items()) if total(s.rows) != s.row_digest]:
        return Claim(
            verdict=Verdict.DIVERGED, why=f"the buckets of partitions {wrong} do not sum up to their digest", facts=facts
        )
    if proof is not None and proof.covers(states):
        why = f"nothing has changed since the fold of {_time(proof.at_ms)}, which was equal"
        return Claim(verdict=Verdict.EQUAL, why=why, facts=facts)
    return by_peers(peers, facts) or Claim(verdict=Verdict.UNPROVEN, why=_unproven(states, proof), facts=facts)


def by_peers(peers: Sequence[Comparison], facts: Mapping[str, Any]) -> Claim | None:
    """What peers prove of the row digests: one that differs outweighs all that agree. None if they prove nothing."""
    for verdict in (Verdict.DIVERGED, Verdict.EQUAL):
        for one in peers:
            if one.verdict is verdict:
                through = {"through": {str(p): count for p, count in sorted(one.through.items())}}
                return Claim(verdict=verdict, why=one.why, facts={**facts, **through})
    return None


def quickly_stored(scrubbed_at_ms: int | None, now_ms: int) -> Claim:
    """What can be said of the rows on disk from when the one that was not looked at for the longest was hashed again. Pure."""
    if scrubbed_at_ms is None:
        why = "no scrub has gone over all rows and found them right; a whole check is one"
        return Claim(verdict=Verdict.UNPROVEN, why=why, facts={"scrubbed_at_ms": None})
    age_s = max(0, now_ms - scrubbed_at_ms) / 1000
    facts = {"scrubbed_at_ms": scrubbed_at_ms}
    if age_s > SCRUB_AGE_MAX_S:
        limit = f"the limit is {SCRUB_AGE_MAX_S / 3600:.0f} h"
        why = f"the oldest scrub is of {_time(scrubbed_at_ms)}, {age_s / 3600:.0f} h ago; {limit}"
        return Claim(verdict=Verdict.UNPROVEN, why=why, facts=facts)
    return Claim(verdict=Verdict.EQUAL, why=f"all rows were hashed again since {_time(scrubbed_at_ms)}", facts=facts)


def _unproven(states: Mapping[int, PartitionState], proof: Proof | None) -> str:
    if proof is None:
        return "no fold of the log has proven it yet; a whole check does, or a peer"
    count = sum(state.count for state in states.values())
    return f"proven through {proof.count} events by the fold of {_time(proof.at_ms)}; now it holds {count}"


def _time(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
