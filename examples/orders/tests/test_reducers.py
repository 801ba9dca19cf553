"""What each event does to the rows: given, when, then. No log, no database, no loop."""

from decimal import Decimal

from truecopy_projections.testing import given

from schemas import Cancelled, LineAdded, Paid, Placed
from services.warehouse import Order, Pick, orders, picks

PLACED = Placed(customer="c1")
APPLES = LineAdded(product="apple", quantity=3, price=Decimal("0.50"))
PEARS = LineAdded(product="pear", quantity=2, price=Decimal("0.75"))
PAID = Paid(amount=Decimal("3.00"))


def test_lines_add_up() -> None:
    given(orders, PLACED, APPLES).when(PEARS).then(Order(customer="c1", total=Decimal("3.00")))


def test_a_paid_order_is_paid_in_full() -> None:
    given(orders, PLACED, APPLES, PEARS).when(PAID).then(Order(customer="c1", total=Decimal("3.00"), paid=True))
    given(orders, PLACED, APPLES).when(PAID).then_parked("paid 3.00 of 1.50")


def test_lines_of_one_product_are_picked_together() -> None:
    given(picks, PLACED, APPLES, PEARS).when(APPLES).then(Pick(product="apple", quantity=6), Pick(product="pear", quantity=2))


def test_a_payment_releases_all_that_is_to_be_picked() -> None:
    released = [Pick(product="apple", quantity=3, released=True), Pick(product="pear", quantity=2, released=True)]

    given(picks, PLACED, APPLES, PEARS).when(PAID).then(*released)


def test_a_cancelled_order_leaves_nothing() -> None:
    given(orders, PLACED, APPLES).when(Cancelled()).then(None)
    given(picks, PLACED, APPLES, PEARS).when(Cancelled()).then()
