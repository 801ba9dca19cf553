"""How fast a number is rebuilt beside the live one, beside a plain worker that does the same work. `make bench-rebuild`.

One owner's history lies in an embedded log. In each round a plain worker fills the first number in a new PostgreSQL database,
then a rebuild fills the second one there, a copy of the first, and its check must say EQUAL. Compared are events a second until
the log's end, medians of the rounds; the check is told by itself. Then the second number is dropped and built once more by a
process of its own, check and all, while the first follows a publisher: told is its lag before and meanwhile. The last line is
one JSON object.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

from tests.benchmarks.bootstrap import ROOT, fill, lag, made

from truecopy_projections.projection import Projection
from truecopy_services import Settings, Truecopy
from truecopy_services.benchmark.measuring import catch_up
from truecopy_services.benchmark.workload import Customer, CustomerChanged, copied
from truecopy_services.real_servers import real_server
from truecopy_services.rebuilding import drop, rebuild
from truecopy_services.working import spare_collector

ROWS, VERSIONS, ROUNDS = 250_000, 4, 3
LAG_S = 15.0
"""Seconds for which the lag is looked at with nothing beside it."""

second = Projection("bench_copy", entity=copied.entity, row=Customer, version=2)
second.copies(CustomerChanged)
app = Truecopy("bench", partitions=4)
for number in (copied, second):
    app.add(number)


async def one_round(given: dict[str, Any], replica: str, events: int) -> tuple[float, float, float]:
    """Seconds of the plain worker, of the rebuild until the log's end, and of its check."""
    async with app.at(Settings.load(**given, replica=replica)).open() as service:
        plain_s = await catch_up(service, copied, events)
        began, ended = time.perf_counter(), 0.0

        def told(_: object) -> None:
            nonlocal ended
            ended = time.perf_counter()

        done = await rebuild(service, second, told=told)
        if not done.follows or done.applied != events:
            raise SystemExit(f"{second.id}: {done.report.verdict.name}, {done.applied} of {events} events")
        return plain_s, ended - began, time.perf_counter() - ended


async def rebuilt_beside(given: dict[str, Any], replica: str) -> dict[str, float]:
    """Milliseconds from the owner's commit to the live number's, with nothing beside it and while a rebuild is at work."""
    settings = {**given, "replica": replica}
    async with app.at(Settings.load(**settings)).open() as service:
        await drop(service, second)
        before = await lag(service, copied, asyncio.create_task(asyncio.sleep(LAG_S)))
        environment = {**os.environ, **{f"TRUECOPY_{name.upper()}": value for name, value in settings.items()}}
        words = ("-m", "truecopy_services", "rebuild", "tests.benchmarks.rebuild", second.id, "--json")
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, cwd=ROOT, env=environment, stdout=asyncio.subprocess.DEVNULL
        )
        meanwhile = await lag(service, copied, asyncio.create_task(process.wait()))
        if process.returncode:
            raise SystemExit(f"the rebuild ended with {process.returncode}")
    return {
        "lag_p50_ms": before.p50_ms,
        "lag_p99_ms": before.p99_ms,
        "lag_p50_beside_ms": meanwhile.p50_ms,
        "lag_p99_beside_ms": meanwhile.p99_ms,
        "lag_events": meanwhile.events,
    }


async def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--versions", type=int, default=VERSIONS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    spare_collector()
    events = asked.rows * asked.versions
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="truecopy-bench-"))
        given = {"home": folder, "log": f"sqlite:{folder}/log.db", "store": f"sqlite:{folder}/store.db", "check_wait_s": "60"}
        async with app.at(Settings.load(**given)).open() as service:
            await fill(service, asked.rows, asked.versions)
        server = await real_server("postgres", given=None, stack=stack, say=lambda text: print(text, file=sys.stderr))
        rounds = []
        for at in range(asked.rounds):
            rounds.append(await one_round(given, await made(server.url, f"round_{at}"), events))
            print(rounds[-1], file=sys.stderr, flush=True)
        lags = await rebuilt_beside(given, urlsplit(server.url)._replace(path=f"/round_{asked.rounds - 1}").geturl())
    plain_s, rebuilt_s, checked_s = (statistics.median(figures) for figures in zip(*rounds, strict=True))
    found = {"events": events, "rounds": asked.rounds, "plain_s": plain_s, "rebuild_s": rebuilt_s, "check_s": checked_s, **lags}
    print(json.dumps({**{name: round(value, 3) for name, value in found.items()}, "of_plain": round(plain_s / rebuilt_s, 3)}))


if __name__ == "__main__":
    asyncio.run(main())
