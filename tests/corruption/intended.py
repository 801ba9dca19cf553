"""What is intended: the events that the flow publishes, drawn from a seed, and the rows that they must come to.

Both the publisher and the oracle draw from here; the oracle asks nothing of the system but how many were committed. A publish
is one transaction and the next begins when it is answered, so what is committed is always the beginning of this sequence.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import islice
from typing import Any

QUIET_VERSIONS = 3
CENT = Decimal("0.01")
Rows = dict[tuple[str, tuple[Any, ...]], tuple[Any, ...]]
"""Rows by source key and sub key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """`quiet` keys get their events first and are then left alone; `moving` ones get all that follow."""

    seed: int
    quiet: int
    moving: int

    def events(self) -> Iterator[tuple[str, int]]:
        """(key, amount), without end."""
        draw = random.Random(self.seed)
        for _ in range(QUIET_VERSIONS):
            for number in range(self.quiet):
                yield f"q{number:05d}", draw.randrange(1, 500)
        for number in range(self.moving):
            yield f"m{number:05d}", draw.randrange(1, 500)
        while True:
            yield f"m{draw.randrange(self.moving):05d}", draw.randrange(1, 500)

    @property
    def first(self) -> int:
        """How many events there are when all quiet keys have all of theirs and all moving ones have begun."""
        return QUIET_VERSIONS * self.quiet + self.moving

    @property
    def older(self) -> int:
        """How many there are when all versions of the quiet keys but their last are there."""
        return (QUIET_VERSIONS - 1) * self.quiet

    def amounts(self, events: int) -> dict[str, list[int]]:
        """The amounts of each key among the first `events`, in the order of their versions."""
        found: dict[str, list[int]] = {}
        for key, amount in islice(self.events(), events):
            found.setdefault(key, []).append(amount)
        return found

    def rows(self, events: int) -> dict[str, Rows]:
        """By projection, the rows that the first `events` come to."""
        amounts = self.amounts(events)
        return {
            "balance": {(key, ()): (key, sum(of), _mean(of), len(of)) for key, of in amounts.items()},
            "entries": {
                (key, (number,)): (key, number, amount)
                for key, of in amounts.items()
                for number, amount in enumerate(of, start=1)
            },
            "latest": {(key, ()): (key, of[-1]) for key, of in amounts.items()},
        }


def _mean(amounts: list[int]) -> Decimal:
    return (Decimal(sum(amounts)) / len(amounts)).quantize(CENT, rounding=ROUND_HALF_EVEN)
