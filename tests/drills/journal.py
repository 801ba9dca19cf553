"""The journal of intentions, outside of the system: what shall be, written down before it is published.

Each event is published under the version that it must get, so that one whose answer was lost can be asked for, and is
published again only if it is not there. A publisher in a process of its own keeps notes, which tell what was intended from what
was acknowledged. The oracle folds the journal with code of its own.
"""

import random
from collections import Counter
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

from tests.projections.bank import Deposited

from truecopy_bus.errors import UnavailableError, VersionConflictError
from truecopy_services import Service

ENTITY = "bank.account"
KEYS = 20
CENT = Decimal("0.01")


_Notes = list[tuple[str, int]]


def _taken(notes: Path) -> tuple[_Notes, _Notes]:
    """What was intended (key, amount) and what was acknowledged (key, version), of notes that are gone then."""
    lines = [line.split() for line in notes.read_text().splitlines()]
    notes.unlink()
    intended = [(key, int(figure)) for word, key, figure in lines if word == "intended"]
    return intended, [(key, int(figure)) for word, key, figure in lines if word == "acknowledged"]


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

    async def publish_at_once(self, service: Service, events: int) -> None:
        """Intend and publish in one transaction."""
        changes = [(f"k{self._random.randrange(KEYS)}", self._random.randrange(1, 100)) for _ in range(events)]
        for key, amount in changes:
            self.intended.setdefault(key, []).append(amount)
        await service.publish_many((key, Deposited(amount=amount)) for key, amount in changes)

    async def publish_one(self, service: Service, key: str, amount: int) -> None:
        """Intend and publish this one."""
        self.intended.setdefault(key, []).append(amount)
        await service.publish(key, Deposited(amount=amount), expected_version=len(self.intended[key]) - 1)

    async def settle(self, service: Service, notes: Path) -> bool:
        """Take in the notes of a publisher that was killed; whether the write that it had no answer to is there.

        What was acknowledged is there once, under the version that was told; what was not is there once or not at all.
        """
        intended, answered = _taken(notes)
        versions = Counter({key: len(amounts) for key, amounts in self.intended.items()})
        for (key, amount), (told, version) in zip(intended, answered, strict=False):
            versions[key] += 1
            assert (told, version) == (key, versions[key])
            self.intended.setdefault(key, []).append(amount)
        doubtful = intended[len(answered) :]
        assert len(doubtful) <= 1, "one write at a time"
        there = False
        for key in {key for key, _ in intended}:
            version = await service.store.version(ENTITY, key)
            more = [amount for it, amount in doubtful if it == key][: version - versions[key]]
            self.intended.setdefault(key, []).extend(more)
            assert version == len(self.intended[key]), "an acknowledged write is lost, or one is there twice"
            there = there or bool(more)
        return there

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

    def latest(self) -> dict[str, tuple[Any, ...]]:
        """The rows of projection `latest`."""
        return {key: (key, amounts[-1]) for key, amounts in self.intended.items()}

    def entries(self) -> dict[tuple[str, int], tuple[Any, ...]]:
        """The rows of projection `entries`."""
        return {
            (key, number): (key, number, amount)
            for key, amounts in self.intended.items()
            for number, amount in enumerate(amounts, start=1)
        }

    def rounds(self) -> list[tuple[Any, ...]]:
        """The gathered rows of projection `entries`, each with the number of its contributions."""
        most = max(map(len, self.intended.values()))
        found = [[amounts[at] for amounts in self.intended.values() if at < len(amounts)] for at in range(most)]
        return [(at, len(amounts), sum(amounts), len(amounts)) for at, amounts in enumerate(found, start=1)]
