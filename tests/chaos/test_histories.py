"""The checker of histories finds each of its classes in a history that is known to be bad, and nothing in a good one."""

import pytest
from tests.chaos.histories import Fault, Operation, Outcome, found_in


def sent(*records: tuple[int | None, str], by: str = "relay", outcome: Outcome = Outcome.OK) -> Operation:
    return Operation(process=by, outcome=outcome, sends={0: records})


def polled(*records: tuple[int, str], by: str = "worker", at: int | None = None, outcome: Outcome = Outcome.OK) -> Operation:
    return Operation(process=by, outcome=outcome, polls={0: records}, sought={} if at is None else {0: at})


A, B, C, D = (0, "a"), (1, "b"), (2, "c"), (3, "d")

GOOD = {
    "nothing": [],
    "sent and polled, one by one": [sent(A), polled(A), sent(B), polled(B)],
    "offsets have holes": [sent((3, "a"), (7, "b")), sent((12, "c")), polled((3, "a"), (7, "b")), polled((12, "c"))],
    "the answer to a send was lost, and it is not there": [sent(A), sent((None, "b"), outcome=Outcome.INFO), polled(A)],
    "the answer to a send was lost, and it is there": [sent((None, "a"), outcome=Outcome.INFO), polled(A)],
    "a failed send was not seen": [sent((None, "x"), outcome=Outcome.FAIL), sent(A), polled(A)],
    "two readers, each at its own pace": [sent(A, B), polled(A), polled(A, B, by="other"), polled(B)],
    "a reader goes back on purpose": [sent(A, B), polled(A, B), polled(B, at=1)],
    "a reader goes on for another": [sent(A, B, C), polled(A, B), polled(C, by="other", at=2)],
    "a poll whose end is not known is done again": [sent(A), polled(A, outcome=Outcome.INFO), polled(A)],
    "an empty poll": [sent(A), polled(), polled(A)],
    "a reader goes back on purpose, and finds nothing at first": [sent(A, B), polled(A, B), polled(at=1), polled(B)],
    "two keys are two logs": [
        Operation(process="relay", sends={0: [A], 1: [A]}),
        Operation(process="w", polls={0: [A], 1: [A]}),
    ],
}

BAD = {
    "one offset, two values, by two polls": ([polled(A), polled((0, "z"), by="other")], {Fault.INCONSISTENT_OFFSETS}),
    "one offset, two values, by send and poll": (
        [sent(A), sent(B), polled((0, "z"), B)],
        {Fault.INCONSISTENT_OFFSETS, Fault.UNSEEN, Fault.LOST_WRITE},
    ),
    "one value, two offsets": ([sent(A), polled(A, (1, "a"))], {Fault.DUPLICATE}),
    "acknowledged twice": ([sent(A), sent((1, "a")), polled(A, (1, "a"))], {Fault.DUPLICATE}),
    "an acknowledged send is missing between two polled": (
        [sent(A), sent(B), sent(C), polled(A, C)],
        {Fault.LOST_WRITE, Fault.UNSEEN, Fault.INT_POLL_SKIP},
    ),
    "the first is missing": ([sent(A), sent(B), polled(B, at=0)], {Fault.LOST_WRITE, Fault.UNSEEN, Fault.POLL_SKIP}),
    "the only offset holds another value": (
        [sent(A), polled((0, "z"))],
        {Fault.INCONSISTENT_OFFSETS, Fault.UNSEEN, Fault.LOST_WRITE},
    ),
    "a second copy lies beyond what was polled, which passes nothing over": (
        [sent(A), sent(B), sent((2, "a")), polled(A)],
        {Fault.DUPLICATE, Fault.UNSEEN},
    ),
    "nobody came to the end": ([sent(A), sent(B), polled(A)], {Fault.UNSEEN}),
    "acknowledged at no known offset, and not there": ([sent((None, "b")), sent(A), polled(A)], {Fault.UNSEEN}),
    "a failed send was seen": ([sent((None, "a"), outcome=Outcome.FAIL), polled(A)], {Fault.ABORTED_READ}),
    "a poll leaves something out that another saw": (
        [sent(A, B, C), polled(A, C), polled(A, B, C, by="other")],
        {Fault.INT_POLL_SKIP},
    ),
    "a poll goes back": ([sent(A, B), polled(A, B, A)], {Fault.INT_NONMONOTONIC_POLL}),
    "a poll hands out an offset twice": ([sent(A), polled(A, A)], {Fault.INT_NONMONOTONIC_POLL}),
    "something is left out between two polls": (
        [sent(A, B, C), polled(A), polled(C), polled(A, B, C, by="other")],
        {Fault.POLL_SKIP},
    ),
    "a poll begins after where it was asked to": ([sent(A, B, C), polled(A, B, C), polled(C, at=1)], {Fault.POLL_SKIP}),
    "a reader goes back on purpose, finds nothing, and then leaves something out": (
        [sent(A, B, C), polled(A, B, C), polled(at=1), polled(C)],
        {Fault.POLL_SKIP},
    ),
    "a process polls the same again": ([sent(A, B), polled(A, B), polled(B)], {Fault.NONMONOTONIC_POLL}),
    "a poll begins before where it was asked to": ([sent(A, B), polled(A, B), polled(A, B, at=1)], {Fault.NONMONOTONIC_POLL}),
    "another's record between two of one send": (
        [sent(A, C), sent(B, by="other"), polled(A, B, C)],
        {Fault.INT_SEND_SKIP},
    ),
    "one send's records lie in another order": ([sent(B, A), polled(A, B)], {Fault.INT_NONMONOTONIC_SEND}),
    "the later send lies before the earlier": ([sent(B), sent(A), polled(A, B)], {Fault.NONMONOTONIC_SEND}),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_a_good_history_has_no_fault(history: list[Operation]) -> None:
    assert found_in(history) == {}


@pytest.mark.parametrize(("history", "faults"), BAD.values(), ids=BAD)
def test_a_bad_history_has_the_faults_that_it_has_and_no_other(history: list[Operation], faults: set[Fault]) -> None:
    assert set(found_in(history)) == faults


def test_every_class_has_a_bad_history() -> None:
    assert set().union(*(faults for _, faults in BAD.values())) == set(Fault)
    assert len(Fault) == 12
