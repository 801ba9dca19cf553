"""A scene for a fault: a publisher, relays and workers at work on real servers behind links, and what became of all of it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient
from tests.chaos.histories import Fault, Operation, found_in
from tests.chaos.link import Link, Weather
from tests.chaos.transcript import Transcript, published, read, written
from tests.drills.conftest import ALL, Stage
from tests.drills.full_disk import Disk
from tests.drills.journal import ENTITY
from tests.drills.ledger import entries
from tests.drills.processes import Role
from tests.drills.publisher import prepare, verify

from truecopy_services.servers import Server

STEADY_EVENTS = 40
"""Events that are acknowledged before a fault, and again after it."""
GOES_ON_WITHIN_S = 120.0
"""Seconds until load must be seen to go on after a fault, on a machine with much else to do."""
LOOK_S = 0.2
"""Seconds between two looks: looking takes time from those who are looked at."""
COUNTED = ("acknowledged", "lost", "twice", "order", "second_copies")
"""What an outcome counts since the first round."""
TOLD_CHARS_MAX = 300
"""Characters of what stands in the way of a proof."""
ORDER = frozenset(Fault) - {Fault.DUPLICATE, Fault.UNSEEN, Fault.LOST_WRITE, Fault.ABORTED_READ}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a round. `found` are the faults of its histories, by history and class; copies on the log are none."""

    acknowledged: int
    """Events, since the first round on these processes; and so are the next three, and `second_copies`."""
    during: int
    """Events that were acknowledged while the fault lasted."""
    lost: int
    twice: int
    order: int
    second_copies: int
    """Of events, on the log."""
    verdict: str
    first_batch_s: float
    """Seconds from the end of the fault to the first batch that was applied."""
    caught_up_s: float
    """Seconds until all that had been acknowledged by then was applied by every projection."""
    found: dict[str, int] = field(default_factory=dict)
    told: Sequence[str] = ()
    """One of each, in words."""

    def since(self, before: "Outcome | None") -> dict[str, Any]:
        """The figures of this round alone, where one went before it."""
        own = asdict(self)
        for figure in COUNTED if before is not None else ():
            own[figure] -= getattr(before, figure)
        return own


@dataclass(slots=True, kw_only=True)
class Scene:
    """Who plays. `brokers` and the links to them are in the order of the brokers' numbers."""

    at: Stage
    folder: Path
    brokers: Sequence[Server]
    broker_links: Sequence[Link]
    database: Server
    database_link: Link
    disk: Disk | None = None
    """The one that the database's tables are on, where it can be filled."""
    relays: list[Role] = field(default_factory=list)
    workers: list[Role] = field(default_factory=list)
    publisher: Role | None = None
    noted: str = ""
    """What earlier publishers noted."""

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    @property
    def links(self) -> Sequence[Link]:
        return (*self.broker_links, self.database_link)

    async def turn(self, weather: Weather, links: Sequence[Link]) -> None:
        for link in links:
            await link.turn(weather)

    def told(self) -> str:
        """All that publishers noted so far."""
        return self.noted + (self.notes.read_text() if self.notes.exists() else "")

    def acknowledged(self) -> int:
        """Writes that a publisher has an answer to."""
        return sum(line.startswith("acknowledged") for line in self.told().splitlines())

    async def leader(self, partition: int) -> int:
        """The index of the broker that leads it now."""

        def ask() -> int:
            servers = ",".join(server.url.removeprefix("kafka://") for server in self.brokers)
            topic = self.at.service.settings.topic_prefix + ENTITY
            found = AdminClient({"bootstrap.servers": servers}).list_topics(topic, timeout=20)
            return int(found.topics[topic].partitions[partition].leader)

        while (node := await asyncio.to_thread(ask)) < 1:
            pass  # it is being elected; each question waits for an answer
        return node - 1

    async def opened(self, *, relays: int, workers: int) -> None:
        """Relays and workers come."""
        await prepare(self.at.service)
        self.relays += [await self.at.cast.start("relay") for _ in range(relays)]
        self.workers += [await self.at.cast.start("workers") for _ in range(workers)]

    async def under_load(self, *, seed: int, events: int) -> None:
        """A publisher comes, and so many more events go all the way."""
        self.publisher = await self.at.cast.publisher(self.notes, seed=seed)
        await self.goes_on(events)

    async def goes_on(self, events: int) -> None:
        """Wait until so many more are acknowledged, and applied by every projection."""
        wanted = self.acknowledged() + events
        async with asyncio.timeout(GOES_ON_WITHIN_S):
            while True:
                if self.acknowledged() >= wanted and await self._applied() >= wanted:
                    return
                await asyncio.sleep(LOOK_S)

    async def _applied(self) -> int:
        """Events that every projection has applied."""
        async with self.at.service.replica_adapter.snapshot() as snapshot:
            states = [await snapshot.states(projection.id) for projection in ALL]
        return min(sum(state.count for state in each.values()) for each in states)

    async def judged(self, before: int, after: int, ended_at: float) -> Outcome:
        """The publisher goes; what became of it. `before` and `after` were acknowledged before and by the end of the fault."""
        assert self.publisher is not None
        await self.publisher.kill()
        self.noted = self.told()
        try:
            await self.at.journal.settle(self.at.service, self.notes)
            await self.at.proven()
            await verify(self.at.service, self.at.journal)
            verdict = "EQUAL"
        except AssertionError as fault:
            verdict = f"not proven: {str(fault)[:TOLD_CHARS_MAX]}"
        async with self.at.service.replica_adapter.snapshot() as snapshot:
            rows = [row.values async for batch in snapshot.rows(entries) for _, _, row in batch]
            positions = {
                (projection.id, partition): state.position
                for projection in ALL
                for partition, state in (await snapshot.states(projection.id)).items()
            }
        transcript = read(written(self.folder), positions)
        return judged(published(self.noted), transcript, {tuple(row) for row in rows}, verdict, before, after, ended_at)

    async def left(self) -> None:
        """Relays and workers go, and end well."""
        for role in (*self.relays, *self.workers):
            assert await role.end() == 0, role.heard


def judged(
    sent: Sequence[Operation],
    transcript: Transcript,
    rows: set[tuple[object, ...]],
    verdict: str,
    before: int,
    after: int,
    ended_at: float,
) -> Outcome:
    """The figures of a run, from outside of the system. `rows` are those of `entries`: key, version, amount."""
    acknowledged = [
        (key, *value)  # type: ignore[misc]
        for one in sent
        for key, records in one.sends.items()
        for offset, value in records
        if offset is not None
    ]
    histories = {"log": found_in(transcript.log)}
    histories |= {projection.id: found_in(transcript.applying(projection.id, sent)) for projection in ALL}
    second_copies = len(histories["log"].pop(Fault.DUPLICATE, ()))  # the log may hold an event twice, the fold absorbs it
    effects = [found for name, found in histories.items() if name != "log"]
    lost = len({*acknowledged} - rows) + sum(len(found.get(Fault.UNSEEN, ())) for found in effects)
    until_then = {*acknowledged[:after]}
    caught_up = [effect.at for effect in transcript.effects if effect.event in until_then]
    applied = [move.at for move in transcript.moves if move.applied and move.at > ended_at]
    return Outcome(
        acknowledged=len(acknowledged),
        during=after - before,
        lost=lost,
        twice=sum(len(found.get(Fault.DUPLICATE, ())) for found in effects),
        order=sum(len(told) for found in histories.values() for fault, told in found.items() if fault in ORDER),
        second_copies=second_copies,
        verdict=verdict,
        first_batch_s=round(min(applied, default=float("inf")) - ended_at, 2),
        caught_up_s=round(max(0.0, max(caught_up, default=float("inf")) - ended_at), 2),
        found={f"{name} {fault.value}": len(told) for name, found in histories.items() for fault, told in found.items()},
        told=[f"{name}: {told[0]}" for name, found in histories.items() for told in found.values()],
    )


Faulty = Callable[[Scene], AbstractAsyncContextManager[None]]
"""A fault, which is over when its block begins. What it left broken is mended when the block ends."""


async def play(scene: Scene, fault: Faulty, *, seed: int) -> Outcome:
    """One round: load, the fault in the middle of it, recovery, and the proof."""
    await scene.under_load(seed=seed, events=STEADY_EVENTS)
    before = scene.acknowledged()
    async with fault(scene):
        ended_at, after = time.monotonic(), scene.acknowledged()
        await scene.goes_on(STEADY_EVENTS)
    await scene.goes_on(STEADY_EVENTS)
    return await scene.judged(before, after, ended_at)
