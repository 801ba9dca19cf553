"""Whether a replica may be filled from a peer: what is inherited, what it is held against, and why it is refused.

A certificate is older than the peer that shows it. What is copied is therefore held against four things, and each of them
alone can refuse it. Before anything is copied: the certificate itself (signature, signer, projection, incarnation), and the
link to it: where the peer's count was the certified one, its digests must have been the certified ones. After that: the copy,
read back and hashed again, must give the digests, counts and tallies that the peer keeps. And the log: the mark that the peer
last judged must lie where the peer says, and every event between that mark and the peer's position must be in the copy, so
that no event is skipped by beginning behind it.

All of it is pure; `bootstrap` gathers and acts. What it does not prove: that the rows of events since the certificate are what
the reducer yields. A check of the new replica says that, as of any other.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from truecopy_bus.fold import DIGEST_ALGORITHM, DIGEST_MODULUS, Head
from truecopy_bus.record import Record, TopicState
from truecopy_projections.amendment import NO_AMENDMENTS, Amendments
from truecopy_projections.arrival import Control, control_of, key_of
from truecopy_projections.certificate_form import CANONICAL_FORM, Certificate
from truecopy_projections.columns import encoded
from truecopy_projections.digest import EMPTY, bucket_of, row_hashes, shifted, total
from truecopy_projections.evidence import judged, tallied
from truecopy_projections.limits import BOOTSTRAP_TAIL_RECORDS_MAX
from truecopy_projections.projection import Projection
from truecopy_projections.state import Checkpoint, KeyState, MarkVerdict, PartitionState, Reason, Waiting
from truecopy_schemas.codec import read_version
from truecopy_schemas.control import CONTROL_KEY, Mark
from truecopy_schemas.errors import TruecopyError
from truecopy_schemas.framing import unframe

__all__ = ["Inheritance", "Recount", "Refusal", "RowColumns", "Tail", "unanchored", "uncertified", "unfit"]

Refusal = tuple[str, str]
"""Why a peer is refused, and what to do."""
_CERTIFY = "certify it anew (`truecopy check APP --certify` at the peer)"
_OTHER_PEER = "check the peer and repair it, or take another peer"
_ANCHORS = (MarkVerdict.EQUAL, MarkVerdict.PARKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """What a peer's snapshot says of one projection, beside rows and keys. `certificate` is its newest one, None if none."""

    states: Mapping[int, PartitionState]
    checkpoints: Sequence[Checkpoint]
    waiting: Sequence[Waiting]
    certificate: Certificate | None
    amendments: Amendments = NO_AMENDMENTS

    def anchors(self) -> dict[int, Checkpoint]:
        """The last mark of each partition that the peer has judged and is not refuted by."""
        return {
            c.partition: c for c in self.checkpoints if c.verdict in _ANCHORS and c.offset < self.states[c.partition].position
        }

    def tails(self) -> dict[int, tuple[int, int]]:
        """The offsets that are read of each partition: from its anchor, or from the beginning, to the position."""
        anchors = self.anchors()
        return {p: (anchors[p].offset if p in anchors else 0, state.position) for p, state in self.states.items()}


def uncertified(
    projection: Projection[Any], certificate: Certificate | None, topic: TopicState, trusted: Collection[str]
) -> Refusal | None:
    """Why the certificate is none that a replica can begin with. `trusted` are public keys, in hex."""
    if certificate is None:
        return f"it keeps no certificate of {projection.id}", _CERTIFY
    if not certificate.is_signed():
        return "the signature of its certificate is not by the key that it names: it was forged or damaged", _OTHER_PEER
    if certificate.public_key not in trusted:
        known = ", ".join(sorted(trusted)) or "none"
        return (
            f"its certificate is signed by {certificate.public_key}, and trusted are: {known}",
            f"if that is the peer's key, say so: --public-key {certificate.public_key}",
        )
    stated, expected = (certificate.projection, certificate.entity), (projection.id, projection.entity)
    if stated != expected:
        return f"its certificate is of {stated[0]} of {stated[1]}, expected {expected[0]} of {expected[1]}", _CERTIFY
    numbers, ours = (certificate.digest_algorithm, certificate.canonical_form), (DIGEST_ALGORITHM, CANONICAL_FORM)
    if numbers != ours:
        return f"its certificate is by digest and canonical form {numbers}, expected {ours}", _CERTIFY
    if certificate.incarnation != topic.incarnation:
        seen = f"its certificate is of incarnation {certificate.incarnation}, the log has {topic.incarnation}"
        return f"{seen}: the topic was made anew", "let workers fill the replica from the log"
    if certificate.positions.keys() != topic.bounds.keys():
        seen = f"its certificate is of partitions {sorted(certificate.positions)}, the topic has {sorted(topic.bounds)}"
        return seen, _CERTIFY
    return None


def unfit(found: Inheritance, topic: TopicState) -> Refusal | None:
    """Why the peer's figures, as it states them, can't be inherited. Its certificate is not `uncertified`."""
    if found.states.keys() != topic.bounds.keys():
        seen = f"it follows partitions {sorted(found.states)}, the topic has {sorted(topic.bounds)}"
        return seen, "partitions are part of a topic's identity: take a peer that follows this topic"
    last = judged(found.checkpoints)
    for p, state in sorted(found.states.items()):
        start, end = topic.bounds[p]
        if state.incarnation != topic.incarnation:
            seen = f"its partition {p} follows incarnation {state.incarnation}, the log has {topic.incarnation}"
            return seen, "let workers fill the replica from the log"
        if state.halted:
            return f"its partition {p} stands still: {state.halted}", "mend that first, or take another peer"
        if not start <= state.position <= end:
            return f"its partition {p} is at offset {state.position}, the log holds {start} to {end}", _OTHER_PEER
        if p in last and last[p].verdict is MarkVerdict.DIVERGED:
            return f"at mark {last[p].number} its partition {p} had DIVERGED from the owner", _OTHER_PEER
        offsets = [one.offset for one in found.checkpoints if one.partition == p]
        offsets += [one.offset for one in found.waiting if one.partition == p]
        if offsets and max(offsets) >= state.position:
            seen = f"its partition {p} is at offset {state.position} and keeps what it read at offset {max(offsets)}"
            return seen, _OTHER_PEER
        if (unlinked := _unlinked(found, state)) is not None:
            return unlinked
    if (unruled := _unruled(found)) is not None:
        return unruled
    for p, (first, position) in sorted(found.tails().items()):
        if first < topic.bounds[p][0]:
            return f"the log no longer holds partition {p} from the peer's last mark on (offset {first})", _CERTIFY
        if position - first > BOOTSTRAP_TAIL_RECORDS_MAX:
            seen = f"its partition {p} is {position - first} records beyond its last mark, the limit is "
            return f"{seen}{BOOTSTRAP_TAIL_RECORDS_MAX}", "wait until it has passed a mark; is the owner's relay running?"
    return None


def _unruled(found: Inheritance) -> Refusal | None:
    """Why the peer's rulings are not those that its certificate states, and later ones.

    Where it was certified nothing was parked, so an event that lies before can't have been ruled about since.
    """
    assert found.certificate is not None
    stated = {one.id for one in found.certificate.amendments}
    known = {one.id: one for one in found.amendments.all}
    if missing := [one for one in found.certificate.amendments if one.id not in known]:
        return f"its certificate states that {missing[0]}, and it keeps no such ruling", _OTHER_PEER
    for one in (one for name, one in known.items() if name not in stated and one.key is not None):
        if one.offset < found.certificate.positions.get(one.partition, 0):
            return f"it keeps a ruling that its certificate does not state ({one})", _CERTIFY
    return None


def _unlinked(found: Inheritance, state: PartitionState) -> Refusal | None:
    """Why a partition is not the one that was certified, only further on.

    Where the peer's figures are of the certified count, its digests must be the certified ones: nothing was parked there, so
    rows can't have moved without an event.
    """
    p, certificate = state.partition, found.certificate
    assert certificate is not None
    position, count = certificate.positions[p], certificate.counts[p]
    certified = int(certificate.input_digests[p], 16), int(certificate.row_digests[p], 16)
    if state.position < position or state.count < count:
        seen = f"its partition {p} is at offset {state.position} and count {state.count}, and was certified at {position} and"
        return f"{seen} {count}: it lost what it had", _OTHER_PEER
    seen = f"at the certificate's count its partition {p} had other digests than the certificate states"
    if state.count == count:
        return None if (state.input_digest, state.row_digest) == certified else (seen, _OTHER_PEER)
    same = [(c.input_digest, c.row_digest) for c in found.checkpoints if c.partition == p and c.count == count]
    if not same:
        return f"it keeps no mark at the certificate's count in partition {p}, so that nothing links the two", _CERTIFY
    return None if certified in same else (seen, _OTHER_PEER)


@dataclass(slots=True)
class Tail:
    """What lies on the log in one partition between the peer's last mark and its position: the first record, and the events.

    Of each event, (key, version), the first offset is kept.
    """

    anchor: Record | None = None
    events: dict[tuple[str, int], int] = field(default_factory=dict)

    def take(self, record: Record) -> None:
        """Take the next record; the first is the mark's own, or the genesis."""
        if self.anchor is None:
            self.anchor = record
        if record.key in (None, CONTROL_KEY) or record.value is None:
            return
        try:
            event = key_of(record.key or b""), read_version(bytes(unframe(record.value)[1]))
        except (UnicodeDecodeError, TruecopyError):
            return  # foreign: it changes no key
        self.events.setdefault(event, record.offset)


def unanchored(found: Inheritance, tails: Mapping[int, Tail], heads: Mapping[str, int]) -> Refusal | None:
    """Why the peer's position is not where its copy ends. `heads` has the versions of the keys in the tails, as copied."""
    anchors = found.anchors()
    waiting = {(one.key, one.version) for one in found.waiting}
    for p, state in sorted(found.states.items()):
        tail, anchor = tails.get(p, Tail()), anchors.get(p)
        if anchor is not None and not _is_mark(tail.anchor, anchor):
            seen = f"the log does not hold mark {anchor.number} of partition {p} at offset {anchor.offset}, where it judged it"
            return seen, _OTHER_PEER
        missed = [event for event in tail.events if event[1] > heads.get(event[0], 0) and event not in waiting]
        if missed:
            key, version = min(missed, key=lambda event: tail.events[event])
            seen = f"its partition {p} is at offset {state.position}, and lacks version {version} of {key!r}, which lies before"
            return seen, _OTHER_PEER
        since = state.count - (anchor.count if anchor else 0)
        if (anchor is None or anchor.verdict is MarkVerdict.EQUAL) and since > len(tail.events):
            seen = f"its partition {p} counts {since} events since its last mark, up to its position the log holds "
            return f"{seen}{len(tail.events)}", _OTHER_PEER
    return None


def _is_mark(record: Record | None, judged_at: Checkpoint) -> bool:
    if record is None or record.offset != judged_at.offset or record.key != CONTROL_KEY:
        return False
    control = control_of(record)
    if not isinstance(control, Control) or not isinstance(control.said, Mark):
        return False
    mark = control.said
    stated = (judged_at.epoch, judged_at.number, judged_at.mark_count, judged_at.mark_digest)
    return (mark.epoch, mark.number, mark.count, int.from_bytes(mark.digest)) == stated


class RowColumns(NamedTuple):
    """Some rows as they are stored, in columns: of each its source key, partition, kept hash and bucket, and its own fields."""

    keys: Sequence[str]
    partitions: Sequence[int]
    hashes: Sequence[bytes]
    buckets: Sequence[int]
    fields: Sequence[Sequence[Any]]


class Recount:
    """The figures of a copy, counted anew from the rows and keys that were read back of it.

    `watched` are keys whose versions are kept in `heads`; parked ones are kept anyway.
    """

    def __init__(self, projection: Projection[Any], watched: Collection[str]) -> None:
        self._projection, self._watched = projection, watched
        self._rows: dict[int, dict[int, int]] = {}
        self._elements: dict[int, int] = {}
        self._counts: dict[int, int] = {}
        self._odd: dict[str, KeyState] = {}
        self._homes: dict[str, int] = {}
        self.rows = 0
        self.altered: str | None = None
        self.astray: str | None = None

    @property
    def heads(self) -> Mapping[str, int]:
        return {key: state.head.version for key, state in self._odd.items()}

    @property
    def parked(self) -> Sequence[str]:
        return sorted(key for key, state in self._odd.items() if state.parked)

    def take_rows(self, rows: RowColumns) -> None:
        """Hash rows again."""
        again = row_hashes(self._projection.id, rows.keys, list(map(encoded, rows.fields)))
        buckets = list(map(bucket_of, rows.keys))
        if again != list(rows.hashes) and self.altered is None:
            self.altered = next(key for key, one, kept in zip(rows.keys, again, rows.hashes, strict=True) if one != kept)
        if buckets != list(rows.buckets) and self.astray is None:
            self.astray = next(key for key, one, kept in zip(rows.keys, buckets, rows.buckets, strict=True) if one != kept)
        for partition in set(rows.partitions):
            self._rows.setdefault(partition, {})
        for partition, bucket, number in zip(rows.partitions, buckets, map(int.from_bytes, again), strict=True):
            sums = self._rows[partition]
            sums[bucket] = sums.get(bucket, 0) + number
        self.rows += len(again)

    def take_keys(self, keys: Sequence[tuple[str, int, int, int, bytes, bytes, str, int]]) -> None:
        """Take source keys, as (key, partition, version, applied, element, previous, why it is parked, bucket)."""
        for key, partition, version, applied, element, previous, parked, bucket in keys:
            self._elements[partition] = self._elements.get(partition, 0) + int.from_bytes(element)
            self._counts[partition] = self._counts.get(partition, 0) + version
            if bucket != bucket_of(key) and self.astray is None:
                self.astray = key
            if parked or key in self._watched:
                reason = Reason[parked] if parked else None
                self._odd[key], self._homes[key] = KeyState(Head(version, element, previous), applied, reason), partition

    def differs(self, found: Inheritance) -> Refusal | None:
        """Why this is not what the peer says of itself."""
        if self.altered is not None:
            return f"the row of {self.altered!r} differs from the hash that is kept beside it", _OTHER_PEER
        if self.astray is not None:
            return f"{self.astray!r} is kept in the bucket of others, where no reader finds it", _OTHER_PEER
        told: list[tuple[str, Callable[[PartitionState], bool]]] = [
            ("its rows, hashed again, do not give the digests that it keeps", self._same_rows),
            ("the elements of its keys do not sum to its input digest", self._same_elements),
            ("the versions of its keys do not sum to its count", lambda s: self._counts.get(s.partition, 0) == s.count),
            (
                "parked keys and quarantine do not give the tallies that it keeps",
                lambda s: tallied(s, self._odd, self._homes, found.waiting) == s,
            ),
        ]
        for p, state in sorted(found.states.items()):
            for seen, holds in told:
                if not holds(state):
                    return f"partition {p}: {seen}", _OTHER_PEER
        if strays := (self._rows.keys() | self._counts.keys()) - found.states.keys():
            return f"it keeps rows or keys of partitions {sorted(strays)}, which it does not follow", _OTHER_PEER
        return None

    def _same_rows(self, state: PartitionState) -> bool:
        return shifted(EMPTY, self._rows.get(state.partition, {})) == state.rows and total(state.rows) == state.row_digest

    def _same_elements(self, state: PartitionState) -> bool:
        return self._elements.get(state.partition, 0) % DIGEST_MODULUS == state.input_digest
