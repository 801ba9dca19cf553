"""Drives of the bounds of `bus` that logs keep: records, reads, waits, the embedded log's file, and the registry on a log."""

import asyncio
import threading
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.limits.clock import Clock
from tests.limits.drives import drives
from tests.limits.metered import MeteredLog
from tests.limits.of_schemas import declared

from truecopy_bus import limits
from truecopy_bus.errors import LogUnavailableError, OversizeRecordError
from truecopy_bus.log import Log
from truecopy_bus.logs import memory, sqlite_store
from truecopy_bus.logs.chunk import pieces
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.record import Appended, Outgoing, TopicSpec, TopicState
from truecopy_bus.registry import SCHEMAS_TOPIC, Registry
from truecopy_bus.relay_pass import append
from truecopy_bus.relay_plan import OutboxRow, RelayPlan
from truecopy_bus.relay_tail import stated
from truecopy_schemas.avro_schema import avro_schema
from truecopy_schemas.compatibility import Compatibility
from truecopy_schemas.control import CONTROL_HEADER, CONTROL_KEY, MARK, Mark, encode
from truecopy_schemas.registry import RegistryState

TOPIC = "limits.note"
HEADER = ("name", b"value")
PAGE_BYTES, FRAME_HEAD_BYTES, WAL_HEAD_BYTES = 4_096, 24, 32
"""Of SQLite's files."""


def sized(size: int, *headers: tuple[str, bytes]) -> Outgoing:
    """A record of `size` bytes."""
    return Outgoing(b"key", bytes(size - 3 - sum(len(name) + len(value) for name, value in headers)), 0, headers)


def mark(state: TopicState, count: int = 0) -> Outgoing:
    """A mark of the topic that states `count` events."""
    said = Mark(
        incarnation=str(state.incarnation), epoch=1, number=1, count=count, digest=bytes(32), digest_algorithm=1, at_ms=0
    )
    return Outgoing(CONTROL_KEY, encode(said), 0, ((CONTROL_HEADER, MARK),))


async def both(tmp_path: Path) -> list[Log]:
    """The embedded logs, with the topic of one partition; offset 0 is its genesis."""
    logs: list[Log] = [MemoryLog(), SQLiteLog(tmp_path / "log.db")]
    for log in logs:
        await log.create(TopicSpec(name=TOPIC, partitions=1))
    return logs


@drives("bus.RECORD_BYTES_MAX")
async def record_bytes(tmp_path: Path) -> None:
    for log in await both(tmp_path):
        assert await log.append(TOPIC, 0, [sized(limits.RECORD_BYTES_MAX, HEADER)] * 2) == (1, 2)
        with pytest.raises(OversizeRecordError, match=f"takes {limits.RECORD_BYTES_MAX}") as caught:
            await log.append(TOPIC, 0, [sized(9_000), sized(limits.RECORD_BYTES_MAX + 1, HEADER)])
        assert (caught.value.size, caught.value.limit) == (limits.RECORD_BYTES_MAX + 1, limits.RECORD_BYTES_MAX)
        assert (await log.describe(TOPIC)).bounds[0] == (0, 3)
        await log.close()


@drives("bus.READ_BYTES_MAX")
async def read_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (memory, sqlite_store):
        monkeypatch.setattr(module, "READ_BYTES_MAX", 10_000)
    for log in await both(tmp_path):
        reader = log.reader(TOPIC)
        await log.append(TOPIC, 0, [sized(1_000)] * 30)
        await log.append(TOPIC, 0, [sized(999), *[sized(1_000)] * 20])

        assert len(await reader.read({0: 1}, records_max=100, wait_s=0)) == 10
        # One byte short of the limit, one record more comes: the limit is soft.
        assert len(await reader.read({0: 31}, records_max=100, wait_s=0)) == 11
        await reader.close()
        await log.close()


@drives("bus.READ_BYTES_MAX")
async def read_bytes_for_real(tmp_path: Path) -> None:
    for log in await both(tmp_path):
        reader = log.reader(TOPIC)
        await log.append(TOPIC, 0, [sized(limits.RECORD_BYTES_MAX)] * 35)
        found = await reader.read({0: 1}, records_max=100, wait_s=0)

        assert len(found) == -(-limits.READ_BYTES_MAX // limits.RECORD_BYTES_MAX)
        await reader.close()
        await log.close()


@drives("bus.READ_RECORDS_MAX")
@drives("bus.READ_WAIT_S")
async def reads_of_the_registry() -> None:
    log = MeteredLog()
    await Registry(log).ensure()

    assert {(one.records_max, one.wait_s) for one in log.asked} == {(limits.READ_RECORDS_MAX, limits.READ_WAIT_S)}


@drives("bus.READ_RECORDS_MAX")
@drives("bus.READ_WAIT_S")
async def reads_of_a_tail() -> None:
    log = MeteredLog()
    state = await log.create(TopicSpec(name=TOPIC, partitions=1))
    await log.append(TOPIC, 0, [mark(state)])

    assert await stated(log, TOPIC, 0, (0, 2)) == 0
    assert {(one.records_max, one.wait_s) for one in log.asked} == {(limits.READ_RECORDS_MAX, limits.READ_WAIT_S)}


@drives("bus.APPEND_RECORDS_MAX")
async def records_of_an_append() -> None:
    log = MeteredLog()
    await log.create(TopicSpec(name=TOPIC, partitions=1))
    for more in (0, 1):
        rows = [OutboxRow(each, "k", each, b"f", b"", 0) for each in range(1, limits.APPEND_RECORDS_MAX + 1 + more)]
        await append(log, TOPIC, {0: RelayPlan(count=0, digest=0, send=rows)}, {b"f": 16})

    assert log.sent(TOPIC) == [limits.APPEND_RECORDS_MAX, limits.APPEND_RECORDS_MAX, 1]


@drives("bus.APPEND_TIMEOUT_S")
async def a_silent_registry(clock: Clock) -> None:
    log = MeteredLog()
    await Registry(log).ensure()
    log.silent.add(SCHEMAS_TOPIC)

    with pytest.raises(LogUnavailableError, match="nothing was read at 0 of 1"):
        await Registry(log).refresh()
    assert limits.APPEND_TIMEOUT_S < clock.now_s <= limits.APPEND_TIMEOUT_S + limits.READ_WAIT_S


class Crowded(MemoryLog):
    """A log on which somebody else claims first, so many times."""

    def __init__(self, rivals: int) -> None:
        super().__init__()
        self.rivals = rivals

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        if topic == SCHEMAS_TOPIC and self.rivals:
            self.rivals -= 1
            folded = RegistryState()
            for seen in await self.reader(topic).read({0: 0}, records_max=1_000, wait_s=0):
                folded.apply(seen.key, seen.value)
            rival = avro_schema(declared(entity=f"limits.rival{self.rivals}"))
            claim = folded.claim("rival", rival, Compatibility.NONE)
            assert isinstance(claim, bytes)
            await super().append(topic, 0, [Outgoing(b"rival", claim, 0)])
        return await super().append(topic, partition, records)


@drives("bus.CLAIM_ATTEMPTS_MAX")
async def lost_claims() -> None:
    for lost in (limits.CLAIM_ATTEMPTS_MAX - 1, limits.CLAIM_ATTEMPTS_MAX):
        log = Crowded(lost)
        claimant = Registry(log)
        await claimant.ensure()
        if lost < limits.CLAIM_ATTEMPTS_MAX:
            assert await claimant.register(avro_schema(declared())) == 16 + lost
        else:
            with pytest.raises(LogUnavailableError, match=f"lost {limits.CLAIM_ATTEMPTS_MAX} claims"):
                await claimant.register(avro_schema(declared()))
            assert (await log.describe(SCHEMAS_TOPIC)).bounds[0][1] == 1 + 2 * limits.CLAIM_ATTEMPTS_MAX


@drives("bus.CHUNK_BYTES_MAX")
async def bytes_of_a_chunk(tmp_path: Path) -> None:
    full = [sized(limits.CHUNK_BYTES_MAX // 64)] * 64
    short = [*full[:-1], sized(limits.CHUNK_BYTES_MAX // 64 - 1)]

    assert [len(piece) for piece in pieces(TOPIC, full * 2)] == [64, 64]
    assert [len(piece) for piece in pieces(TOPIC, [*short, *full])] == [65, 63]

    log = SQLiteLog(tmp_path / "log.db")
    await log.create(TopicSpec(name=TOPIC, partitions=1))
    await log.append(TOPIC, 0, full)
    await log.append(TOPIC, 0, [*full, sized(20)])
    await log.close()
    file = apsw.Connection(str(tmp_path / "log.db"))
    assert list(file.execute("SELECT next - first FROM chunk ORDER BY first")) == [(1,), (64,), (64,), (1,)]
    file.close()


class Counting(threading.Event):
    """The reader's signal: it notes for how long it is waited for, and at the third time another process appends."""

    def __init__(self, appending: Any) -> None:
        super().__init__()
        self.waits: list[float | None] = []
        self._appending = appending

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        if len(self.waits) == 3:
            self._appending()
        return False


@drives("bus.LOG_POLL_S")
async def looks_at_the_embedded_log(tmp_path: Path) -> None:
    log, other = SQLiteLog(tmp_path / "log.db"), SQLiteLog(tmp_path / "log.db")
    await log.create(TopicSpec(name=TOPIC, partitions=1))
    reader = log.reader(TOPIC)
    loop = asyncio.get_running_loop()
    reader.look = Counting(
        lambda: asyncio.run_coroutine_threadsafe(other.append(TOPIC, 0, [sized(20)]), loop).result(timeout=30)
    )

    assert len(await reader.read({0: 1}, records_max=10, wait_s=100.0)) == 1
    assert reader.look.waits == [limits.LOG_POLL_S] * 3
    for each in (log, other):
        await each.close()


@drives("bus.LOG_WAL_PAGES")
async def pages_of_the_write_ahead_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await moved_after(tmp_path / "real.db", limits.LOG_WAL_PAGES, record_bytes=1_000_000)
    monkeypatch.setattr(sqlite_store, "LOG_WAL_PAGES", 50)
    assert await moved_after(tmp_path / "small.db", 50, record_bytes=3_000)


def size_of(path: Path) -> int:
    return path.stat().st_size


async def moved_after(path: Path, pages: int, *, record_bytes: int) -> bool:
    """Append until the log was moved into the file; whether that was at the first commit with so many pages and not before."""
    log = SQLiteLog(path)
    await log.create(TopicSpec(name=TOPIC, partitions=1))
    wal, before = path.with_name(path.name + "-wal"), size_of(path)
    for _ in count():
        await log.append(TOPIC, 0, [sized(record_bytes)])
        frames = (size_of(wal) - WAL_HEAD_BYTES) // (PAGE_BYTES + FRAME_HEAD_BYTES)
        moved = size_of(path) > before
        if moved or frames >= pages:
            await log.close()
            return moved == (frames >= pages)
    raise AssertionError


@drives("bus.LOG_WAL_BYTES_KEPT")
async def kept_bytes_of_the_write_ahead_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "LOG_WAL_PAGES", 100)
    monkeypatch.setattr(sqlite_store, "LOG_WAL_BYTES_KEPT", 600_000)
    log, wal = SQLiteLog(tmp_path / "log.db"), tmp_path / "log.db-wal"
    await log.create(TopicSpec(name=TOPIC, partitions=1))
    await log.append(TOPIC, 0, [sized(500_000)])
    below = size_of(wal)
    await log.append(TOPIC, 0, [sized(20)])
    assert size_of(wal) == below < 600_000
    await log.append(TOPIC, 0, [sized(900_000)])
    assert size_of(wal) > 600_000
    await log.append(TOPIC, 0, [sized(20)])
    assert size_of(wal) == 600_000
    await log.close()


@drives("bus.TAIL_RECORDS_FIRST")
async def the_first_look_for_a_mark() -> None:
    assert await looks_for_a_mark(limits.TAIL_RECORDS_FIRST) == (7, [limits.TAIL_RECORDS_FIRST])
    assert await looks_for_a_mark(limits.TAIL_RECORDS_FIRST + 1) == (7, [limits.TAIL_RECORDS_FIRST, limits.TAIL_RECORDS_MAX])


@drives("bus.TAIL_RECORDS_MAX")
async def the_last_look_for_a_mark() -> None:
    both_looks = [limits.TAIL_RECORDS_FIRST, limits.TAIL_RECORDS_MAX]

    assert await looks_for_a_mark(limits.TAIL_RECORDS_MAX) == (7, both_looks)
    assert await looks_for_a_mark(limits.TAIL_RECORDS_MAX + 1) == (0, both_looks)
    assert limits.TAIL_RECORDS_MAX > limits.MARK_EVENTS_MAX + limits.RELAY_ROWS_MAX


async def looks_for_a_mark(from_end: int) -> tuple[int, list[int]]:
    """What is found of a mark that lies so far from the end, and how far from the end the looks for it began."""
    log = MeteredLog()
    state = await log.create(TopicSpec(name=TOPIC, partitions=1))
    before = 2 * limits.TAIL_RECORDS_MAX - from_end
    records = [Outgoing(b"k", b"v", 0)] * before
    records.append(mark(state, 7))
    records += [Outgoing(b"k", b"v", 0)] * (from_end - 1)
    await log.append(TOPIC, 0, records)
    end = 1 + len(records)
    found = await stated(log, TOPIC, 0, (0, end))
    starts = [end - one.positions[0] for one in log.asked if one.positions[0] < end]
    return found, starts
