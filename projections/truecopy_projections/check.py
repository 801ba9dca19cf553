"""The check: whether a replica is a true copy, as three claims with their own evidence.

Delivered: the replica consumed exactly the owner's history. The owner's marks say so, by count and input digest; every mark
that the replica passed left a checkpoint. Computed: its maintained row digests are those of an independent fold of the log up
to the replica's own position. Stored: the rows on disk, hashed again, give the maintained digests.

A foreign topic has no marks: there `delivered` is never EQUAL.

What it does not prove: that the owner put the truth into the log.
"""

import time
from typing import Any

from truecopy_bus.fold import UNKNOWN
from truecopy_bus.log import Log
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.digest import total
from truecopy_projections.evidence import Evidence, gather, is_waiting, judged, newest, tallied
from truecopy_projections.gathered_check import gathered_differences
from truecopy_projections.limits import CHECK_WAIT_S
from truecopy_projections.projection import Projection
from truecopy_projections.reference import Reference
from truecopy_projections.replica import Replica
from truecopy_projections.state import Checkpoint, MarkVerdict, PartitionState
from truecopy_projections.verdicts import Claim, Report, Verdict, worst

__all__ = ["check", "report", "wrong_keys"]


async def check(
    projection: Projection[Any],
    replica: Replica,
    log: Log,
    schemas: SchemaSource,
    *,
    topic: str | None = None,
    deep: bool = False,
    wait_s: float = CHECK_WAIT_S,
) -> Report:
    """Check one projection in one replica, waiting up to `wait_s` seconds for it to pass a fresh mark.

    A deep check also compares every row, and the version and element of every key, instead of following the digests to
    those that differ. Raises UnknownProjectionError, TopicMissingError, and what is unavailable.
    """
    name = topic or projection.entity
    found = await gather(projection, replica, log, schemas, topic=name, deep=deep, wait_s=wait_s)
    return report(projection, replica, found)


def report(projection: Projection[Any], replica: Replica, found: Evidence) -> Report:
    """Judge the evidence. Pure."""
    delivered = _delivered(found, foreign=projection.foreign is not None)
    return Report(
        projection=projection.id,
        entity=projection.entity,
        replica=replica.name,
        incarnation=next(iter(found.states.values())).incarnation,
        positions={p: state.position for p, state in found.states.items()},
        count=sum(state.count for state in found.states.values()),
        marks_compared=delivered.facts["marks"],
        delivered=delivered,
        computed=_computed(found),
        stored=_stored(found),
        differences=[*found.differences, *gathered_differences(found.gathered)],
        parked=sorted(key for key, state in found.keys.items() if state.parked),
        fingerprints=sorted(one.hex() for one in found.reference.fingerprints) if found.reference else (),
        checked_at_ms=time.time_ns() // 1_000_000,
    )


def _delivered(found: Evidence, *, foreign: bool) -> Claim:
    compared = [c for c in found.checkpoints if c.verdict in (MarkVerdict.EQUAL, MarkVerdict.DIVERGED)]
    last = judged(found.checkpoints)
    latest = newest(found.checkpoints)
    told = {
        p: _delivered_in(state, last.get(p), latest.get(p), found, foreign=foreign) for p, state in sorted(found.states.items())
    }
    for p in sorted(found.topic.bounds.keys() ^ found.states.keys()):
        here = "the log" if p in found.topic.bounds else "the replica"
        told[p] = Verdict.INCOMPARABLE, f"only {here} has it: partitions are part of a topic's identity; rebuild the replica"
    facts = {
        "marks": len(compared),
        "marks_diverged": sum(c.verdict is MarkVerdict.DIVERGED for c in compared),
        "count": sum(state.count for state in found.states.values()),
        "verified_through": sum(c.mark_count for c in last.values() if c.verdict is MarkVerdict.EQUAL),
        "duplicates": sum(state.duplicates for state in found.states.values()),
        "foreign": sum(state.foreign for state in found.states.values()),
        "digests": {str(p): f"{state.input_digest:064x}" for p, state in sorted(found.states.items())},
    }
    reasons = [f"partition {p}: {why}" for p, (verdict, why) in told.items() if verdict is not Verdict.EQUAL]
    why = "; ".join(reasons) or f"count and input digest equal the owner's at {len(compared)} marks"
    return Claim(verdict=worst([verdict for verdict, _ in told.values()]), why=why, facts=facts)


def _delivered_in(
    state: PartitionState, last: Checkpoint | None, latest: Checkpoint | None, found: Evidence, *, foreign: bool
) -> tuple[Verdict, str]:
    p = state.partition
    if state.incarnation != found.topic.incarnation:
        known = f"the replica follows incarnation {state.incarnation}, the log is {found.topic.incarnation}"
        return Verdict.INCOMPARABLE, f"{known}; rebuild the replica"
    if state.halted:
        return (Verdict.PARKED if state.halted.startswith("parked") else Verdict.INCOMPARABLE), state.halted
    if last is not None and last.verdict is MarkVerdict.DIVERGED:
        owner, own = f"{last.mark_digest:064x}"[:12], f"{last.input_digest:064x}"[:12]
        return Verdict.DIVERGED, (
            f"at mark {last.number} the owner states {last.mark_count} events and digest {owner}..., "
            f"the replica has {last.count} and {own}...: events were lost or altered on the way"
        )
    if found.reference is not None:
        on_log = found.reference.counts.get(p, 0), found.reference.digests.get(p, 0)
        if on_log != (state.count, state.input_digest):
            return Verdict.DIVERGED, (
                f"the log holds {on_log[0]} events below offset {state.position}, the replica counted {state.count}, "
                "or their digests differ"
            )
    if state.parked:
        return Verdict.PARKED, f"{state.parked} keys wait in quarantine"
    behind = found.topic.bounds.get(p, (0, 0))[1] - state.position
    if behind > 0:
        return Verdict.BEHIND, f"{behind} records behind; is a worker running?"
    if foreign:
        return Verdict.UNPROVEN, "a foreign topic states neither count nor digest, so a record that never came can't be seen"
    if latest is not None and latest is not last:
        return Verdict.UNPROVEN, (
            f"the owner's newest mark states {latest.mark_count} events under epoch {latest.epoch}, the replica had "
            f"{latest.count} by then: a relay is being replaced, or the owner's store was restored from an older copy, "
            "or there are two owners"
        )
    if last is None:
        return Verdict.UNPROVEN, "no mark of the owner was reached; is its relay running?"
    if last.mark_count < state.count and last.offset < found.topic.bounds.get(p, (0, 0))[1] - 1:
        return Verdict.UNPROVEN, f"{state.count - last.mark_count} events are newer than the last mark; is the relay running?"
    return Verdict.EQUAL, ""


def _computed(found: Evidence) -> Claim:
    facts: dict[str, Any] = {"digests": {str(p): f"{s.row_digest:064x}" for p, s in sorted(found.states.items())}}
    if found.reference is None:
        return Claim(verdict=Verdict.UNPROVEN, why=found.why_none, facts=facts)
    facts["rows"] = rows = sum(map(len, found.reference.rows.values()))
    reasons = [
        f"row digests of partition {p}"
        for p, s in sorted(found.states.items())
        if found.folded[p] != s.rows or total(found.folded[p]) != s.row_digest
    ]
    reasons += [f"version or element of key {key!r}" for key in wrong_keys(found, found.reference)]
    reasons += [f"{len(one.computed)} rows of {one.id}" for one in found.gathered if one.computed]
    if found.gathered:
        facts["gathered"] = {one.id: {"rows": one.rows, "digest": f"{one.digest:064x}"} for one in found.gathered}
    if reasons:
        return Claim(verdict=Verdict.DIVERGED, why=f"differ from the fold of the log: {', '.join(reasons[:5])}", facts=facts)
    return Claim(verdict=Verdict.EQUAL, why=f"digests of {rows} rows equal an independent fold of the log", facts=facts)


def _stored(found: Evidence) -> Claim:
    wrong = sorted(
        p
        for p in found.scrubbed.keys() | found.states.keys()
        if p not in found.states or found.scrubbed[p] != found.states[p].rows or found.kept[p] != found.states[p].rows
    )
    facts = {"rows_differing": len(found.differences) + len(gathered_differences(found.gathered))}
    if wrong:
        named = f"{len(found.differences)} differing rows" if found.differences else "the digests, not the rows, were altered"
        return Claim(
            verdict=Verdict.DIVERGED, why=f"stored rows of partitions {wrong} are not what was written: {named}", facts=facts
        )
    if altered := [f"{len(one.stored)} rows of {one.id}" for one in found.gathered if one.stored]:
        why = f"stored gathered rows are not what their contributions come to: {', '.join(altered)}"
        return Claim(verdict=Verdict.DIVERGED, why=why, facts=facts)
    miscounted = [p for p, s in sorted(found.states.items()) if tallied(s, found.keys, found.homes, found.waiting) != s]
    if miscounted:
        return Claim(verdict=Verdict.DIVERGED, why=f"partitions {miscounted} count their quarantine wrongly", facts=facts)
    return Claim(verdict=Verdict.EQUAL, why="all stored rows, hashed again, give the maintained digests", facts=facts)


def wrong_keys(found: Evidence, reference: Reference) -> list[str]:
    """The gathered source keys whose version, element, partition or park is not what the log says; on a deep check of all."""
    asked = found.keys.keys() | (reference.heads.keys() if found.deep else set())
    return [key for key in sorted(asked) if not _is_right(key, found, reference)]


def _is_right(key: str, found: Evidence, reference: Reference) -> bool:
    state = found.keys.get(key)
    if state is None or reference.heads.get(key, UNKNOWN) != state.head or reference.partition.get(key) != found.homes[key]:
        return False
    if state.parked is None:
        return reference.applied.get(key, 0) == state.applied
    return is_waiting(key, state, found.waiting)
