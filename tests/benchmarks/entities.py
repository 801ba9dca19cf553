"""How long an entity loads with ten versions, and with ten thousand, with its snapshot and without. `make bench-entities`.

Interleaved rounds on one store, medians. The long history is measured where its last snapshot lies furthest back. Then as many
keys as `--keys` says are changed, and rolled back to what they were, first as a dry run. The last line is one JSON object.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.services.test_entities import Deposited, balances

from truecopy_bus.rollbacks import Outcome
from truecopy_projections.entity_states import load_state
from truecopy_projections.limits import SNAPSHOT_EVENTS
from truecopy_services import Service, Truecopy
from truecopy_services.entities import Entity
from truecopy_services.real_servers import real_server
from truecopy_services.rolling_back import open_rollback, rollback_many

LOADS = 50
"""Loads of one round, of which the mean is taken."""
SHORT, LONG = 10, 10_000
KEYS, ROUNDS = 10_000, 15


async def load_ms(entity: Entity, key: str, *, afresh: bool = False, loads: int = LOADS) -> float:
    began = time.perf_counter()
    for _ in range(loads):
        async with entity.store.database.snapshot() as read:
            await load_state(read, entity.fold, key, afresh=afresh)
    return (time.perf_counter() - began) / loads * 1000


async def loads_ms(service: Service, rounds: int) -> dict[str, float]:
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
    return {"short_ms": short, "long_ms": long, "times": long / short, "afresh_ms": afresh}


async def rollback_s(service: Service, keys: int) -> dict[str, float]:
    """Two versions of each key before the time that it goes back to, and one since."""
    entity, names = service.entity(balances), [f"k{at:07}" for at in range(keys)]
    for _ in range(2):
        await service.publish_many([(key, Deposited(amount=Decimal(1))) for key in names])
    async with service.store.transaction() as tx:
        await tx.execute("UPDATE truecopy_events SET at_ms = at_ms - 60000")
        [[since_ms]] = await tx.execute("SELECT MAX(at_ms) + 30000 FROM truecopy_events")
    await service.publish_many([(key, Deposited(amount=Decimal(5))) for key in names])
    began = time.perf_counter()
    would = [step.outcome async for step in rollback_many(entity, since_ms=since_ms)]
    dry, began = time.perf_counter() - began, time.perf_counter()
    rollback = await open_rollback(entity, since_ms=since_ms)
    planned, began = time.perf_counter() - began, time.perf_counter()
    done = [step.outcome async for step in rollback_many(entity, rollback)]
    carried_out = time.perf_counter() - began
    assert would == done == [Outcome.RESTORED] * keys
    return {"dry_run_s": dry, "plan_s": planned, "rollback_s": carried_out}


async def measured(name: str, store: str, rounds: int, keys: int) -> dict[str, Any]:
    async with Truecopy("bank", log="memory:", replica="memory:", store=store).open() as service:
        found = {**await loads_ms(service, rounds), **await rollback_s(service, keys)}
    print(
        f"{name}: {SHORT} versions load in {found['short_ms']:.2f} ms; {LONG + SNAPSHOT_EVENTS - 1} versions, the last "
        f"{SNAPSHOT_EVENTS - 1} behind a snapshot, in {found['long_ms']:.2f} ms, {found['times']:.2f} times; without snapshots "
        f"{found['afresh_ms']:.0f} ms. {keys} keys rolled back: dry run {found['dry_run_s']:.1f} s, "
        f"plan {found['plan_s']:.2f} s, carried out in {found['rollback_s']:.1f} s"
    )
    return {name: {what: round(figure, 3) for what, figure in found.items()}}


async def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--keys", type=int, default=KEYS)
    parser.add_argument("--databases", default="sqlite,postgres")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        for name in arguments.databases.split(","):
            store = f"sqlite:{Path(stack.enter_context(tempfile.TemporaryDirectory())) / 'store.db'}"
            if name == "postgres":
                server = await real_server("postgres", given=None, stack=stack, say=lambda text: print(text, file=sys.stderr))
                store = server.url
            results |= await measured(name, store, arguments.rounds, arguments.keys)
    print(json.dumps(results))


if __name__ == "__main__":
    asyncio.run(main())
