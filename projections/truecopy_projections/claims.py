"""The three claims of a check, judged from its evidence. Pure.

Delivered: the replica consumed exactly the owner's history. The owner's marks say so, by count and input digest; every mark
that the replica passed left a checkpoint. Computed: its maintained row digests are those of an independent fold of the log up
to the replica's own position. Stored: the rows on disk, hashed again, give the maintained digests.

A foreign topic has no marks: there `delivered` is never EQUAL.
"""

from typing import Any

from truecopy_bus.fold import UNKNOWN
from truecopy_projections.digest import total
from truecopy_projections.evidence import Evidence, is_waiting, judged, newest, tallied
from truecopy_projections.gathered_check import gathered_differences
from truecopy_projections.reference import Reference
from truecopy_projections.state import Checkpoint, MarkVerdict, PartitionState, Reason, stands_restored
from truecopy_projections.verdicts import Claim, Verdict, worst

__all__ = ["computed", "delivered", "stored", "wrong_keys"]


def delivered(found: Evidence, *, foreign: bool) -> Claim:
    """Whether the replica consumed exactly the owner's history, by the owner's marks, and by the log where it was folded."""
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
    if state.halted and not stands_restored(state):
        return (Verdict.PARKED if state.halted.startswith("parked") else Verdict.INCOMPARABLE), state.halted
    if last is not None and last.verdict is MarkVerdict.DIVERGED:
        owner, own = f"{last.mark_digest:064x}"[:12], f"{last.input_digest:064x}"[:12]
        return Verdict.DIVERGED, (
            f"at mark {last.number} the owner states {last.mark_count} events and digest {owner}..., "
            f"the replica has {last.count} and {own}...: events were lost or altered on the way"
        )
    if found.reference is not None:
        on_log = found.reference.counts.get(p, 0), found.reference.digests.get(p, 0)
        missing = on_log[0] - state.count
        if on_log != (state.count, state.input_digest) and not 0 < missing <= state.uncounted:
            return Verdict.DIVERGED, (
                f"the log holds {on_log[0]} events below offset {state.position}, the replica counted {state.count}, "
                "or their digests differ"
            )
    if state.parked:
        return Verdict.PARKED, f"{state.parked} keys wait in quarantine"
    behind = found.topic.bounds.get(p, (0, 0))[1] - state.position
    if behind > 0 and stands_restored(state):
        return Verdict.BEHIND, f"{behind} records behind: {state.halted}"
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
    if last.verdict is not MarkVerdict.EQUAL:
        return Verdict.UNPROVEN, "keys waited in quarantine when the last mark was read; the next one tells"
    return Verdict.EQUAL, ""


def computed(found: Evidence) -> Claim:
    """Whether the maintained row digests are those of the fold of the log."""
    facts: dict[str, Any] = {"digests": {str(p): f"{s.row_digest:064x}" for p, s in sorted(found.states.items())}}
    if found.reference is None:
        return Claim(verdict=Verdict.UNPROVEN, why=found.why_none, facts=facts)
    facts["rows"] = rows = found.meant_rows
    reasons = [
        f"row digests of partition {p}"
        for p, s in sorted(found.states.items())
        if found.folded[p] != s.rows or total(found.folded[p]) != s.row_digest
    ]
    facts["keys_differing"] = wrong = wrong_keys(found, found.reference)
    reasons += [f"version or element of key {key!r}" for key in wrong]
    reasons += [f"{len(one.computed)} rows of {one.id}" for one in found.gathered if one.computed]
    if found.gathered:
        facts["gathered"] = {one.id: {"rows": one.rows, "digest": f"{one.digest:064x}"} for one in found.gathered}
    if reasons:
        return Claim(verdict=Verdict.DIVERGED, why=f"differ from the fold of the log: {', '.join(reasons[:5])}", facts=facts)
    return Claim(verdict=Verdict.EQUAL, why=f"digests of {rows} rows equal an independent fold of the log", facts=facts)


def stored(found: Evidence) -> Claim:
    """Whether the rows as they are stored, hashed again, give the maintained digests."""
    wrong = sorted(
        p
        for p in found.scrubbed.keys() | found.states.keys()
        if p not in found.states or found.scrubbed[p] != found.states[p].rows or found.kept[p] != found.states[p].rows
    )
    records = found.bookkeeping.places if found.bookkeeping is not None else []
    facts = {
        "rows_differing": len(found.differences) + len(gathered_differences(found.gathered)),
        "records_differing": records,
        "keys_unreachable": list(found.unreachable),
    }
    if found.unreachable:
        named = ", ".join(map(repr, found.unreachable[:5]))
        return Claim(
            verdict=Verdict.DIVERGED,
            why=f"the index of the table does not find {len(found.unreachable)} keys ({named}) whose rows are there: REINDEX "
            "the table, then check again",
            facts=facts,
        )
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
    if records:
        named = ", ".join(f"partition {p} offset {offset}" for p, offset in records[:5])
        return Claim(
            verdict=Verdict.DIVERGED,
            why=f"{len(records)} quarantined records or checkpoints are not what the log holds ({named})",
            facts=facts,
        )
    return Claim(verdict=Verdict.EQUAL, why="all stored rows, hashed again, give the maintained digests", facts=facts)


def wrong_keys(found: Evidence, reference: Reference) -> list[str]:
    """The gathered source keys whose version, element, partition or park is not what the log says; on a deep check of all."""
    asked = found.keys.keys() | (reference.heads.keys() if found.deep else set())
    return [key for key in sorted(asked) if not _is_right(key, found, reference)]


def _is_right(key: str, found: Evidence, reference: Reference) -> bool:
    state, head = found.keys.get(key), reference.heads.get(key, UNKNOWN)
    if state is None or reference.partition.get(key) != found.homes[key]:
        return False
    # What waits for its schema is not chained yet; whoever folds the log may have found it meanwhile.
    following = state.head.version + 1
    waits = bool(state.parked) and following <= head.version
    waits = waits and any(w.key == key and w.version == following for w in found.waiting)
    if head != state.head and not waits:
        return False
    if state.parked is None:
        return reference.applied.get(key, 0) == state.applied
    if state.parked is Reason.CONFLICT and key not in reference.conflicts:
        return False
    return is_waiting(key, state, found.waiting)
