"""The judge of a run: lets the world live, waits until it is quiet, and compares it with the oracle, and the proofs with that.

Where nothing was lost or altered on purpose, a replica must become equal without help, the real check must say EQUAL, and
nothing may ever have said DIVERGED. Where something was, EQUAL may only be said of what is equal; what a repair can mend it
must mend, and what has a name must have got it.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from truecopy_bus.errors import TopicMissingError
from truecopy_bus.partitioner import partition_of
from truecopy_bus.registry import Registry
from truecopy_projections.certificate import certify
from truecopy_projections.check import check
from truecopy_projections.errors import NotEqualError, UnknownProjectionError
from truecopy_projections.projection import Projection
from truecopy_projections.repair import repair
from truecopy_projections.state import MarkVerdict, PartitionState
from truecopy_projections.testing.simulation.acts import AT_REST, altered
from truecopy_projections.testing.simulation.faults import HARMLESS, Fault, Strike
from truecopy_projections.testing.simulation.oracle import Expected, folded
from truecopy_projections.testing.simulation.world import World
from truecopy_projections.verdicts import Report, Verdict

__all__ = ["Judge"]

QUIET_S = 8.0
"""Seconds, virtual, after the last fault within which a replica must be equal again."""
STALLED_S = 1.8
"""Seconds, virtual, after which what can't become equal has come to its rest."""
POLL_S = 0.05
STRIKING_POLLS = 16
"""How often it is looked, once all is published, whether faults are still to strike."""
ALTERED_SHARE = 0.3
"""In how many runs that ended equal what is stored is altered, to be found and mended."""
CERTIFIED_SHARE = 0.25
_MENDED = {*AT_REST, Fault.LOST_ON_THE_WAY}
"""What a repair from the log mends."""
_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


class Judge:
    """Judges one world. `expected` says what rows must be; without it the reducers do."""

    def __init__(self, world: World, expected: Expected | None, random: Random) -> None:
        self._world, self._expected, self._random = world, expected, random
        self.marks = self.checks = 0
        self.verdicts: Counter[str] = Counter()
        self._beyond: dict[tuple[str, int], int] = {}

    async def whole(self) -> None:
        world = self._world
        await world.run(self._history, self._rest)
        for projection in world.projections:
            await self._judge(projection)

    @property
    def _damage(self) -> set[Fault]:
        return set(self._world.play.struck) - HARMLESS

    async def _history(self) -> None:
        checking = asyncio.ensure_future(self._looks())
        await self._world.publish()
        for _ in range(self._random.randint(2, STRIKING_POLLS)):
            if self._world.play.waits:
                await asyncio.sleep(POLL_S)
        self._world.play.calm()
        checking.cancel()
        await asyncio.wait([checking])
        if not checking.cancelled():
            checking.result()
        await self._world.done_beside()
        await asyncio.sleep(max(0.0, self._world.play.thawed_at - asyncio.get_running_loop().time()))
        await self._rest()

    async def _rest(self) -> None:
        """Wait until all is sent, applied and marked, or can't be."""
        loop = asyncio.get_running_loop()
        began, restarted = loop.time(), False
        while loop.time() < began + (STALLED_S if self._damage else QUIET_S):
            await asyncio.sleep(POLL_S)
            if self._world.wrong:
                return
            if not await self._is_quiet():
                continue
            if not await self._parked():
                return
            if not restarted:  # what is parked is tried again by whoever takes a partition
                restarted = True
                self._world.restart()
        if not self._damage:
            self._world.wrong.append(f"not quiet after {QUIET_S} s: {await self._told()}")

    async def _is_quiet(self) -> bool:
        world = self._world
        if (await world.store().pending(world.projections[0].entity)).count:
            return False
        topic = await world.log.describe(world.projections[0].entity)
        async with world.replica.snapshot() as snapshot:
            for projection in world.projections:
                states = await snapshot.states(projection.id)
                last = {one.partition: one for one in await snapshot.checkpoints(projection.id)}
                if states.keys() != topic.bounds.keys():
                    return False
                for p, state in states.items():
                    behind = not state.halted and state.position < topic.bounds[p][1]
                    if behind or p not in last or last[p].mark_count < state.count or last[p].verdict not in _JUDGED:
                        return False
                    if last[p].verdict is MarkVerdict.PARKED and not state.parked:
                        return False
                    if last[p].offset <= self._beyond.get((projection.id, p), -1):
                        return False
        return True

    async def _parked(self) -> bool:
        async with self._world.replica.snapshot() as snapshot:
            found = [await snapshot.states(projection.id) for projection in self._world.projections]
        return any(state.parked for states in found for state in states.values())

    async def _told(self) -> str:
        async with self._world.replica.snapshot() as snapshot:
            found = [await snapshot.states(projection.id) for projection in self._world.projections]
        states = [(s.partition, s.position, s.count, s.parked, s.halted) for one in found for s in one.values()]
        return f"outbox {await self._world.store().pending(self._world.projections[0].entity)}, states {states}"

    async def _looks(self) -> None:
        """Checks at any time: no false alarm, and EQUAL covers what the log held when the check began."""
        while True:
            await asyncio.sleep(self._random.uniform(0.2, 0.8))
            projection = self._random.choice(self._world.projections)
            on_log = self._distinct(projection)
            with contextlib.suppress(UnknownProjectionError, TopicMissingError):
                found = await self._checked(projection, deep=self._random.random() < 0.3)
                if self._damage:
                    continue
                if found.verdict is Verdict.DIVERGED:
                    self._world.wrong.append(f"false alarm: {_claims(found)}")
                if found.verdict is Verdict.EQUAL and found.count < on_log:
                    self._world.wrong.append(f"EQUAL at {found.count} events, the log held {on_log} when the check began")

    def _distinct(self, projection: Projection[Any]) -> int:
        return len(self._world.distinct_on_log(projection.entity))

    async def _checked(self, projection: Projection[Any], *, deep: bool) -> Report:
        world = self._world
        found = await check(projection, world.replica, world.log, Registry(world.log), deep=deep, wait_s=0.0)
        self.checks += 1
        self.verdicts[found.verdict.name] += 1
        return found

    async def _judge(self, projection: Projection[Any]) -> None:
        """The end of a run, with no process alive."""
        world, damage = self._world, self._damage
        async with world.replica.snapshot() as snapshot:
            checkpoints = await snapshot.checkpoints(projection.id)
            states = await snapshot.states(projection.id)
        self.marks += len(checkpoints)
        try:
            found = await self._checked(projection, deep=damage != set() or self._random.random() < 0.5)
        except (UnknownProjectionError, TopicMissingError) as fault:
            world.wrong.append(f"nothing came to the replica: {fault}")
            return
        untrue = await self._untrue(projection)
        if found.verdict is Verdict.EQUAL and untrue:
            self._wrong(f"EQUAL is said of what is not: {untrue}")
        await self._certificate(projection, found)
        if not damage:
            if found.verdict is not Verdict.EQUAL or untrue:
                self._wrong(f"nothing was lost, and it is {_claims(found)}; {untrue}")
            if alarms := [one for one in checkpoints if one.verdict is MarkVerdict.DIVERGED]:
                self._wrong(f"a mark was judged DIVERGED though nothing was lost: {alarms[0]}")
            if self._random.random() < ALTERED_SHARE:
                await self._alter_and_mend(projection)
        elif damage <= _MENDED:
            if found.verdict is not Verdict.EQUAL:
                await self._mend(projection)
        elif damage & {Fault.TRIMMED, Fault.TRIMMED_UNREAD, Fault.MADE_ANEW}:
            if damage == {Fault.MADE_ANEW} and found.verdict is Verdict.EQUAL:
                return  # neither owner nor replica had taken note of the topic's first life: all of it was sent again
            if found.verdict is Verdict.EQUAL:
                self._wrong(f"EQUAL is said without the log, after {damage}")
            # Which of the names it has depends on whether the new topic is long enough already. What never followed the first
            # life has nothing to tell.
            now = (await world.log.describe(projection.entity)).incarnation
            if Fault.MADE_ANEW in damage and not all(
                s.halted.startswith(("incarnation", "position lost"))
                for s in states.values()
                if s.incarnation != now and s.count
            ):
                self._wrong(f"the topic was made anew and nobody says so: {[s.halted for s in states.values()]}")
            if not damage <= {Fault.MADE_ANEW} and (silent := await self._passed_over(projection, states)):
                self._wrong(f"a position was lost in silence: partitions {silent}")
            if untrue := await self._no_prefix(projection):
                self._wrong(f"after {damage} the rows are of no moment of the history: {untrue}")

    async def _passed_over(self, projection: Projection[Any], states: Mapping[int, PartitionState]) -> list[int]:
        """Partitions that were read to their end and do not have all that was published to them."""
        if (await self._world.store().pending(projection.entity)).count:
            return []
        ends = {p: end for p, (_, end) in (await self._world.log.describe(projection.entity)).bounds.items()}
        meant: Counter[int] = Counter()
        for key, history in self._world.oracle.of(projection.entity).items():
            meant[partition_of(key, self._world.plan.partitions)] += len(history)
        return [
            p
            for p, state in states.items()
            if not state.halted and state.position == ends[p] and state.count + state.uncounted != meant[p]
        ]

    async def _alter_and_mend(self, projection: Projection[Any]) -> None:
        """Alter what is stored, of a replica that is equal: the check must see it, and the repair must mend it."""
        world = self._world
        fault = self._random.choice(sorted(AT_REST - {Fault.POSITION_FORWARD}, key=lambda one: one.name))
        if fault not in world.play.allowed or not altered(world, projection, Strike(0, fault, self._random.getrandbits(32))):
            return
        world.play.struck[fault] += 1
        if (found := await self._checked(projection, deep=True)).verdict is Verdict.EQUAL:
            self._wrong(f"EQUAL is said after {fault.name}")
        await self._certificate(projection, found)
        await self._mend(projection)

    async def _mend(self, projection: Projection[Any]) -> None:
        world = self._world
        async with world.replica.snapshot() as snapshot:
            passed = await snapshot.checkpoints(projection.id)
        self._beyond = {(projection.id, one.partition): one.offset for one in passed}  # only a new mark can tell
        await repair(projection, world.replica, world.log, Registry(world.log), apply=True)
        await world.run(self._rest, self._rest)
        found = await self._checked(projection, deep=True)
        untrue = await self._untrue(projection)
        if found.verdict is not Verdict.EQUAL or untrue:
            self._wrong(f"repaired after {set(world.play.struck) - HARMLESS}, and it is {_claims(found)}; {untrue}")

    async def _certificate(self, projection: Projection[Any], found: Report) -> None:
        if found.verdict is Verdict.EQUAL and self._random.random() > CERTIFIED_SHARE:
            return
        try:
            await certify(projection, self._world.replica, self._world.log, found, _KEY)
        except NotEqualError:
            if found.verdict is Verdict.EQUAL:
                self._wrong("EQUAL, and not certified")
        else:
            if found.verdict is not Verdict.EQUAL:
                self._wrong(f"certified though {found.verdict.name}")

    async def _untrue(self, projection: Projection[Any]) -> str:
        """What differs from the oracle, "" if nothing does."""
        stored, versions = await self._stored(projection)
        histories = self._world.oracle.of(projection.entity)
        for key in sorted({*stored, *versions, *histories}):
            history = histories.get(key, [])
            meant = folded(projection, key, history, self._expected)
            if stored.get(key, {}) != meant or versions.get(key, 0) != len(history):
                return f"{key!r} at version {versions.get(key, 0)} of {len(history)}: {stored.get(key, {})}, meant {meant}"
        return ""

    async def _no_prefix(self, projection: Projection[Any]) -> str:
        """A key whose rows are not what its history yields up to the version that it claims."""
        stored, versions = await self._stored(projection)
        histories = self._world.oracle.of(projection.entity)
        for key, version in sorted(versions.items()):
            meant = folded(projection, key, histories.get(key, [])[:version], self._expected)
            if stored.get(key, {}) != meant or version > len(histories.get(key, [])):
                return f"{key!r} at version {version}: {stored.get(key, {})}, meant {meant}"
        return ""

    async def _stored(self, projection: Projection[Any]) -> tuple[dict[str, dict[Any, Any]], dict[str, int]]:
        rows: dict[str, dict[Any, Any]] = {}
        versions: dict[str, int] = {}
        async with self._world.replica.snapshot() as snapshot:
            async for batch in snapshot.rows(projection):
                for key, _, row in batch:
                    rows.setdefault(key, {})[projection.sub_key(row.values)] = tuple(row.values)
            async for states in snapshot.keys(projection):
                versions |= {key: state.applied for key, _, state in states if state.applied}
        return rows, versions

    def _wrong(self, said: str) -> None:
        self._world.wrong.append(said)


_JUDGED = (MarkVerdict.EQUAL, MarkVerdict.DIVERGED, MarkVerdict.PARKED)


def _claims(found: Report) -> str:
    claims = (("delivered", found.delivered), ("computed", found.computed), ("stored", found.stored))
    return f"{found.verdict.name} ({'; '.join(f'{name} {one.verdict.name}: {one.why}' for name, one in claims)})"
