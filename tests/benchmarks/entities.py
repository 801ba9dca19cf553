"""How long it takes to load an entity: one of ten versions, and one of ten thousand through its snapshot and without.

    python -m tests.benchmarks.entities [--rounds N] [--postgres URL]

Interleaved rounds on one store, medians. The long history is measured where its last snapshot lies furthest back.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from decimal import Decimal
from pathlib import Path

from tests.services.test_entities import Deposited, balances

from truecopy_projections.entity_states import load_state
from truecopy_projections.limits import SNAPSHOT_EVENTS
from truecopy_services import Truecopy
from truecopy_services.entities import Entity

LOADS = 50
"""Loads of one round, of which the mean is taken."""
SHORT, LONG = 10, 10_000


async def load_ms(entity: Entity, key: str, *, afresh: bool = False, loads: int = LOADS) -> float:
    began = time.perf_counter()
    for _ in range(loads):
        async with entity.store.database.snapshot() as read:
            await load_state(read, entity.fold, key, afresh=afresh)
    return (time.perf_counter() - began) / loads * 1000


async def measured(store: str, rounds: int) -> None:
    async with Truecopy("bank", log="memory:", replica="memory:", store=store).open() as service:
        entity = service.entity(balances)
        for key, versions in (("short", SHORT), ("long", LONG)):
            await service.publish_many([(key, Deposited(amount=Decimal(1))) for _ in range(versions)])
            await entity.at(key)
        await service.publish_many([("long", Deposited(amount=Decimal(1))) for _ in range(SNAPSHOT_EVENTS - 1)])
        found: dict[str, list[float]] = {"short": [], "long": [], "afresh": []}
        for _ in range(rounds):
            found["short"].append(await load_ms(entity, "short"))
            found["long"].append(await load_ms(entity, "long"))
            found["afresh"].append(await load_ms(entity, "long", afresh=True, loads=1))
    short, long, afresh = (statistics.median(found[name]) for name in found)
    print(
        f"{store.partition(':')[0]}: {SHORT} versions {short:.2f} ms; {LONG + SNAPSHOT_EVENTS - 1} versions, the last "
        f"{SNAPSHOT_EVENTS - 1} behind a snapshot, {long:.2f} ms, {long / short:.2f} times; without snapshots {afresh:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--postgres", metavar="URL")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measured(f"sqlite:{Path(folder) / 'store.db'}", arguments.rounds))
    if arguments.postgres:
        asyncio.run(measured(arguments.postgres, arguments.rounds))


if __name__ == "__main__":
    main()
