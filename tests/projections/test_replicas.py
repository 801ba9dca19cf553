"""The replica suite on every replica that is shipped."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from truecopy_projections.replica import Replica
from truecopy_projections.replicas import MemoryReplica, open_replica
from truecopy_projections.testing.replica_suite import ReplicaSuite


class TestMemory(ReplicaSuite):
    @pytest.fixture
    def replica(self) -> MemoryReplica:
        return MemoryReplica()


class TestSqlite(ReplicaSuite):
    @pytest.fixture
    async def replica(self, tmp_path: Path) -> AsyncIterator[Replica]:
        replica = await open_replica(f"sqlite:{tmp_path / 'replica.db'}")
        yield replica
        await replica.close()


class TestPostgres(ReplicaSuite):
    @pytest.fixture
    async def replica(self, postgres_url: str) -> AsyncIterator[Replica]:
        replica = await open_replica(postgres_url)
        yield replica
        await replica.close()
