"""The journal of intentions, outside of the system: what shall be, written down before it is published.

Each event is published under the version that it must get, so that one whose answer was lost can be asked for, and is
published again only if it is not there. The oracle folds the journal with code of its own.
"""

import random
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from tests.projections.bank import Deposited

from truecopy_bus.errors import UnavailableError, VersionConflictError
from truecopy_services import Service

ENTITY = "bank.account"
KEYS = 20
CENT = Decimal("0.01")


class Journal:
    """What is intended, by key and in the order of versions."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.intended: dict[str, list[int]] = {}
        self.answers_lost = 0

    def __len__(self) -> int:
        return sum(map(len, self.intended.values()))

    async def publish(self, service: Service, events: int) -> None:
        """Intend and publish, one transaction each, however often the owner's database is away meanwhile."""
        for _ in range(events):
            key, amount = f"k{self._random.randrange(KEYS)}", self._random.randrange(1, 100)
            amounts = self.intended.setdefault(key, [])
            amounts.append(amount)
            await self._one(service, key, amount, len(amounts))

    async def _one(self, service: Service, key: str, amount: int, version: int) -> None:
        lost = False
        while True:
            try:
                await service.publish(key, Deposited(amount=amount), expected_version=version - 1)
            except UnavailableError:
                lost = True
            except VersionConflictError as conflict:
                # Its answer was lost, and nobody else publishes: it is there.
                if not lost or conflict.actual != version:
                    raise
                self.answers_lost += 1
                return
            else:
                return

    def balances(self) -> dict[str, tuple[Any, ...]]:
        """The rows of projection `balance`."""
        rows = {}
        for key, amounts in self.intended.items():
            mean = (Decimal(sum(amounts)) / len(amounts)).quantize(CENT, rounding=ROUND_HALF_EVEN)
            rows[key] = (key, sum(amounts), mean, len(amounts))
        return rows

    def entries(self) -> dict[tuple[str, int], tuple[Any, ...]]:
        """The rows of projection `entries`."""
        return {
            (key, number): (key, number, amount)
            for key, amounts in self.intended.items()
            for number, amount in enumerate(amounts, start=1)
        }
