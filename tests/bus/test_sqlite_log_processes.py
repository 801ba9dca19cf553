"""One file, several processes: nothing acknowledged is lost, nothing is seen twice or out of order, whoever is killed.

A child writes what it is about to append into a journal beside the log, appends it, and then notes it as acknowledged. It is
killed at a place that it says itself, not after a time.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import apsw

from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.record import Record, TopicSpec

TOPIC = TopicSpec(name="shop.cart", partitions=3)
APPENDER = """
import asyncio, os, sys
from pathlib import Path
from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.record import Outgoing, TopicSpec

async def main(path, journal, name, batches, size):
    log = SQLiteLog(path)
    state = await log.create(TopicSpec(name="shop.cart", partitions=3))
    print("created", state.incarnation, flush=True)
    with open(journal, "a") as notes:
        for batch in range(int(batches)):
            partition = batch % 3
            print("intended", name, batch, file=notes, flush=True)
            records = [Outgoing(name.encode(), b"%d/%d" % (batch, n), 5) for n in range(int(size))]
            appended = await log.append("shop.cart", partition, records)
            print("acknowledged", name, batch, appended.first, file=notes, flush=True)
            print("at", batch, flush=True)
    await log.close()

asyncio.run(main(*sys.argv[1:]))
"""
FOLLOWER = """
import asyncio, sys
from truecopy_bus.errors import TopicMissingError
from truecopy_bus.logs.sqlite import SQLiteLog

async def main(path, records_wanted):
    log = SQLiteLog(path)
    reader, positions, seen = log.reader("shop.cart"), {0: 0, 1: 0, 2: 0}, 0
    print("following", flush=True)
    while seen < int(records_wanted):
        for record in await reader.read(positions, records_max=500, wait_s=60):
            assert record.offset == positions[record.partition], (record, positions)
            positions[record.partition] += 1
            seen += 1
    print("saw", *positions.values(), flush=True)
    await log.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def child(program: str, *args: object) -> Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-c", program, *map(str, args), stdout=PIPE)


async def line(process: Process) -> list[str]:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().split()


async def everything(log: SQLiteLog) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = {0: [], 1: [], 2: []}
    reader = log.reader(TOPIC.name)
    while records := await reader.read({p: len(held) for p, held in found.items()}, records_max=5_000, wait_s=0):
        for record in records:
            assert record.offset == len(found[record.partition])
            found[record.partition].append(record)
    return found


def batches_in(records: list[Record]) -> list[tuple[str, int, int]]:
    """(appender, batch, records) for each run of records of one batch."""
    runs: list[tuple[str, int, int]] = []
    for record in records[1:]:
        batch, number = map(int, (record.value or b"").split(b"/"))
        if number == 0:
            runs.append(((record.key or b"").decode(), batch, 0))
        name, running, count = runs[-1]
        assert (running, count) == (batch, number), "batches are mixed"
        runs[-1] = (name, batch, count + 1)
    return runs


async def test_processes_that_create_at_once_agree(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.db"
    creators = [await child(APPENDER, path, tmp_path / f"{n}", n, 0, 0) for n in range(6)]
    said = [await line(creator) for creator in creators]
    assert [await creator.wait() for creator in creators] == [0] * 6
    log = SQLiteLog(path)

    state = await log.describe(TOPIC.name)

    assert said == [["created", str(state.incarnation)]] * 6
    assert state.bounds == {0: (0, 1), 1: (0, 1), 2: (0, 1)}
    await log.close()


async def test_processes_append_and_follow_one_file(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = SQLiteLog(path)
    await log.create(TOPIC)
    followers = [await child(FOLLOWER, path, 3 + 4 * 30 * 20) for _ in range(2)]
    for follower in followers:
        assert await line(follower) == ["following"]
    appenders = [await child(APPENDER, path, tmp_path / f"{n}", f"a{n}", 30, 20) for n in range(4)]
    assert [(await process.communicate(), process.returncode)[1] for process in appenders] == [0] * 4
    saw = [await line(follower) for follower in followers]
    assert [await follower.wait() for follower in followers] == [0, 0]

    found = await everything(log)

    assert saw == [["saw", *(str(len(held)) for held in found.values())]] * 2
    for partition, held in found.items():
        runs = batches_in(held)
        for name in ("a0", "a1", "a2", "a3"):
            assert [run for run in runs if run[0] == name] == [(name, batch, 20) for batch in range(partition, 30, 3)]
    await log.close()


async def test_killed_appenders_lose_nothing_acknowledged_and_leave_nothing_half(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    survivor = await child(APPENDER, path, tmp_path / "survivor", "survivor", 60, 50)
    names = [f"victim{n}" for n in range(6)]
    for number, name in enumerate(names):
        victim = await child(APPENDER, path, tmp_path / name, name, 1_000_000, 2_000)
        while await line(victim) != ["at", str(2 * number)]:
            pass
        # It runs on into its next appends while the signal is on its way.
        os.kill(victim.pid, signal.SIGKILL)
        assert await victim.wait() == -signal.SIGKILL
    await survivor.communicate()
    assert survivor.returncode == 0
    log = SQLiteLog(path)

    found = await everything(log)

    whole = {(name, batch): count for held in found.values() for name, batch, count in batches_in(held)}
    for name in (*names, "survivor"):
        notes = [entry.split() for entry in (tmp_path / name).read_text().splitlines()]
        size = 50 if name == "survivor" else 2_000
        stored = {batch for writer, batch in whole if writer == name}
        assert {whole[name, batch] for batch in stored} == {size}
        assert {int(note[2]) for note in notes if note[0] == "acknowledged"} <= stored
        assert stored <= {int(note[2]) for note in notes if note[0] == "intended"}
        for _, _, batch, first in (note for note in notes if note[0] == "acknowledged"):
            record = found[int(batch) % 3][int(first)]
            assert (record.key, record.value) == (name.encode(), b"%s/0" % batch.encode())
    await log.close()
    check = apsw.Connection(str(path))
    assert check.pragma("integrity_check") == "ok"
    check.close()
