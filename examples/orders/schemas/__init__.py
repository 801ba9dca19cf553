"""What the services of this project tell each other: the events of an order."""

from schemas.orders import Cancelled, LineAdded, Paid, Placed

__all__ = ["Cancelled", "LineAdded", "Paid", "Placed"]
