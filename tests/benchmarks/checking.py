"""How long checks take and how much memory, by keys: `python -m tests.benchmarks.checking KEYS [PARTITIONS] [fold]`.

One event for each key goes through store, relay and worker to a replica on SQLite. Then each kind of check runs in a process of
its own, whose peak of resident memory is told beside that of one that only opens the same files. With `fold` the log alone is
made, record by record, and only its fold is measured: by partitions, as a check has it, and all at once, as a deep one.
"""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.projections.bank import Deposited, balance

from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.partitioner import partition_of
from truecopy_bus.record import Outgoing, TopicSpec
from truecopy_bus.registry import Registry
from truecopy_bus.relay import Relay
from truecopy_bus.sql import connect
from truecopy_bus.store import EventStore
from truecopy_projections.check import check
from truecopy_projections.reference import replay
from truecopy_projections.replicas import open_replica
from truecopy_projections.worker import Worker
from truecopy_schemas.avro_schema import avro_schema
from truecopy_schemas.codec import encode
from truecopy_schemas.framing import frame

TOPIC = "bank.account"
CHUNK = 5_000
KINDS = ("nothing", "quick", "whole", "deep")
FOLDS = ("nothing", "parts", "all")


async def build(folder: Path, keys: int, partitions: int) -> None:
    database = await connect(f"sqlite:{folder}/store.db", synchronous="NORMAL")
    store = EventStore(database, service="bank", partitions=partitions)
    await store.open()
    log = SQLiteLog(str(folder / "log.db"))
    registry = Registry(log)
    await registry.ensure()
    relay = Relay(store, log, registry, lease_s=600.0)
    for first in range(0, keys, CHUNK):
        await store.publish_many([(f"customer-{at:08d}", Deposited(amount=at % 500)) for at in range(first, first + CHUNK)])
        await relay.drain()
    await relay.mark()
    await relay.leave()
    replica = await open_replica(f"sqlite:{folder}/replica.db")
    worker = Worker(balance, replica, log, registry, lease_s=600.0, wait_s=0.05)
    while await worker.step():
        pass
    await worker.leave()
    for one in (replica, database, registry, log):
        await one.close()


async def build_log(folder: Path, keys: int, partitions: int) -> None:
    log = SQLiteLog(str(folder / "log.db"))
    registry = Registry(log)
    await registry.ensure()
    schema_id = await registry.register(avro_schema(Deposited))
    await log.create(TopicSpec(name=TOPIC, partitions=partitions))
    for first in range(0, keys, CHUNK):
        parts: dict[int, list[Outgoing]] = {}
        for at in range(first, first + CHUNK):
            key = f"customer-{at:08d}"
            value = frame(schema_id, encode(Deposited(amount=at % 500), version=1))
            parts.setdefault(partition_of(key, partitions), []).append(Outgoing(key.encode(), value, 0))
        for p, records in parts.items():
            await log.append(TOPIC, p, records)
    for one in (registry, log):
        await one.close()


async def folded(folder: Path, kind: str) -> str:
    log = SQLiteLog(str(folder / "log.db"))
    registry = Registry(log)
    await registry.refresh()
    bounds = (await log.describe(TOPIC)).bounds
    began, cpu, rows = time.monotonic(), time.process_time(), 0
    upto = {p: end for p, (_, end) in bounds.items()}
    steps = {"all": [upto], "parts": [{p: end} for p, end in upto.items()]}
    for step in steps.get(kind, ()):
        rows += len((await replay(balance, log, registry, topic=TOPIC, upto=step)).rows)
    took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
    for one in (registry, log):
        await one.close()
    return f"{kind:8} {took_s:8.2f} s, of CPU {cpu_s:7.2f} s {peak_mib():8.0f} MiB  {rows:,} rows"


async def measured(folder: Path, kind: str) -> str:
    log = SQLiteLog(str(folder / "log.db"))
    registry = Registry(log)
    replica = await open_replica(f"sqlite:{folder}/replica.db")
    began, cpu = time.monotonic(), time.process_time()
    verdict = "-"
    if kind == "nothing":
        async with replica.snapshot() as snapshot:
            await snapshot.states(balance.id)
    else:
        found = await check(balance, replica, log, registry, wait_s=0, quick=kind == "quick", deep=kind == "deep")
        verdict = "/".join(claim.verdict.name for claim in (found.delivered, found.computed, found.stored))
    took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
    for one in (replica, registry, log):
        await one.close()
    return f"{kind:8} {took_s:8.2f} s, of CPU {cpu_s:7.2f} s {peak_mib():8.0f} MiB  {verdict}"


def peak_mib() -> float:
    """Not by getrusage: that counts what the parent had before this process was begun."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    if sys.argv[1] == "measure":
        print(asyncio.run(measured(Path(sys.argv[2]), sys.argv[3])), flush=True)
        return
    if sys.argv[1] == "fold":
        print(asyncio.run(folded(Path(sys.argv[2]), sys.argv[3])), flush=True)
        return
    keys, partitions, alone = int(sys.argv[1]), int((sys.argv[2:] or ["4"])[0]), sys.argv[3:] == ["fold"]
    with TemporaryDirectory() as folder:
        asyncio.run((build_log if alone else build)(Path(folder), keys, partitions))
        print(f"{keys:,} keys in {partitions} partitions", flush=True)
        for kind in FOLDS if alone else KINDS:
            command = [sys.executable, "-m", __spec__.name, "fold" if alone else "measure", folder, kind]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
