"""Canonical values: one form to hash and to store, injective, idempotent, and refused where a column can't hold them."""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from tests.projections.bank import Balance, Closed, Deposited

from truecopy_projections.columns import encode, field_of
from truecopy_projections.digest import BUCKETS, EMPTY, bucket_of, differing, row_hash, shifted, total, vector
from truecopy_projections.errors import ProjectionError, RowRejectedError
from truecopy_projections.projection import Change, Projection

Money = Annotated[Decimal, Field(max_digits=6, decimal_places=2)]


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: int
    y: int


TOKYO = timezone(timedelta(hours=9))
CANONICAL = [
    pytest.param(Money, Decimal("1.005"), Decimal("1.00"), id="half to even"),
    pytest.param(Money, Decimal("1.015"), Decimal("1.02"), id="half to even, up"),
    pytest.param(Money, Decimal("-0.001"), Decimal("0.00"), id="one zero"),
    pytest.param(Money, 3, Decimal("3.00"), id="an int has the scale"),
    pytest.param(float, -0.0, 0.0, id="no negative zero"),
    pytest.param(float, 2, 2.0, id="an int is a float"),
    pytest.param(datetime, datetime(2026, 1, 1, 9, tzinfo=TOKYO), datetime(2026, 1, 1, tzinfo=UTC), id="times are UTC"),
    pytest.param(Colour, Colour.RED, "red", id="an enum is its value"),
    pytest.param(dict[str, int], {"b": 1, "a": 2}, '{"a":2,"b":1}', id="maps are ordered"),
    pytest.param(list[Money], [Decimal("1.5")], '["1.5"]', id="lists are JSON"),
    pytest.param(Point, Point(1, 2), '{"x":1,"y":2}', id="records are JSON"),
]


@pytest.mark.parametrize(("annotation", "value", "stored"), CANONICAL)
def test_values_have_one_form(annotation: Any, value: Any, stored: Any) -> None:
    field = field_of("f", annotation)
    found = field.store(value)

    assert (type(found), str(found)) == (type(stored), str(stored))
    restored = found if field.restore is None else field.restore(found)
    assert str(field.store(restored)) == str(stored), "bringing it to the form again changes nothing"


def test_none_may_be_declared_inside_the_annotation_too() -> None:
    field = field_of("f", Annotated[Decimal | None, Field(max_digits=6, decimal_places=2)])

    assert (field.column.nullable, field.column.scale) == (True, 2)


def test_six_characters_that_look_like_an_escape_are_text() -> None:
    assert field_of("f", list[str]).store([r"\u0000"]) == r'["\\u0000"]'


@dataclass(frozen=True)
class Visit:
    times: list[datetime]


REFUSED = [
    pytest.param(str, "a\0b", id="U+0000"),
    pytest.param(str, 1, id="an int for a str"),
    pytest.param(int, True, id="a bool for an int"),
    pytest.param(int, 1.0, id="a float for an int"),
    pytest.param(int, 1 << 63, id="an int beyond 64 bits"),
    pytest.param(bool, 1, id="an int for a bool"),
    pytest.param(Money, Decimal("12345.67"), id="too many digits"),
    pytest.param(Money, Decimal("NaN"), id="not a number"),
    pytest.param(Money, 1.5, id="a float for a decimal"),
    pytest.param(datetime, datetime(2026, 1, 1), id="a naive time"),
    pytest.param(list[datetime], [datetime(2026, 1, 1)], id="a naive time in a list"),
    pytest.param(dict[str, list[datetime]], {"a": [datetime(2026, 1, 1)]}, id="a naive time in a list in a map"),
    pytest.param(list[Any], [datetime(2026, 1, 1)], id="a naive time in a list of anything"),
    pytest.param(Visit, Visit([datetime(2026, 1, 1)]), id="a naive time in a record"),
    pytest.param(date, datetime(2026, 1, 1, tzinfo=UTC), id="a time for a date"),
    pytest.param(UUID, "x", id="a str for a UUID"),
    pytest.param(bytes, "x", id="a str for bytes"),
    pytest.param(list[str], ["a\0"], id="U+0000 in a list"),
    pytest.param(str, "\ud800", id="a lone surrogate"),
    pytest.param(list[str], ["\ud800"], id="a lone surrogate in a list"),
    pytest.param(list[float], [math.nan], id="a NaN in a list, which JSON makes null"),
    pytest.param(int, None, id="none where none is not declared"),
]


@pytest.mark.parametrize(("annotation", "value"), REFUSED)
def test_what_a_column_can_not_hold_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(RowRejectedError, match="'f'"):
        field_of("f", annotation).store(value)


@pytest.mark.parametrize(
    "annotation",
    [Decimal, object, int | str, set[int], list[set[str]]],
    ids=["no digits", "object", "a union", "a set", "sets inside"],
)
def test_types_without_a_column_are_refused_at_declaration(annotation: Any) -> None:
    with pytest.raises(ProjectionError, match="'f'"):
        field_of("f", annotation)


VALUES = st.one_of(
    st.none(),
    st.text(),
    st.binary(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.booleans(),
    st.floats(allow_nan=False).map(lambda x: x + 0.0),
    st.decimals(allow_nan=False, allow_infinity=False, places=2),
    st.dates(),
    st.datetimes(timezones=st.just(UTC)),
    st.uuids(),
)


@given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4))
def test_rows_have_the_same_bytes_only_if_they_are_the_same(one: list[Any], other: list[Any]) -> None:
    same = [(type(v), repr(v)) for v in one] == [(type(v), repr(v)) for v in other]

    assert (b"".join(map(encode, one)) == b"".join(map(encode, other))) == same


@given(st.text(alphabet=":,|sbin\x1f\x00\x04", max_size=6), st.text(alphabet=":,|sbin\x1f\x00\x04", max_size=6))
def test_no_separator_lets_a_value_reach_into_its_neighbour(one: str, other: str) -> None:
    moved = one[:-1], one[-1:] + other

    assert (row_hash("t", "k", (one, other)) == row_hash("t", "k", moved)) == ((one, other) == moved)


def test_the_row_hash_is_what_it_was_when_the_first_replica_was_written() -> None:
    values = ("a", 1, Decimal("1.50"), None, True, 0.5, date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC), b"x", UUID(int=7))

    assert row_hash("t@1", "k", values).hex() == "a2c45c5430b678b17282d60de061b4bae3db481c19abef6f81f79b52dc1ca157"
    assert bucket_of("k") == 861


@given(st.lists(st.tuples(st.integers(0, BUCKETS - 1), st.binary(min_size=32, max_size=32)), max_size=8))
def test_digests_do_not_depend_on_order_and_can_be_undone(hashes: list[tuple[int, bytes]]) -> None:
    whole = vector(hashes)

    assert vector(reversed(hashes)) == whole
    assert total(whole) == sum(int.from_bytes(h) for _, h in hashes) % (1 << 256)
    undone = whole
    for bucket, one in hashes:
        undone = shifted(undone, {bucket: -int.from_bytes(one)})
    assert undone == EMPTY
    assert differing(whole, EMPTY) <= {bucket for bucket, _ in hashes}


def test_a_row_counted_twice_does_not_cancel_itself() -> None:
    once = row_hash("t", "k", (1,))

    assert vector([(0, once), (0, once)]) != EMPTY
    assert math.log2(total(vector([(0, once)]))) > 200


DECLARED_WRONGLY = [
    pytest.param(lambda: Projection("a b", entity="e", row=Balance), id="a name with a blank"),
    pytest.param(lambda: Projection("a", entity="e", row=dict), id="rows that are no dataclass"),
    pytest.param(lambda: Projection("a", entity="e", row=Balance, key="nothing"), id="a key that is no field"),
    pytest.param(lambda: Projection("a", entity="other.entity", row=Balance).on(Deposited)(reducer), id="another entity"),
    pytest.param(
        lambda: Projection("a", entity="bank.account", row=Balance, key="account").on(Deposited)(reducer), id="no touches"
    ),
    pytest.param(lambda: Projection("a", entity="bank.account", row=Balance).on()(reducer), id="no event"),
    pytest.param(lambda: twice(Projection("a", entity="bank.account", row=Balance)), id="two reducers"),
]


def reducer(row: Balance | None, event: Deposited | Closed, change: Change) -> Balance | None:
    return row if event and change else None


def twice(projection: Projection[Balance]) -> None:
    projection.on(Deposited)(reducer)
    projection.on(Deposited)(reducer)


@pytest.mark.parametrize("declare", DECLARED_WRONGLY)
def test_a_projection_that_is_declared_wrongly_is_refused_at_once(declare: Any) -> None:
    with pytest.raises(ProjectionError):
        declare()
