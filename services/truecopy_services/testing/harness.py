"""The harness: a service under test, in one process, without servers, and without a wait.

    async with shop.test(shuffle=True, duplicates=0.2) as service:
        await place_order(service, "o1")
        await service.settle()
        assert await service.get(orders, "o1") == Order(state="placed")

It is a Service, so the code under test takes it as it is. Log, store and replica are the real adapters, in memory, or in the
files of a folder, or what the test brings; no setting of the environment is read. When the block ends well, every replica is
proven as `truecopy check --deep` would, and compared with in-order delivery where there was another.
"""

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar, overload

from truecopy_bus.errors import TopicMissingError
from truecopy_bus.log import Log
from truecopy_bus.registry import Registry
from truecopy_projections.drill import drill
from truecopy_projections.errors import UnknownProjectionError
from truecopy_projections.gathered import Gathered
from truecopy_projections.gathered_check import contributions, gathered_differences, gathered_found
from truecopy_projections.merge_laws import broken_laws
from truecopy_projections.projection import Projection
from truecopy_projections.reference import replay
from truecopy_projections.replica import Replica
from truecopy_projections.verdicts import Report, Verdict, worst
from truecopy_services.config import MEMORY, Settings
from truecopy_services.errors import UsageError
from truecopy_services.live_reading import LiveReader
from truecopy_services.reading import GatheredReader, ReplicaReader
from truecopy_services.service import Service
from truecopy_services.testing.delivery import Delivery, Member
from truecopy_services.testing.errors import NotConvergedError, NotSettledError
from truecopy_services.testing.shuffling import ShufflingLog

if TYPE_CHECKING:
    from truecopy_services.app import Truecopy

__all__ = ["SETTLE_S", "Harness", "under_test"]

R = TypeVar("R")
SETTLE_S = 10.0
"""Seconds for one delivery at the most. It takes milliseconds, unless an adapter or a reducer hangs."""
READ_WAIT_S = 0.02
"""Seconds that a worker's read waits where the log has more, for logs of a test's own that are not there at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness(Service):
    """See the module's text. `seed` is what the delivery was drawn from, None where nothing was drawn."""

    delivery: Delivery
    seed: int | None
    limit_s: float

    async def settle(self, *, parked: bool = False, limit_s: float | None = None) -> None:
        """Deliver all that was published. With `parked`, keys may end up in quarantine.

        Raises NotSettledError, which names what is left, when something can't be delivered or `limit_s` seconds are over.
        """
        limit_s = self.limit_s if limit_s is None else limit_s
        left = await self.delivery.deliver(limit_s)
        if left.stuck or (left.parked and not parked):
            told = [*left.stuck, *([] if parked else left.parked)]
            raise NotSettledError(left=told, limit_s=limit_s, timed_out=left.timed_out)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Deliver nothing until the block ends, so that the replica falls behind and reads at a token are refused."""
        self.delivery.paused = True
        try:
            yield
        finally:
            self.delivery.paused = False

    @overload
    def replica(self, rows: Projection[R]) -> ReplicaReader[R]: ...

    @overload
    def replica(self, rows: Gathered[R]) -> GatheredReader[R]: ...

    @overload
    def replica(self, rows: str) -> LiveReader: ...

    def replica(self, rows: Projection[R] | Gathered[R] | str) -> ReplicaReader[R] | GatheredReader[R] | LiveReader:
        """The rows of a projection. A read that demands a token delivers first; any other sees what the replica holds now."""
        return self._reader(rows, wait_s=0, before=partial(self.delivery.deliver, self.limit_s))

    async def rows(self, projection: Projection[R]) -> dict[str, list[R]]:
        """All rows that the replica holds now, by source key; those of a key in the order of the projection's `key` fields.

        Raises UnknownProjectionError when the replica holds no such projection, ProjectionError when it was declared otherwise.
        """
        found: dict[str, list[tuple[Any, ...]]] = {}
        async with self.replica_adapter.snapshot() as snapshot:
            if not await snapshot.states(projection.id):
                raise UnknownProjectionError(f"the replica holds no {projection.id} yet; publish something and settle first")
            async for batch in snapshot.rows(projection):
                for key, _, row in batch:
                    found.setdefault(key, []).append(tuple(row.values))
        ordered = {key: sorted(rows, key=projection.sub_key) for key, rows in sorted(found.items())}
        return {key: [projection.restored(values) for values in rows] for key, rows in ordered.items()}

    async def check(
        self,
        *projections: Projection[Any],
        deep: bool = False,
        quick: bool = False,
        peers: Sequence[str | Replica] = (),
        afresh: bool = False,
    ) -> list[Report]:
        """Deliver what can be, then check as `truecopy check` does; see Service.check."""
        await self.delivery.deliver(self.limit_s)
        # Not by super(): this class was made anew for its slots.
        return await Service.check(self, *projections, deep=deep, quick=quick, peers=peers, afresh=afresh)

    async def prove(self, *, parked: bool = False) -> None:
        """Settle, then check every row of every projection, and compare it with in-order delivery if there was another.

        With `parked`, keys may be in quarantine, and the rest is proven. Raises NotSettledError and NotConvergedError.
        """
        await self.settle(parked=parked)
        good = (Verdict.EQUAL, Verdict.PARKED) if parked else (Verdict.EQUAL,)
        found: list[str] = []
        for projection in self.projections.values():
            try:
                (report,) = await self.check(projection, deep=True)
            except TopicMissingError:
                continue  # nothing was published that it could project
            if _proven(projection, report) not in good:
                found += _told(report)
            elif isinstance(self.log, ShufflingLog) and projection.foreign is None:
                found += await self._out_of_order(projection, self.log)
            found += await self._unlawful(projection)
        if found:
            raise NotConvergedError(found=found)

    async def _out_of_order(self, projection: Projection[Any], log: ShufflingLog) -> list[str]:
        """The rows that in-order delivery would have made otherwise."""
        topic = self.topic(projection)
        upto = {p: end for p, (_, end) in (await log.ordered.describe(topic)).bounds.items()}
        async with self.replica_adapter.snapshot() as snapshot:
            amendments = await snapshot.amendments(projection.id)
            reference = await replay(projection, log.ordered, self.registry, topic=topic, upto=upto, amendments=amendments)
            differences = await drill(projection, snapshot, reference, None)
            differences += gathered_differences(await gathered_found(projection, snapshot, differences))
        return [f"{projection.id}, where in-order delivery gives what is expected: {one}" for one in differences]

    async def _unlawful(self, projection: Projection[Any]) -> list[str]:
        """The gathered rows that another order of their contributions would have made otherwise."""
        if not projection.gathers:
            return []
        async with self.replica_adapter.snapshot() as snapshot:
            stored = (await contributions(projection, snapshot)).values()
        random = Random(f"{self.seed}/merge/{projection.id}")
        return [line for gathered in projection.gathers for line in broken_laws(gathered, stored, random)]


@asynccontextmanager
async def under_test(
    app: "Truecopy",
    *,
    shuffle: bool,
    duplicates: float,
    seed: int | None,
    prove: bool,
    limit_s: float,
    folder: Path | None,
    log: Log | None,
    replica: Replica | None,
    beside: Harness | None,
) -> AsyncIterator[Harness]:
    """See Truecopy.test."""
    if not 0 <= duplicates < 1:
        raise UsageError(f"duplicates is {duplicates}, expected a share from 0 to below 1")
    if beside is not None and (shuffle or duplicates or seed is not None or log is not None):
        raise UsageError("beside another harness its log and delivery are shared; give shuffle, duplicates, seed and log there")
    drawn = shuffle or duplicates > 0
    if seed is None:
        seed = secrets.randbelow(2**32) if drawn else None
    elif not drawn:
        raise UsageError(f"seed is {seed}, but nothing is drawn from it; give shuffle or duplicates, or leave it out")
    with TemporaryDirectory(prefix="truecopy-") as made:
        embedded = Settings.model_construct(
            log=MEMORY if folder is None else "", home=folder or Path(made), read_wait_s=READ_WAIT_S, check_wait_s=0.0
        )
        async with app.at(embedded).open() as service:
            if beside is not None:
                log, seed = beside.log, beside.seed
            elif seed is not None:
                log = ShufflingLog(log or service.log, seed=seed, shuffle=shuffle, duplicates=duplicates)
            if isinstance(log, ShufflingLog):
                log.untouched |= {one.entity for one in app.projections.values() if one.foreign is not None}
            if log is not None:
                service = replace(service, log=log, registry=Registry(log))
            if replica is not None:
                service = replace(service, replica_adapter=replica, replica_database=None)
            delivery = beside.delivery if beside is not None else Delivery(deaths=duplicates)
            member = Member(service=service, relay=service.relay(), random=Random(f"{seed}/worker/{service.name}"))
            kept = {one.name: getattr(service, one.name) for one in fields(Service)}
            harness = Harness(**kept, delivery=delivery, seed=seed, limit_s=limit_s)
            delivery.members.append(member)
            try:
                yield harness
                if prove:
                    await harness.prove()
            except BaseException as fault:  # pytest.fail raises one too
                if seed is not None and beside is None:
                    fault.add_note(f"delivered as drawn from seed={seed}: test(..., seed={seed}) does it again")
                raise
            finally:
                delivery.members.remove(member)
                await member.relay.leave()
                await harness.registry.close()


def _proven(projection: Projection[Any], report: Report) -> Verdict:
    """The verdict on what can be proven: of a foreign topic, all but the delivery."""
    if projection.foreign is None or report.delivered.verdict is not Verdict.UNPROVEN:
        return report.verdict
    return worst([report.computed.verdict, report.stored.verdict])


def _told(report: Report) -> list[str]:
    claims = (("delivered", report.delivered), ("computed", report.computed), ("stored", report.stored))
    wrong = [f"{name} {one.verdict.name}: {one.why}" for name, one in claims if one.verdict is not Verdict.EQUAL]
    return [f"{report.projection} is {report.verdict.name}: {'; '.join(wrong)}", *map(str, report.differences)]
