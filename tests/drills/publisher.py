"""A publisher as a process of its own: a business row and its event in one transaction, again and again, until it is killed.

It notes outside of the system what it intends, and what was acknowledged with which version.
"""

import asyncio
import os
import random
import sys
from contextlib import suppress
from pathlib import Path

from tests.drills.journal import ENTITY, Journal
from tests.drills.ledger import app
from tests.projections.bank import Deposited

from truecopy_bus.errors import UnavailableError, VersionConflictError
from truecopy_services import Service, Settings

KEYS = 5
PACE_S = 0.002
"""Seconds between two writes, so that a drill that lasts does not drown in them."""
TABLE = "CREATE TABLE IF NOT EXISTS accounts (account TEXT PRIMARY KEY, amount BIGINT NOT NULL, events BIGINT NOT NULL)"
BOOK = (
    "INSERT INTO accounts (account, amount, events) VALUES ($1, $2, 1) ON CONFLICT (account) DO UPDATE "
    "SET amount = accounts.amount + excluded.amount, events = accounts.events + 1"
)
BOOKED = "SELECT account, amount, events FROM accounts"
ABORTS = "DRILL_ABORTS"
"""The variable that holds after how many writes one is made that is taken back; its amount is below zero."""
REFUSED_LINE = "publisher: refused:"
ACCEPTED_LINE = "publisher: accepted again"


async def prepare(service: Service) -> None:
    """Make the owner's tables: those of its events, and that of its business."""
    await service.store.open()
    async with service.store.transaction() as tx:
        await tx.execute(TABLE)


async def verify(service: Service, journal: Journal) -> None:
    """Each event of a publisher's has its business row's share, and no other."""
    async with service.store.transaction() as tx:
        found = {account: (int(amount), events) for account, amount, events in await tx.execute(BOOKED)}
    intended = {key: (sum(of), len(of)) for key, of in journal.intended.items() if key.startswith("v")}
    assert found == intended


async def publish(service: Service, key: str, amount: int, version: int) -> None:
    """Until it is there. What is away or full is said, and that it works again."""
    refused = False
    while True:
        try:
            async with service.store.transaction() as tx:
                await tx.execute(BOOK, key, amount)
                await tx.publish(key, Deposited(amount=amount), expected_version=version - 1)
            break
        except UnavailableError as fault:
            if not refused:
                print(REFUSED_LINE, fault, file=sys.stderr, flush=True)
            refused = True
        except VersionConflictError as conflict:
            if not refused or conflict.actual != version:
                raise
            break  # its answer was lost, and nobody else publishes
        await asyncio.sleep(PACE_S)
    if refused:
        print(ACCEPTED_LINE, file=sys.stderr, flush=True)


class _TakenBackError(Exception):
    """Ends a transaction that shall leave nothing."""


async def take_back(service: Service, key: str, amount: int) -> None:
    """Write and publish in a transaction that is rolled back, or that fails before."""
    with suppress(_TakenBackError, UnavailableError):
        async with service.store.transaction() as tx:
            await tx.execute(BOOK, key, amount)
            await tx.publish(key, Deposited(amount=amount))
            raise _TakenBackError


async def main(notes: Path, seed: int) -> None:
    """Publish to the keys v0, v1, ... what `seed` draws."""
    draw, aborts = random.Random(seed), int(os.environ.get(ABORTS, "0"))
    async with app.at(Settings.load()).open() as service:
        versions = {key: await service.store.version(ENTITY, key) for key in (f"v{n}" for n in range(KEYS))}
        with notes.open("a") as written:
            while True:
                key, amount = draw.choice(list(versions)), draw.randrange(1, 100)
                versions[key] += 1
                if aborts and sum(versions.values()) % aborts == 0:
                    print("aborted", key, -amount, file=written, flush=True)
                    await take_back(service, key, -amount)
                print("intended", key, amount, file=written, flush=True)
                await publish(service, key, amount, versions[key])
                print("acknowledged", key, versions[key], file=written, flush=True)
                await asyncio.sleep(PACE_S)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
