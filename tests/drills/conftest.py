"""A stage for a drill: settings, the service as the test sees it, what works in the test's own process, and the processes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.drills.journal import ENTITY, Journal
from tests.drills.ledger import app, rounds
from tests.drills.processes import Cast

from truecopy_bus.errors import TopicMissingError, UnavailableError
from truecopy_projections.errors import UnknownProjectionError
from truecopy_projections.limits import READ_POLL_S
from truecopy_projections.projection import Projection
from truecopy_projections.state import MarkVerdict
from truecopy_schemas.codec import read_version
from truecopy_schemas.control import CONTROL_KEY
from truecopy_schemas.framing import unframe
from truecopy_services import Service, Settings, Verdict
from truecopy_services.working import work

PROVEN_WITHIN_S = 60.0
ALL = tuple(app.projections.values())
QUICK = {
    "TRUECOPY_LEASE_S": "1.5",
    "TRUECOPY_READ_WAIT_S": "0.2",
    "TRUECOPY_MARK_WRITING_S": "0.2",
    "TRUECOPY_MARK_IDLE_S": "1",
    "TRUECOPY_MARK_EVENTS": "40",
    "TRUECOPY_BATCH_RECORDS": "60",
    "TRUECOPY_TIMEOUT_S": "2",
    "TRUECOPY_STATEMENT_TIMEOUT_S": "3",
    "TRUECOPY_CHECK_WAIT_S": "20",
}


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it is true."""
    async with asyncio.timeout(PROVEN_WITHIN_S):
        while True:
            if await true():
                return
            await asyncio.sleep(READ_POLL_S)


class Stage(NamedTuple):
    """What a drill plays on."""

    service: Service
    cast: Cast
    journal: Journal

    @asynccontextmanager
    async def at_work(self, *, relay: bool = False, projections: Collection[Projection[Any]] = ()) -> AsyncIterator[None]:
        """A relay and workers in the test's own process until the block ends, when they give their leases back."""
        stop = asyncio.Event()
        working = asyncio.create_task(work(self.service, stop, relay=relay, projections=projections))
        try:
            yield
        finally:
            stop.set()
            await working

    async def proven(self, *projections: Projection[Any]) -> int:
        """Wait until all that was intended is applied by these, or by all; prove it. Returns the second copies on the log."""
        await self.judged(*(projections or ALL))
        expected: dict[str, Mapping[Any, tuple[Any, ...]]] = {
            "balance": self.journal.balances(),
            "entries": self.journal.entries(),
            "latest": self.journal.latest(),
        }
        async with self.service.replica_adapter.snapshot() as snapshot:
            for projection in projections or ALL:
                rows = [row.values async for batch in snapshot.rows(projection) for _, _, row in batch]
                assert sorted(rows) == sorted(expected[projection.name].values())
                if projection.gathers:
                    gathered = [(*row.values, row.size) async for batch in snapshot.gathered(rounds) for row in batch]
                    assert sorted(gathered) == self.journal.rounds()
                checkpoints = await snapshot.checkpoints(projection.id)
                assert [c for c in checkpoints if c.verdict is MarkVerdict.DIVERGED] == []
                assert [c for c in checkpoints if c.verdict is MarkVerdict.EQUAL]
        return await self._copies()

    async def relayed(self) -> None:
        """Wait until the outbox is empty."""

        async def empty() -> bool:
            return (await self.service.store.pending(ENTITY)).count == 0

        await until(empty)

    async def delivered(self, *projections: Projection[Any]) -> None:
        """Wait until all that was intended has reached the replica, judged or not."""

        async def there() -> bool:
            async with self.service.replica_adapter.snapshot() as snapshot:
                states = [await snapshot.states(projection.id) for projection in projections]
            return all(sum(state.count for state in each.values()) == len(self.journal) for each in states)

        await until(there)

    async def judged(self, *projections: Projection[Any], verdict: Verdict = Verdict.EQUAL) -> None:
        """Wait until all that was intended is delivered, and the check says `verdict`. It never says what it must not."""
        for projection in projections:

            async def there(it: Projection[Any] = projection) -> bool:
                nonlocal seen
                try:
                    (report,) = await self.service.check(it, deep=True)
                except (UnavailableError, TopicMissingError, UnknownProjectionError) as fault:
                    seen = fault  # a server, the relay or the worker has not come that far
                    return False
                seen = report.as_json()
                assert report.verdict in (verdict, Verdict.BEHIND, Verdict.UNPROVEN), seen
                return report.verdict is verdict and report.count == len(self.journal)

            seen: object = None
            try:
                await until(there)
            except TimeoutError:
                raise AssertionError(
                    f"{len(self.journal)} events were intended; the last check of {projection.id}: {seen}"
                ) from None

    async def _copies(self) -> int:
        """Read the whole log: every key's versions first come in order, without a hole. Counts the later copies."""
        topic = self.service.settings.topic_prefix + ENTITY
        bounds = (await self.service.log.describe(topic)).bounds
        at, known, copies = dict.fromkeys(bounds, 0), dict[str, int](), 0
        reader = self.service.log.reader(topic)
        while any(at[p] < end for p, (_, end) in bounds.items()):
            for record in await reader.read(at, records_max=1_000, wait_s=1):
                at[record.partition] = record.offset + 1
                if record.key is not None and record.key != CONTROL_KEY:
                    version, key = read_version(bytes(unframe(record.value or b"")[1])), record.key.decode()
                    assert version <= known.get(key, 0) + 1, "a gap on the log"
                    copies += version <= known.get(key, 0)
                    known[key] = max(version, known.get(key, 0))
        await reader.close()
        assert known == {key: len(amounts) for key, amounts in self.journal.intended.items()}
        return copies


Setting = Callable[[Mapping[str, str]], AbstractAsyncContextManager[Stage]]


@pytest.fixture
def stage(topic_namespace: str, tmp_path: Path) -> Setting:
    """Opens a stage at these addresses."""

    @asynccontextmanager
    async def opened(addresses: Mapping[str, str]) -> AsyncIterator[Stage]:
        settings = {"TRUECOPY_NAMESPACE": topic_namespace, "TRUECOPY_HOME": str(tmp_path), **QUICK, **addresses}
        given = {name.removeprefix("TRUECOPY_").lower(): value for name, value in settings.items()}
        cast = Cast(settings)
        try:
            async with app.at(Settings.load(**given)).open(store=False) as service:
                yield Stage(service, cast, Journal(seed=7))
        finally:
            await cast.leave()

    return opened
