"""Conditions and moments as an operator writes them."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest

from truecopy_services.errors import UsageError
from truecopy_services.operating.conditions import where
from truecopy_services.operating.moments import moment, shown_moment

FIELDS = {
    "amount": Decimal("10.50"),
    "name": "Ada",
    "code": "007",
    "open": True,
    "note": None,
    "id": UUID(int=7),
    "at": datetime(2026, 1, 2, tzinfo=UTC),
    "home": {"country": "DE"},
}
NOW_MS = 1_800_000_000_000

HOLDS = ["amount=10.5", "amount>=10", "amount<1e3", "name=Ada", 'name="Ada"', "name~d", "open=true", "note=null"]
HOLDS += [f"id={UUID(int=7)}", "at>2026-01-01", "home.country=DE", "home.country!=FR", "lacking!=1", "name != Eve"]
HOLDS_NOT = ["amount=10.51", "amount>Ada", "name>1", "open=1", "note=0", "lacking=1", "home.city=Bonn", "name~x", "note>0"]


@pytest.mark.parametrize("condition", HOLDS)
def test_a_condition_holds(condition: str) -> None:
    assert where([condition])(FIELDS)


@pytest.mark.parametrize("condition", HOLDS_NOT)
def test_a_condition_does_not_hold(condition: str) -> None:
    assert not where([condition])(FIELDS)


def test_several_conditions_hold_together() -> None:
    assert where(["amount>1", "name=Ada"])(FIELDS)
    assert not where(["amount>1", "name=Eve"])(FIELDS)


@pytest.mark.parametrize("condition", ["amount", "=1", "a b=1", "1=a", ""])
def test_what_is_no_condition_is_refused(condition: str) -> None:
    with pytest.raises(UsageError, match="FIELD=VALUE"):
        where([condition])


def test_moments_are_times_with_a_zone_or_durations_ago() -> None:
    assert moment("2h", now_ms=NOW_MS) == NOW_MS - 7_200_000
    assert moment("2026-01-01T01:00:00+01:00", now_ms=NOW_MS) == moment("2026-01-01T00:00:00Z", now_ms=NOW_MS)
    assert shown_moment(moment("2026-01-01T00:00:00Z", now_ms=NOW_MS)) == "2026-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("text", "told"), [("yesterday", "is no time"), ("2026-01-01", "time zone"), ("2999-01-01T00:00:00Z", "still to come")]
)
def test_what_is_no_moment_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        moment(text, now_ms=NOW_MS)
