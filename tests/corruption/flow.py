"""The flow as a process of its own: a publisher at a steady rate, a relay, workers; it does what lines on standard input say.

`go` gives the quiet keys their last version and goes on to the moving ones. `rest` lets the workers give their partitions back
and closes the replica, `work` begins again, `count` tells how many events are committed, `end` publishes no more and sends what
is left. Each is answered by one line. Relay and workers go on until standard input is closed.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice

from tests.corruption.intended import Intent
from tests.corruption.ledger import app
from tests.corruption.trouble import TroubledLog, zombies
from tests.projections.bank import Deposited

from truecopy_bus.relay import Relay
from truecopy_services import Service, Settings
from truecopy_services.working import first_error, spare_collector, work

TICK_S = 0.1
"""Seconds between two transactions of the publisher."""
FIRST_EVENTS = 2_000
"""Events of a transaction while the quiet keys are made."""


class Flow:
    """Publisher and relay of one service, and its workers."""

    def __init__(self, intent: Intent, roles: set[str], *, rate: int, trouble: bool) -> None:
        self.intent, self.rate, self.trouble = intent, rate, trouble
        self.projections = [projection for projection in app.projections.values() if projection.name in roles]
        self.committed = 0
        self.done: Counter[str] = Counter()
        self._publishing = asyncio.Event()
        self._publishing.set()
        self.gone = asyncio.Event()
        self.owner: Service | None = None
        self._published = asyncio.Event()
        self._resting = asyncio.Event()
        self._workers: asyncio.Task[None] | None = None

    async def publish(self, service: Service) -> None:
        """Publish on from what is committed already, at the rate, until told to stop."""
        async with service.store.transaction() as tx:
            [(self.committed,)] = await tx.execute("SELECT count(*) FROM truecopy_events")
        coming = islice(self.intent.events(), self.committed, None)
        while (left := self.intent.first - self.committed) > 0:
            if self.committed == self.intent.older:
                await self.gone.wait()
            elif self.committed < self.intent.older:
                left = self.intent.older - self.committed
            await self._publish(service, list(islice(coming, min(left, FIRST_EVENTS))))
        began_s, before = asyncio.get_running_loop().time(), self.committed
        while self._publishing.is_set():
            due = int((asyncio.get_running_loop().time() - began_s) * self.rate) - (self.committed - before)
            if due > 0:
                await self._publish(service, list(islice(coming, min(due, FIRST_EVENTS))))
            await asyncio.sleep(TICK_S)
        self._published.set()

    async def _publish(self, service: Service, some: list[tuple[str, int]]) -> None:
        await service.publish_many((key, Deposited(amount=amount)) for key, amount in some)
        self.committed += len(some)

    async def relay(self, service: Service, stop: asyncio.Event) -> None:
        """One relay, or in trouble two, of which one is a zombie again and again."""
        if not self.trouble:
            await service.relay().run(stop)
            return
        settings = service.settings
        log = TroubledLog(service.log, seed=self.intent.seed, done=self.done)

        def relay(on: TroubledLog) -> Relay:
            return Relay(
                service.store,
                on,
                service.registry,
                namespace=settings.topic_prefix,
                lease_s=settings.lease_s,
                mark_events=settings.mark_events,
                mark_writing_s=settings.mark_writing_s,
                mark_idle_s=settings.mark_idle_s,
            )

        held = TroubledLog(service.log, seed=self.intent.seed + 1, done=self.done)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(relay(log).run(stop))
            tasks.create_task(relay(held).run(stop))
            await zombies(held, stop, lease_s=settings.lease_s)

    async def work(self) -> None:
        """Let the workers begin, on a replica that is opened for them."""
        self._resting.clear()
        self._workers = asyncio.create_task(self._work())

    async def _work(self) -> None:
        async with app.at(Settings.load()).open(store=False) as service:
            await work(service, self._resting, relay=False, projections=self.projections)

    async def rest(self) -> None:
        """Let the workers end, and close the replica."""
        self._resting.set()
        workers, self._workers = self._workers, None
        if workers is not None:
            await workers

    async def go(self) -> None:
        self.gone.set()

    def stop(self) -> None:
        self.gone.set()
        self._publishing.clear()

    async def end(self) -> None:
        """Publish no more; return when nothing waits to be sent."""
        self.stop()
        assert self.owner is not None
        await self._published.wait()
        while (await self.owner.store.pending("bank.account")).count:  # noqa: ASYNC110 another task's relay sends it
            await asyncio.sleep(TICK_S)


async def lines() -> AsyncIterator[str]:
    """What comes on standard input."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().strip()


@asynccontextmanager
async def at_work(flow: Flow, roles: set[str]) -> AsyncIterator[None]:
    """Publisher and relay, and the workers of projections, as far as `roles` names them, until the block ends."""
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(first_error())
        service = None
        if "publish" in roles:
            service = flow.owner = await stack.enter_async_context(app.at(Settings.load()).open())
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        if service is not None:
            tasks.create_task(flow.publish(service))
            tasks.create_task(flow.relay(service, stop))
        if flow.projections:
            await flow.work()
        try:
            yield
        finally:
            flow.stop()
            stop.set()
            await flow.rest()


async def main(roles: set[str], intent: Intent, rate: int, trouble: bool) -> None:
    flow = Flow(intent, roles, rate=rate, trouble=trouble)
    spare_collector()
    async with at_work(flow, roles):
        print("begun", flush=True)
        async for line in lines():
            if line in (words := {"go": flow.go, "rest": flow.rest, "work": flow.work, "end": flow.end}):
                await words[line]()
            told = " ".join(f"{name}={number}" for name, number in sorted(flow.done.items()))
            print(line, flow.committed, told, flush=True)


if __name__ == "__main__":
    names, seed, quiet, moving, rate, trouble = sys.argv[1:]
    asyncio.run(
        main(set(names.split(",")), Intent(seed=int(seed), quiet=int(quiet), moving=int(moving)), int(rate), trouble == "yes")
    )
