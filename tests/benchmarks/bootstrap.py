"""How long a new replica takes from a peer, beside replaying the log, and what the peer notices of it. `make bench-bootstrap`.

One owner's history lies in an embedded log: ROWS keys of VERSIONS versions each. A peer catches up from offset 0, which is the
replay that a bootstrap is measured beside, is checked and certified. Then a new replica is filled from it by a process of its
own, first while nothing else runs, then while events are published, relayed and applied by the peer at RATE a second; a worker
of the new replica follows to the end, and a check must say EQUAL. The last line is one JSON object.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from truecopy_projections.projection import Projection
from truecopy_services import Service, Settings, Truecopy, Verdict
from truecopy_services.benchmark.measuring import Latency, Sightings, catch_up, pace, watched
from truecopy_services.benchmark.workload import CustomerChanged, copied, reduced
from truecopy_services.real_servers import real_server
from truecopy_services.working import first_error, spare_collector, work

ROOT = Path(__file__).parent.parent.parent
ROWS, VERSIONS, RATE = 300_000, 4, 100.0
PUBLISHED_AT_ONCE = 5_000
PACED_AT_ONCE = 100
_START = datetime(2026, 1, 1, tzinfo=UTC)

app = Truecopy("bench", partitions=4)
for projection in (copied, reduced):
    app.add(projection)


def changes(rows: int, versions: int) -> Iterator[tuple[str, CustomerChanged]]:
    """Every key once, and then each once again, and so on: nothing to reduce within a batch."""
    for number in range(rows * versions):
        name = f"customer-{number % rows:07d}"
        seen_at = _START + timedelta(milliseconds=number)
        event = CustomerChanged(customer=name, visits=number, balance=number * 0.01, active=number % 2 == 0, seen_at=seen_at)
        yield name, event


async def fill(service: Service, rows: int, versions: int) -> None:
    left = changes(rows, versions)
    while some := list(islice(left, PUBLISHED_AT_ONCE)):
        await service.publish_many(some)
    relay = service.relay()
    await relay.drain()
    await relay.mark()
    await relay.leave()


async def filled(settings: dict[str, str], name: str, peer: str) -> tuple[float, dict[str, Any]]:
    """Seconds of `truecopy bootstrap`, from the start of its process to its end, and what it said."""
    environment = {**os.environ, **{f"TRUECOPY_{key.upper()}": value for key, value in settings.items()}}
    words = ("-m", "truecopy_services", "bootstrap", "tests.benchmarks.bootstrap", name, "--from", peer, "--json")
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"bootstrap ended with {process.returncode}: {out.decode()}")
    return time.perf_counter() - began, json.loads(out.splitlines()[-1])


async def lag(service: Service, projection: Projection[Any], until: asyncio.Task[Any]) -> Latency:
    """From the owner's commit to the peer's, at RATE events a second, until the task has ended (at the least PACED_AT_ONCE)."""
    seen, stop = Sightings(), asyncio.Event()
    committed_at: dict[str, float] = {}
    with first_error():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work(watched(service, seen.note), stop, relay=True, projections=[projection]))
            try:
                await seen.until(await pace(service, rate=RATE, events=1))
                while not (committed_at and until.done()):
                    committed_at |= await pace(service, rate=RATE, events=PACED_AT_ONCE)
                await seen.until(committed_at)
            finally:
                stop.set()
    return Latency.of(committed_at, seen.seen_at)


async def measured(
    given: dict[str, str], projection: Projection[Any], peer: str, news: list[str], events: int
) -> dict[str, float | int]:
    """Replay into the peer, certify it, fill one new replica in quiet and one while the peer moves, follow, prove."""
    figures: dict[str, float | int] = {}
    async with app.at(Settings.load(**given, replica=peer)).open() as service:
        figures["replay_s"] = await catch_up(service, projection, events)
        [report] = await service.check(projection)
        await service.certify(report)
        figures["bootstrap_s"], said = await filled({**given, "replica": news[0]}, projection.name, peer)
        figures["copied_bytes"] = said["copied_bytes"]
        figures["lag_quiet_p50_ms"], figures["lag_quiet_p99_ms"] = _cuts(await lag(service, projection, _over()))
        filling = asyncio.create_task(filled({**given, "replica": news[1]}, projection.name, peer))
        figures["lag_copied_p50_ms"], figures["lag_copied_p99_ms"] = _cuts(await lag(service, projection, filling))
        figures["bootstrap_moving_s"], said = await filling
        relay = service.relay()
        await relay.drain()
        await relay.mark()
        await relay.leave()
    async with app.at(Settings.load(**given, replica=news[1])).open() as service:
        state = await service.log.describe(projection.entity)
        behind = sum(end for _, end in state.bounds.values()) - sum(said["positions"].values())
        figures["behind_records"] = behind
        began = time.perf_counter()
        worker = service.worker(projection)
        while await worker.step():
            pass
        await worker.leave()
        figures["follow_s"] = time.perf_counter() - began
        [report] = await service.check(projection)
        if report.verdict is not Verdict.EQUAL or report.delivered.facts["duplicates"]:
            raise SystemExit(f"{projection.id}: {report.verdict.name} after following, {report.delivered.facts}")
        figures["events"] = report.count
    return figures


async def made(server: str, name: str) -> str:
    """The address of a new database on this PostgreSQL."""
    admin = await asyncpg.connect(server)
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    return urlsplit(server)._replace(path=f"/{name}").geturl()


def _cuts(found: Latency) -> tuple[float, float]:
    return found.p50_ms, found.p99_ms


def _over() -> "asyncio.Task[Any]":
    return asyncio.create_task(asyncio.sleep(0))


async def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--versions", type=int, default=VERSIONS)
    parser.add_argument("--databases", default="sqlite,postgres")
    asked = parser.parse_args()
    spare_collector()
    found: dict[str, Any] = {"rows": asked.rows, "versions": asked.versions}
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="truecopy-bench-"))
        given = {"home": folder, "log": f"sqlite:{folder}/log.db", "store": f"sqlite:{folder}/store.db", "check_wait_s": "60"}
        async with app.at(Settings.load(**given)).open() as service:
            began = time.perf_counter()
            await fill(service, asked.rows, asked.versions)
            print(f"published and relayed in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        events, server = asked.rows * asked.versions, None
        if "postgres" in asked.databases:
            server = await real_server("postgres", given=None, stack=stack, say=lambda text: print(text, file=sys.stderr))
        for projection in (copied, reduced):
            for database in asked.databases.split(","):
                names = [f"{projection.name}_{one}" for one in ("peer", "new", "other")]
                places = [f"sqlite:{folder}/{name}.db" for name in names]
                if database == "postgres":
                    assert server is not None
                    places = [await made(server.url, name) for name in names]
                figures = await measured(given, projection, places[0], places[1:], events)
                events = int(figures["events"])
                found[f"{database}_{projection.name}"] = {name: round(figure, 3) for name, figure in figures.items()}
                print(json.dumps({f"{database}_{projection.name}": figures}), file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())
