"""Delivery by hand: everything that was published goes through relay, log and workers when somebody asks for it.

Nothing runs beside the test, and nothing waits for time to pass: marks are made when all is sent, leases are given back at
once, parked keys are tried again at every delivery. So a test means the same on every machine, and ends when the work does.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, cast

from truecopy_bus.errors import DatabaseUnavailableError, TopicMissingError
from truecopy_bus.log import identified
from truecopy_bus.record import TopicState
from truecopy_bus.relay import Relay
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.state import PartitionState, Reason, Waiting
from truecopy_services.service import Service

__all__ = ["Delivery", "Left", "Member"]


@dataclass(slots=True, kw_only=True)
class Member:
    """A service that takes part: its relay, and what the deaths of its workers are drawn from."""

    service: Service
    relay: Relay
    random: Random
    marked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What was not delivered: a line for people each. `parked` are keys in quarantine, `stuck` is everything else."""

    stuck: Sequence[str]
    parked: Sequence[str]
    timed_out: bool


class Delivery:
    """Delivers for all services on one log. `deaths` is the share of batches whose worker dies before it commits them.

    `paused` stops it: what is published then stays in the outbox.
    """

    def __init__(self, *, deaths: float = 0.0) -> None:
        self.members: list[Member] = []
        self.paused = False
        self._deaths = deaths
        self._turn = asyncio.Lock()

    async def deliver(self, limit_s: float) -> Left:
        """Deliver until nothing more can be, for `limit_s` seconds at the most."""
        async with self._turn:
            try:
                async with asyncio.timeout(limit_s) as limit:
                    before: list[str] | None = None
                    while not self.paused:
                        sent = await self._relay()
                        await self._apply()
                        stuck, parked = await self._left()
                        if not stuck or (not sent and stuck == before):
                            return Left(stuck=stuck, parked=parked, timed_out=False)
                        before = stuck
            except TimeoutError:
                if not limit.expired():
                    raise
            stuck, parked = await self._left()
        return Left(stuck=stuck, parked=parked, timed_out=limit.expired())

    async def _relay(self) -> int:
        """Send and mark all that is there; how many events were sent."""
        sent = 0
        for member in self.members:
            moved = await member.relay.drain()
            if moved or not member.marked:
                await member.relay.mark()
            member.marked, sent = True, sent + moved
        return sent

    async def _apply(self) -> None:
        for member in self.members:
            for projection in member.service.projections.values():
                await _apply(member, projection, self._deaths)

    async def _left(self) -> tuple[list[str], list[str]]:
        stuck = ["the delivery is paused"] if self.paused else []
        parked: list[str] = []
        for member in self.members:
            stuck += await _unsent(member)
            for projection in member.service.projections.values():
                if (topic := await _topic(member.service, projection)) is None:
                    continue
                async with member.service.replica_adapter.snapshot() as snapshot:
                    states = await snapshot.states(projection.id)
                    name = f"{member.service.name}/{projection.id}"
                    stuck += _behind(name, topic, states)
                    waiting = await snapshot.waiting(projection.id)
                    parked += [_waits(name, one) for one in waiting if one.reason is not Reason.BEHIND]
        return stuck, parked


async def _apply(member: Member, projection: Projection[Any], deaths: float) -> None:
    """A new worker takes all that the log holds now; where one dies, the next goes on."""
    service = member.service
    while (topic := await _topic(service, projection)) is not None and await _has_work(service, projection, topic):
        mortal = cast(Replica, _MortalReplica(service.replica_adapter, deaths, member.random))
        worker = replace(service, replica_adapter=mortal).worker(projection)
        try:
            await worker.step()
            while records := _lag(topic, await _states(service, projection)):
                while records > 0 and (read := await worker.step()):
                    records -= read
            return
        except _DiedError:
            continue
        finally:
            await worker.leave()


async def _has_work(service: Service, projection: Projection[Any], topic: TopicState) -> bool:
    """Also where the replica is beyond the log, or stands still: a worker says why."""
    states = await _states(service, projection)
    elsewhere = [p for p, (_, end) in topic.bounds.items() if p not in states or states[p].position != end]
    return bool(elsewhere) or any(state.parked or state.halted for state in states.values())


def _lag(topic: TopicState, states: Mapping[int, PartitionState]) -> int:
    """Records that are to be read of partitions that do not stand still."""
    flowing = {p: end for p, (_, end) in topic.bounds.items() if p not in states or not states[p].halted}
    return sum(max(0, end - (states[p].position if p in states else 0)) for p, end in flowing.items())


async def _states(service: Service, projection: Projection[Any]) -> Mapping[int, PartitionState]:
    async with service.replica_adapter.snapshot() as snapshot:
        return await snapshot.states(projection.id)


async def _topic(service: Service, projection: Projection[Any]) -> TopicState | None:
    try:
        return await identified(service.log, service.topic(projection), foreign=projection.foreign is not None)
    except TopicMissingError:
        return None


async def _unsent(member: Member) -> list[str]:
    status = member.relay.status()
    lines = []
    for entity in sorted(await member.service.store.entities()):
        pending = await member.service.store.pending(entity)
        if pending.count:
            known = status.entities.get(entity)
            why = (known.halted if known else None) or "; ".join(status.refused.values()) or "not sent yet"
            lines.append(f"{member.service.name}: {pending.count} events of {entity} are in the outbox: {why}")
    return lines


def _behind(name: str, topic: TopicState, states: Mapping[int, PartitionState]) -> list[str]:
    lines = []
    for p, (_, end) in sorted(topic.bounds.items()):
        state = states.get(p)
        if state is None or state.position < end or state.halted:
            why = f", halted: {state.halted}" if state and state.halted else ""
            lines.append(f"{name}[{p}]: at offset {state.position if state else 0} of {end}{why}")
    return lines


def _waits(name: str, one: Waiting) -> str:
    what = "a foreign record" if one.key is None else f"{one.key!r} is parked at version {one.version}"
    return f"{name}[{one.partition}]: {what}: {one.reason.value}: {one.detail}"


class _DiedError(DatabaseUnavailableError):
    """A worker dies here: what it was about to commit is read and reduced again by the next."""


class _MortalReplica:
    """A replica whose writer may die before a commit; all else is `inner`'s."""

    def __init__(self, inner: Replica, deaths: float, random: Random) -> None:
        self._inner, self._deaths, self._random = inner, deaths, random

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def apply(self, *planned: Any, **options: Any) -> frozenset[int]:
        if self._random.random() < self._deaths:
            raise _DiedError(database=self._inner.name, seen="the harness ended its worker before a commit")
        return await self._inner.apply(*planned, **options)
