"""The plan of a batch: from what is known and what arrived to all that changes. Pure; one call for each batch.

Events go one by one, in order, through the fold of their key. Rows are kept in memory and hashed once at each mark and at
the end, however often they changed between. A key that can't go on is parked: it and what follows it wait, in order, while
its partition flows; what was delivered is counted and chained all the same, so that a mark tells what is lost from what only
waits.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from truecopy_bus.fold import DIGEST_MODULUS, Head, Verdict, fold, moved
from truecopy_bus.leases import Fence
from truecopy_projections.arrival import Arrival, Control, Foreign, Item
from truecopy_projections.digest import shifted
from truecopy_projections.limits import DETAIL_CHARS_MAX, KEYS_PARKED_MAX, WAITING_BYTES_MAX
from truecopy_projections.marks import checkpoint
from truecopy_projections.projection import Address, Projection
from truecopy_projections.rows import RottenRowError, Rows
from truecopy_projections.state import (
    NEW_KEY,
    Checkpoint,
    KeyState,
    Known,
    PartitionPlan,
    PartitionState,
    Reason,
    Waiting,
    Wanted,
)
from truecopy_schemas.control import Genesis, Mark

__all__ = ["PARKED", "RETRIED", "halted", "overfull", "passed", "plan", "wanted"]

PARKED = "parked"
"""How the state begins in which a partition halts because too much waits."""
RETRIED = frozenset({Reason.SCHEMA, Reason.UNDECODABLE, Reason.REJECTED, Reason.REFUSED, Reason.ROTTEN, Reason.GAP})
"""What may have been mended meanwhile, so that a worker tries it again when it takes the partition."""


def wanted(items: Sequence[Item]) -> Wanted:
    """What a plan of these items has to know."""
    arrivals = [item for item in items if type(item) is Arrival]
    copied = [a.handler is not None and a.handler.copies for a in arrivals]
    return Wanted(
        keys=frozenset(a.key for a in arrivals),
        rows=frozenset(
            (a.key, sub) for a, unseen in zip(arrivals, copied, strict=True) if not unseen for sub in a.touches or ()
        ),
        whole=frozenset(a.key for a in arrivals if a.touches is None),
        hashes=frozenset(a.key for a, unseen in zip(arrivals, copied, strict=True) if unseen),
    )


def halted(fence: Fence, state: PartitionState, why: str) -> PartitionPlan:
    """The plan that only writes down (or, with "", takes back) that a partition stands still, and why."""
    return PartitionPlan(fence=fence, was=state, state=replace(state, halted=why))


def overfull(parked: int, waiting_bytes: int) -> str:
    """Why a partition with so many parked keys and waiting bytes halts; "" below the limits."""
    if parked <= KEYS_PARKED_MAX and waiting_bytes <= WAITING_BYTES_MAX:
        return ""
    return (
        f"{PARKED}: {parked} keys and {waiting_bytes} bytes wait, the limits are {KEYS_PARKED_MAX} and {WAITING_BYTES_MAX}; "
        "see `truecopy quarantine list`: it flows again by itself once less waits"
    )


def passed(fence: Fence, state: PartitionState, position: int) -> PartitionPlan:
    """The plan that only moves a partition on, over offsets at which there is no record."""
    return PartitionPlan(fence=fence, was=state, state=replace(state, position=position))


def plan(
    projection: Projection[Any],
    states: Mapping[int, PartitionState],
    fences: Mapping[int, Fence],
    items: Sequence[Item],
    known: Known,
    *,
    revived: Mapping[str, Sequence[Arrival]] | None = None,
    retry: Collection[str] = (),
    refused: Mapping[str, str] | None = None,
) -> list[PartitionPlan]:
    """One plan for each partition that `items` or `retry` concern and that is held.

    `revived` are the waiting records of wanted parked keys, read again. `retry` names parked keys to try even if nothing
    new came for them. `refused` names keys whose rows the database does not take, with the reason.
    """
    rows = Rows(projection, known)
    parts: dict[int, _Partition] = {}

    def part(partition: int) -> "_Partition | None":
        if partition not in parts and partition in states and partition in fences:
            parts[partition] = _Partition(fences[partition], states[partition], rows, known, revived or {}, refused or {})
        return parts.get(partition)

    for key in sorted(retry):
        for arrival in (revived or {}).get(key, ())[:1]:
            if (own := part(arrival.record.partition)) is not None:
                own.resume(key)
    for item in items:
        if (own := part(item.record.partition)) is not None and not own.halt:
            own.take(item)
    return [own.finished() for own in parts.values()]


class _Partition:
    """One partition's share of a plan while it is made."""

    def __init__(
        self,
        fence: Fence,
        was: PartitionState,
        rows: Rows,
        known: Known,
        revived: Mapping[str, Sequence[Arrival]],
        refused: Mapping[str, str],
    ) -> None:
        self.fence, self.was, self.rows, self.known, self.refused = fence, was, rows, known, refused
        self.keys: dict[str, KeyState] = {}
        self.queues = {key: list(queue) for key, queue in revived.items()}
        self.kept = {(w.partition, w.offset): w for waiting in known.waiting.values() for w in waiting}
        self.waits: dict[int, Waiting] = {}
        self.freed: set[int] = set()
        self.checkpoints: list[Checkpoint] = []
        self.dirty: set[Address] = set()
        self.changed: set[Address] = set()
        self.applied = 0
        self.halt = ""
        self.position, self.count, self.digest = was.position, was.count, was.input_digest
        self.sums, self.row_digest, self.relay_epoch = was.rows, was.row_digest, was.relay_epoch
        self.parked, self.uncounted, self.bytes = was.parked, was.uncounted, was.waiting_bytes
        self.duplicates, self.foreign = was.duplicates, was.foreign

    def take(self, item: Item) -> None:
        if type(item) is Arrival:
            self._event(item)
        elif type(item) is Foreign:
            self.foreign += 1
            self._quarantine(item, Reason.FOREIGN, item.why)
        elif type(item) is Control and not self._control(item):
            return
        self.position = item.record.offset + 1

    def resume(self, key: str) -> None:
        """Go on with a parked key from where it waits, as far as it goes."""
        self._count(key)
        counted_to = self._key(key).head.version
        evidence = [a for a in self.queues.get(key, ()) if self._is_evidence(a)]
        queue = sorted((a for a in self.queues.get(key, ()) if not self._is_evidence(a)), key=lambda a: a.version)
        for arrival in [a for a in evidence if a.overruled]:
            self._free(arrival, counted=True)
            evidence.remove(arrival)
        contested = min((a.version for a in evidence), default=counted_to)
        self._unpark(key)
        for at, arrival in enumerate(queue):
            state, counted = self._key(key), arrival.version <= counted_to
            fault: tuple[Reason, str] | None = None
            if arrival.version <= state.applied:
                if self._contradicts(arrival, state):
                    fault = Reason.CONFLICT, f"version {arrival.version} again with other content; find its second writer"
            elif evidence and arrival.version > contested:
                break
            elif arrival.version > state.applied + 1:
                fault = Reason.GAP, f"seen version {arrival.version}, expected {state.applied + 1}"
            elif not counted:
                fault = Reason.SCHEMA, arrival.fault[1] if arrival.fault else ""
            else:
                fault = self._effect(arrival)
            if fault is not None:
                self._park(key, fault[0])
                self._restate(arrival, *fault)
                self.queues[key] = [*evidence, *queue[at:]]
                return
            self._free(arrival, counted=counted)
        if evidence:
            # The first of two events of one version was applied by now; what comes after it waits until somebody rules.
            self._park(key, Reason.CONFLICT)
            self.queues[key] = [*evidence, *(a for a in queue if a.version > self._key(key).applied)]
        else:
            self.queues.pop(key, None)

    def finished(self) -> PartitionPlan:
        if self.halt:
            return halted(self.fence, self.was, self.halt)
        self._settle()
        halt = overfull(self.parked, self.bytes)
        if self.was.halted and not self.was.halted.startswith(PARKED):
            halt = self.was.halted
        state = PartitionState(
            partition=self.was.partition,
            incarnation=self.was.incarnation,
            position=self.position,
            count=self.count,
            input_digest=self.digest,
            rows=self.sums,
            row_digest=self.row_digest,
            relay_epoch=self.relay_epoch,
            parked=self.parked,
            uncounted=self.uncounted,
            waiting_bytes=self.bytes,
            duplicates=self.duplicates,
            foreign=self.foreign,
            halted=halt,
        )
        puts, drops = self.rows.outcome(self.changed)
        return PartitionPlan(
            fence=self.fence,
            was=self.was,
            state=state,
            keys=self.keys,
            puts=puts,
            drops=drops,
            waits=tuple(self.waits.values()),
            freed=frozenset(self.freed),
            checkpoints=tuple(self.checkpoints),
            effects=tuple(self.rows.effects.get(self.was.partition, ())),
            applied=self.applied,
        )

    def _event(self, arrival: Arrival) -> None:
        key, state = arrival.key, self._key(arrival.key)
        if arrival.fingerprint is None:
            # Without its schema's fingerprint it can't be chained, so it is not counted before the schema is known.
            if arrival.version <= state.head.version or self._waits_already(arrival):
                self.duplicates += 1
            else:
                reason = Reason.SCHEMA if arrival.version == state.head.version + 1 else Reason.GAP
                self._wait(arrival, reason, arrival.fault[1] if arrival.fault else "")
            return
        if state.parked is not None:
            self._count(key)
            state = self._key(key)
        verdict, head = fold(state.head, key, arrival.version, arrival.fingerprint, arrival.body)
        if verdict is Verdict.APPLY:
            self._chain(key, state, head)
            if state.parked is None:
                if (fault := self._effect(arrival)) is not None:
                    self._wait(arrival, *fault, counted=True)
            elif state.parked is Reason.GAP and arrival.version == state.applied + 1:
                if (fault := self._effect(arrival)) is not None:
                    self._wait(arrival, *fault, counted=True, instead=True)
                else:
                    self.resume(key)
            else:
                self._wait(arrival, Reason.BEHIND, "", counted=True)
        elif verdict is Verdict.GAP and not self._waits_already(arrival):
            seen, expected = arrival.version, state.head.version + 1
            self._wait(arrival, Reason.GAP, f"seen version {seen}, expected {expected}; it is applied when that arrives")
        elif verdict is Verdict.CONFLICT and not arrival.overruled:
            detail = f"version {arrival.version} again with other content; find its second writer"
            if not self._waits_already(arrival):
                self._quarantine(arrival, Reason.CONFLICT, detail)
                self.queues.setdefault(key, []).append(arrival)
                if arrival.version == state.applied:
                    self._unpark(key)  # whatever it waited for, it can't go on from here before somebody rules
                self._park(key, Reason.CONFLICT)
        else:
            self.duplicates += 1

    def _contradicts(self, arrival: Arrival, state: KeyState) -> bool:
        """Whether a waiting event says something else than the one of its version that was applied."""
        if arrival.fingerprint is None or arrival.overruled:
            return False
        verdict, _ = fold(state.head, arrival.key, arrival.version, arrival.fingerprint, arrival.body)
        return verdict is Verdict.CONFLICT

    def _count(self, key: str) -> None:
        """Count and chain what waits for a schema that is known by now, in order: a copy that comes later is a second one."""
        while True:
            state = self._key(key)
            due = [a for a in self.queues.get(key, ()) if a.version == state.head.version + 1 and not self._is_evidence(a)]
            ready = next((a for a in due if a.fingerprint is not None), None)
            if ready is None or ready.fingerprint is None:
                return
            _, head = fold(state.head, key, ready.version, ready.fingerprint, ready.body)
            self._chain(key, state, head)
            self.uncounted -= len(due)

    def _chain(self, key: str, state: KeyState, head: Head) -> None:
        self.count += 1
        self.digest = moved(self.digest, old=state.head.element, new=head.element)
        self.keys[key] = state._replace(head=head)

    def _effect(self, arrival: Arrival) -> tuple[Reason, str] | None:
        """Bring an event's effect into the rows; None, or why it can't be."""
        key = arrival.key
        if arrival.fault is not None:
            return arrival.fault
        if key in self.refused and arrival.handler is not None:
            return Reason.REFUSED, self.refused[key]
        try:
            self.dirty.update(self.rows.reduce(arrival))
        except RottenRowError as fault:
            return Reason.ROTTEN, str(fault)
        except KeyboardInterrupt:
            raise
        except BaseException as fault:  # the user's reducer; whatever it raises, an exit too, parks the key with it
            return Reason.REJECTED, f"{type(fault).__name__}: {fault}"
        self.applied += 1
        self.keys[key] = self._key(key)._replace(applied=arrival.version)
        return None

    def _control(self, item: Control) -> bool:
        """Take a control record; False when it shows that the topic is another one."""
        said = item.said
        if said.incarnation != self.was.incarnation and (type(said) is Mark or item.record.offset == 0):
            # Nothing of this batch may be applied: it may lie beyond the border.
            self.halt = (
                f"incarnation: knows {self.was.incarnation}, the log has {said.incarnation}; the topic was re-created: "
                "rebuild the replica, or restore the topic"
            )
            return False
        if type(said) is Mark:
            self._settle()
            now = (self.count, self.digest, self.row_digest, self.relay_epoch, self.uncounted)
            self.checkpoints.append(checkpoint(item.record, said, *now))
            self.relay_epoch = max(self.relay_epoch, said.epoch)
        elif type(said) is not Genesis:
            raise TypeError(f"control record {said!r}")
        return True

    def _settle(self) -> None:
        """Move the row digests to what the rows are now."""
        moves = self.rows.moves(self.dirty)
        self.sums = shifted(self.sums, moves)
        self.row_digest = (self.row_digest + sum(moves.values())) % DIGEST_MODULUS
        self.changed |= self.dirty
        self.dirty.clear()

    def _key(self, key: str) -> KeyState:
        return self.keys.get(key) or self.known.keys.get(key, NEW_KEY)

    def _is_evidence(self, arrival: Arrival) -> bool:
        record = arrival.record
        waiting = self.waits.get(record.offset) or self.kept.get((record.partition, record.offset))
        return waiting is not None and waiting.reason is Reason.CONFLICT

    def _waits_already(self, arrival: Arrival) -> bool:
        return any(a.version == arrival.version and a.body == arrival.body for a in self.queues.get(arrival.key, ()))

    def _park(self, key: str, reason: Reason) -> None:
        state = self._key(key)
        if state.parked is None:
            self.parked += 1
            self.keys[key] = state._replace(parked=reason)

    def _unpark(self, key: str) -> None:
        state = self._key(key)
        if state.parked is not None:
            self.parked -= 1
            self.keys[key] = state._replace(parked=None)

    def _wait(self, arrival: Arrival, reason: Reason, detail: str, *, counted: bool = False, instead: bool = False) -> None:
        key = arrival.key
        if instead:
            self._unpark(key)
        behind = self._key(key).parked is not None and reason is not Reason.CONFLICT
        self._quarantine(arrival, Reason.BEHIND if behind else reason, detail)
        self.queues.setdefault(key, []).append(arrival)
        self.uncounted += not counted
        self._park(key, reason)

    def _quarantine(self, item: Arrival | Foreign, reason: Reason, detail: str) -> None:
        record = item.record
        event = item if type(item) is Arrival else None
        waiting = Waiting(
            partition=record.partition,
            offset=record.offset,
            key=event.key if event else None,
            version=event.version if event else None,
            reason=reason,
            detail=detail[:DETAIL_CHARS_MAX],
            record_key=record.key,
            record_value=record.value,
            headers=record.headers,
            timestamp_ms=record.timestamp_ms,
        )
        self.waits[record.offset] = waiting
        self.bytes += waiting.size

    def _restate(self, arrival: Arrival, reason: Reason, detail: str) -> None:
        """Keep why it waits now, where that is something else than it was."""
        place = arrival.record.partition, arrival.record.offset
        waiting = self.waits.get(place[1]) or self.kept.get(place)
        if waiting is not None and (reason, detail[:DETAIL_CHARS_MAX]) != (waiting.reason, waiting.detail):
            self.waits[place[1]] = replace(waiting, reason=reason, detail=detail[:DETAIL_CHARS_MAX])

    def _free(self, arrival: Arrival, *, counted: bool) -> None:
        record = arrival.record
        if self.waits.pop(record.offset, None) is None or (record.partition, record.offset) in self.kept:
            self.freed.add(record.offset)
        self.bytes -= len(record.key or b"") + len(record.value or b"")
        self.uncounted -= not counted
