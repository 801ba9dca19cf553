"""An owner for tests of gathered rows: orders, each in one region at a time, and the totals of regions and of all."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from pydantic import Field

from truecopy_projections.projection import Change, Projection
from truecopy_schemas import Event

Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]
HUGE = 2**62
"""Two of it don't fit a column of 64 bits, though each does."""

UNLUCKY = 666
"""A weight that the reducer fails for."""


class Placed(Event, entity="shop.order", kind="state"):
    region: str
    amount: Money
    weight: int = 1


class Cancelled(Event, entity="shop.order", deletes=True):
    pass


@dataclass(frozen=True)
class Sale:
    order: str
    region: str
    amount: Money
    weight: int


@dataclass(frozen=True)
class Total:
    region: str
    orders: int
    amount: Money
    weight: int
    largest: str


def sales(*, entity: str = "shop.order") -> Projection[Sale]:
    """The projection of orders, with `region_total` gathered from it."""
    found = Projection("sale", entity=entity, row=Sale)

    @found.on(Placed)
    def placed(_: Sale | None, event: Placed, change: Change) -> Sale:
        if event.weight == UNLUCKY:
            raise ValueError("no such luck")
        return Sale(change.key, event.region, event.amount, event.weight)

    found.gather("region_total", row=Total, by="region", each=each, merge=merge)
    return found


def each(sale: Sale) -> Total:
    return Total(sale.region, 1, sale.amount, sale.weight, f"{sale.amount:012} {sale.order}")


def merge(one: Total, other: Total) -> Total:
    return Total(
        one.region,
        one.orders + other.orders,
        one.amount + other.amount,
        one.weight + other.weight,
        max(one.largest, other.largest),
    )


sale = sales()
(totals,) = sale.gathers
