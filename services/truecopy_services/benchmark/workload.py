"""The work that all contenders do: flat events of about 45 bytes on one topic, to be copied into one table.

Two regimes. In *repeating*, 20,000 keys get ten versions each, 5,000 keys at a time, so that a batch of 50,000 events leaves
5,000 rows. In *spread*, every key comes once, and then each once again: nothing to reduce.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from truecopy_projections.projection import Projection
from truecopy_schemas import Event
from truecopy_services.app import Truecopy
from truecopy_services.config import Settings

__all__ = ["ENTITY", "PARTITIONS", "REGIMES", "Customer", "CustomerChanged", "app", "changes", "copied", "reduced"]

ENTITY = "bench.customer"
PARTITIONS = 4
REGIMES = ("repeating", "spread")
KEYS_AT_A_TIME = 5_000
VERSIONS = 10
_START = datetime(2026, 1, 1, tzinfo=UTC)


class CustomerChanged(Event, entity=ENTITY, kind="state"):
    customer: str
    visits: int
    balance: float
    active: bool
    seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    customer: str
    visits: int
    balance: float
    active: bool
    seen_at: datetime


copied = Projection("bench_copy", entity=ENTITY, row=Customer)
copied.copies(CustomerChanged)

reduced = Projection("bench_reduced", entity=ENTITY, row=Customer)


@reduced.on(CustomerChanged)
def _count(row: Customer | None, event: CustomerChanged, _: object) -> Customer:
    visits = event.visits if row is None else row.visits + 1
    return Customer(customer=event.customer, visits=visits, balance=event.balance, active=event.active, seen_at=event.seen_at)


def app(settings: Settings) -> Truecopy:
    """A service that publishes and copies the benchmark's entity."""
    found = Truecopy("bench", partitions=PARTITIONS, settings=settings)
    found.add(copied)
    found.add(reduced)
    return found


def changes(regime: str, events: int) -> Iterator[tuple[str, CustomerChanged]]:
    """`events` pairs of key and event, in the order in which they are published."""
    for number, key in enumerate(_keys(regime, events)):
        name = f"customer-{key:07d}"
        yield (
            name,
            CustomerChanged(
                customer=name,
                visits=number,
                balance=number * 0.01,
                active=number % 2 == 0,
                seen_at=_START + timedelta(milliseconds=number),
            ),
        )


def _keys(regime: str, events: int) -> Iterator[int]:
    if regime == "spread":
        for _ in range(2):
            yield from range(events // 2)
        return
    for first in range(0, events // VERSIONS, KEYS_AT_A_TIME):
        for _ in range(VERSIONS):
            yield from range(first, min(first + KEYS_AT_A_TIME, events // VERSIONS))
