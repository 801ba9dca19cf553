"""Relay and workers of an open service at work in one process, until they are told to stop.

The first SIGTERM or SIGINT lets everybody finish the batch at hand and give the leases back; a second ends the process at
once, by the system's own default. What is away is waited for; what fails for good ends all, with its error.
"""

import asyncio
import gc
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from truecopy_bus.errors import UnavailableError
from truecopy_bus.outage import Outage
from truecopy_bus.relay import Relay
from truecopy_projections.projection import Projection
from truecopy_projections.stages import works
from truecopy_projections.worker import Worker
from truecopy_services.delivering import Deliverer
from truecopy_services.errors import NoAnswerError
from truecopy_services.service import Service

__all__ = ["Loops", "answering_within", "first_error", "spare_collector", "stopped_by_signals", "work"]

COLLECT_AFTER = 50_000
"""Objects made, and not yet let go, until Python's garbage collector looks at the young ones."""
STAGES_LOOK_S = 0.5
"""Seconds between two looks at the stages of a projection's numbers: a swap is noticed within a second."""
STOPPING = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger("truecopy.run")


@dataclass(slots=True, kw_only=True)
class Loops:
    """The loops of this process, for whoever watches them: `outages` say what each waits for, and when it came round."""

    relay: Relay | None = None
    workers: dict[str, Worker] = field(default_factory=dict)
    outages: dict[str, Outage] = field(default_factory=dict)


async def work(
    service: Service,
    stop: asyncio.Event,
    *,
    relay: bool,
    projections: Collection[Projection[Any]],
    loops: Loops | None = None,
) -> None:
    """Run a relay and one worker for each projection until `stop` is set, and enter them into `loops`.

    Of a projection that is declared with several numbers, those that are live or follow are at work, and a swap or a new
    stage is noticed within STAGES_LOOK_S. Raises the first error of one that fails for good; the others end with it.
    """
    loops = loops or Loops()
    names = dict.fromkeys(projection.name for projection in projections)
    with first_error():
        async with asyncio.TaskGroup() as tasks:
            if relay:
                tasks.create_task(_relay(service, stop, loops))
            for name in names:
                numbers = {projection.number: projection for projection in projections if projection.name == name}
                tasks.create_task(_supervise(service, name, numbers, stop, loops, tasks))
            for name in {projection.name for projection in projections} & service.deliverers.keys():
                deliverer = Deliverer(name, service.replica_adapter, service.deliverers[name])
                loops.outages[f"effects of {name}"] = deliverer.outage
                tasks.create_task(deliverer.run(stop))


async def _supervise(
    service: Service,
    name: str,
    numbers: Mapping[int, Projection[Any]],
    stop: asyncio.Event,
    loops: Loops,
    tasks: asyncio.TaskGroup,
) -> None:
    """Let those of a projection's numbers work that are live or follow."""
    declared = {one.number for one in service.projections.values() if one.name == name} | numbers.keys()
    stops: dict[int, asyncio.Event] = {}
    while not stop.is_set():
        wanted = await _at_work(service, name, declared, stops.keys() or (numbers.keys() if len(numbers) == 1 else ()))
        for number in numbers.keys() & wanted - stops.keys():
            projection, stops[number] = numbers[number], asyncio.Event()
            worker = loops.workers[projection.id] = service.worker(projection)
            loops.outages[projection.id] = worker.outage
            tasks.create_task(worker.run(stops[number]))
        for number in stops.keys() - wanted:
            stops.pop(number).set()
            projection = numbers[number]
            _log.warning("%s is not kept up to date here any more: its stage says so", projection.id)
            del loops.workers[projection.id], loops.outages[projection.id]
        with suppress(TimeoutError):
            async with asyncio.timeout(STAGES_LOOK_S):
                await stop.wait()
    for one in stops.values():
        one.set()


async def _at_work(service: Service, name: str, declared: Collection[int], otherwise: Collection[int]) -> Collection[int]:
    """The numbers that are to work, by the replica; while that is away, `otherwise`."""
    try:
        async with service.replica_adapter.snapshot() as snapshot:
            staged = await snapshot.stages(name)
    except UnavailableError:  # a worker says so, as long as it lasts
        return frozenset(otherwise)
    now_ms = time.time_ns() // 1_000_000
    return {number for number in declared if works(staged, number, declared, now_ms)}


async def _relay(service: Service, stop: asyncio.Event, loops: Loops) -> None:
    """A relay whose store may be away at the start too."""
    outage = loops.outages["relay"] = Outage(_log, f"store of {service.name}", about={"service": service.name})
    while not stop.is_set():
        try:
            await service.store.open()
        except UnavailableError as fault:
            with suppress(TimeoutError):
                async with asyncio.timeout(outage.strike(fault)):
                    await stop.wait()
        else:
            outage.over()
            loops.relay = service.relay()
            loops.relay.outage.heard_at = outage.heard_at
            loops.outages["relay"] = loops.relay.outage
            await loops.relay.run(stop)
            return


def spare_collector() -> None:
    """Let the garbage collector look at a worker's batches less often. For processes that are ours alone.

    A batch makes some hundred thousand tuples that live as long as it does and hold no cycle. By default the collector looks at
    all of them every 700 more: 12 to 15 % of the time of catching up (measured).
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])


@contextmanager
def stopped_by_signals(stop: asyncio.Event, *, say: Callable[[str], None]) -> Iterator[None]:
    """Set `stop` at the first SIGTERM or SIGINT; from then on either ends the process at once. In the main thread only.

    Handlers of Python's own and not the event loop's, so that a loop that is stuck can still be ended by the second.
    """
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in STOPPING}

    def first(*_: object) -> None:
        for number in STOPPING:
            signal.signal(number, signal.SIG_DFL)
        loop.call_soon_threadsafe(stop.set)
        loop.call_soon_threadsafe(say, "stopping after the batch at hand; a second signal ends it at once")

    for number in STOPPING:
        signal.signal(number, first)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def first_error() -> Iterator[None]:
    """What a task group raises as the one error that ended it: the others were cancelled for it."""
    try:
        yield
    except BaseExceptionGroup as group:
        first = group.exceptions[0]
        raise first from first.__cause__


@asynccontextmanager
async def answering_within(timeout_s: float, what: str) -> AsyncIterator[None]:
    """Raise NoAnswerError, which names `what`, when the block takes longer than `timeout_s` seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise NoAnswerError(what=what, waited_s=timeout_s) from None
