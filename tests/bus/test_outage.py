"""What is said of an outage: what passes once at each end, what nobody mends by waiting again and again."""

import logging

import pytest

from truecopy_bus import outage as module
from truecopy_bus.errors import LogAccessError, LogUnavailableError
from truecopy_bus.outage import Outage

AWAY = LogUnavailableError(log="kafka://h:1", seen="no answer")
LEFT_OUT = LogAccessError(log="kafka://h:1", seen="wrong password", remedy="correct it")


def said_of(faults: list[Exception], caplog: pytest.LogCaptureFixture) -> list[str]:
    outage = Outage(logging.getLogger("truecopy.test"), "loop")
    for fault in faults:
        outage.strike(fault)
    outage.over()
    return [record.getMessage() for record in caplog.records]


def test_what_is_away_is_said_once_at_each_end(caplog: pytest.LogCaptureFixture) -> None:
    first, last = said_of([AWAY, AWAY, AWAY], caplog)

    assert "trying again until it answers" in first
    assert "works again" in last


def test_what_does_not_let_us_in_is_said_at_once_after_what_was_away(caplog: pytest.LogCaptureFixture) -> None:
    first, second, last = said_of([AWAY, LEFT_OUT, LEFT_OUT, AWAY], caplog)

    assert "trying again until it answers" in first
    assert "wrong password; correct it; waiting alone does not mend this" in second
    assert "works again" in last


def test_what_does_not_let_us_in_is_said_again(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFUSED_REPEAT_S", 0.0)

    said = said_of([LEFT_OUT, LEFT_OUT, LEFT_OUT], caplog)

    assert sum("waiting alone does not mend this" in line for line in said) == 3
