"""Which schemas may follow which, and the words for those that may not."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import Field

from truecopy_schemas import (
    Compatibility,
    Event,
    IncompatibleSchemaError,
    InvalidSchemaError,
    Record,
    avro_schema,
    judge,
    subject,
)


def named(name: str, base: type[Any], **fields: Any) -> Any:
    annotations = {field: spec[0] if isinstance(spec, tuple) else spec for field, spec in fields.items()}
    defaults = {field: spec[1] for field, spec in fields.items() if isinstance(spec, tuple)}
    arguments = {"entity": "shop.customer"} if base is Event else {}
    return type(base)(name, (base,), {"__annotations__": annotations, "__module__": __name__, **defaults}, **arguments)


def schema(**fields: Any) -> dict[str, Any]:
    return avro_schema(named("Moved", Event, **fields))


def address(**fields: Any) -> Any:
    return named("Address", Record, **fields)


def tier(*symbols: str) -> Any:
    return Enum("Tier", {symbol.upper(): symbol for symbol in symbols})


def money(digits: int, places: int) -> Any:
    return Annotated[Decimal, Field(max_digits=digits, decimal_places=places)]


OLD = schema(street=str)
MILLIS = {
    **OLD,
    "fields": [*OLD["fields"][:2], {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}],
}

# old, new, does the new reader read the old, does the old reader read the new
VERDICTS = [
    pytest.param(OLD, OLD, True, True, id="the same"),
    pytest.param(OLD, schema(street=str, floor=int), False, True, id="a field added without a default"),
    pytest.param(OLD, schema(street=str, floor=(int, 0)), True, True, id="a field added with a default"),
    pytest.param(OLD, schema(street=str, floor=int | None), True, True, id="an optional field added"),
    pytest.param(OLD, schema(), True, False, id="a field removed"),
    pytest.param(schema(street=(str, "")), schema(), True, True, id="a field with a default removed"),
    pytest.param(schema(n=int), schema(n=float), True, False, id="an integer becomes a float"),
    pytest.param(schema(n=int), schema(n=str), False, False, id="an integer becomes text"),
    pytest.param(schema(n=int), schema(n=int | None), True, False, id="a field becomes optional"),
    pytest.param(schema(n=int | None), schema(n=int), False, True, id="a field becomes required"),
    pytest.param(schema(t=tier("a")), schema(t=tier("a", "b")), True, False, id="a symbol added"),
    pytest.param(schema(t=tier("a", "b")), schema(t=tier("a")), False, True, id="a symbol removed"),
    pytest.param(schema(m=money(9, 2)), schema(m=money(9, 3)), False, False, id="another scale"),
    pytest.param(schema(m=money(9, 2)), schema(m=money(10, 2)), False, False, id="another precision"),
    pytest.param(schema(m=money(9, 2)), schema(m=bytes), False, False, id="a decimal becomes bytes"),
    pytest.param(schema(m=money(9, 2) | None), schema(m=money(9, 3) | None), False, False, id="within an optional"),
    pytest.param(schema(at=datetime), MILLIS, False, False, id="microseconds become milliseconds"),
    pytest.param(schema(at=date), schema(at=datetime), False, False, id="a date becomes a datetime"),
    pytest.param(schema(u=UUID), schema(u=str), False, False, id="a UUID becomes text"),
    pytest.param(schema(x=list[int]), schema(x=list[str]), False, False, id="the items of a list"),
    pytest.param(schema(x=dict[str, int]), schema(x=dict[str, str]), False, False, id="the values of a map"),
    pytest.param(schema(x=list[money(9, 2)]), schema(x=list[money(9, 3)]), False, False, id="the scale of a list's items"),
    pytest.param(
        schema(x=address(a=int) | None), schema(x=address(a=int, b=int) | None), False, True, id="a nested field added"
    ),
]


def accepted(new: dict[str, Any], old: dict[str, Any], mode: Compatibility) -> bool:
    try:
        judge(subject(new), new, [old], mode)
    except IncompatibleSchemaError:
        return False
    return True


@pytest.mark.parametrize(("old", "new", "backward", "forward"), VERDICTS)
def test_verdicts(old: dict[str, Any], new: dict[str, Any], backward: bool, forward: bool) -> None:
    assert accepted(new, old, Compatibility.BACKWARD) is backward
    assert accepted(new, old, Compatibility.FORWARD) is forward
    assert accepted(new, old, Compatibility.FULL) is (backward and forward)
    assert accepted(new, old, Compatibility.NONE)


BACK, FORE = Compatibility.BACKWARD_TRANSITIVE, Compatibility.FORWARD_TRANSITIVE
WORDS = [
    pytest.param(
        OLD,
        schema(street=str, floor=int),
        BACK,
        "floor",
        "shop.customer-shop.customer.Moved: clashes with version 1 under BACKWARD_TRANSITIVE: floor: "
        "field 'floor' was added without a default; give it a default, or make it Optional",
        id="a field added without a default",
    ),
    pytest.param(
        OLD,
        schema(),
        FORE,
        "street",
        "field 'street' was removed, and earlier readers have no default for it; keep the field",
        id="a field removed",
    ),
    pytest.param(
        schema(n=int),
        schema(n=str),
        BACK,
        "n",
        "the type changed from long to string; keep the field as it is and add a new one with a default",
        id="another type",
    ),
    pytest.param(schema(n=int), schema(n=str), FORE, "n", "from long to string", id="another type, forward"),
    pytest.param(schema(n=int | None), schema(n=int), BACK, "n", "null is no longer accepted", id="required"),
    pytest.param(schema(n=int), schema(n=int | None), FORE, "n", "may now be null, which", id="optional"),
    pytest.param(schema(t=tier("a", "b")), schema(t=tier("a")), BACK, "t", "symbols b were removed", id="symbols"),
    pytest.param(schema(t=tier("a")), schema(t=tier("a", "b")), FORE, "t", "symbols b were added", id="new symbols"),
    pytest.param(schema(m=money(9, 2)), schema(m=money(9, 3)), BACK, "m", "from decimal(9, 2) to decimal(9, 3)", id="a scale"),
    pytest.param(
        schema(at=datetime),
        MILLIS,
        BACK,
        "at",
        "from timestamp-micros to timestamp-millis",
        id="microseconds become milliseconds",
    ),
    pytest.param(
        schema(x=dict[str, list[address(a=int) | None]]),
        schema(x=dict[str, list[address(a=int, b=int) | None]]),
        BACK,
        "x[][].b",
        "field 'b' was added without a default",
        id="deep inside",
    ),
    pytest.param(schema(x=address(a=int)), schema(x=named("Place", Record, a=int)), BACK, "x", "name changed", id="a new name"),
    pytest.param(
        OLD,
        OLD | {"truecopy.kind": "delta"},
        BACK,
        "",
        "the event: truecopy.kind changed from 'state' to 'delta'; declare an event under a new name",
        id="another kind",
    ),
    pytest.param(OLD, OLD | {"truecopy.deletes": True}, BACK, "", "truecopy.deletes changed from None to True", id="deletes"),
    pytest.param(OLD, OLD | {"name": "Other"}, BACK, "", "the name changed from Moved to Other", id="another event"),
]


@pytest.mark.parametrize(("old", "new", "mode", "path", "words"), WORDS)
def test_words(old: dict[str, Any], new: dict[str, Any], mode: Compatibility, path: str, words: str) -> None:
    with pytest.raises(IncompatibleSchemaError) as caught:
        judge(subject(OLD), new, [old], mode)

    assert words in str(caught.value)
    assert caught.value.path == path


FIRST, SECOND = schema(a=int), schema(a=int, b=(int, 0))
THIRD = schema(b=int)
TRANSITIVE = [
    pytest.param(Compatibility.BACKWARD, None, id="the latest only"),
    pytest.param(Compatibility.BACKWARD_TRANSITIVE, 1, id="every earlier one"),
]


@pytest.mark.parametrize(("mode", "version"), TRANSITIVE)
def test_transitive_modes_look_at_every_version(mode: Compatibility, version: int | None) -> None:
    if version is None:
        judge("s", THIRD, [FIRST, SECOND], mode)
        return
    with pytest.raises(IncompatibleSchemaError) as caught:
        judge("s", THIRD, [FIRST, SECOND], mode)
    assert caught.value.version == version


def test_the_first_version_is_always_compatible() -> None:
    judge("s", OLD, [], Compatibility.FULL_TRANSITIVE)


def test_what_is_no_schema_is_refused() -> None:
    with pytest.raises(InvalidSchemaError):
        judge("s", {"type": "record", "name": "x"}, [OLD], Compatibility.BACKWARD)
