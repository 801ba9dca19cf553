"""The events of an order. The shop owns them; everybody may project them."""

from decimal import Decimal
from typing import Annotated

from pydantic import Field
from truecopy_services import Event

__all__ = ["Cancelled", "LineAdded", "Paid", "Placed"]

Money = Annotated[Decimal, Field(max_digits=10, decimal_places=2)]


class Placed(Event, entity="shop.order", kind="delta"):
    """A customer ordered."""

    customer: str


class LineAdded(Event, entity="shop.order", kind="delta"):
    """A product of the order. A second line of the same product adds to the first."""

    product: str
    quantity: Annotated[int, Field(ge=1, le=1_000)]
    price: Money


class Paid(Event, entity="shop.order", kind="delta"):
    """The customer paid this much."""

    amount: Money


class Cancelled(Event, entity="shop.order", deletes=True):
    """The order is no more."""
