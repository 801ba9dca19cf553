"""Two projections of the shop's customers: what each is worth, and every purchase.

`frequency`, `recency` and `t` are those of Fader and Hardie's models of customer bases, as the README beside the data
defines them: distinct days of purchases after the first, weeks from the first to the last, and weeks from the first to the
end of the calibration period. They take in purchases up to that day; the totals take in all.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated

from pydantic import Field

from truecopy_projections.projection import Change, Projection
from truecopy_services.demo.shop import Purchased

__all__ = ["CALIBRATED_TO", "CustomerValue", "Purchase", "customer_value", "purchases"]

CALIBRATED_TO = date(1997, 9, 30)
Dollars = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]
Weeks = Annotated[Decimal, Field(max_digits=6, decimal_places=2)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerValue:
    """A customer. `first` and `last` are days of purchases in the calibration period."""

    customer: str
    purchases: int = 0
    cds: int = 0
    dollars: Dollars = Decimal(0)
    first: date | None = None
    last: date | None = None
    frequency: int = 0
    recency: Weeks = Decimal(0)
    t: Weeks = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """A customer's first, second, ... purchase."""

    customer: str
    number: int
    bought_on: date
    cds: int
    dollars: Dollars


customer_value = Projection("customer_value", entity="shop.customer", row=CustomerValue)
purchases = Projection("purchases", entity="shop.customer", row=Purchase, key="number")


@customer_value.on(Purchased)
def value(row: CustomerValue | None, event: Purchased, change: Change) -> CustomerValue:
    """Purchases of a customer come in the order of their days."""
    was = row or CustomerValue(customer=change.key)
    calibrated = event.bought_on <= CALIBRATED_TO
    first = was.first or (event.bought_on if calibrated else None)
    last = event.bought_on if calibrated else was.last
    return CustomerValue(
        customer=was.customer,
        purchases=was.purchases + 1,
        cds=was.cds + event.cds,
        dollars=was.dollars + event.dollars,
        first=first,
        last=last,
        frequency=was.frequency + (was.last is not None and last != was.last),
        recency=_weeks(first, last),
        t=_weeks(first, CALIBRATED_TO),
    )


@purchases.on(Purchased, touches=lambda _, change: [change.version])
def purchase(_: Purchase | None, event: Purchased, change: Change) -> Purchase:
    """Its number is the event's version: every event of a customer is a purchase."""
    return Purchase(customer=change.key, number=change.version, bought_on=event.bought_on, cds=event.cds, dollars=event.dollars)


def _weeks(start: date | None, end: date | None) -> Decimal:
    return Decimal((end - start).days) / 7 if start and end else Decimal(0)
