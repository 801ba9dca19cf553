"""The embedded logs pass the port's suite, and mean by an error what it says."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from truecopy_bus.errors import LogUnavailableError, PositionLostError, TwoLibrariesError
from truecopy_bus.log import Log
from truecopy_bus.logs import sqlite
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.record import Outgoing, TopicSpec
from truecopy_bus.sql.sqlite_session import claim_file
from truecopy_bus.testing import LogSuite

TOPIC = TopicSpec(name="shop.cart", partitions=2)
RECORD = Outgoing(b"key", b"value", 1_700_000_000_000)


class TestMemoryLog(LogSuite):
    @pytest.fixture
    async def log(self) -> AsyncIterator[Log]:
        log = MemoryLog()
        yield log
        await log.close()


class TestSQLiteLog(LogSuite):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[Log]:
        self.path = tmp_path / "made" / "on the way" / "log.db"
        self.opened = [SQLiteLog(self.path)]
        yield self.opened[0]
        for log in self.opened:
            await log.close()

    async def reopened(self, log: Log) -> Log:
        await log.close()
        self.opened.append(SQLiteLog(self.path))
        return self.opened[-1]


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SQLiteLog]:
    log = SQLiteLog(tmp_path / "log.db", busy_timeout_s=0.05)
    yield log
    await log.close()


async def test_a_file_whose_lock_is_held_is_unavailable_and_works_again_when_let_go(log: SQLiteLog, tmp_path: Path) -> None:
    await log.create(TOPIC)
    holder = apsw.Connection(str(tmp_path / "log.db"))
    holder.execute("BEGIN IMMEDIATE")

    with pytest.raises(LogUnavailableError, match="BusyError"):
        await log.append(TOPIC.name, 0, [RECORD])
    holder.execute("ROLLBACK")
    holder.close()

    assert (await log.append(TOPIC.name, 0, [RECORD])).first == 1


async def test_readers_do_not_wait_for_a_writer(log: SQLiteLog, tmp_path: Path) -> None:
    await log.create(TOPIC)
    holder = apsw.Connection(str(tmp_path / "log.db"))
    holder.execute("BEGIN IMMEDIATE")

    assert len(await log.reader(TOPIC.name).read({0: 0}, records_max=10, wait_s=0)) == 1
    assert (await log.describe(TOPIC.name)).bounds[0] == (0, 1)
    holder.close()


async def test_a_full_disk_is_unavailable_and_nothing_is_half_written(log: SQLiteLog) -> None:
    await log.create(TOPIC)
    # SQLite's own bound on a file's pages stands for the disk's.
    await log._writer.run(lambda connection: connection.pragma("max_page_count", 100))
    large = RECORD._replace(value=bytes(500_000))

    with pytest.raises(LogUnavailableError, match="FullError"):
        await log.append(TOPIC.name, 0, [RECORD, large, large])

    assert (await log.append(TOPIC.name, 0, [RECORD])).first == 1


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"something else " * 1_000)
    log = SQLiteLog(tmp_path / "log.db")

    with pytest.raises(LogUnavailableError, match="NotADBError"):
        await log.describe(TOPIC.name)
    await log.close()


async def test_a_folder_that_can_not_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    log = SQLiteLog(tmp_path / "file" / "log.db")

    with pytest.raises(LogUnavailableError):
        await log.describe(TOPIC.name)
    await log.close()


async def test_a_file_of_a_newer_release_is_refused_by_name(log: SQLiteLog, tmp_path: Path) -> None:
    newer = apsw.Connection(str(tmp_path / "log.db"))
    newer.pragma("user_version", 2)
    newer.close()

    with pytest.raises(LogUnavailableError, match="format 2, this version knows 1"):
        await log.describe(TOPIC.name)


async def test_a_file_that_another_sqlite_library_has_here_is_refused(tmp_path: Path) -> None:
    claim_file(str(tmp_path / "log.db"), sqlite3.__name__)
    log = SQLiteLog(tmp_path / "log.db")

    with pytest.raises(TwoLibrariesError):
        await log.create(TOPIC)
    await log.close()


async def test_a_missing_run_of_records_is_damage_and_not_a_jump(log: SQLiteLog, tmp_path: Path) -> None:
    await log.create(TOPIC)
    for _ in range(3):
        await log.append(TOPIC.name, 0, [RECORD] * 10)
    hand = apsw.Connection(str(tmp_path / "log.db"))
    hand.execute("DELETE FROM chunk WHERE first = 11")
    hand.close()

    with pytest.raises(LogUnavailableError, match="records 11 to 20 are missing"):
        await log.reader(TOPIC.name).read({0: 0}, records_max=100, wait_s=0)
    with pytest.raises(LogUnavailableError, match="records 15 to 20 are missing"):
        await log.reader(TOPIC.name).read({0: 15}, records_max=100, wait_s=0)


async def test_a_read_that_is_cancelled_ends_at_once_and_leaves_the_reader_usable(log: SQLiteLog) -> None:
    await log.create(TOPIC)
    reader = log.reader(TOPIC.name)
    assert len(await reader.read({0: 0}, records_max=10, wait_s=0)) == 1

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await reader.read({0: 1}, records_max=10, wait_s=100)

    async with asyncio.timeout(5):
        assert len(await reader.read({0: 0}, records_max=10, wait_s=100)) == 1


async def test_closing_the_log_ends_the_reads_that_wait(log: SQLiteLog) -> None:
    await log.create(TOPIC)
    reader = log.reader(TOPIC.name)
    waiting = asyncio.create_task(reader.read({0: 1}, records_max=10, wait_s=100))
    assert list(await log.reader(TOPIC.name).read({0: 1}, records_max=10, wait_s=0.02)) == []

    async with asyncio.timeout(5):
        await log.close()
        assert list(await waiting) == []


async def test_an_append_wakes_the_readers_of_its_own_log_without_a_look_at_the_file(
    log: SQLiteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOG_POLL_S", 100.0)
    await log.create(TOPIC)
    waiting = asyncio.create_task(log.reader(TOPIC.name).read({0: 1}, records_max=10, wait_s=100))
    assert list(await log.reader(TOPIC.name).read({0: 1}, records_max=10, wait_s=0.05)) == []

    async with asyncio.timeout(5):
        await log.append(TOPIC.name, 0, [RECORD])
        assert len(await waiting) == 1


async def test_a_deleted_topic_leaves_nothing_in_the_file(log: SQLiteLog, tmp_path: Path) -> None:
    await log.create(TOPIC)
    await log.append(TOPIC.name, 0, [RECORD])
    await log.delete(TOPIC.name)

    file = apsw.Connection(str(tmp_path / "log.db"))
    assert [file.execute(f"SELECT count(*) FROM {table}").get for table in ("topic", "partition", "chunk")] == [0, 0, 0]
    file.close()


async def test_trimming_while_others_read_never_shows_a_jump(log: SQLiteLog) -> None:
    await log.create(TOPIC)
    for _ in range(50):
        await log.append(TOPIC.name, 0, [RECORD] * 10)

    async def follow(position: int) -> None:
        reader = log.reader(TOPIC.name)
        with contextlib.suppress(PositionLostError):
            while position < 501:
                for record in await reader.read({0: position}, records_max=7, wait_s=0):
                    assert record.offset == position
                    position += 1

    following = [asyncio.create_task(follow(position)) for position in range(0, 500, 100)]
    for before in range(5, 500, 5):
        await log.trim(TOPIC.name, 0, before)
    await asyncio.gather(*following)


def test_using_a_log_does_not_import_pytest_or_a_driver_that_is_not_asked_for() -> None:
    program = "import sys, truecopy_bus.logs.memory, truecopy_bus.logs.sqlite; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert {"pytest", "aiokafka", "asyncpg"}.isdisjoint(done.stdout.split())
