"""How long checks take and how much memory, by the number of keys: `python -m tests.benchmarks.checking KEYS [PARTITIONS]`.

One event for each key goes through store, relay and worker to a replica on SQLite. Then each kind of check runs in a process of
its own, whose peak of resident memory is told beside that of one that only opens the same files.
"""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.projections.bank import Deposited, balance

from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.registry import Registry
from truecopy_bus.relay import Relay
from truecopy_bus.sql import connect
from truecopy_bus.store import EventStore
from truecopy_projections.check import check
from truecopy_projections.replicas import open_replica
from truecopy_projections.worker import Worker

CHUNK = 5_000
KINDS = ("nothing", "quick", "whole", "deep")


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
    keys, partitions = int(sys.argv[1]), int((sys.argv[2:] or ["4"])[0])
    with TemporaryDirectory() as folder:
        asyncio.run(build(Path(folder), keys, partitions))
        print(f"{keys:,} keys in {partitions} partitions", flush=True)
        for kind in KINDS:
            subprocess.run([sys.executable, "-m", __spec__.name, "measure", folder, kind], check=True)


if __name__ == "__main__":
    main()
