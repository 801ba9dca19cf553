"""What an event class refuses, at declaration and at construction."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, ValidationError

from truecopy_schemas import Event, InvalidSchemaError, Record, avro_schema

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
FAR_EAST = timezone(timedelta(hours=9))


class Tier(Enum):
    BASIC = "basic"
    GOLD = "gold"


class Address(Record):
    street: str
    height: float = 0.0


class Purchase(Event, entity="shop.customer", kind="delta"):
    items: int = 1
    few: Annotated[int, Field(ge=0, le=9)] = 0
    wide: Annotated[int, Field(ge=-(2**70), le=2**70)] = 0
    amount: Annotated[Decimal, Field(max_digits=6, decimal_places=2)] = Decimal(1)
    fee: Decimal | None = Field(default=None, max_digits=6, decimal_places=2)
    rate: float = 0.0
    paid: bool = False
    note: str = ""
    seal: bytes = b""
    tier: Tier = Tier.BASIC
    at: datetime = NOON
    day: date = date(2026, 1, 2)
    order: UUID = UUID(int=1)
    rates: list[float] = Field(default_factory=list)
    counts: list[int] = Field(default_factory=list)
    times: dict[str, datetime] = Field(default_factory=dict)
    address: Address | None = None


REFUSED = [
    pytest.param({"items": 1.9}, id="a float for an integer"),
    pytest.param({"items": 1.0}, id="a whole float for an integer"),
    pytest.param({"items": True}, id="a bool for an integer"),
    pytest.param({"items": "1"}, id="text for an integer"),
    pytest.param({"items": 2**63}, id="an integer above 64 bits"),
    pytest.param({"items": -(2**63) - 1}, id="an integer below 64 bits"),
    pytest.param({"counts": [2**63]}, id="an integer above 64 bits in a list"),
    pytest.param({"few": 10}, id="an integer above its own bound"),
    pytest.param({"few": -1}, id="an integer below its own bound"),
    pytest.param({"wide": 2**63}, id="an integer above 64 bits within its own bound"),
    pytest.param({"wide": -(2**63) - 1}, id="an integer below 64 bits within its own bound"),
    pytest.param({"itmes": 1}, id="a misspelt field"),
    pytest.param({"address": {"street": "x", "stret": "y"}}, id="a misspelt field of a nested record"),
    pytest.param({"amount": Decimal("1.005")}, id="a decimal with too many places"),
    pytest.param({"amount": Decimal("12345.00")}, id="a decimal with too many digits"),
    pytest.param({"amount": Decimal("1E+5")}, id="a decimal too large by its exponent"),
    pytest.param({"amount": Decimal("NaN")}, id="a decimal that is no number"),
    pytest.param({"fee": Decimal("1.005")}, id="an optional decimal with too many places"),
    pytest.param({"amount": 1.5}, id="a float for a decimal"),
    pytest.param({"amount": 1}, id="an integer for a decimal"),
    pytest.param({"rate": True}, id="a bool for a float"),
    pytest.param({"paid": 1}, id="an integer for a bool"),
    pytest.param({"note": b"x"}, id="bytes for text"),
    pytest.param({"note": "\ud800"}, id="a lone surrogate"),
    pytest.param({"times": {"\ud800": NOON}}, id="a lone surrogate as a map key"),
    pytest.param({"note": "a\0b"}, id="U+0000 in text"),
    pytest.param({"times": {"a\0": NOON}}, id="U+0000 in a map key"),
    pytest.param({"address": {"street": "\0"}}, id="U+0000 in a nested record"),
    pytest.param({"rates": [float("nan")]}, id="a NaN in a list"),
    pytest.param({"address": {"street": "x", "height": float("inf")}}, id="an infinity in a nested record"),
    pytest.param({"seal": "x"}, id="text for bytes"),
    pytest.param({"tier": "gold"}, id="text for an enum"),
    pytest.param({"at": datetime(2026, 1, 2)}, id="a naive datetime"),
    pytest.param({"times": {"a": datetime(2026, 1, 2)}}, id="a naive datetime in a map"),
    pytest.param({"at": date(2026, 1, 2)}, id="a date for a datetime"),
    pytest.param({"at": datetime.min.replace(tzinfo=FAR_EAST)}, id="a datetime before the year 1 in UTC"),
    pytest.param({"day": NOON}, id="a datetime for a date"),
    pytest.param({"order": str(UUID(int=1))}, id="text for a UUID"),
    pytest.param({"order": None}, id="a null for a field that is not optional"),
]


@pytest.mark.parametrize("values", REFUSED)
def test_refused_at_construction(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Purchase(**values)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -0.0])
def test_a_float_of_its_own_may_be_any(rate: float) -> None:
    """A replica has a column for it."""
    assert repr(Purchase(rate=rate).rate) == repr(rate)


REFUSED_JSON = [
    pytest.param('{"note": "\\u0000"}', id="U+0000 in text"),
    pytest.param('{"rates": [NaN]}', id="a NaN in a list"),
    pytest.param('{"amount": 12.5}', id="a decimal as a binary float"),
    pytest.param('{"amount": 0.10000000000000000000001}', id="a decimal that a float would round"),
    pytest.param('{"at": "2026-01-02T12:00:00"}', id="a naive datetime"),
    pytest.param('{"at": "2026-01-02T12:00:00.1234567Z"}', id="a datetime below microseconds"),
    pytest.param('{"amount": true}', id="a bool for a decimal"),
    pytest.param('{"items": 1.0}', id="a float for an integer"),
    pytest.param('{"nte": "x"}', id="a misspelt field"),
]


@pytest.mark.parametrize("text", REFUSED_JSON)
def test_refused_from_json(text: str) -> None:
    with pytest.raises(ValidationError):
        Purchase.model_validate_json(text)


def test_json_text_is_read_as_the_declared_types() -> None:
    text = (
        '{"amount": "12.5", "tier": "gold", "at": "2026-01-02T21:00:00+09:00", "day": "2026-01-02",'
        ' "order": "00000000-0000-0000-0000-000000000007", "address": {"street": "x"}}'
    )

    purchase = Purchase.model_validate_json(text)

    assert purchase == Purchase(
        amount=Decimal("12.50"), tier=Tier.GOLD, at=NOON, order=UUID(int=7), address=Address(street="x")
    )


def test_datetimes_come_out_in_utc() -> None:
    purchase = Purchase(at=NOON.astimezone(FAR_EAST))

    assert purchase.at == NOON
    assert purchase.at.tzinfo is UTC


def test_decimals_come_out_with_the_declared_scale() -> None:
    assert str(Purchase(amount=Decimal("1.5000")).amount) == "1.50"
    assert str(Purchase(amount=Decimal("1E+3")).amount) == "1000.00"


def test_an_event_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Purchase().items = 2  # type: ignore[misc]


def test_class_arguments_become_attributes() -> None:
    assert Purchase.__entity__ == "shop.customer"
    assert Purchase.__kind__ == "delta"
    assert Purchase.__deletes__ is False
    assert Purchase.__event_name__ == "shop.customer.Purchase"


def test_a_subclass_inherits_entity_and_kind_but_not_the_name() -> None:
    class Refund(Purchase, deletes=True):
        pass

    class Renamed(Purchase, name="Old"):
        pass

    assert (Refund.__entity__, Refund.__kind__, Refund.__deletes__) == ("shop.customer", "delta", True)
    assert Refund.__event_name__ == "shop.customer.Refund"
    assert Renamed.__event_name__ == "shop.customer.Old"


def test_a_class_without_an_entity_is_abstract() -> None:
    class Abstract(Event):
        items: int

    class Concrete(Abstract, entity="shop.customer"):
        pass

    assert avro_schema(Concrete)["name"] == "Concrete"
    with pytest.raises(InvalidSchemaError, match="abstract"):
        avro_schema(Abstract)


class Plain(BaseModel):
    x: int


class Empty(Record):
    pass


class Hyphened(Enum):
    IN_TRANSIT = "in-transit"


UNMAPPABLE = [
    pytest.param(int | str, ..., "int | str has no Avro type", id="a union of two types"),
    pytest.param(Decimal, ..., "max_digits", id="a decimal without digits"),
    pytest.param(Annotated[Decimal, Field(max_digits=39, decimal_places=2)], ..., "at most 38", id="a decimal too wide"),
    pytest.param(time, ..., "time has no Avro type", id="a time of day"),
    pytest.param(timedelta, ..., "timedelta has no Avro type", id="a duration"),
    pytest.param(dict[int, str], ..., "no Avro type", id="a map with other keys than text"),
    pytest.param(set[str], ..., "no Avro type", id="a set"),
    pytest.param(tuple[int, int], ..., "no Avro type", id="a tuple"),
    pytest.param(Any, ..., "no Avro type", id="anything"),
    pytest.param(Plain, ..., "Plain has no Avro type here; write .* truecopy_schemas.Record", id="a lax record"),
    pytest.param(Empty, ..., "no fields", id="a record without fields"),
    pytest.param(Purchase, ..., "an event itself", id="an event in an event"),
    pytest.param(Hyphened, ..., "in-transit", id="an enum with values that are no names"),
    pytest.param(int, "a", "must match schema type: long", id="a default of another type"),
    pytest.param(float, float("nan"), "no JSON form", id="a default that is no number"),
    pytest.param(Address, Address(street="x"), "default", id="a record as default"),
    pytest.param(datetime, Field(default=NOON, alias="y"), "alias", id="an alias"),
]


@pytest.mark.parametrize(("annotation", "default", "told"), UNMAPPABLE)
def test_unmappable_fields_are_refused_by_name(annotation: Any, default: Any, told: str) -> None:
    namespace: dict[str, Any] = {"__annotations__": {"field": annotation}, "__module__": __name__}
    if default is not ...:
        namespace["field"] = default

    with pytest.raises(InvalidSchemaError, match=told) as caught:
        type(Event)("Broken", (Event,), namespace, entity="shop.customer")

    assert "Broken" in caught.value.where


def test_fields_with_an_underscore_are_refused() -> None:
    with pytest.raises(InvalidSchemaError, match="underscore"):

        class Broken(Event, entity="shop.customer"):
            _version: int = 1


def test_taking_back_strictness_is_refused() -> None:
    with pytest.raises(InvalidSchemaError, match="strictness"):

        class Broken(Event, entity="shop.customer", extra="ignore"):
            x: int


BAD_ARGUMENTS = [
    pytest.param({"entity": "_truecopy.schemas"}, "no entity", id="an internal topic"),
    pytest.param({"entity": "shop customer"}, "no entity", id="a space"),
    pytest.param({"entity": "shop..customer"}, "no entity", id="an empty part"),
    pytest.param({"entity": "a" * 181}, "no entity", id="too long"),
    pytest.param({"entity": "shop.customer", "kind": "both"}, "kind 'both' is unknown", id="another kind"),
    pytest.param({"entity": "shop.customer", "name": "no-name"}, "no Avro name", id="no Avro name"),
]


@pytest.mark.parametrize(("arguments", "told"), BAD_ARGUMENTS)
def test_bad_class_arguments_are_refused(arguments: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidSchemaError, match=told):
        type(Event)("Broken", (Event,), {"__module__": __name__}, **arguments)
