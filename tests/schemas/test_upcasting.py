"""Old types of events are read as today's: which class reads what, what is refused, and golden bytes of old releases."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.schemas.articles import Labelled, Priced, PricedInCents, PricedInEuros, Removed, Withdrawn

from truecopy_schemas import Event, InvalidSchemaError, UpcastError, avro_schema, encode, read_version, upcasts
from truecopy_schemas.upcasting import decoder_of

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.json"))
TODAY = [Priced, Labelled, Removed]


def read(event: Event, *handled: type[Event]) -> Event:
    found = decoder_of(avro_schema(type(event)), handled)
    assert found is not None
    cls, decoder = found
    made = decoder.decode_event(encode(event, version=3))
    assert type(made) is cls
    return made


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: str(path.stem))
def test_the_bytes_of_old_releases_read_as_the_same_values_as_ever(path: Path) -> None:
    golden: Any = json.loads(path.read_text())
    found = decoder_of(golden["schema"], TODAY)
    assert found is not None
    body = bytes.fromhex(golden["body"])

    event = found[1].decode_event(body)

    said = {name: str(value) for name, value in event.model_dump().items()}
    assert (type(event).__event_name__, said) == (golden["read_as"]["type"], golden["read_as"]["fields"])
    assert read_version(body) == golden["version"]


def test_every_old_type_has_golden_bytes() -> None:
    assert {path.stem for path in CORPUS} >= {"priced_in_cents", "priced_in_euros", "withdrawn"}


def test_a_chain_leads_to_the_first_type_that_is_handled() -> None:
    old = PricedInCents(cents=1999)

    assert read(old, Priced) == Priced(amount=Decimal("19.99"), currency="EUR")
    assert read(old, PricedInEuros, Priced) == PricedInEuros(amount=Decimal("19.99"))
    assert read(old, PricedInCents, PricedInEuros, Priced) == old


def test_an_old_type_that_leads_to_no_handled_one_is_not_read() -> None:
    assert decoder_of(avro_schema(PricedInCents), [Labelled]) is None


def test_an_old_class_of_todays_name_reads_only_its_own_schema() -> None:
    schema = avro_schema(Priced)
    later = {**schema, "fields": [*schema["fields"], {"name": "note", "type": "string", "default": ""}]}
    found = decoder_of(later, [Priced])

    assert found is not None
    assert found[1].event_class is Priced


def test_a_later_schema_of_an_old_name_is_read_by_that_names_class() -> None:
    schema = avro_schema(PricedInCents)
    later = {**schema, "fields": [*schema["fields"], {"name": "note", "type": "string", "default": ""}]}
    found = decoder_of(later, [Priced])

    assert found is not None
    assert (found[0], found[1].event_class) == (Priced, PricedInCents)


class Measured(Event, entity="shop.parcel"):
    grams: int


class Weighed(Event, entity="shop.parcel"):
    kilos: float


class Heavier(Event, entity="shop.parcel"):
    tons: float


class MeasuredAgain(Event, entity="shop.parcel", name="Measured"):
    grams: int


class Foreigner(Event, entity="shop.elsewhere"):
    grams: int


class Added(Event, entity="shop.parcel", kind="delta"):
    grams: int


class Dropped(Event, entity="shop.parcel", deletes=True):
    pass


class Abstract(Event):
    pass


upcasts(Measured, Weighed)(lambda old: Weighed(kilos=old.grams / 1000))

REFUSED = [
    pytest.param(Measured, Heavier, "upcast to Weighed already", id="two upcasters of one type"),
    pytest.param(Weighed, Measured, "can't be told from it", id="a cycle"),
    pytest.param(Weighed, Weighed, "can't be told from it", id="itself"),
    pytest.param(MeasuredAgain, Measured, "can't be told from it", id="the same schema"),
    pytest.param(Foreigner, Weighed, "its entity is 'shop.elsewhere'", id="another entity"),
    pytest.param(Added, Weighed, "its kind is 'delta'", id="another kind"),
    pytest.param(Dropped, Weighed, "its deletes is True", id="a deleting event into one that does not"),
    pytest.param(Abstract, Abstract, "its entity is ''", id="no entity"),
]


@pytest.mark.parametrize(("old", "new", "said"), REFUSED)
def test_is_refused_at_declaration(old: type[Event], new: type[Event], said: str) -> None:
    with pytest.raises(InvalidSchemaError, match=said):
        upcasts(old, new)


def test_two_old_classes_of_one_name_are_told_apart_by_their_schemas_or_not_at_all() -> None:
    class Sized(Event, entity="shop.box"):
        litres: float

    class SizedInches(Event, entity="shop.box", name="Size"):
        inches: int

    class SizedMetres(Event, entity="shop.box", name="Size"):
        metres: int

    upcasts(SizedInches, Sized)(lambda old: Sized(litres=old.inches / 61))
    upcasts(SizedMetres, Sized)(lambda old: Sized(litres=old.metres * 1000.0))

    assert read(SizedInches(inches=122), Sized) == Sized(litres=2)
    assert read(SizedMetres(metres=2), Sized) == Sized(litres=2000)
    schema = avro_schema(SizedMetres)
    later = {**schema, "fields": [*schema["fields"], {"name": "note", "type": "string", "default": ""}]}
    with pytest.raises(InvalidSchemaError, match="SizedInches and SizedMetres are called"):
        decoder_of(later, [Sized])


def test_what_an_upcaster_raises_or_returns_wrongly_names_its_type() -> None:
    class Was(Event, entity="shop.box"):
        number: int

    class Now(Event, entity="shop.box"):
        number: int

    @upcasts(Was, Now)
    def now(old: Was) -> Now:
        if old.number == 1:
            raise SystemExit
        return Now(number=old.number) if old.number == 2 else old  # type: ignore[return-value]

    assert read(Was(number=2), Now) == Now(number=2)
    with pytest.raises(UpcastError, match=r"shop\.box\.Was: its upcaster raised SystemExit"):
        read(Was(number=1), Now)
    with pytest.raises(UpcastError, match="returned Was, expected Now"):
        read(Was(number=3), Now)


def test_a_deleting_event_is_upcast_to_a_deleting_one() -> None:
    assert read(Withdrawn(), Removed) == Removed(reason="withdrawn")
