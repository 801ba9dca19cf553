"""`make bench`: Truecopy beside what others write, on the same work, on a real Kafka and a real PostgreSQL.

Every piece is a process of its own. Contenders take turns within a round, and each round begins with another one; what is
told are medians. Writes results.json, from which plots.py draws docs/benchmarks.md's pictures.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil

from truecopy_services.benchmark.measuring import Latency
from truecopy_services.benchmark.workload import REGIMES
from truecopy_services.servers import Server, kafka, postgres

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PIECE_WITHIN_S = 900
"""Seconds until a contender is given up."""
EVENTS = 200_000
LONG = 2_000_000
"""Events of the topic on which memory, start-up and several workers are measured."""
ROW_BY_ROW = 10_000
"""Of the same events, those that the slowest contender is measured on; rates are compared."""
RATE, PACED = 200.0, 4_000
WORKERS = (1, 2, 4)
PACKAGES = ("aiokafka", "apsw", "asyncpg", "fastavro", "faststream", "polars", "pydantic")


class Bench:
    """The servers, where the contenders' files lie, and what was measured so far: by name, one figure a round."""

    def __init__(self, kafka: Server, postgres: Server, folder: Path, events: int) -> None:
        self.kafka, self.postgres, self.folder, self.events = kafka, postgres, folder, events
        self.found: dict[str, list[float]] = {}
        self.memory: list[list[float]] = []
        """(events applied, MiB) of a worker on the long topic."""

    def note(self, name: str, figure: float, unit: str = "events/s") -> None:
        self.found.setdefault(name, []).append(figure)
        print(f"  {name}: {figure:,.1f} {unit}" if unit != "events/s" else f"  {name}: {figure:,.0f} {unit}", flush=True)

    def rate(self, name: str, events: int, figures: Mapping[str, Any]) -> None:
        self.note(name, events / figures["seconds"])

    def median(self, name: str) -> float:
        return median(self.found[name])

    @contextmanager
    def target(self, kind: str) -> Iterator[str]:
        """A new database."""
        if kind == "sqlite":
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                yield f"sqlite:{folder}/replica.db"
            return
        name = f"b{uuid.uuid4().hex[:8]}"
        asyncio.run(self._admin(f"CREATE DATABASE {name}"))
        try:
            yield urlsplit(self.postgres.url)._replace(path=f"/{name}").geturl()
        finally:
            asyncio.run(self._admin(f"DROP DATABASE {name} WITH (FORCE)"))

    async def _admin(self, sql: str) -> None:
        connection = await asyncpg.connect(self.postgres.url)
        # Work of the database that is left over from one contender must not be paid for by the next.
        await connection.execute("CHECKPOINT")
        await connection.execute(sql)
        await connection.close()


def started(name: str, given: Mapping[str, Any]) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUECOPY_")}
    command = [sys.executable, str(HERE / "contender.py"), name, json.dumps(given)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def ended(process: subprocess.Popen[str], line: str | None = None) -> dict[str, Any]:
    """Its figures. `line` lets one that waits go on."""
    out, _ = process.communicate(line, timeout=PIECE_WITHIN_S)
    if process.returncode:
        raise SystemExit(f"{process.args} ended with {process.returncode}")
    return dict(json.loads(out.splitlines()[-1]))


def run(name: str, **given: Any) -> dict[str, Any]:
    return ended(started(name, given))


def said(process: subprocess.Popen[str], expected: str) -> None:
    assert process.stdout is not None
    if (line := process.stdout.readline().strip()) != expected:
        raise SystemExit(f"{process.args}: seen {line!r}, expected {expected!r}")


def publish(bench: Bench) -> None:
    """Fill the topics, through a store on each database; the rates of the first are told."""
    for regime in REGIMES:
        with bench.target("sqlite") as store:
            found = run("publish", log=bench.kafka.url, store=store, replica="memory:", regime=regime, events=bench.events)
        bench.note("publish_sqlite", found["publish"])
        bench.note("relay_sqlite", found["relay"])
    with bench.target("postgres") as store:
        found = run("publish", log="memory:", store=store, replica="memory:", regime="aside", events=bench.events // 4)
        bench.note("publish_postgres", found["publish"])
        bench.note("relay_postgres", found["relay"])


def catch_up(bench: Bench, turn: int) -> None:
    for regime in REGIMES:
        for kind in ("postgres", "sqlite"):
            contenders = ["truecopy", "best", *(["faststream"] if kind == "postgres" else [])]
            for name in _turned(contenders, turn):
                with bench.target(kind) as target:
                    if name == "truecopy":
                        found = run(name, log=bench.kafka.url, replica=target, regime=regime, events=bench.events)
                    else:
                        at = {"log": bench.kafka.url, "target": target.removeprefix("sqlite:")}
                        found = run(name, regime=regime, events=bench.events, **at)
                bench.rate(f"catchup_{kind}_{regime}_{name}", bench.events, found)
        with bench.target("postgres") as target:
            found = run("row_by_row", log=bench.kafka.url, target=target, regime=regime, events=ROW_BY_ROW)
        bench.rate(f"catchup_postgres_{regime}_row_by_row", ROW_BY_ROW, found)
    for kind in ("postgres", "sqlite"):
        with bench.target(kind) as target:
            at = {"log": bench.kafka.url, "replica": target, "regime": "repeating", "events": bench.events}
            bench.rate(f"catchup_{kind}_repeating_reducer", bench.events, run("truecopy", projection="reduced", **at))


def append(bench: Bench, turn: int) -> None:
    for name in _turned(["append", "bare_append"], turn):
        topic = f"append-{uuid.uuid4().hex[:8]}"
        if name == "bare_append":
            asyncio.run(_made(bench.kafka.url, topic))
        bench.rate(name, bench.events, run(name, log=bench.kafka.url, topic=topic, events=bench.events))


async def _made(log: str, topic: str) -> None:
    """The same topic for both: made and set up as ours are."""
    from truecopy_bus.logs.kafka import KafkaLog
    from truecopy_bus.record import TopicSpec

    to = KafkaLog.from_url(log)
    await to.create(TopicSpec(name=topic, partitions=4))
    await to.close()


def parts(bench: Bench) -> None:
    """Decoding alone, and decoding, planning and applying without a fetch."""
    found = run("decode", events=bench.events // 2)
    bench.note("decode_columns", found["columns"])
    bench.note("decode_records", found["records"])
    for regime in REGIMES:
        for kind in ("postgres", "sqlite"):
            with bench.target(kind) as target:
                found = run("apply", replica=target, store="sqlite::memory:", regime=regime, events=bench.events)
            bench.rate(f"apply_{kind}_{regime}", bench.events, found)


def latency(bench: Bench) -> None:
    """An owner's process with its relay, a worker's process, both on PostgreSQL."""
    with bench.target("postgres") as store, bench.target("postgres") as replica:
        at = {"log": bench.kafka.url, "store": store, "replica": replica, "namespace": f"l{uuid.uuid4().hex[:8]}"}
        reading = started("reader", at)
        said(reading, "ready")
        owning = started("owner", {**at, "rate": RATE, "events": PACED})
        said(owning, "ready")
        _go(owning)
        committed = ended(owning)["at"]
        seen = ended(reading, json.dumps(list(committed)) + "\n")["at"]
    found = Latency.of(committed, seen)
    bench.note("latency_p50_ms", found.p50_ms, "ms")
    bench.note("latency_p99_ms", found.p99_ms, "ms")


def long(bench: Bench, events: int) -> None:
    """Memory, start-up and several workers, on a topic of many events."""
    with bench.target("sqlite") as store:
        run("publish", log=bench.kafka.url, store=store, replica="memory:", regime="long", events=events)
        with bench.target("postgres") as target:
            at = {"log": bench.kafka.url, "replica": target}
            found = run("truecopy", regime="long", events=events, **at)
            bench.rate("catchup_postgres_long", events, found)
            bench.memory = found["memory"]
            warm = [mib for applied, mib in found["memory"] if applied >= events / 4]
            bench.note("memory_quarter_mib", warm[0], "MiB")
            bench.note("memory_most_mib", max(mib for _, mib in found["memory"]), "MiB")
            bench.note("memory_end_mib", warm[-1], "MiB")
            for _ in range(3):
                found = run("start", regime="long", store=store, **at)
                bench.note("start_worker_long_s", found["worker"], "s")
                bench.note("start_relay_long_s", found["relay"], "s")
    with bench.target("sqlite") as store, bench.target("postgres") as target:
        at = {"log": bench.kafka.url, "replica": target}
        run("publish", log=bench.kafka.url, store=store, replica="memory:", regime="short", events=events // 100)
        run("truecopy", regime="short", events=events // 100, **at)
        for _ in range(3):
            found = run("start", regime="short", store=store, **at)
            bench.note("start_worker_short_s", found["worker"], "s")
            bench.note("start_relay_short_s", found["relay"], "s")
    for workers in WORKERS:
        with bench.target("postgres") as target:
            at = {"log": bench.kafka.url, "replica": target, "regime": "long", "events": events}
            crew = [started("share", at) for _ in range(workers)]
            for one in crew:
                said(one, "ready")
            began = time.perf_counter()
            for one in crew:
                _go(one)
            for one in crew:
                ended(one)
            bench.note(f"catchup_postgres_long_workers_{workers}", events / (time.perf_counter() - began))


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def _turned(names: Sequence[str], turn: int) -> list[str]:
    return [*names[turn % len(names) :], *names[: turn % len(names)]]


RATIOS = {
    "catchup_postgres_vs_best": ("catchup_postgres_repeating_truecopy", "catchup_postgres_repeating_best"),
    "catchup_postgres_spread_vs_best": ("catchup_postgres_spread_truecopy", "catchup_postgres_spread_best"),
    "catchup_sqlite_vs_best": ("catchup_sqlite_repeating_truecopy", "catchup_sqlite_repeating_best"),
    "catchup_sqlite_spread_vs_best": ("catchup_sqlite_spread_truecopy", "catchup_sqlite_spread_best"),
    "catchup_postgres_vs_row_by_row": ("catchup_postgres_repeating_truecopy", "catchup_postgres_repeating_row_by_row"),
    "catchup_postgres_spread_vs_row_by_row": ("catchup_postgres_spread_truecopy", "catchup_postgres_spread_row_by_row"),
    "catchup_postgres_vs_faststream": ("catchup_postgres_repeating_truecopy", "catchup_postgres_repeating_faststream"),
    "catchup_postgres_spread_vs_faststream": ("catchup_postgres_spread_truecopy", "catchup_postgres_spread_faststream"),
    "append_vs_bare_batch": ("append", "bare_append"),
    "decode_columns_vs_records": ("decode_columns", "decode_records"),
    "workers_2_vs_1": ("catchup_postgres_long_workers_2", "catchup_postgres_long_workers_1"),
    "workers_4_vs_1": ("catchup_postgres_long_workers_4", "catchup_postgres_long_workers_1"),
    "start_worker_long_vs_short": ("start_worker_long_s", "start_worker_short_s"),
    "start_relay_long_vs_short": ("start_relay_long_s", "start_relay_short_s"),
}


def results(bench: Bench, rounds: int) -> dict[str, Any]:
    """Ratios of medians. Of what was not measured in this run there is no ratio."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}",
        "versions": {
            "python": platform.python_version(),
            "kafka": bench.kafka.rung,
            "postgres": bench.postgres.rung,
            **{name: version(name) for name in PACKAGES},
        },
        "events": bench.events,
        "rounds": rounds,
        "ratios": {
            name: round(bench.median(ours) / bench.median(other), 3)
            for name, (ours, other) in RATIOS.items()
            if ours in bench.found and other in bench.found
        },
        "figures": {name: round(median(found), 3) for name, found in sorted(bench.found.items())},
        "lowest_and_highest": {
            name: [round(min(found), 3), round(max(found), 3)] for name, found in sorted(bench.found.items())
        },
        "memory": bench.memory,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    pieces = ("publish", "catchup", "append", "parts", "latency", "long")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--long", type=int, default=LONG)
    parser.add_argument("--only", nargs="+", choices=pieces, default=pieces)
    parser.add_argument(
        "--write", type=Path, help="where the results go; a part of the pieces is never written to results.json"
    )
    given = parser.parse_args()
    with ExitStack() as stack:
        print("starting servers", flush=True)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="truecopy-bench-")))
        bench = Bench(stack.enter_context(kafka()), stack.enter_context(postgres()), folder, given.events)
        print(f"{bench.kafka.rung}; {bench.postgres.rung}", flush=True)
        if {"publish", "catchup"} & set(given.only):
            publish(bench)
        for turn in range(given.rounds):
            print(f"round {turn + 1} of {given.rounds}", flush=True)
            if "catchup" in given.only:
                catch_up(bench, turn)
            if "append" in given.only:
                append(bench, turn)
            if "parts" in given.only:
                parts(bench)
            if "latency" in given.only:
                latency(bench)
        if "long" in given.only:
            long(bench, given.long)
        found = results(bench, given.rounds)
    text = json.dumps(found, indent=2) + "\n"
    print(text)
    whole = set(given.only) == set(pieces)
    if (target := given.write or (RESULTS if whole else None)) is not None:
        target.write_text(text)
        print(f"written to {target}")


if __name__ == "__main__":
    main()
