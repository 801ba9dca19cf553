"""The Avro schema of an event class, its subject and its fingerprint."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Optional
from uuid import UUID

import pytest
from pydantic import Field

from truecopy_schemas import Event, InvalidSchemaError, Record, avro_schema, fingerprint, subject


class Tier(Enum):
    BASIC = "basic"
    GOLD = "gold"


class Address(Record):
    street: str


DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}
TIME = {"type": "long", "logicalType": "timestamp-micros"}
ENUM = {"type": "enum", "name": "Tier", "namespace": "shop.customer", "symbols": ["basic", "gold"]}
ADDRESS = {
    "type": "record",
    "name": "Address",
    "namespace": "shop.customer",
    "fields": [{"name": "street", "type": "string"}],
}
Money = Annotated[Decimal, Field(max_digits=6, decimal_places=2)]

TYPES = [
    pytest.param(str, ..., {"type": "string"}, id="text"),
    pytest.param(bytes, b"\xff", {"type": "bytes", "default": "\xff"}, id="bytes with a default"),
    pytest.param(Annotated[int, Field(ge=0)], ..., {"type": "long"}, id="a bounded integer"),
    pytest.param(float, 0.5, {"type": "double", "default": 0.5}, id="a float with a default"),
    pytest.param(bool, True, {"type": "boolean", "default": True}, id="a bool with a default"),
    pytest.param(Money, ..., {"type": DECIMAL}, id="a decimal"),
    pytest.param(Money, Decimal("1.5"), {"type": DECIMAL, "default": "\x00\x96"}, id="a decimal with a default"),
    pytest.param(Money, Decimal("-1.5"), {"type": DECIMAL, "default": "\xff\x6a"}, id="a negative default"),
    pytest.param(date, date(1970, 1, 3), {"type": {"type": "int", "logicalType": "date"}, "default": 2}, id="date"),
    pytest.param(datetime, ..., {"type": TIME}, id="a datetime"),
    pytest.param(
        datetime, datetime(1970, 1, 1, 0, 0, 1, 1, UTC), {"type": TIME, "default": 1_000_001}, id="a datetime default"
    ),
    pytest.param(UUID, ..., {"type": {"type": "string", "logicalType": "uuid"}}, id="a UUID"),
    pytest.param(Tier, Tier.GOLD, {"type": ENUM, "default": "gold"}, id="an enum with a default"),
    pytest.param(int | None, ..., {"type": ["null", "long"], "default": None}, id="optional"),
    pytest.param(Optional[int], None, {"type": ["null", "long"], "default": None}, id="Optional"),  # noqa: UP045
    pytest.param(int | None, 5, {"type": ["long", "null"], "default": 5}, id="optional with a default"),
    pytest.param(Money | None, ..., {"type": ["null", DECIMAL], "default": None}, id="an optional decimal"),
    pytest.param(list[int], [], {"type": {"type": "array", "items": "long"}, "default": []}, id="a list"),
    pytest.param(
        dict[str, Money],
        Field(default_factory=dict),
        {"type": {"type": "map", "values": DECIMAL}, "default": {}},
        id="a map",
    ),
    pytest.param(Address, ..., {"type": ADDRESS}, id="a nested record"),
    pytest.param(list[Address], ..., {"type": {"type": "array", "items": ADDRESS}}, id="a list of records"),
]


def event_of(annotation: Any, default: Any = ...) -> type[Event]:
    namespace: dict[str, Any] = {"__annotations__": {"field": annotation}, "__module__": __name__}
    if default is not ...:
        namespace["field"] = default
    return type(Event)("Changed", (Event,), namespace, entity="shop.customer")


@pytest.mark.parametrize(("annotation", "default", "stated"), TYPES)
def test_types(annotation: Any, default: Any, stated: dict[str, Any]) -> None:
    schema = avro_schema(event_of(annotation, default))

    assert schema["fields"][2] == {"name": "field", **stated}


def test_a_whole_schema() -> None:
    class Purchase(Event, entity="shop.customer", kind="delta", deletes=True):
        """A customer bought something.

        Further paragraphs stay in Python.
        """

        amount: Money = Field(description="What was paid.")
        home: Address
        work: Address | None

    assert avro_schema(Purchase) == {
        "type": "record",
        "name": "Purchase",
        "namespace": "shop.customer",
        "doc": "A customer bought something.",
        "fields": [
            {"name": "_version", "type": "long"},
            {"name": "_tx", "type": ["null", "string"], "default": None},
            {"name": "amount", "type": DECIMAL, "doc": "What was paid."},
            {"name": "home", "type": ADDRESS},
            {"name": "work", "type": ["null", "shop.customer.Address"], "default": None},
        ],
        "truecopy.entity": "shop.customer",
        "truecopy.kind": "delta",
        "truecopy.deletes": True,
    }
    assert subject(avro_schema(Purchase)) == "shop.customer-shop.customer.Purchase"


def test_the_fingerprint_is_golden() -> None:
    class Moved(Event, entity="shop.customer"):
        street: str

    assert fingerprint(avro_schema(Moved)).hex() == "47e72b2b7c4cd82fbde71207059235d8e87dbfc56cfda25d6e7af3a2511cc3dd"


def changed(**difference: Any) -> dict[str, Any]:
    return avro_schema(event_of(Money)) | difference


FINGERPRINTS = [
    pytest.param(changed(doc="told otherwise"), True, id="another doc"),
    pytest.param(dict(reversed(changed().items())), True, id="another order of keys"),
    pytest.param(changed(**{"truecopy.kind": "delta"}), False, id="another kind"),
    pytest.param(avro_schema(event_of(bytes)), False, id="the bytes beneath a decimal"),
    pytest.param(avro_schema(event_of(Money, Decimal(1))), False, id="a default"),
]


@pytest.mark.parametrize(("schema", "same"), FINGERPRINTS)
def test_fingerprint_tells_meaning_from_telling(schema: dict[str, Any], same: bool) -> None:
    assert (fingerprint(schema) == fingerprint(changed())) is same


def test_a_default_that_looks_like_a_doc_counts() -> None:
    one, two = event_of(dict[str, str], {"doc": "1"}), event_of(dict[str, str], {"doc": "2"})

    assert fingerprint(avro_schema(one)) != fingerprint(avro_schema(two))


def test_two_classes_of_one_name_are_refused() -> None:
    other = type(Record)("Address", (Record,), {"__annotations__": {"x": int}, "__module__": __name__})

    with pytest.raises(InvalidSchemaError, match="two classes are named Address"):
        type(Event)(
            "Changed",
            (Event,),
            {"__annotations__": {"a": Address, "b": other}, "__module__": __name__},
            entity="shop.customer",
        )


class Node(Record):
    inner: list[Node]


def test_a_record_that_contains_itself_is_refused() -> None:
    with pytest.raises(InvalidSchemaError, match="Node contains itself"):
        event_of(Node)
