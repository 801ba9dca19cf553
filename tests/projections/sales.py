"""An owner for tests of gathered rows: orders, each in one region at a time, totals of regions, and one of all."""

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
    shop: str = "the only one"


class Cancelled(Event, entity="shop.order", deletes=True):
    pass


@dataclass(frozen=True)
class Sale:
    order: str
    region: str
    amount: Money
    weight: int
    shop: str = "the only one"


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
        return Sale(change.key, event.region, event.amount, event.weight, event.shop)

    found.gather("region_total", row=Total, by="region", each=each, merge=merge)
    found.gather(
        "turnover",
        row=Turnover,
        by="shop",
        each=lambda one: Turnover(one.shop, 1, one.amount, one.weight),
        merge=turnover,
        unmerge=without,
    )
    return found


def each(sale: Sale) -> Total:
    return Total(sale.region, 1, sale.amount, sale.weight, f"{sale.amount:012} {sale.order}")


@dataclass(frozen=True)
class Turnover:
    """All orders' in one row: of any number, because what one contributed can be taken out again."""

    shop: str
    orders: int
    amount: Money
    weight: int


def turnover(one: Turnover, other: Turnover) -> Turnover:
    return Turnover(one.shop, one.orders + other.orders, one.amount + other.amount, one.weight + other.weight)


def without(whole: Turnover, part: Turnover) -> Turnover:
    return Turnover(whole.shop, whole.orders - part.orders, whole.amount - part.amount, whole.weight - part.weight)


def merge(one: Total, other: Total) -> Total:
    return Total(
        one.region,
        one.orders + other.orders,
        one.amount + other.amount,
        one.weight + other.weight,
        max(one.largest, other.largest),
    )


sale = sales()
totals, turnovers = sale.gathers
