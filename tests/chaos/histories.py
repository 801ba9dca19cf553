"""Twelve error classes of Jepsen's Kafka workload, found in a history of sends and polls. Pure: a history in, findings out.

Source: `jepsen.tests.kafka` of https://github.com/jepsen-io/jepsen (its text, and `analysis`), with which Jepsen tested
Redpanda 21.10.1 (https://jepsen.io/analyses/redpanda-21.10.1) and Bufstream 0.1.0 (https://jepsen.io/analyses/bufstream-0.1.0).
The names are those of that source, where G1a is Adya's name of the aborted read. A key there is a partition, and has one log.

Where this departs from it, and why:
- A poll is judged by the offsets that it was handed, not by where its values lie: our log may hold a value twice.
- A poll says from which offset on it was asked for (`sought`), because our readers keep no position. So one that goes on
  elsewhere on purpose is judged from there, where Jepsen stops judging at each `assign`.
- Only what was acknowledged must be there. Jepsen asks for all of an unacknowledged transaction of which a part was read; an
  append is no transaction, and may be there in part.
- Left out: `precommitted-read`, and the cycles that Elle finds (G0, G1c and their like). Both are about Kafka's transactions
  over several partitions. Truecopy uses none: an append goes to one partition, where interleaved sends are `int-send-skip`.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

Key = Hashable
Value = Hashable


class Outcome(Enum):
    """How an operation ended, as far as its process was told."""

    OK = "it happened"
    INFO = "nobody knows whether it happened"
    FAIL = "it did not happen"


class Fault(Enum):
    """The classes, by their names in the source."""

    INCONSISTENT_OFFSETS = "inconsistent-offsets"
    """Two values at one offset."""
    DUPLICATE = "duplicate"
    """One value at several offsets."""
    LOST_WRITE = "lost-write"
    """Acknowledged, below what somebody polled, and polled by nobody."""
    UNSEEN = "unseen"
    """Acknowledged, and polled by nobody until the end."""
    ABORTED_READ = "G1a"
    """Polled, though its send failed."""
    INT_POLL_SKIP = "int-poll-skip"
    """One poll leaves out a stored value between two that it hands out."""
    INT_NONMONOTONIC_POLL = "int-nonmonotonic-poll"
    """One poll goes back, or hands out an offset again."""
    POLL_SKIP = "poll-skip"
    """A process leaves out a stored value between two polls."""
    NONMONOTONIC_POLL = "nonmonotonic-poll"
    """A process polls at or before what it polled last."""
    INT_SEND_SKIP = "int-send-skip"
    """Another's record lies between two of one operation."""
    INT_NONMONOTONIC_SEND = "int-nonmonotonic-send"
    """One operation's records lie in another order than they were sent in."""
    NONMONOTONIC_SEND = "nonmonotonic-send"
    """A process's later operation lies before its earlier one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one process did: values sent to logs (with offsets, None where unknown), or values polled from them.

    `sought` says of a key from which offset on this poll was asked for, where that is not after the process's last one.
    """

    process: str
    outcome: Outcome = Outcome.OK
    sends: Mapping[Key, Sequence[tuple[int | None, Value]]] = field(default_factory=dict)
    polls: Mapping[Key, Sequence[tuple[int, Value]]] = field(default_factory=dict)
    sought: Mapping[Key, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Log:
    """All that is known to lie in a key's log: values by offset, and the offsets in order, which may have holes."""

    values: Mapping[int, frozenset[Value]]
    order: Sequence[int]

    def place(self, offset: int) -> int:
        """How many offsets with a value there are below this one."""
        return bisect_left(self.order, offset)


def found_in(history: Sequence[Operation]) -> dict[Fault, list[str]]:
    """What is wrong with a history, operations in the order in which each process did them; nothing is left empty."""
    logs = _logs(history)
    found: defaultdict[Fault, list[str]] = defaultdict(list)
    for judge in (_contents, _losses, _aborted, _polls, _sends):
        for fault, told in judge(history, logs):
            found[fault].append(told)
    return dict(found)


def _logs(history: Sequence[Operation]) -> dict[Key, _Log]:
    """From acknowledged sends whose offset is known, and from all polls: what was handed out once is there."""
    values: defaultdict[Key, defaultdict[int, set[Value]]] = defaultdict(lambda: defaultdict(set))
    for one in history:
        for key, sent in one.sends.items() if one.outcome is Outcome.OK else ():
            for offset, value in sent:
                if offset is not None:
                    values[key][offset].add(value)
        for key, polled in one.polls.items():
            for offset, value in polled:
                values[key][offset].add(value)
    return {key: _Log({at: frozenset(those) for at, those in log.items()}, sorted(log)) for key, log in values.items()}


def _contents(_: Sequence[Operation], logs: Mapping[Key, _Log]) -> Iterator[tuple[Fault, str]]:
    for key, log in logs.items():
        offsets: defaultdict[Value, list[int]] = defaultdict(list)
        for at, values in sorted(log.values.items()):
            if len(values) > 1:
                yield Fault.INCONSISTENT_OFFSETS, f"{key}: offset {at} holds {sorted(values, key=repr)}"
            for value in values:
                offsets[value].append(at)
        for value, places in offsets.items():
            if len(places) > 1:
                yield Fault.DUPLICATE, f"{key}: {value} lies at offsets {places}"


def _losses(history: Sequence[Operation], logs: Mapping[Key, _Log]) -> Iterator[tuple[Fault, str]]:
    polled: defaultdict[Key, set[Value]] = defaultdict(set)
    for one in history:
        for key, those in one.polls.items():
            polled[key].update(value for _, value in those)
    highest: dict[Key, int] = {}
    last: dict[Key, dict[Value, int]] = {}
    for key, log in logs.items():
        # A value that lies twice is below what was polled only with its last copy, and is polled with its first.
        first: dict[Value, int] = {}
        for at in log.order:
            for value in log.values[at]:
                first.setdefault(value, at)
                last.setdefault(key, {})[value] = at
        highest[key] = max((first[value] for value in polled[key]), default=-1)
    for one in history:
        for key, sent in one.sends.items() if one.outcome is Outcome.OK else ():
            for _, value in sent:
                if value not in polled[key]:
                    yield Fault.UNSEEN, f"{key}: {value} was acknowledged to {one.process}, and polled by nobody"
                    if last.get(key, {}).get(value, highest.get(key, -1) + 1) <= highest.get(key, -1):
                        yield Fault.LOST_WRITE, f"{key}: {value}, acknowledged to {one.process}, was passed over by all"


def _aborted(history: Sequence[Operation], _: Mapping[Key, _Log]) -> Iterator[tuple[Fault, str]]:
    failed: defaultdict[Key, set[Value]] = defaultdict(set)
    for one in history:
        for key, sent in one.sends.items() if one.outcome is Outcome.FAIL else ():
            failed[key].update(value for _, value in sent)
    for one in history:
        for key, those in one.polls.items() if one.outcome is Outcome.OK else ():
            for offset, value in those:
                if value in failed[key]:
                    yield Fault.ABORTED_READ, f"{key}: {one.process} polled {value} at offset {offset}, whose send failed"


def _polls(history: Sequence[Operation], logs: Mapping[Key, _Log]) -> Iterator[tuple[Fault, str]]:
    reached: dict[tuple[str, Key], int] = {}
    for one in history:
        for key, offset in one.sought.items():
            reached[one.process, key] = (logs[key].place(offset) if key in logs else 0) - 1
        for key, those in one.polls.items():
            if not those:
                continue
            log, who = logs[key], f"{key}: {one.process}"
            offsets = [offset for offset, _ in those]
            for earlier, later in pairwise(offsets):
                step = log.place(later) - log.place(earlier)
                if step > 1:
                    yield Fault.INT_POLL_SKIP, f"{who} polled {earlier}, then {later} at once, without what lies between"
                if step < 1:
                    yield Fault.INT_NONMONOTONIC_POLL, f"{who} polled {earlier}, then {later} at once"
            if (one.process, key) in reached:
                step = log.place(offsets[0]) - reached[one.process, key]
                if step > 1:
                    yield Fault.POLL_SKIP, f"{who} polled {offsets[0]}, and left out {step - 1} before it"
                if step < 1:
                    yield Fault.NONMONOTONIC_POLL, f"{who} polled {offsets[0]}, {1 - step} before what was next"
            if one.outcome is Outcome.OK:
                reached[one.process, key] = log.place(offsets[-1])


def _sends(history: Sequence[Operation], logs: Mapping[Key, _Log]) -> Iterator[tuple[Fault, str]]:
    reached: dict[tuple[str, Key], int] = {}
    for one in history:
        for key, sent in one.sends.items() if one.outcome is Outcome.OK else ():
            who = f"{key}: {one.process}"
            offsets = [offset for offset, _ in sent if offset is not None]
            if not offsets:
                continue
            log = logs[key]
            for earlier, later in pairwise(offsets):
                step = log.place(later) - log.place(earlier)
                if step > 1:
                    yield Fault.INT_SEND_SKIP, f"{who} sent to {earlier}, then {later}, with another's between"
                if step < 1:
                    yield Fault.INT_NONMONOTONIC_SEND, f"{who} sent to {earlier}, then {later}"
            if offsets[0] <= reached.get((one.process, key), -1):
                yield Fault.NONMONOTONIC_SEND, f"{who} sent to {offsets[0]} after {reached[one.process, key]}"
            reached[one.process, key] = offsets[-1]
