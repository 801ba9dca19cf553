"""The shop under test: its own table and its events change together, and the warehouse reads what it wrote."""

from decimal import Decimal

import pytest
from truecopy_services import NotReachedError, Verdict, VersionConflictError

from schemas import Paid
from services.shop import OutOfStockError, place, restock, shop
from services.warehouse import Order, Pick, orders, picks, warehouse


async def test_an_order_reaches_the_warehouse() -> None:
    async with shop.test() as owner, warehouse.test(beside=owner) as reader:
        await restock(owner, "apple", 10)
        token = await place(owner, "o1", "c1", {"apple": 3})

        assert await reader.get(orders, "o1", at_least=token) == Order(customer="c1", total=Decimal("1.50"))
        assert await reader.rows(picks) == {"o1": [Pick(product="apple", quantity=3)]}


async def test_what_is_out_of_stock_is_neither_taken_nor_published() -> None:
    async with shop.test() as owner:
        await restock(owner, "apple", 10)
        await restock(owner, "pear", 1)
        with pytest.raises(OutOfStockError):
            await place(owner, "o1", "c1", {"apple": 3, "pear": 2})

        await place(owner, "o1", "c1", {"apple": 10})
        assert await owner.store.version("shop.order", "o1") == 2


async def test_an_order_is_placed_once() -> None:
    async with shop.test() as owner:
        await restock(owner, "apple", 10)
        await place(owner, "o1", "c1", {"apple": 1})
        with pytest.raises(VersionConflictError):
            await place(owner, "o1", "c2", {"apple": 1})


async def test_a_replica_that_lags_refuses_a_read_at_a_token() -> None:
    async with shop.test() as owner, warehouse.test(beside=owner) as reader:
        await restock(owner, "apple", 10)
        await place(owner, "o1", "c1", {"apple": 1})
        await reader.settle()
        with reader.paused():
            token = await place(owner, "o2", "c1", {"apple": 1})
            with pytest.raises(NotReachedError):
                await reader.get(orders, "o2", at_least=token)
            assert await reader.get(orders, "o2") is None


async def test_a_wrong_payment_parks_its_order_and_no_other() -> None:
    async with warehouse.test(prove=False) as reader:  # it plays the owner too
        await restock(reader, "apple", 10)
        await place(reader, "o1", "c1", {"apple": 2})
        await place(reader, "o2", "c2", {"apple": 2})
        await reader.publish_many([("o1", Paid(amount=Decimal("9.99"))), ("o2", Paid(amount=Decimal("1.00")))])
        await reader.settle(parked=True)

        (found, _) = await reader.check()
        assert (found.verdict, found.parked) == (Verdict.PARKED, ["o1"])
        assert await reader.get(orders, "o2") == Order(customer="c2", total=Decimal("1.00"), paid=True)
        await reader.prove(parked=True)
