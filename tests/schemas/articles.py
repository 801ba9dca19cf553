"""The events of `shop.article` as three releases declared them, and what upcasts the old ones to today's."""

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from truecopy_schemas import Event, upcasts

ENTITY = "shop.article"


class PricedInCents(Event, entity=ENTITY, kind="delta"):
    """The first release: a name of its own, another unit."""

    cents: int


class PricedInEuros(Event, entity=ENTITY, kind="delta", name="Priced"):
    """The second: the name of today's, without a currency."""

    amount: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]


class Priced(Event, entity=ENTITY, kind="delta"):
    """Today's."""

    amount: Annotated[Decimal, Field(max_digits=12, decimal_places=4)]
    currency: str


class Labelled(Event, entity=ENTITY):
    """A type that never changed."""

    text: str


class Withdrawn(Event, entity=ENTITY, deletes=True):
    """An old name of a deleting event."""


class Removed(Event, entity=ENTITY, deletes=True):
    """Today's name of it."""

    reason: str


@upcasts(PricedInCents, PricedInEuros)
def in_euros(old: PricedInCents) -> PricedInEuros:
    return PricedInEuros(amount=Decimal(old.cents) / 100)


@upcasts(PricedInEuros, Priced)
def priced(old: PricedInEuros) -> Priced:
    return Priced(amount=old.amount, currency="EUR")


@upcasts(Withdrawn, Removed)
def removed(_: Withdrawn) -> Removed:
    return Removed(reason="withdrawn")
