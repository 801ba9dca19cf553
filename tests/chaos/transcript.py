"""What the processes of a run wrote down, read as histories: one of the log, and one of the effects on each projection. Pure.

In the log's history a key is a partition; relays send to it, and every reader polls it. In the history of effects a key is an
entity's key; the publisher sends its versions, and the projection polls them, by whichever worker: the n-th effect of a key
has offset n. So an effect that happens twice is one value at two offsets, and shifts all that follow.

Which effects a commit had is not asked of the worker alone. Its range of offsets says which events it held, of which each
first copy on the log should count; the number of events that it says to have applied is what did.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.histories import Operation, Outcome

Event = tuple[str, int, int]
"""Key, version, amount."""
Line = Mapping[str, Any]


class Move(NamedTuple):
    """A partition of a projection moves from one position to another, with so many effects."""

    projection: str
    partition: int
    start: int
    end: int
    applied: int
    at: float
    """When the commit was known to have happened, or began if that is not known."""


class Effect(NamedTuple):
    """An event has its effect on a projection."""

    projection: str
    event: Event
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """See the module's text."""

    log: Sequence[Operation]
    effects: Sequence[Effect]
    moves: Sequence[Move]
    """All commits that moved a position and are known to have happened, by time."""

    def applying(self, projection: str, published: Sequence[Operation]) -> list[Operation]:
        """The history of effects on one projection."""
        counts: defaultdict[str, int] = defaultdict(int)
        found = [*published]
        for effect in self.effects:
            if effect.projection == projection:
                key, *value = effect.event
                counts[key] += 1
                found.append(Operation(process=projection, polls={key: [(counts[key], tuple(value))]}))
        return found


def written(folder: Path) -> list[Line]:
    """All lines, by time. The last one of a process that was killed may be torn, and then never happened."""
    lines = []
    for path in folder.glob("*.jsonl"):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                lines.append(json.loads(line))
    return sorted(lines, key=lambda line: line["at"])


def published(notes: str) -> list[Operation]:
    """What a publisher's notes say, in its order. What it had no answer to may have happened."""
    found, versions = [], defaultdict[str, int](int)
    lines = [line.split() for line in notes.splitlines()]
    for (word, key, figure), following in zip(lines, [*lines[1:], ["", "", ""]], strict=True):
        if word == "aborted":
            found.append(_publish(key, None, versions[key] + 1, int(figure), Outcome.FAIL))
        elif word == "intended" and following[0] == "acknowledged":
            versions[key] = int(following[2])
            found.append(_publish(key, versions[key], versions[key], int(figure), Outcome.OK))
        elif word == "intended":
            found.append(_publish(key, None, versions[key] + 1, int(figure), Outcome.INFO))
    return found


def _publish(key: str, offset: int | None, version: int, amount: int, outcome: Outcome) -> Operation:
    return Operation(process="publisher", outcome=outcome, sends={key: [(offset, (version, amount))]})


def read(lines: Sequence[Line], positions: Mapping[tuple[str, int], int]) -> Transcript:
    """The transcript of these lines. `positions` is where each projection's partitions stand at the end."""
    ends = {(line["pid"], line["ends"]): line for line in lines if "ends" in line}
    sends = [*_sends(lines, ends)]
    polls = [*_polls(lines)]
    stored: defaultdict[int, dict[int, Event]] = defaultdict(dict)
    for operation in (*sends, *polls):
        for partition, records in (*operation.sends.items(), *operation.polls.items()):
            stored[int(str(partition))] |= {at: event for at, event in records if at is not None}  # type: ignore[misc]
    sure, doubtful = _moves(lines, ends)
    effects: list[Effect] = []
    for place, final in sorted(positions.items()):
        chain = _chain([move for move in sure if move[:2] == place], [move for move in doubtful if move[:2] == place], final)
        effects += _effects(chain, stored[place[1]])
    return Transcript(log=[*sends, *polls], effects=effects, moves=sure)


def _sends(lines: Sequence[Line], ends: Mapping[tuple[int, int], Line]) -> Iterator[Operation]:
    for line in lines:
        if line["did"] == "send" and "begins" in line:
            end = ends.get((line["pid"], line["begins"]))
            first = None if end is None else end["first"]
            records = [
                (None if first is None else first + number, tuple(event))
                for number, event in enumerate(line["records"])
                if event is not None
            ]
            outcome = Outcome.INFO if end is None else Outcome.OK
            yield Operation(process=f"relay {line['pid']}", outcome=outcome, sends={line["partition"]: records})


def _polls(lines: Sequence[Line]) -> Iterator[Operation]:
    following: dict[tuple[str, int], int] = {}
    for line in lines:
        if line["did"] == "poll":
            process = f"reader {line['pid']}.{line['reader']}"
            asked = {int(partition): at for partition, at in line["asked"].items()}
            sought = {p: at for p, at in asked.items() if following.get((process, p)) != at}
            polls = {
                partition: [(offset, tuple(event)) for _, offset, event in records if event is not None]
                for partition, records in groupby(sorted(line["records"], key=lambda it: it[0]), key=lambda it: it[0])
            }
            following |= {(process, p): at for p, at in asked.items()}
            following |= {(process, partition): offset + 1 for partition, offset, _ in line["records"]}
            yield Operation(process=process, polls=polls, sought=sought)


def _moves(lines: Sequence[Line], ends: Mapping[tuple[int, int], Line]) -> tuple[list[Move], list[Move]]:
    """Commits that happened, and those of which nobody knows."""
    sure, doubtful = [], []
    for line in lines:
        if line["did"] == "commit" and "begins" in line:
            end = ends.get((line["pid"], line["begins"]))
            for plan in line["plans"]:
                at = line["at"] if end is None else end["at"]
                move = Move(line["projection"], plan["partition"], plan["from"], plan["to"], plan["applied"], at)
                if end is None:
                    doubtful.append(move)
                elif move.partition in end["committed"] and (move.start != move.end or move.applied):
                    sure.append(move)
    return sure, doubtful


def _chain(sure: Sequence[Move], doubtful: Sequence[Move], final: int) -> list[Move]:
    """The moves of one partition that happened, by position: of the doubtful ones those without which others could not be."""
    chain: list[Move] = []
    at = 0
    for move in sorted(sure, key=lambda move: (move.start, move.end)):
        chain += _bridge(at, move.start, doubtful)
        chain.append(move)
        at = max(at, move.end)
    return [*chain, *_bridge(at, final, doubtful)]


def _bridge(start: int, end: int, doubtful: Sequence[Move]) -> list[Move]:
    """Doubtful moves that lead from one position to the other; none if there are none: then there is a hole."""
    ways: list[tuple[int, list[Move]]] = [(start, [])]
    while ways:
        at, way = ways.pop()
        if at == end:
            return way
        ways += [(move.end, [*way, move]) for move in doubtful if move.start == at < move.end <= end]
    return []


def _effects(chain: Sequence[Move], stored: Mapping[int, Event]) -> Iterator[Effect]:
    """What each move did, by the log: the first copy of each event, or as many more or less as it says itself."""
    first: dict[tuple[str, int], int] = {}
    for offset in sorted(stored):
        first.setdefault(stored[offset][:2], offset)
    for move in chain:
        held = [offset for offset in range(move.start, move.end) if offset in stored]
        fresh = [offset for offset in held if first[stored[offset][:2]] == offset]
        again = [offset for offset in held if offset not in set(fresh)]
        done = sorted([*fresh, *again[: max(0, move.applied - len(fresh))]])[: move.applied]
        yield from (Effect(move.projection, stored[offset], move.at) for offset in done)
