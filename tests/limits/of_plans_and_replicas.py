"""Drives of the bounds that plans and replicas keep: parked keys, what waits, digests, checkpoints, scans."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.limits.drives import drives
from tests.limits.history import copied, deposited, history, summed
from tests.projections.bank import Deposited, balance, reading, record

from truecopy_bus.leases import Fence
from truecopy_bus.record import Record
from truecopy_projections import limits
from truecopy_projections.digest import EMPTY, bucket_of, differing, shifted, total, vector
from truecopy_projections.plan import plan
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.replicas import MemoryReplica, open_replica
from truecopy_projections.state import Known, PartitionPlan, PartitionState
from truecopy_projections.testing.replica_plans import INCARNATION, LINES, checkpoint_at, moved_on
from truecopy_projections.worker import Worker

STATE = PartitionState(partition=0, incarnation=INCARNATION)
FENCE = Fence(partition=0, epoch=1, claim=b"c" * 16)


def planned(records: Sequence[Record], projection: Projection[Any] = balance) -> PartitionPlan:
    [made] = plan(projection, {0: STATE}, {0: FENCE}, reading(projection).items(records), Known())
    return made


@drives("projections.KEYS_PARKED_MAX")
def keys_that_are_parked() -> None:
    records = [record(each, f"k{each}", 1, Deposited(amount=666)) for each in range(limits.KEYS_PARKED_MAX + 1)]

    below, beyond = planned(records[:-1]), planned(records)
    assert (below.state.parked, below.state.halted) == (limits.KEYS_PARKED_MAX, "")
    assert beyond.state.parked == limits.KEYS_PARKED_MAX + 1
    assert beyond.state.halted.startswith("parked:")
    assert f"the limits are {limits.KEYS_PARKED_MAX} " in beyond.state.halted


@drives("projections.WAITING_BYTES_MAX")
def bytes_that_wait() -> None:
    largest = bytes(1024 * 1024 - 3)  # no event of ours: its frame names schema 0
    records = [Record(0, each, b"key", largest, 0, ()) for each in range(limits.WAITING_BYTES_MAX // (1024 * 1024))]

    below = planned(records)
    beyond = planned([*records[:-1], Record(0, len(records), b"key!", largest, 0, ())])
    assert (below.state.waiting_bytes, below.state.halted) == (limits.WAITING_BYTES_MAX, "")
    assert beyond.state.waiting_bytes == limits.WAITING_BYTES_MAX + 1
    assert f"the limits are {limits.KEYS_PARKED_MAX} and {limits.WAITING_BYTES_MAX};" in beyond.state.halted


@drives("projections.DETAIL_CHARS_MAX")
def the_reason_beside_a_record() -> None:
    name = len("ValueError: ")
    for chars, kept in ((limits.DETAIL_CHARS_MAX - name, -1), (limits.DETAIL_CHARS_MAX - name + 1, limits.DETAIL_CHARS_MAX)):
        said = "x" * (chars - 1) + "!"
        [waiting] = planned([record(0, "k", 1, Deposited(amount=1))], summed(lambda _, said=said: said)).waits  # type: ignore[misc]
        assert waiting.detail == f"ValueError: {said}"[: kept if kept > 0 else None]


@drives("projections.BUCKETS")
def buckets_of_a_digest() -> None:
    used = {bucket_of(f"key {each}") for each in range(20 * limits.BUCKETS)}
    last = limits.BUCKETS - 1

    assert used == set(range(limits.BUCKETS))
    assert len(EMPTY) == 32 * limits.BUCKETS
    assert differing(EMPTY, shifted(EMPTY, {last: 7, 0: 1})) == {0, last}
    assert total(vector([(last, bytes(31) + b"\7")])) == 7


@asynccontextmanager
async def both(tmp_path: Path) -> AsyncIterator[list[Replica]]:
    replicas = [MemoryReplica(), await open_replica(f"sqlite:{tmp_path}/replica.db")]
    yield replicas
    for one in replicas:
        await one.close()


class Marked:
    """A replica that passes one mark after the other."""

    def __init__(self, replica: Replica) -> None:
        self.replica, self.passed = replica, 0

    async def passes(self, marks: int) -> tuple[int, int]:
        """The offsets of the first and the last checkpoint that is kept once so many more have come: all between are too."""
        await self.replica.install(LINES, partitions=1, incarnation=INCARNATION)
        fences = await self.replica.renew(LINES, "driver", (), lease_s=60.0, seize=True)
        async with self.replica.snapshot() as snapshot:
            states = await snapshot.states(LINES.id)
        some = [checkpoint_at(0, at) for at in range(self.passed, self.passed + marks)]
        self.passed += marks
        await self.replica.apply(LINES, [moved_on(fences[0], states[0], checkpoints=some)])
        async with self.replica.snapshot() as snapshot:
            offsets = [one.offset for one in await snapshot.checkpoints(LINES.id)]
        assert offsets == list(range(offsets[0], self.passed))
        return offsets[0], offsets[-1]


@drives("projections.CHECKPOINTS_KEPT")
async def checkpoints_in_memory() -> None:
    replica, most = Marked(MemoryReplica()), limits.CHECKPOINTS_KEPT

    assert await replica.passes(most) == (0, most - 1)
    assert await replica.passes(1) == (1, most)


@drives("projections.CHECKPOINTS_KEPT")
async def checkpoints_in_a_database(tmp_path: Path) -> None:
    stored, most = await open_replica(f"sqlite:{tmp_path}/replica.db"), limits.CHECKPOINTS_KEPT
    replica = Marked(stored)

    assert await replica.passes(most) == (0, most - 1)
    assert await replica.passes(most // 10) == (0, most + most // 10 - 1)  # a tenth more, so that not each mark deletes
    assert await replica.passes(1) == (most // 10 + 1, most + most // 10)
    await stored.close()


@drives("projections.SCAN_ROWS")
async def rows_of_a_scan(tmp_path: Path) -> None:
    log, registry = await history(deposited(f"k{each}" for each in range(limits.SCAN_ROWS + 1)))
    async with both(tmp_path) as replicas:
        for replica in replicas:
            worker = Worker(copied, replica, log, registry, wait_s=0.001)
            await worker.step()
            await worker.leave()
            async with replica.snapshot() as snapshot:
                assert [len(some) async for some in snapshot.rows(copied)] == [limits.SCAN_ROWS, 1]
                assert [len(some) async for some in snapshot.keys(copied)] == [limits.SCAN_ROWS, 1]
