"""On a bad day: keys in another order, records twice, workers that die. The rows are those of a good day, for every seed."""

from decimal import Decimal

import pytest

from schemas import Cancelled, Paid
from services.shop import place, restock, shop
from services.warehouse import Order, orders, warehouse


@pytest.mark.parametrize("seed", range(5))
async def test_the_warehouse_converges_whatever_the_delivery(seed: int) -> None:
    async with shop.test(shuffle=True, duplicates=0.2, seed=seed) as owner, warehouse.test(beside=owner) as reader:
        await restock(owner, "apple", 1_000)
        await restock(owner, "pear", 1_000)
        for number in range(20):
            await place(owner, f"o{number}", f"c{number % 3}", {"apple": 1 + number % 4, "pear": 2})
            if number % 3 == 0:
                await owner.publish(f"o{number}", Cancelled())
            elif number % 3 == 1:
                await owner.publish(f"o{number}", Paid(amount=Decimal("0.50") * (1 + number % 4) + Decimal("1.50")))
            if number % 7 == 0:
                await reader.settle()

        await reader.settle()
        assert await reader.get(orders, "o0") is None
        assert await reader.get(orders, "o1") == Order(customer="c1", total=Decimal("2.50"), paid=True)
    # The end of the block has proven both projections, and compared them with in-order delivery.
