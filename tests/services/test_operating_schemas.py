"""Schemas for people: what differs between two, which one a name means, and how an event stands with a registry."""

from typing import Any

import pytest

from truecopy_schemas import Compatibility
from truecopy_schemas.avro_schema import subject
from truecopy_schemas.registry import RegistryState
from truecopy_services.errors import UsageError
from truecopy_services.operating.schema_changes import Standing, changes, find, judged, verdicts

ADDRESS = {"type": "record", "name": "Address", "namespace": "shop", "fields": [{"name": "city", "type": "string"}]}
MONEY = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def schema(*fields: dict[str, Any], name: str = "Moved", **more: Any) -> dict[str, Any]:
    own = [field("_version", "long"), field("_tx", ["null", "string"], default=None)]
    about = {"type": "record", "name": name, "namespace": "shop", "truecopy.entity": "shop.customer", "truecopy.kind": "state"}
    return {**about, "fields": [*own, *fields], **more}


def city(kind: Any) -> dict[str, Any]:
    return ADDRESS | {"fields": [field("city", kind)]}


CHANGES = [
    pytest.param(schema(field("a", "long")), schema(field("a", "long")), [], id="none"),
    pytest.param(schema(), schema(field("a", "long")), ["a: added: long"], id="a field"),
    pytest.param(schema(), schema(field("a", "long", default=0)), ["a: added: long, default 0"], id="a field with a default"),
    pytest.param(
        schema(field("a", ["null", "long"], default=None)), schema(), ["a: removed: null | long, default null"], id="gone"
    ),
    pytest.param(schema(field("a", "long")), schema(field("a", "string")), ["a: type: long -> string"], id="a type"),
    pytest.param(
        schema(field("a", MONEY)),
        schema(field("a", MONEY | {"scale": 3})),
        ["a: type: decimal(9, 2) -> decimal(9, 3)"],
        id="scale",
    ),
    pytest.param(schema(field("a", "int")), schema(field("a", "int", default=1)), ["a: default: none -> 1"], id="a default"),
    pytest.param(
        schema(field("a", ["null", "int"])),
        schema(field("a", ["null", "int"], default=None)),
        ["a: default: none -> null"],
        id="a default of null",
    ),
    pytest.param(
        schema(field("home", ADDRESS)),
        schema(field("home", city("long"))),
        ["home.city: type: string -> long"],
        id="in a record",
    ),
    pytest.param(
        schema(field("homes", {"type": "array", "items": ["null", ADDRESS]})),
        schema(field("homes", {"type": "array", "items": ["null", city("long")]})),
        ["homes[].city: type: string -> long"],
        id="in the records of a list",
    ),
    pytest.param(
        schema(field("a", ADDRESS), field("b", "Address")),
        schema(field("b", ADDRESS), field("a", "shop.Address")),
        ["b: type: Address -> record Address", "a: type: record Address -> shop.Address"],
        id="a record that is spelt out elsewhere",
    ),
    pytest.param(
        schema(field("t", {"type": "enum", "name": "T", "symbols": ["a"]})),
        schema(field("t", {"type": "enum", "name": "T", "symbols": ["a", "b"]})),
        ["t: type: enum T(a) -> enum T(a, b)"],
        id="a symbol",
    ),
    pytest.param(schema(), schema(name="Left"), ["the record: name: shop.Moved -> shop.Left"], id="the name"),
    pytest.param(
        schema(), schema(**{"truecopy.deletes": True}), ["truecopy.deletes: attribute: none -> true"], id="an attribute of ours"
    ),
]


@pytest.mark.parametrize(("old", "new", "told"), CHANGES)
def test_what_differs_field_by_field(old: Any, new: Any, told: list[str]) -> None:
    assert [str(one) for one in changes(old, new)] == told


def test_a_record_that_holds_itself_comes_to_an_end() -> None:
    tree = {"type": "record", "name": "Tree", "fields": [field("left", ["null", "Tree"])]}

    assert [one.path for one in changes(schema(), schema(field("tree", tree)))] == ["tree", "tree.left"]


def test_both_directions_are_judged_and_each_clash_is_named_once() -> None:
    old = schema(field("a", "long"), field("b", "string"))
    new = schema(field("a", "string"), field("c", "long"), field("d", "long"))

    found = verdicts(old, new)

    assert [one.path for one in found["BACKWARD"]] == ["a", "c", "d"]
    assert [one.path for one in found["FORWARD"]] == ["a", "b"]
    assert verdicts(old, old) == {"BACKWARD": (), "FORWARD": ()}


def registry(*schemas: dict[str, Any], mode: Compatibility | None = None) -> RegistryState:
    state = RegistryState()
    for one in schemas:
        claim = state.claim(subject(one), one, Compatibility.NONE)
        assert isinstance(claim, bytes)
        state.apply(subject(one).encode(), claim)
    if mode is not None:
        state.apply(subject(schemas[0]).encode(), state.configure(subject(schemas[0]), mode))
    return state


MOVED = "shop.customer-shop.Moved"
WITH_A, WITHOUT_A, WITH_B = schema(field("a", "long")), schema(), schema(field("b", "long"))
STANDINGS = [
    pytest.param(registry(), WITH_A, Standing.NEW, [], id="an empty registry"),
    pytest.param(registry(WITH_A), WITH_A, Standing.REGISTERED, [], id="the same"),
    pytest.param(registry(WITH_A), WITHOUT_A, Standing.COMPATIBLE, [], id="a field less"),
    pytest.param(registry(WITHOUT_A, WITH_A), WITH_B, Standing.INCOMPATIBLE, [(1, "b")], id="a field more"),
    pytest.param(registry(WITHOUT_A, WITH_A, mode=Compatibility.NONE), WITH_B, Standing.COMPATIBLE, [], id="no rule"),
    pytest.param(
        registry(WITHOUT_A, WITH_A, mode=Compatibility.FULL),
        WITH_B,
        Standing.INCOMPATIBLE,
        [(2, "b"), (2, "a")],
        id="both ways",
    ),
]


@pytest.mark.parametrize(("state", "new", "standing", "clashes"), STANDINGS)
def test_how_an_event_stands_with_a_registry(state: RegistryState, new: Any, standing: Standing, clashes: list[Any]) -> None:
    before = state.next_id

    found = judged(state, new)

    assert found.standing is standing
    assert [(one.version, one.path) for one in found.clashes] == clashes
    assert state.next_id == before


@pytest.mark.parametrize(
    ("text", "schema_id"), [("16", 16), (MOVED, 17), (f"{MOVED}@1", 16), ("shop.Moved", 17), ("Moved@2", 17), ("2", 2)]
)
def test_which_schema_a_name_means(text: str, schema_id: int) -> None:
    assert find(registry(WITH_A, WITHOUT_A), text).id == schema_id


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("99", "no schema has id 99"),
        ("Left", "there is no subject 'Left'; name one of"),
        ("Moved@3", "it has 1 to 2"),
        ("Moved@", "it has 1 to 2"),
        ("Moved@0", "it has 1 to 2"),
        ("", "there is no subject ''"),
    ],
)
def test_a_name_that_means_no_schema_is_usage(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find(registry(WITH_A, WITHOUT_A), text)
