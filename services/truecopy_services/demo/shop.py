"""The shop: it owns `shop.customer`, and publishes each purchase as an event of its customer."""

from datetime import date
from decimal import Decimal
from typing import Annotated

from pydantic import Field

from truecopy_schemas import Event
from truecopy_services.app import Truecopy

__all__ = ["Purchased", "shop"]


class Purchased(Event, entity="shop.customer", kind="delta"):
    """A customer bought CDs."""

    bought_on: date
    cds: int
    dollars: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]


shop = Truecopy("shop", partitions=4)
