"""How long each part of a change's way takes, on a service that is open. What is not proven equal is not measured."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import quantiles
from typing import Any

from truecopy_projections.projection import Projection
from truecopy_projections.state import PartitionPlan
from truecopy_projections.verdicts import Verdict
from truecopy_services.benchmark.workload import changes
from truecopy_services.errors import UnprovenError
from truecopy_services.service import Service
from truecopy_services.working import first_error, work

__all__ = ["Latency", "Sightings", "catch_up", "fill", "latency", "pace", "proven", "watched"]

PUBLISHED_AT_ONCE = 5_000
"""Events in one transaction of a caller who batches."""
LATENCY_WITHIN_S = 30.0
"""Seconds after the last event until a latency run is given up."""


async def fill(service: Service, regime: str, events: int) -> dict[str, float]:
    """Events per second of publishing (validating, encoding, one transaction for each 5,000) and of relaying them."""
    published_s = 0.0
    left = changes(regime, events)
    while some := list(islice(left, PUBLISHED_AT_ONCE)):
        began = time.perf_counter()
        await service.publish_many(some)
        published_s += time.perf_counter() - began
    relay = service.relay()
    began = time.perf_counter()
    await relay.drain()
    relayed_s = time.perf_counter() - began
    await relay.mark()
    await relay.leave()
    return {"publish": events / published_s, "relay": events / relayed_s}


async def catch_up(
    service: Service, projection: Projection[Any], events: int, *, each: Callable[[int], None] | None = None
) -> float:
    """Seconds from a replica that knows nothing to one that holds `events`; `each` is told how many after every commit."""
    stop, applied = asyncio.Event(), 0

    def count(plans: Sequence[PartitionPlan]) -> None:
        nonlocal applied
        applied += sum(plan.applied for plan in plans)
        if each is not None:
            each(applied)
        if applied >= events:
            stop.set()

    began = time.perf_counter()
    await watched(service, count).worker(projection).run(stop)
    return time.perf_counter() - began


async def proven(service: Service, projection: Projection[Any]) -> None:
    """Raises UnprovenError unless a check says EQUAL."""
    [report] = await service.check(projection)
    if report.verdict is not Verdict.EQUAL:
        raise UnprovenError(projection=projection.id, verdict=report.verdict.name)


class _Watched:
    """A replica that tells of each commit when it has returned. All else is the replica's own."""

    def __init__(self, replica: Any, told: Callable[[Sequence[PartitionPlan]], None]) -> None:
        self._replica, self._told = replica, told

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replica, name)

    async def apply(self, projection: Projection[Any], plans: Sequence[PartitionPlan], **options: Any) -> frozenset[int]:
        committed: frozenset[int] = await self._replica.apply(projection, plans, **options)
        self._told([plan for plan in plans if plan.was.partition in committed])
        return committed


def watched(service: Service, told: Callable[[Sequence[PartitionPlan]], None]) -> Service:
    """The same service, which tells of each commit of its workers once it has returned."""
    return replace(service, replica_adapter=_Watched(service.replica_adapter, told))


class Sightings:
    """When keys were first seen in a replica: time.monotonic() when their commit had returned, so at the latest."""

    def __init__(self) -> None:
        self.seen_at: dict[str, float] = {}
        self._came = asyncio.Event()

    def note(self, plans: Sequence[PartitionPlan]) -> None:
        now = time.monotonic()
        for plan in plans:
            self.seen_at |= dict.fromkeys(plan.expanded().keys.keys() - self.seen_at.keys(), now)
        self._came.set()

    async def until(self, keys: Collection[str]) -> None:
        """Wait for these keys. Raises TimeoutError after LATENCY_WITHIN_S."""
        async with asyncio.timeout(LATENCY_WITHIN_S):
            while not self.seen_at.keys() >= set(keys):
                await self._came.wait()
                self._came.clear()


async def pace(service: Service, *, rate: float, events: int) -> dict[str, float]:
    """Publish one event a transaction, `rate` of them a second, each of its own key. When each was committed, by key."""
    committed_at: dict[str, float] = {}
    first = time.monotonic()
    for number, (_, event) in enumerate(changes("spread", 2 * events)):
        if number == events:
            break
        await asyncio.sleep(first + number / rate - time.monotonic())
        key = f"paced-{first:.6f}-{number}"
        await service.publish(key, event)
        committed_at[key] = time.monotonic()
    return committed_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds from the owner's commit to the replica's."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    events: int

    @staticmethod
    def of(committed_at: Mapping[str, float], seen_at: Mapping[str, float]) -> "Latency":
        found = sorted((seen_at[key] - at) * 1000 for key, at in committed_at.items())
        cuts = quantiles(found, n=100, method="inclusive")
        return Latency(p50_ms=cuts[49], p99_ms=cuts[98], max_ms=found[-1], events=len(found))


async def latency(service: Service, projection: Projection[Any], *, rate: float, events: int) -> Latency:
    """Publisher, relay and worker in this process, on an empty log or one that is caught up with."""
    seen, stop = Sightings(), asyncio.Event()
    with first_error():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work(watched(service, seen.note), stop, relay=True, projections=[projection]))
            try:
                # Topics are made and leases taken with the first event; that is no part of a latency.
                await seen.until(await pace(service, rate=rate, events=1))
                committed_at = await pace(service, rate=rate, events=events)
                await seen.until(committed_at)
            finally:
                stop.set()
    return Latency.of(committed_at, seen.seen_at)
