"""One run: a seed becomes a plan and a script, the world lives until all is quiet, and then it is judged."""

import asyncio
import logging
import random as shared_random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from zlib import crc32

from truecopy_projections.projection import Projection
from truecopy_projections.testing.simulation.acts import act
from truecopy_projections.testing.simulation.clock import VirtualLoop
from truecopy_projections.testing.simulation.faults import Fault, Strike, drawn
from truecopy_projections.testing.simulation.judging import Judge
from truecopy_projections.testing.simulation.oracle import Expected
from truecopy_projections.testing.simulation.process import Play
from truecopy_projections.testing.simulation.world import Plan, World
from truecopy_schemas import Event

__all__ = ["Events", "Outcome", "run"]

Events = Callable[[Random], tuple[str, Event]]
"""Draws one event and its key."""

OPERATIONS = 600
"""Operations of a run within which faults strike; about what it takes until all is published and applied."""
STRIKES_MAX = 9
EVENTS = (20, 60)
PER_TRANSACTION = (1, 6)
DAMAGE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a seed. `wrong` says what must never be: it is empty in a good run."""

    seed: int
    script: tuple[Strike, ...]
    trace: str
    wrong: tuple[str, ...]
    events: int = 0
    operations: int = 0
    marks: int = 0
    checks: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    struck: Counter[Fault] = field(default_factory=Counter)


def run(
    seed: int,
    projections: Sequence[Projection[Any]],
    events: Events,
    *,
    faults: Collection[Fault],
    script: Sequence[Strike] | None = None,
    expected: Expected | None = None,
) -> Outcome:
    """Play one seed. The same arguments are the same run, to the last operation. `script` replaces the one that it draws."""
    random = Random(seed)
    plan = _plan(random, events)
    own = drawn(random, faults, operations=OPERATIONS, strikes_max=STRIKES_MAX, damage=DAMAGE)
    played = own if script is None else tuple(script)
    play = Play(played, Random(random.random()), faults)
    loop = VirtualLoop(Random(random.random()))
    world = World(plan, projections, play)
    play.act = lambda strike: act(world, strike)
    judge = Judge(world, expected, Random(random.random()))
    loop.set_exception_handler(lambda _, said: world.wrong.append(f"{said.get('message')}: {said.get('exception')!r}"))
    with _quiet(seed):
        try:
            loop.run_until_complete(judge.whole())
        except Exception as fault:
            world.wrong.append(f"{type(fault).__name__}: {fault!s:.2000}")
        finally:
            _close(loop)
    world.store_disk.close()
    world.replica_disk.close()
    return Outcome(
        seed=seed,
        script=played,
        trace=play.trace,
        wrong=tuple(world.wrong),
        events=sum(world.oracle.count(entity) for entity in {projection.entity for projection in projections}),
        operations=play.operations,
        marks=judge.marks,
        checks=judge.checks,
        verdicts=judge.verdicts,
        struck=play.struck,
    )


def _plan(random: Random, events: Events) -> Plan:
    publishers: list[list[list[tuple[str, Event]]]] = [[] for _ in range(random.choice([1, 2]))]
    left = random.randint(*EVENTS)
    while left > 0:
        size = min(left, random.randint(*PER_TRANSACTION))
        left -= size
        for number in range(len(publishers)):
            publishers[number].append([])
        for _ in range(size):
            key, event = events(random)
            publishers[crc32(key.encode()) % len(publishers)][-1].append((key, event))
    return Plan(
        partitions=random.choice([2, 3]),
        relays=random.choice([1, 2, 2]),
        workers=random.choice([1, 2, 2]),
        in_memory=random.random() < 0.25,
        transactions=[[one for one in transactions if one] for transactions in publishers],
    )


def _close(loop: VirtualLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.set_exception_handler(lambda *_: None)
    if left:
        loop.run_until_complete(_ended(left))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks)


@contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """What is drawn from the module `random`, jitter of pauses, is drawn from the seed; and nobody logs."""
    logger, was = logging.getLogger("truecopy"), shared_random.getstate()
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    shared_random.seed(seed)
    try:
        yield
    finally:
        shared_random.setstate(was)
        logger.setLevel(level)
