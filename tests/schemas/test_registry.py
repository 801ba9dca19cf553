"""The registry as a fold: who holds an id, who lost a race, what is ignored."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from truecopy_schemas import (
    RULES_NUMBER,
    Compatibility,
    Event,
    IncompatibleSchemaError,
    InvalidSchemaError,
    NewerFormatError,
    Outcome,
    Registered,
    RegistryState,
    UnknownSchemaError,
    avro_schema,
    control,
    fingerprint,
    subject,
)
from truecopy_schemas.limits import SCHEMA_BYTES_MAX


class Moved(Event, entity="shop.customer"):
    street: str


class MovedOn(Event, entity="shop.customer", name="Moved"):
    street: str
    floor: int = 0


class MovedAway(Event, entity="shop.customer", name="Moved"):
    street: str
    country: str


class Closed(Event, entity="shop.customer", deletes=True):
    pass


MOVED, MOVED_ON, MOVED_AWAY, CLOSED = map(avro_schema, (Moved, MovedOn, MovedAway, Closed))
SUBJECT = subject(MOVED)
KEY = SUBJECT.encode()


def claimed(state: RegistryState, schema: dict[str, Any], **options: Any) -> bytes:
    value = state.claim(subject(schema), schema, **options)
    assert isinstance(value, bytes)
    return value


def after(*schemas: dict[str, Any]) -> RegistryState:
    state = RegistryState()
    for schema in schemas:
        assert state.apply(subject(schema).encode(), claimed(state, schema)) is Outcome.CLAIMED
    return state


def test_control_schemas_are_there_from_the_start() -> None:
    state = RegistryState()

    assert state.by_id(1).schema == control.GENESIS_SCHEMA
    assert state.by_id(2).schema == control.MARK_SCHEMA
    assert state.next_id == 16


def test_a_claim_holds_its_id() -> None:
    state = after(MOVED, MOVED_ON, CLOSED)

    assert [held.id for held in state.versions(SUBJECT)] == [16, 17]
    assert state.by_id(17) == Registered(
        id=17,
        subject=SUBJECT,
        version=2,
        fingerprint=fingerprint(MOVED_ON),
        schema=MOVED_ON,
        compatibility=Compatibility.BACKWARD_TRANSITIVE,
        rules=RULES_NUMBER,
    )
    assert state.find(SUBJECT, fingerprint(MOVED_ON)) is state.by_id(17)
    assert state.next_id == 19
    assert subject(CLOSED) in state.subjects


def test_the_record_is_golden() -> None:
    value = claimed(RegistryState(), CLOSED)

    assert value == (
        b'{"compatibility":"BACKWARD_TRANSITIVE",'
        b'"fingerprint":"' + fingerprint(CLOSED).hex().encode() + b'",'
        b'"format":1,"id":16,"rules":1,"schema":{"fields":['
        b'{"name":"_version","type":"long"},{"default":null,"name":"_tx","type":["null","string"]}],'
        b'"name":"Closed","namespace":"shop.customer","truecopy.deletes":true,'
        b'"truecopy.entity":"shop.customer","truecopy.kind":"state","type":"record"},'
        b'"subject":"shop.customer-shop.customer.Closed","type":"claim"}'
    )


def test_of_two_claims_of_one_number_the_first_holds_it() -> None:
    state = RegistryState()
    first, second = claimed(state, MOVED), claimed(state, CLOSED)

    assert state.apply(KEY, first) is Outcome.CLAIMED
    assert state.apply(subject(CLOSED).encode(), second) is Outcome.LOST

    again = claimed(state, CLOSED)
    assert state.apply(subject(CLOSED).encode(), again) is Outcome.CLAIMED
    assert (state.by_id(16).schema, state.by_id(17).schema) == (MOVED, CLOSED)


def test_a_lost_claim_is_judged_again() -> None:
    state = RegistryState()
    ours = claimed(state, MOVED_AWAY)
    theirs = claimed(state, MOVED)

    assert state.apply(KEY, theirs) is Outcome.CLAIMED
    assert state.apply(KEY, ours) is Outcome.LOST
    with pytest.raises(IncompatibleSchemaError, match="country"):
        state.claim(SUBJECT, MOVED_AWAY)


def test_the_same_schema_twice_is_one_registration() -> None:
    state = RegistryState()
    first = claimed(state, MOVED)
    second = orjson.dumps(orjson.loads(first) | {"id": 17})

    assert state.apply(KEY, first) is Outcome.CLAIMED
    assert state.apply(KEY, first) is Outcome.SAME
    assert state.apply(KEY, second) is Outcome.SAME
    assert state.claim(SUBJECT, MOVED) is state.by_id(16)
    assert state.claim(SUBJECT, MOVED | {"doc": "told otherwise"}) is state.by_id(16)
    assert state.next_id == 17


def test_every_reader_comes_to_the_same_table() -> None:
    author, records = RegistryState(), []
    for schema in (MOVED, CLOSED, MOVED_ON):
        records.append((subject(schema).encode(), claimed(author, schema)))
        author.apply(*records[-1])
    records.insert(1, (b"x", b"noise"))

    reader = RegistryState()
    outcomes = [reader.apply(key, value) for key, value in records]

    assert outcomes == [Outcome.CLAIMED, Outcome.IGNORED, Outcome.CLAIMED, Outcome.CLAIMED]
    assert [reader.by_id(n) for n in (16, 17, 18)] == [author.by_id(n) for n in (16, 17, 18)]


def test_a_subject_can_be_configured() -> None:
    state = after(MOVED)

    outcome = state.apply(KEY, state.configure(SUBJECT, Compatibility.NONE))

    assert outcome is Outcome.CONFIGURED
    assert state.compatibility(SUBJECT) is Compatibility.NONE
    assert state.compatibility(subject(CLOSED)) is Compatibility.BACKWARD_TRANSITIVE
    assert state.apply(KEY, claimed(state, MOVED_AWAY)) is Outcome.CLAIMED
    assert state.by_id(17).compatibility is Compatibility.NONE


def test_an_incompatible_schema_is_still_decodable_once_claimed() -> None:
    state = after(MOVED)

    assert state.apply(KEY, claimed(state, MOVED_AWAY, compatibility=Compatibility.NONE)) is Outcome.CLAIMED
    assert state.by_id(17).schema == MOVED_AWAY


def test_an_unclaimed_id_is_unknown() -> None:
    with pytest.raises(UnknownSchemaError, match="16") as caught:
        RegistryState().by_id(16)

    assert caught.value.schema_id == 16


def test_an_oversize_schema_is_refused() -> None:
    with pytest.raises(InvalidSchemaError, match="limit"):
        RegistryState().claim(SUBJECT, MOVED | {"note": "x" * SCHEMA_BYTES_MAX})


CLAIM = orjson.loads(claimed(RegistryState(), MOVED))
IGNORED = [
    pytest.param(KEY, None, id="a null"),
    pytest.param(None, orjson.dumps(CLAIM), id="no key"),
    pytest.param(b"other", orjson.dumps(CLAIM), id="the key of another subject"),
    pytest.param(KEY, b"\xff", id="no JSON"),
    pytest.param(KEY, b"[1]", id="a list"),
    pytest.param(KEY, orjson.dumps(CLAIM | {"format": None}), id="no format"),
    pytest.param(KEY, orjson.dumps(CLAIM | {"type": "praise"}), id="another type"),
    pytest.param(KEY, orjson.dumps(CLAIM | {"id": 15}), id="a reserved id"),
    pytest.param(KEY, orjson.dumps(CLAIM | {"id": 2**31}), id="an id beyond 31 bits"),
    pytest.param(KEY, orjson.dumps(CLAIM | {"id": "16"}), id="an id that is text"),
    pytest.param(KEY, orjson.dumps(CLAIM | {"id": True}), id="an id that is a bool"),
    pytest.param(KEY, orjson.dumps(CLAIM | {"fingerprint": "00"}), id="a fingerprint of another schema"),
    pytest.param(KEY, orjson.dumps(CLAIM | {"compatibility": "PERHAPS"}), id="an unknown mode"),
    pytest.param(KEY, orjson.dumps(CLAIM | {"schema": "long"}), id="a schema that is no record"),
]


@pytest.mark.parametrize(("key", "value"), IGNORED)
def test_unreadable_records_change_nothing(key: bytes | None, value: bytes | None) -> None:
    state = RegistryState()

    assert state.apply(key, value) is Outcome.IGNORED
    assert state.next_id == 16
    assert state.versions(SUBJECT) == ()


def test_a_newer_format_is_refused_by_name() -> None:
    with pytest.raises(NewerFormatError, match="schema record: format 2 was seen, up to 1 is known"):
        RegistryState().apply(KEY, orjson.dumps({"format": 2}))
