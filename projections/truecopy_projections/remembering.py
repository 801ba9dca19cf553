"""What a replica remembers of its last whole check, so that a quick one can say what is still proven, and since when.

The last fold of the log that was EQUAL, with count and digests by partition, in place of the one before; and of each bucket
when its rows were hashed again.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from truecopy_projections.evidence import Evidence, suspects
from truecopy_projections.limits import BUCKETS
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica, Snapshot
from truecopy_projections.state import PartitionState
from truecopy_projections.verdicts import Claim, Verdict
from truecopy_schemas.errors import TruecopyError

__all__ = ["FOLD", "Proof", "remember", "remembered_proof"]

FOLD = "fold"
_DIGEST_BYTES = 32

_log = logging.getLogger("truecopy.check")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The last fold that was EQUAL: when, by the clock of the replica's database, and over what, by partition."""

    at_ms: int
    partitions: Mapping[int, Mapping[str, Any]]

    @property
    def count(self) -> int:
        """Events that it covers."""
        return sum(one["count"] for one in self.partitions.values())

    def covers(self, states: Mapping[int, PartitionState]) -> bool:
        """Whether nothing that it proved has changed since."""
        return {p: _told(state) for p, state in states.items()} == self.partitions


def _told(state: PartitionState) -> dict[str, Any]:
    return {
        "incarnation": state.incarnation,
        "count": state.count,
        "input_digest": f"{state.input_digest:064x}",
        "row_digest": f"{state.row_digest:064x}",
        "buckets": blake2b(state.rows, digest_size=_DIGEST_BYTES).hexdigest(),
        "parked": state.parked,
    }


async def remember(projection: Projection[Any], replica: Replica, found: Evidence, *, computed: Claim) -> None:
    """Keep what a whole check found. A replica that can't be written to keeps nothing, and the check holds all the same."""
    try:
        if computed.verdict is Verdict.EQUAL:
            partitions = {str(p): _told(state) for p, state in found.states.items()}
            await replica.remember(projection, FOLD, {"at_ms": found.taken_at_ms, "partitions": partitions})
        wrong = {bucket for _, bucket in suspects(found.states, found.scrubbed, found.kept)}
        times = {bucket: 0 if bucket in wrong else found.taken_at_ms for bucket in range(BUCKETS)}
        await replica.scrubbed(projection, times)
    except TruecopyError as fault:
        about = {"projection": projection.id}
        _log.warning(
            "%s: what was proven is not remembered, quick checks can't tell of it: %s", projection.id, fault, extra=about
        )


async def remembered_proof(projection: Projection[Any], snapshot: Snapshot) -> Proof | None:
    """The last fold that was EQUAL, if there ever was one."""
    said = await snapshot.remembered(projection.id, FOLD)
    if said is None:
        return None
    return Proof(at_ms=said["at_ms"], partitions={int(p): one for p, one in said["partitions"].items()})
