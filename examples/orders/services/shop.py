"""The shop: it owns orders, and publishes them in the transaction that takes the goods from its stock."""

from collections.abc import Mapping
from decimal import Decimal

from truecopy_services import Event, Service, Token, Truecopy

from schemas import LineAdded, Placed

__all__ = ["OutOfStockError", "place", "restock", "shop"]

shop = Truecopy("shop")

PRICES = {"apple": Decimal("0.50"), "pear": Decimal("0.75")}


class OutOfStockError(Exception):
    """There is not enough of a product. Nothing was taken, nothing was published."""


async def restock(service: Service, product: str, quantity: int) -> None:
    """Put goods into the stock, which is a table of the shop's own."""
    async with service.store.transaction() as tx:
        await tx.execute("CREATE TABLE IF NOT EXISTS stock (product TEXT PRIMARY KEY, quantity INTEGER NOT NULL)")
        await tx.execute(
            "INSERT INTO stock VALUES ($1, $2) ON CONFLICT (product) DO UPDATE SET quantity = stock.quantity + $2",
            product,
            quantity,
        )


async def place(service: Service, order: str, customer: str, lines: Mapping[str, int]) -> Token:
    """Take the goods and publish the order, both or neither. Raises OutOfStockError; VersionConflictError for a known order.

    The token that comes back, of the order's last event, makes a reader wait until it sees all of it.
    """
    events: list[Event] = [Placed(customer=customer)]
    async with service.store.transaction() as tx:
        for product, quantity in lines.items():
            taken = await tx.execute(
                "UPDATE stock SET quantity = quantity - $2 WHERE product = $1 AND quantity >= $2 RETURNING quantity",
                product,
                quantity,
            )
            if not taken:
                raise OutOfStockError(f"{product}: fewer than {quantity} are left")
            events.append(LineAdded(product=product, quantity=quantity, price=PRICES[product]))
        tokens = await tx.publish_many([(order, event, version) for version, event in enumerate(events)])
    return tokens[-1]
