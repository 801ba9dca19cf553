"""Disks that are really full: a small file system in memory, filled up. Needs root on Linux, who may mount it.

`make drill-kills` plays this for root; `make test` plays test_storage.py, which needs no right.
"""

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from tests.drills.conftest import ALL, Setting
from tests.drills.processes import AWAY, BACK
from tests.drills.publisher import ACCEPTED_LINE, REFUSED_LINE, prepare, verify

from truecopy_services.servers import Server

WORKERS = len(ALL)
SIZE_MIB = 48
STEP_BYTES = 4_096
EVENTS = 3_000


class Disk:
    """A file system of `SIZE_MIB` at `path`, which a server that runs as `nobody` can use too."""

    def __init__(self, path: Path) -> None:
        self.path, self._ballast = path, path / "ballast"

    def folder(self, name: str) -> Path:
        """A new one on it, which is a PostgreSQL's."""
        made = self.path / name
        made.mkdir()
        os.chown(made, pwd.getpwnam("nobody").pw_uid, -1)
        return made

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(STEP_BYTES)):
                    pass
            except OSError:
                return

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk() -> Iterator[Disk]:
    path = Path(tempfile.mkdtemp(prefix="truecopy-disk-"))
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=777", "tmpfs", path], check=True)
        try:
            yield Disk(path)
        finally:
            subprocess.run(["umount", "--lazy", path], check=True)
    finally:
        path.rmdir()


async def test_store_log_and_replica_on_a_full_disk(stage: Setting, disk: Disk, tmp_path: Path) -> None:
    async with stage({"TRUECOPY_HOME": str(disk.path)}) as at:
        await prepare(at.service)
        relay, workers = await at.cast.start("relay"), await at.cast.start("workers")
        await at.journal.publish(at.service, 30)
        await at.delivered(*ALL)
        publisher = await at.cast.publisher(tmp_path / "notes")
        disk.fill()
        await publisher.hears(REFUSED_LINE)
        await relay.hears(AWAY)
        await workers.hears(AWAY, times=WORKERS)
        disk.free()
        await publisher.hears(ACCEPTED_LINE)
        await relay.hears(BACK)
        await workers.hears(BACK, times=WORKERS)
        await publisher.kill()
        await at.journal.settle(at.service, tmp_path / "notes")

        for line in (*publisher.said(REFUSED_LINE), *relay.said(AWAY), *workers.said(AWAY)):
            assert "full" in line
            assert "free space on its disk" in line
        await verify(at.service, at.journal)
        await at.proven()
        assert (await relay.end(), await workers.end()) == (0, 0)


async def test_a_postgresql_on_a_full_disk(stage: Setting, disk: Disk, postgres_server: Server, tmp_path: Path) -> None:
    small = disk.folder("small")
    admin = await asyncpg.connect(postgres_server.url)
    name = f"t{os.getpid()}"
    await admin.execute(f"CREATE TABLESPACE {name} LOCATION '{small}'")
    await admin.execute(f"CREATE DATABASE {name} TABLESPACE {name}")
    url = urlsplit(postgres_server.url)._replace(path=f"/{name}").geturl()
    try:
        async with stage({"TRUECOPY_STORE": url, "TRUECOPY_REPLICA": url}) as at:
            await prepare(at.service)
            async with at.at_work(relay=True, projections=ALL):
                await at.journal.publish(at.service, 30)
                await at.proven()
            await at.journal.publish_at_once(at.service, EVENTS)
            publisher = await at.cast.publisher(tmp_path / "notes")
            disk.fill()
            await publisher.hears(REFUSED_LINE)
            relay = await at.cast.start("relay")
            await relay.hears(AWAY)
            workers = await at.cast.start("workers")
            await workers.hears(AWAY)
            disk.free()
            await publisher.hears(ACCEPTED_LINE)
            await relay.hears(BACK)
            await workers.hears(BACK)
            await publisher.kill()
            await at.journal.settle(at.service, tmp_path / "notes")

            for line in (*publisher.said(REFUSED_LINE), *relay.said(AWAY), *workers.said(AWAY)):
                assert "53100" in line
                assert "free space on the server's disk" in line
            await verify(at.service, at.journal)
            assert await at.proven() <= EVENTS + len(publisher.heard), "what is on the log is not sent at each try"
            assert (await relay.end(), await workers.end()) == (0, 0)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.execute(f"DROP TABLESPACE {name}")
        await admin.close()
