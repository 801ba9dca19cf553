"""Disks that are full, databases that are read-only: nothing is taken in, it is said once, and all goes on when it is mended.

A limit on the size of files stands for a full disk: to SQLite it is one (a write that is refused in the middle of a commit), it
needs no right, and it binds one process alone, so that the test can look on from outside. Disks that are really full, of
PostgreSQL too, are in full_disk.py.
"""

import os
import pwd
import resource
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from tests.drills.conftest import ALL, Setting, Stage, until
from tests.drills.processes import AWAY, BACK, Role
from tests.drills.publisher import ACCEPTED_LINE, REFUSED_LINE, prepare, verify
from tests.projections.bank import balance

from truecopy_projections.check import check
from truecopy_services import Verdict
from truecopy_services.servers import Server
from truecopy_services.status import ServiceStatus, status

SPACE = "free space on its disk"
WORKERS = len(ALL)


async def seen(at: Stage) -> ServiceStatus:
    return await status(at.service, log_name="log")


def fill(role: Role, file: Path) -> None:
    """Let no file of this process grow beyond the present size of `file` and of its write-ahead log."""
    size = max(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))
    resource.prlimit(role.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def free(role: Role) -> None:
    resource.prlimit(role.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


async def test_a_publisher_whose_store_is_full_gets_an_error_and_goes_on_later(stage: Setting, tmp_path: Path) -> None:
    async with stage({}) as at:
        await prepare(at.service)
        publisher = await at.cast.publisher(tmp_path / "notes")
        await until_noted(tmp_path / "notes", 20)
        fill(publisher, tmp_path / "ledger.store.db")
        await publisher.hears(REFUSED_LINE)
        before = len(noted(tmp_path / "notes"))
        free(publisher)
        await publisher.hears(ACCEPTED_LINE)
        await until_noted(tmp_path / "notes", before + 5)
        await publisher.kill()
        await at.journal.settle(at.service, tmp_path / "notes")

        (refused,) = publisher.said(REFUSED_LINE)
        assert "ledger.store.db is unavailable: disk error" in refused
        assert SPACE in refused
        await verify(at.service, at.journal)
        async with at.at_work(relay=True, projections=ALL):
            assert await at.proven() == 0


async def test_a_relay_whose_log_is_full_leaves_events_in_the_outbox(stage: Setting, postgres_url: str, tmp_path: Path) -> None:
    async with stage({"TRUECOPY_STORE": postgres_url}) as at, at.at_work(projections=ALL):
        await at.service.store.open()
        relay = await at.cast.start("relay")
        await at.journal.publish(at.service, 30)
        await at.proven()
        fill(relay, tmp_path / "log.db")
        await at.journal.publish(at.service, 30)
        await relay.hears(AWAY)
        (entity,) = (await seen(at)).entities or ()
        free(relay)
        await relay.hears(BACK)

        (said,) = relay.said(AWAY)
        assert "events wait in the outbox: log sqlite:" in said
        assert "log.db is unavailable" in said
        assert SPACE in said
        assert entity.pending > 0
        await at.proven()
        assert await relay.end() == 0


async def test_a_replica_that_is_full_stays_behind_and_is_never_half(stage: Setting, tmp_path: Path) -> None:
    async with stage({}) as at, at.at_work(relay=True):
        await at.service.store.open()
        workers = await at.cast.start("workers")
        await at.journal.publish(at.service, 30)
        await at.proven()
        fill(workers, tmp_path / "ledger.replica.db")
        await at.journal.publish(at.service, 30)
        await workers.hears(AWAY, times=WORKERS)
        await at.relayed()
        topic = at.service.topic(balance)
        meanwhile = await seen(at)
        report = await check(balance, at.service.replica_adapter, at.service.log, at.service.registry, topic=topic, wait_s=0)
        free(workers)
        await workers.hears(BACK, times=WORKERS)

        assert len(workers.said(AWAY)) == WORKERS, "each says so once"
        assert all("ledger.replica.db is unavailable" in line and SPACE in line for line in workers.said(AWAY))
        assert all(sum(part.lag or 0 for part in projection.partitions) > 0 for projection in meanwhile.projections)
        assert report.verdict is Verdict.BEHIND
        await at.proven()
        assert await workers.end() == 0


async def test_files_that_are_read_only_are_waited_for(stage: Setting) -> None:
    """File modes do not bind root, whose processes take another uid here."""
    user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    home = Path(tempfile.mkdtemp(prefix="truecopy-drill-"))
    try:
        async with stage({"TRUECOPY_HOME": str(home)}) as at:
            await at.service.store.open()
            async with at.at_work(relay=True, projections=ALL):
                await at.journal.publish(at.service, 30)
                await at.proven()
            modes(home, folder=0o777, files=0o444)
            relay, workers = await at.cast.start("relay", user=user), await at.cast.start("workers", user=user)
            await relay.hears(AWAY)
            await workers.hears(AWAY, times=WORKERS)
            modes(home, folder=0o777, files=0o666)
            await relay.hears(BACK)
            await workers.hears(BACK, times=WORKERS)
            await at.journal.publish(at.service, 30)

            await at.proven()
            said = relay.said(AWAY)
            assert len({line.partition(" is unavailable")[0] for line in said}) == len(said), "once for store and log"
            assert len(workers.said(AWAY)) == WORKERS
            for line in (*relay.said(AWAY), *workers.said(AWAY)):
                assert str(home) in line
                assert "make the file, its folder" in line
            assert (await relay.end(), await workers.end()) == (0, 0)
    finally:
        shutil.rmtree(home)


async def test_a_database_that_is_read_only_is_waited_for(
    stage: Setting, postgres_server: Server, postgres_url: str, tmp_path: Path
) -> None:
    async with stage({"TRUECOPY_STORE": postgres_url, "TRUECOPY_REPLICA": postgres_url}) as at:
        await prepare(at.service)
        relay, workers = await at.cast.start("relay"), await at.cast.start("workers")
        await at.journal.publish(at.service, 30)
        await at.delivered(*ALL)
        publisher = await at.cast.publisher(tmp_path / "notes")
        await until_noted(tmp_path / "notes", 20)
        async with read_only(postgres_server, postgres_url):
            await publisher.hears(REFUSED_LINE)
            await relay.hears("let it accept writes")
            await workers.hears("let it accept writes", times=WORKERS)
        await publisher.hears(ACCEPTED_LINE)
        await relay.hears(BACK)
        await workers.hears(BACK, times=WORKERS)
        await publisher.kill()
        await at.journal.settle(at.service, tmp_path / "notes")

        await verify(at.service, at.journal)
        await at.proven()
        assert (await relay.end(), await workers.end()) == (0, 0)


@asynccontextmanager
async def read_only(server: Server, url: str) -> AsyncIterator[None]:
    """New sessions in this database can't write, and there are no old ones."""
    name = urlsplit(url).path[1:]
    admin = await asyncpg.connect(server.url)
    try:
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
        await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    finally:
        await admin.close()


def modes(home: Path, *, folder: int, files: int) -> None:
    home.chmod(folder)
    for path in sorted(home.iterdir(), reverse=True):  # a file after what lies beside it, so that it is one change
        path.chmod(files)


def noted(notes: Path) -> list[str]:
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [line for line in lines if line.startswith("acknowledged")]


async def until_noted(notes: Path, many: int) -> None:
    async def there() -> bool:
        return len(noted(notes)) >= many

    await until(there)
