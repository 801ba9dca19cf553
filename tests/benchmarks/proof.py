"""`make bench-proof`: what a quick check costs, a scrub, a comparison beside reladiff, and carrying all that on the apply path.

Each round measures everything once, contenders in turns; what is told are medians. Bytes are those that a proxy on the loopback
counted from server to client. Writes proof.json, and the tables of docs/scrubbing.md from it.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from importlib.metadata import version
from operator import sub
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from bench import _processor as processor

from truecopy_bus.fold import DIGEST_MODULUS
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.record import TopicSpec
from truecopy_bus.registry import Registry
from truecopy_bus.sql import Kind, Shape, columns
from truecopy_bus.sql.address import connect
from truecopy_projections.check import check
from truecopy_projections.digest import bucket_of, row_hash, shifted
from truecopy_projections.limits import BUCKETS, SCAN_ROWS
from truecopy_projections.peers import compare
from truecopy_projections.replica import Replica
from truecopy_projections.replicas import open_replica
from truecopy_projections.scrub import scrub
from truecopy_projections.state import Copies, PartitionPlan, PartitionState, StoredRow
from truecopy_projections.verdicts import Verdict
from truecopy_services.benchmark.workload import copied
from truecopy_services.servers import Server, postgres

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "proof.json", HERE.parent.parent / "docs" / "scrubbing.md"
MEASURED = re.compile(r"(?<=<!-- measured -->\n).*(?=<!-- /measured -->)", re.DOTALL)
ROWS, DIFFERING, BATCH = 1_000_000, 10, 5_000
SIZES = (10_000, 100_000, 1_000_000)
APPLIED = 100_000
"""Rows of the comparison of apply paths."""
SCRUBBED = BUCKETS // 4
"""Buckets of the comparison of scrubs."""
OWN = tuple(field.column for field in copied.fields)
PLAIN = Shape(name="plain", columns=OWN, key=("customer",))
_START = datetime(2026, 1, 1, tzinfo=UTC)
Figures = dict[str, list[float]]


def values(number: int, turn: int = 1) -> tuple[Any, ...]:
    return f"customer-{number:07d}", number + turn, number * 0.01, number % 2 == 0, _START + timedelta(milliseconds=number)


class Filling:
    """A replica that is filled with rows as a worker's plans would fill it, digests and all, without a log."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica

    async def begin(self, incarnation: str) -> None:
        await self.replica.install(copied, partitions=1, incarnation=incarnation)
        self._fence = (await self.replica.renew(copied, "bench", (), lease_s=86_400, seize=True))[0]
        async with self.replica.snapshot() as snapshot:
            self._state = (await snapshot.states(copied.id))[0]

    def planned(self, numbers: Sequence[int], turn: int = 1) -> PartitionPlan:
        """A plan by columns that writes these rows for the first or the second time."""
        rows = [values(number, turn) for number in numbers]
        keys = [row[0] for row in rows]
        hashes = [row_hash(copied.id, key, row) for key, row in zip(keys, rows, strict=True)]
        before = [0] * len(rows)
        if turn > 1:
            old = (row_hash(copied.id, key, values(number, turn - 1)) for key, number in zip(keys, numbers, strict=True))
            before = list(map(int.from_bytes, old))
        was = self._state
        elements = [blake2b(key.encode() + b"%d" % turn, digest_size=32).digest() for key in keys]
        self._state = replace(
            moved(was, keys, list(map(sub, map(int.from_bytes, hashes), before))),
            position=was.position + len(rows),
            count=was.count + len(rows),
            input_digest=(was.input_digest + sum(map(int.from_bytes, elements))) % DIGEST_MODULUS,
        )
        some = Copies(keys, list(zip(*rows, strict=True)), hashes, [(turn, element, element) for element in elements])
        return PartitionPlan(fence=self._fence, was=was, state=self._state, copies=(some,))

    async def alter(self, numbers: Collection[int]) -> None:
        """Let these rows say something else, and the digests with them, as a wrong reducer would."""
        rows = {values(number)[0]: (values(number), values(number, 7)) for number in numbers}
        puts = {(key, ()): StoredRow(new, row_hash(copied.id, key, new)) for key, (_, new) in rows.items()}
        moves = [
            int.from_bytes(puts[key, ()].hash) - int.from_bytes(row_hash(copied.id, key, old)) for key, (old, _) in rows.items()
        ]
        was, self._state = self._state, moved(self._state, list(rows), moves)
        await self.put(PartitionPlan(fence=self._fence, was=was, state=self._state, puts=puts))

    async def put(self, plan: PartitionPlan) -> None:
        assert await self.replica.apply(copied, [plan], durable=False) == {0}


def moved(state: PartitionState, keys: Sequence[str], moves: Sequence[int]) -> PartitionState:
    """The state after the row digest of each of these keys has moved so far."""
    by_bucket: dict[int, int] = {}
    for key, move in zip(keys, moves, strict=True):
        by_bucket[bucket_of(key)] = by_bucket.get(bucket_of(key), 0) + move
    digest = (state.row_digest + sum(moves)) % DIGEST_MODULUS
    return replace(state, rows=shifted(state.rows, by_bucket), row_digest=digest)


async def seconds(work: Any) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


class Proxy:
    """Passes bytes between clients on the loopback and a server, and counts what came from the server."""

    def __init__(self, host: str, port: int) -> None:
        self._to, self.read = (host, port), 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(*self._to)
        with suppress(asyncio.CancelledError):  # when the listener ends
            both = self._pass(reader, there[1], False), self._pass(there[0], writer, True)
            await asyncio.gather(*both, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                self.read += len(data) if counted else 0
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


def at_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    who = parts.netloc.rpartition("@")[0]
    return parts._replace(netloc=f"{who}@127.0.0.1:{port}", query="").geturl()


async def quick_checks(url: str, kind: str, sizes: Sequence[int], rounds: int, found: Figures) -> None:
    """(a) One replica that grows; the same check each time."""
    replica = await open_replica(url)
    filling, log = Filling(replica), MemoryLog()
    await log.create(TopicSpec(name=copied.entity, partitions=1))
    await filling.begin(str((await log.describe(copied.entity)).incarnation))
    registry, at = Registry(log), 0
    await registry.ensure()
    for size in sizes:
        for first in range(at, size, BATCH):
            await filling.put(filling.planned(range(first, min(first + BATCH, size))))
        at = size
        for _ in range(3 * rounds):
            took = await seconds(check(copied, replica, log, registry, quick=True, wait_s=0))
            found.setdefault(f"quick_check_{kind}_{size}_ms", []).append(1000 * took)
    await replica.close()
    await registry.close()
    await log.close()


async def bare_scan(url: str) -> int:
    """The least that hashes these rows in order: a cursor, and BLAKE2b over what Python prints of each row."""
    database, rows = await connect(url), 0
    names = ", ".join(f'"{column.name}"' for column in OWN)
    sql = f"SELECT {names} FROM {copied.table} WHERE _bucket < {SCRUBBED} ORDER BY _bucket, _key"
    async with database.snapshot() as connection:
        async for batch in connection.stream(sql, rows_max=SCAN_ROWS):
            rows += len([blake2b(repr(row).encode(), digest_size=32).digest() for row in batch])
    await database.close()
    return rows


async def scrubs(url: str, kind: str, turn: int, found: Figures) -> None:
    """(b) A quarter of the buckets: scrubbed, and by a bare ordered scan."""

    async def ours() -> int:
        replica = await open_replica(url)
        scrubbed = await scrub(copied, replica, buckets=range(SCRUBBED))
        await replica.close()
        assert scrubbed.verdict is Verdict.EQUAL
        return scrubbed.rows

    for name, work in turned([("scrub", ours), ("bare_ordered_scan", lambda: bare_scan(url))], turn):
        began = time.perf_counter()
        rows = await work()
        found.setdefault(f"{name}_{kind}", []).append(rows / (time.perf_counter() - began))


def reladiffed(urls: Sequence[str]) -> set[str]:
    from reladiff import connect_to_table, diff_tables

    own = [column.name for column in OWN if column.name != "customer"]
    tables = [connect_to_table(url, "plain", "customer", extra_columns=tuple(own)) for url in urls]
    return {str(row[1][0]) for row in diff_tables(*tables)}


async def compared(url: str, urls: dict[str, str], rows: int, turn: int, found: Figures) -> None:
    """(c) Two replicas at one position; beside it the same rows in two plain tables, for reladiff."""
    expected = {f"customer-{number:07d}" for number in differing(rows)}
    for name, names in (("identical", set[str]()), ("differing", expected)):
        for who in turned(["truecopy", "reladiff"], turn):
            parts = urlsplit(url)
            proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)
            async with proxy.listening() as port:
                pair = [at_port(urls["one"], port), at_port(urls["two" if name == "identical" else "other"], port)]
                began = time.perf_counter()
                if who == "truecopy":
                    replicas = [await open_replica(each) for each in pair]
                    report = await compare(copied, *replicas, wait_s=0)
                    seen = {one.key for one in report.differences}
                    for each in replicas:
                        await each.close()
                else:
                    seen = await asyncio.to_thread(reladiffed, pair)
                took = time.perf_counter() - began
                if seen != names:
                    raise SystemExit(f"{who} on {name} tables: seen {sorted(seen)[:20]}, expected {sorted(names)}")
            found.setdefault(f"compare_{name}_{who}_s", []).append(took)
            found.setdefault(f"compare_{name}_{who}_bytes", []).append(float(proxy.read))


def differing(rows: int) -> frozenset[int]:
    return frozenset(range(rows // 20, rows, rows // DIFFERING))


async def applied(make: Callable[[], Any], kind: str, rows: int, turn: int, found: Figures) -> None:
    """(d) Rows written and then written again: by a replica with all that it keeps, and the bare rows by the same upsert."""

    async def ours(url: str) -> float:
        replica = await open_replica(url)
        filling = Filling(replica)
        await filling.begin("bench")
        took = 0.0
        for turn in (1, 2):
            for first in range(0, rows, BATCH):
                plan = filling.planned(range(first, min(first + BATCH, rows)), turn)
                took += await seconds(filling.put(plan))
        await replica.close()
        return took

    async def bare(url: str) -> float:
        database = await connect(url, synchronous="NORMAL") if kind == "sqlite" else await connect(url)
        place = Shape(name="position", columns=columns(part=Kind.INTEGER, at=Kind.INTEGER), key=("part",))
        await database.install((PLAIN, place))
        took = 0.0
        for turn in (1, 2):
            for first in range(0, rows, BATCH):
                some = [values(number, turn) for number in range(first, min(first + BATCH, rows))]
                began = time.perf_counter()
                async with database.transaction(durable=False) as tx:
                    await tx.put(PLAIN, some)
                    await tx.put(place, [(0, first)])
                took += time.perf_counter() - began
        await database.close()
        return took

    for name, work in turned([("apply_proven", ours), ("apply_bare", bare)], turn):
        async with make() as url:
            found.setdefault(f"{name}_{kind}", []).append(2 * rows / await work(url))


def turned(names: Sequence[Any], turn: int) -> list[Any]:
    return [*names[turn % len(names) :], *names[: turn % len(names)]]


class Places:
    """New databases of either kind."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server, self._folder, self._numbers = server, folder, iter(range(10_000))

    async def new(self, kind: str) -> str:
        number = next(self._numbers)
        if kind == "sqlite":
            return f"sqlite:{self._folder}/p{number}.db"
        await self._admin(f"CREATE DATABASE proof{number}")
        return urlsplit(self._server.url)._replace(path=f"/proof{number}").geturl()

    async def copied(self, url: str) -> str:
        """A copy of a database that nobody has open."""
        number = next(self._numbers)
        await self._admin(f"CREATE DATABASE proof{number} TEMPLATE {urlsplit(url).path[1:]}")
        return urlsplit(self._server.url)._replace(path=f"/proof{number}").geturl()

    @asynccontextmanager
    async def passing(self, kind: str) -> AsyncIterator[str]:
        url = await self.new(kind)
        yield url
        if kind == "postgres":
            await self._admin(f"DROP DATABASE {urlsplit(url).path[1:]} WITH (FORCE)")

    async def _admin(self, sql: str) -> None:
        connection = await asyncpg.connect(self._server.url)
        await connection.execute(sql)
        await connection.close()


async def plain_copy(url: str) -> None:
    """The same rows for reladiff, under a primary key of their own."""
    connection = await asyncpg.connect(url)
    names = ", ".join(f'"{column.name}"' for column in OWN)
    await connection.execute(f"CREATE TABLE plain AS SELECT {names} FROM {copied.table}")
    await connection.execute("ALTER TABLE plain ADD PRIMARY KEY (customer)")
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def made_other(url: str, numbers: Collection[int]) -> None:
    """Let these rows differ in the replica and in the plain table."""
    replica = await open_replica(url)
    filling = Filling(replica)
    async with replica.snapshot() as snapshot:
        incarnation = (await snapshot.states(copied.id))[0].incarnation
    await filling.begin(incarnation)
    await filling.alter(numbers)
    await replica.close()
    connection = await asyncpg.connect(url)
    names = [values(number)[0] for number in numbers]
    await connection.execute("UPDATE plain SET visits = visits + 6 WHERE customer = ANY($1)", names)
    await connection.close()


async def measure(server: Server, folder: Path, rows: int, rounds: int) -> Figures:
    found: Figures = {}
    places = Places(server, folder)
    sizes = [size for size in SIZES if size < rows] + [rows]
    urls: dict[str, dict[str, str]] = {"sqlite": {}, "postgres": {}}
    for kind in urls:
        print(f"quick checks, {kind}", flush=True)
        urls[kind]["one"] = await places.new(kind)
        await quick_checks(urls[kind]["one"], kind, sizes, rounds, found)
    await plain_copy(urls["postgres"]["one"])
    for name in ("two", "other"):
        urls["postgres"][name] = await places.copied(urls["postgres"]["one"])
    await made_other(urls["postgres"]["other"], differing(rows))
    for turn in range(rounds):
        print(f"round {turn + 1} of {rounds}", flush=True)
        for kind in urls:
            await scrubs(urls[kind]["one"], kind, turn, found)
            await applied(lambda kind=kind: places.passing(kind), kind, min(rows, APPLIED), turn, found)
        await compared(server.url, urls["postgres"], rows, turn, found)
        for name, told in found.items():
            print(f"  {name}: {told[-1]:,.2f}", flush=True)
    return found


def table(found: dict[str, Any]) -> str:
    """The measured part of the page."""
    figures, rows = found["figures"], found["rows"]
    versions = ", ".join(f"{name} {told}" for name, told in found["versions"].items())
    lines = [
        f"Machine: {found['machine']}; it was shared with other work. Versions: {versions}.",
        f"Medians of {found['rounds']} rounds over {rows:,} rows of five columns; lowest and highest behind them.",
        "",
        "| what | median | lowest | highest |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [f"| {told} | {_figure(m)} | {_figure(lo)} | {_figure(hi)} |" for told, (m, lo, hi) in _told(figures)]
    lines += ["", "| ratio | measured | goal |", "| --- | ---: | ---: |"]
    return "\n".join([*lines, *_ratios(figures)]) + "\n"


def _told(figures: dict[str, list[float]]) -> Iterator[tuple[str, list[float]]]:
    for name, figure in figures.items():
        unit = "rows/s" if name.startswith(("scrub", "bare", "apply")) else ""
        yield f"`{name}` {unit}".strip(), figure


def _ratios(figures: dict[str, list[float]]) -> Iterator[str]:
    def ratio(told: str, one: str, other: str, goal: str) -> str:
        return f"| {told} | {figures[one][0] / figures[other][0]:.2f} | {goal} |"

    for kind in ("sqlite", "postgres"):
        yield ratio(f"scrub to a bare ordered scan, {kind}", f"scrub_{kind}", f"bare_ordered_scan_{kind}", "0.5")
        yield ratio(f"apply with proof to a bare upsert, {kind}", f"apply_proven_{kind}", f"apply_bare_{kind}", "0.8")
        sizes = sorted(int(name.split("_")[-2]) for name in figures if name.startswith(f"quick_check_{kind}"))
        few, many = (f"quick_check_{kind}_{size}_ms" for size in (sizes[0], sizes[-1]))
        yield ratio(f"quick check of {sizes[-1]:,} rows to one of {sizes[0]:,}, {kind}", many, few, "1")
    for name in ("identical", "differing"):
        for unit in ("s", "bytes"):
            other, ours = (f"compare_{name}_{who}_{unit}" for who in ("reladiff", "truecopy"))
            yield ratio(f"{name} tables, reladiff to ours, {unit}", other, ours, "")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--write", type=Path, help="where the results go, in place of proof.json and the page")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="truecopy-proof-") as folder, postgres() as server:
        figures = asyncio.run(measure(server, Path(folder), given.rows, given.rounds))
        rung = server.rung
    found = {
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "versions": {
            "python": platform.python_version(),
            "postgres": rung,
            **{name: version(name) for name in ("apsw", "asyncpg", "reladiff")},
        },
        "rows": given.rows,
        "rounds": given.rounds,
        "figures": {name: [round(f(told), 3) for f in (median, min, max)] for name, told in sorted(figures.items())},
    }
    (given.write or RESULTS).write_text(json.dumps(found, indent=2) + "\n")
    if given.write is None:
        PAGE.write_text(MEASURED.sub(lambda _: table(found), PAGE.read_text()))
    print(table(found))


if __name__ == "__main__":
    main()
