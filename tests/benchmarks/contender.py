"""One contender at one piece of work, in a process of its own: `contender.py NAME '{"log": ...}'` prints figures as JSON."""

import asyncio
import json
import os
import sys
import time
from typing import Any

import psutil
import workload
import yardsticks
from fill import app, fill

from truecopy_projections.verdicts import Verdict
from truecopy_services.service import Service


async def publish(log: str, store: str, regime: str, events: int) -> dict[str, float]:
    async with app(log=log, store=store, replica="memory:", regime=regime).open() as service:
        return await fill(service, regime, events)


async def catch_up(log: str, target: str, regime: str, events: int, projection: str) -> dict[str, float]:
    """Seconds from a replica that knows nothing to one that has applied all events, and what a check says of it then."""
    address = target if target.startswith("postgresql") else f"sqlite:{target}"
    async with app(log=log, store="sqlite::memory:", replica=address, regime=regime).open(store=False) as service:
        chosen = service.projections[projection]
        began = time.perf_counter()
        worker = service.worker(chosen)
        while worker.applied < events:
            await worker.step()
        took = time.perf_counter() - began
        await worker.leave()
        await judged(service, projection)
    return {"seconds": took}


async def judged(service: Service, projection: str) -> None:
    """Nothing is measured of a replica that is not proven equal."""
    [report] = await service.check(service.projections[projection])
    if report.verdict is not Verdict.EQUAL:
        raise SystemExit(f"the replica is not equal: {report}")


def main() -> None:
    name, given = sys.argv[1], json.loads(sys.argv[2])
    figures: dict[str, Any]
    if name == "publish":
        figures = asyncio.run(publish(**given))
    elif name in ("truecopy", "truecopy_reduced"):
        projection = workload.copied if name == "truecopy" else workload.reduced
        figures = asyncio.run(catch_up(**given, projection=projection.id))
    else:
        topic = f"{given.pop('regime')}.{workload.ENTITY}"
        figures = {"seconds": yardsticks.run(name, topic=topic, **given)}
    process = psutil.Process(os.getpid())
    print(json.dumps({**figures, "cpu_seconds": time.process_time(), "mib": process.memory_info().rss / 2**20}))


if __name__ == "__main__":
    main()
