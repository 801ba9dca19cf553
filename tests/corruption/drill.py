"""The corruption drill, whole: injections on SQLite and PostgreSQL while events flow, then a run without any, and the page.

`make drill` runs it. It prints tables, and writes them to tests/corruption/results.json and docs/corruption-drill.md. ARGS may
name fewer injections, and a seed that repeats a run.
"""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import apsw
import asyncpg
from tests.corruption.alarms import Alarms, listen
from tests.corruption.behind import Behind, BehindPostgres, BehindSqlite
from tests.corruption.intended import Intent
from tests.corruption.ledger import PROJECTIONS
from tests.corruption.report import write
from tests.corruption.stage import Outcome, plan, staged

from truecopy_services.servers import Server, kafka, postgres

DATABASES = ("SQLite", "PostgreSQL")
INJECTIONS = 1_000
COMPARISONS = 10_000
RATE = 560
"""Events a second that are published. The page says how many there were."""
QUIET, MOVING = 500, 600
A_STAGE = 110
"""Injections of a stage. It has one round: a check folds the log from its beginning, and 500 events/s soon make that long."""
PAGES_EVERY = 3
"""Stages of which one has a page of an index overwritten, on PostgreSQL."""
MARKS_SHARE = 0.1
"""Share of the comparisons without injections that are of marks, at the least; the others are of buckets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """What was done to one database, and what came of it. Seconds are those in which events flowed."""

    database: str
    outcomes: list[Outcome]
    faults: list[str]
    events: int
    seconds: float
    minutes: float
    alarms: Alarms


@asynccontextmanager
async def place(database: str, servers: dict[str, Server], number: int) -> AsyncIterator[tuple[dict[str, str], Path, Behind]]:
    """Addresses and a folder for one stage, and the way in behind Truecopy's back."""
    with tempfile.TemporaryDirectory(prefix="truecopy-drill-") as name:
        folder = Path(name)
        if database == "SQLite":
            yield {}, folder, BehindSqlite(folder / "ledger.replica.db")
            return
        server = servers["postgres"]
        admin = await asyncpg.connect(server.url)
        await admin.execute(f"CREATE DATABASE drill{number}")
        await admin.close()
        url = urlsplit(server.url)._replace(path=f"/drill{number}").geturl()
        addresses = {"TRUECOPY_LOG": servers["kafka"].url, "TRUECOPY_REPLICA": url}
        yield addresses, folder, BehindPostgres(url, server)


async def half(database: str, servers: dict[str, Server], arguments: argparse.Namespace) -> Half:
    """All stages on one database, then the run without injections."""
    first_s = time.monotonic()
    outcomes: list[Outcome] = []
    faults: list[str] = []
    events, seconds, number = 0, 0.0, 0
    while len(outcomes) < arguments.injections:
        seed = arguments.seed + number
        projection = PROJECTIONS[number % len(PROJECTIONS)]
        intent = Intent(seed=seed, quiet=QUIET, moving=MOVING)
        async with (
            place(database, servers, number) as (addresses, folder, behind),
            staged(projection, addresses, folder, behind, intent=intent, rate=RATE, namespace=f"drill{number}") as stage,
        ):
            began_s, before = time.monotonic(), await stage.flow.ask("count")
            files = database == "SQLite" or number % PAGES_EVERY == 0
            await stage.round(*plan(stage.draw, A_STAGE), files=files)
            seconds += time.monotonic() - began_s
            events += await stage.flow.ask("count") - before
            await stage.end()
        outcomes += stage.outcomes
        faults += [f"seed {seed}: {fault}" for fault in stage.faults]
        number += 1
        print(f"{database}: {len(outcomes)} injections, {len(faults)} faults, {events / seconds:.0f} events/s", flush=True)
        for fault in stage.faults:
            print(f"  seed {seed}: {fault}", flush=True)
    async with place(database, servers, number) as (addresses, folder, _):
        heard = await listen(
            addresses,
            folder,
            intent=Intent(seed=arguments.seed, quiet=QUIET, moving=MOVING),
            rate=RATE,
            namespace="alarms",
            comparisons=arguments.comparisons,
            marks=int(MARKS_SHARE * arguments.comparisons),
        )
    print(f"{database}: {heard.compared} comparisons, {len(heard.alarms)} false alarms", flush=True)
    minutes = (time.monotonic() - first_s) / 60
    return Half(
        database=database, outcomes=outcomes, faults=faults, events=events, seconds=seconds, minutes=minutes, alarms=heard
    )


def versions(servers: dict[str, Server]) -> str:
    """What it ran on."""
    named = [f"SQLite {apsw.sqlite_lib_version()}", *(server.rung.partition(" in /")[0] for server in servers.values())]
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {', '.join(named)}"


async def main(arguments: argparse.Namespace) -> int:
    halves: list[Half] = []
    servers: dict[str, Server] = {}
    if "SQLite" in arguments.only:
        halves.append(await half("SQLite", servers, arguments))
    if "PostgreSQL" in arguments.only:
        with kafka() as broker, postgres() as server:
            servers |= {"kafka": broker, "postgres": server}
            halves.append(await half("PostgreSQL", servers, arguments))
    write(halves, versions=versions(servers), keep=arguments.keep)
    bad = [fault for one in halves for fault in (*one.faults, *one.alarms.alarms)]
    if bad:
        print(f"{len(bad)} faults; repeat with: make drill ARGS='--seed {arguments.seed}'", file=sys.stderr)
    return bool(bad)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="the corruption drill")
    parser.add_argument("--injections", type=int, default=INJECTIONS, help="on each database, at least")
    parser.add_argument("--comparisons", type=int, default=COMPARISONS, help="without injections, at least")
    parser.add_argument("--seed", type=int, default=1, help="what repeats a run")
    parser.add_argument("--only", nargs="+", choices=DATABASES, default=DATABASES, help="these databases")
    parser.add_argument("--keep", action="store_true", help="write results.json and the page too")
    sys.exit(asyncio.run(main(parser.parse_args())))
