"""The warehouse: it keeps its own copy of the orders, as a total for each and as a list of what is to be picked."""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Annotated

from pydantic import Field
from truecopy_services import EVERY_ROW, Change, Truecopy

from schemas import Cancelled, LineAdded, Paid, Placed

__all__ = ["Order", "Pick", "orders", "picks", "warehouse"]

warehouse = Truecopy("warehouse")

Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]


@dataclass(frozen=True, kw_only=True)
class Order:
    """One row for each order."""

    customer: str
    total: Money = Decimal("0.00")
    paid: bool = False


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One row for each product of an order."""

    product: str
    quantity: int
    released: bool = False


orders = warehouse.projection("orders", entity="shop.order", row=Order)
picks = warehouse.projection("picks", entity="shop.order", row=Pick, key="product")


@orders.on(Placed)
def placed(_: Order | None, event: Placed, __: Change) -> Order:
    return Order(customer=event.customer)


@orders.on(LineAdded)
def totalled(order: Order | None, event: LineAdded, _: Change) -> Order:
    assert order, "an order begins by being placed"
    return replace(order, total=order.total + event.quantity * event.price)


@orders.on(Paid)
def paid(order: Order | None, event: Paid, _: Change) -> Order:
    assert order, "an order begins by being placed"
    if event.amount != order.total:
        raise ValueError(f"paid {event.amount} of {order.total}")
    return replace(order, paid=True)


@orders.on(Cancelled)
def cancelled(_: Order | None, __: Cancelled, ___: Change) -> None:
    return None


@picks.on(LineAdded, touches=lambda event, _: [event.product])
def picked(pick: Pick | None, event: LineAdded, _: Change) -> Pick:
    return Pick(product=event.product, quantity=event.quantity + (pick.quantity if pick else 0))


@picks.on(Paid, touches=lambda _, __: EVERY_ROW)
def released(pick: Pick | None, _: Paid, __: Change) -> Pick | None:
    return replace(pick, released=True) if pick else None


@picks.on(Cancelled)
def dropped(_: Pick | None, __: Cancelled, ___: Change) -> None:
    return None
