"""What processes wrote down is read as it was: commits that nobody answered, effects that happened twice or not at all."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.chaos.histories import Fault, Outcome, found_in
from tests.chaos.transcript import Line, published, read

NOTES = """\
intended v0 10
acknowledged v0 1
aborted v0 -7
intended v0 20
acknowledged v0 2
intended v0 30
acknowledged v0 3
"""
EVENTS = [["v0", 1, 10], ["v0", 2, 20], ["v0", 3, 30]]
GENESIS = None
FINAL = {("balance@1", 0): 4}

Commit = tuple[int, int, int, bool]
"""From, to, how many it applied, and whether it was answered."""


def lines(commits: Sequence[Commit], stored: Sequence[Any] = (GENESIS, *EVENTS)) -> list[Line]:
    """A relay sent all, a worker polled all of it at once and made these commits."""

    def told() -> Iterator[dict[str, Any]]:
        sent = stored[1:]
        yield {"pid": 1, "did": "send", "begins": 0, "partition": 0, "records": sent}
        yield {"pid": 1, "did": "send", "ends": 0, "first": 1}
        polled = [[0, offset, event] for offset, event in enumerate(stored)]
        yield {"pid": 2, "did": "poll", "reader": 0, "asked": {"0": 0}, "records": polled}
        for number, (start, end, applied, answered) in enumerate(commits):
            plan = {"partition": 0, "from": start, "to": end, "applied": applied}
            yield {"pid": 2, "did": "commit", "begins": number, "projection": "balance@1", "plans": [plan]}
            if answered:
                yield {"pid": 2, "did": "commit", "ends": number, "committed": [0]}

    return [{"at": float(at), **line} for at, line in enumerate(told())]


GOOD = {
    "one after the other": [(0, 2, 1, True), (2, 4, 2, True)],
    "unanswered, it happened, and the next goes on from there": [(0, 2, 1, False), (2, 4, 2, True)],
    "unanswered, it did not happen, and is done again": [(0, 2, 1, False), (0, 2, 1, True), (2, 4, 2, True)],
    "unanswered, it did not happen, and is done otherwise": [(0, 2, 1, False), (0, 3, 2, True), (3, 4, 1, True)],
    "the last one is unanswered, and happened": [(0, 2, 1, True), (2, 4, 2, False)],
    "two unanswered in a row": [(0, 2, 1, False), (2, 3, 1, False), (3, 4, 1, True)],
}
BAD = {
    "committed twice": ([(0, 2, 1, True), (0, 2, 1, True), (2, 4, 2, True)], Fault.DUPLICATE),
    "the position went back": ([(0, 3, 2, True), (2, 4, 2, True)], Fault.DUPLICATE),
    "a hole": ([(0, 2, 1, True), (3, 4, 1, True)], Fault.UNSEEN),
    "less applied than there was": ([(0, 2, 1, True), (2, 4, 1, True)], Fault.UNSEEN),
    "the last one never happened": ([(0, 2, 1, True), (2, 3, 1, True)], Fault.UNSEEN),
}


@pytest.mark.parametrize("commits", GOOD.values(), ids=GOOD)
def test_each_effect_is_found_once(commits: list[Commit]) -> None:
    transcript = read(lines(commits), FINAL)

    assert found_in(transcript.log) == {}
    assert found_in(transcript.applying("balance@1", published(NOTES))) == {}


@pytest.mark.parametrize(("commits", "fault"), BAD.values(), ids=BAD)
def test_an_effect_too_many_or_too_few_is_found(commits: list[Commit], fault: Fault) -> None:
    transcript = read(lines(commits), FINAL)

    assert fault in found_in(transcript.applying("balance@1", published(NOTES)))


def test_a_second_copy_on_the_log_is_no_second_effect() -> None:
    transcript = read(lines([(0, 5, 3, True)], (GENESIS, EVENTS[0], EVENTS[1], EVENTS[1], EVENTS[2])), {("balance@1", 0): 5})

    assert set(found_in(transcript.log)) == {Fault.DUPLICATE}
    assert found_in(transcript.applying("balance@1", published(NOTES))) == {}


def test_a_second_copy_that_was_applied_is_a_second_effect() -> None:
    transcript = read(lines([(0, 5, 4, True)], (GENESIS, EVENTS[0], EVENTS[1], EVENTS[1], EVENTS[2])), {("balance@1", 0): 5})

    assert Fault.DUPLICATE in found_in(transcript.applying("balance@1", published(NOTES)))


def test_what_was_taken_back_and_applied_is_an_aborted_read() -> None:
    transcript = read(lines([(0, 3, 2, True)], (GENESIS, EVENTS[0], ["v0", 2, -7])), {("balance@1", 0): 3})

    assert Fault.ABORTED_READ in found_in(transcript.applying("balance@1", published(NOTES)))


@pytest.mark.parametrize(
    ("following", "outcomes"),
    [
        pytest.param("acknowledged v0 1", [Outcome.INFO, Outcome.OK], id="it was not there"),
        pytest.param("acknowledged v0 2", [Outcome.INFO, Outcome.OK], id="it was there"),
    ],
)
def test_a_publisher_that_was_killed_leaves_a_write_of_which_nobody_knows(following: str, outcomes: list[Outcome]) -> None:
    found = published(f"intended v0 5\nintended v0 6\n{following}\n")

    assert [one.outcome for one in found] == outcomes
    assert found[1].sends["v0"][0][0] == int(following[-1])
