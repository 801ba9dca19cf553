"""Given, when, then: the plain way in, and every failure says which event, which row and which field."""

import sys
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from tests.projections.bank import Balance, Closed, Deposited, Entry, balance, entries

from truecopy_bus.testing import LogSuite
from truecopy_projections.errors import RowRejectedError
from truecopy_projections.projection import Change, Projection
from truecopy_projections.testing import ReplicaSuite, given
from truecopy_schemas import Event, InvalidEventError

FIVE, SEVEN = Deposited(amount=5), Deposited(amount=7)


class Renamed(Event, entity="bank.branch"):
    name: str


@dataclass
class Total:
    amount: int


@pytest.mark.parametrize("suite", [LogSuite, ReplicaSuite])
def test_the_asserts_of_the_shipped_suites_are_rewritten(suite: type) -> None:
    modules = {cls.__module__ for cls in suite.__mro__ if cls is not object}

    assert len(modules) > 3
    assert {type(sys.modules[name].__loader__).__name__ for name in modules} == {"AssertionRewritingHook"}


def projection_of(reduce: Any) -> Projection[Total]:
    total = Projection("total", entity="bank.account", row=Total)
    total.on(Deposited)(reduce)
    return total


def test_the_row_of_a_key() -> None:
    given(balance, FIVE, key="a1").when(SEVEN).then(Balance("a1", 12, Decimal(6), 2))


def test_several_rows_of_a_key_in_any_order() -> None:
    given(entries, FIVE).when(SEVEN, FIVE).then(Entry("key", 3, 5), Entry("key", 1, 5), Entry("key", 2, 7))


def test_no_row_is_none_or_nothing() -> None:
    given(balance, FIVE).when(Closed()).then(None)
    given(entries, FIVE).when(Closed()).then()


def test_rows_are_compared_as_they_are_stored() -> None:
    """A mean of 5 over 3 is no exact decimal; the declared two digits are."""
    given(balance, FIVE, Deposited(amount=0)).when(Deposited(amount=0)).then(Balance("key", 5, Decimal("1.67"), 3))


def test_a_refused_event_parks() -> None:
    given(balance, FIVE).when(Deposited(amount=666)).then_parked("no such luck")
    given(balance, FIVE).when(Deposited(amount=666)).then_parked()


WRONG = {
    "a field": (
        lambda: given(balance, FIVE, key="a1").when(SEVEN).then(Balance("a1", 13, Decimal(6), 2)),
        r"balance@1, key 'a1'\n  given Deposited\(amount=5\)\n  when  Deposited\(amount=7\)\n"
        r"the row of 'a1' differs:\n  amount: seen 12, expected 13$",
    ),
    "a row too few": (lambda: given(entries).when(FIVE).then(), r"row \(1,\) of 'key': expected none, seen Entry"),
    "a row too many": (lambda: given(balance).when(Closed()).then(Balance("key", 1, Decimal(1), 1)), "seen none, expected Bal"),
    "two of one key": (lambda: given(entries).when(FIVE).then(Entry("key", 1, 5), Entry("key", 1, 5)), "the same key"),
    "refused": (lambda: given(balance).when(Deposited(amount=666)).then(None), "seen ValueError: no such luck; in a replica"),
    "not refused": (lambda: given(balance).when(FIVE).then_parked(), r"seen rows \[Balance\(account='key', amount=5"),
    "refused for another reason": (
        lambda: given(balance).when(Deposited(amount=666)).then_parked("overdrawn"),
        "'overdrawn', seen ValueError: no such luck",
    ),
    "a history that can't be": (
        lambda: given(balance, Deposited(amount=666)).when(FIVE),
        r"given event 1, Deposited\(amount=666\), can't be applied: ValueError",
    ),
    "an event of another entity": (
        lambda: given(balance).when(Renamed(name="x")).then_parked(),
        "Renamed is of entity 'bank.branch', expected one of 'bank.account'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(name: str) -> None:
    test, message = WRONG[name]

    with pytest.raises(AssertionError, match=message):
        test()


def test_a_reducer_that_remembers_is_caught() -> None:
    seen: list[int] = []

    def remembers(_: Total | None, event: Deposited, __: Change) -> Total:
        seen.append(event.amount)
        return Total(sum(seen))

    with pytest.raises(AssertionError, match=r"the second time.*\n.*differs:\n  amount: seen 10, expected 5"):
        given(projection_of(remembers)).when(FIVE)


def test_a_reducer_that_refuses_only_once_is_caught() -> None:
    seen: list[int] = []

    def refuses(_: Total | None, event: Deposited, __: Change) -> Total:
        seen.append(event.amount)
        raise ValueError(f"call {len(seen)}")

    with pytest.raises(AssertionError, match=r"call 1.*call 2"):
        given(projection_of(refuses)).when(FIVE).then_parked()


def test_what_can_never_be_published_or_stored_is_no_park() -> None:
    with pytest.raises(InvalidEventError):
        given(balance).when(Deposited.model_construct(amount=2_000_000)).then_parked()
    with pytest.raises(RowRejectedError):
        given(balance).when(FIVE).then(Balance("key", 2**70, Decimal(0), 1))
