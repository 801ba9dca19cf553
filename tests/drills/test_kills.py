"""SIGKILL at every named point of publisher, relay, worker, certifier, and at random; a frozen process; judged from outside.

The cases are made from the list of points: a new point without a drill, or one that its drill never comes by, is a failure.
One process is the victim; who takes over works in the test's own process. `make drill-kills` plays more rounds, each of
another history, and kills at random for longer. DRILL_SEED repeats a run of random kills.
"""

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.drills.conftest import ALL, Setting, Stage
from tests.drills.elsewhere import ELSEWHERE
from tests.drills.ledger import latest
from tests.drills.processes import Role
from tests.drills.publisher import prepare, verify
from tests.projections.bank import balance

from truecopy_bus.points import PASSED_LINE, Point
from truecopy_projections.certificate import Standing
from truecopy_projections.certificates_topic import CERTIFICATES_TOPIC, published
from truecopy_projections.projection import Projection
from truecopy_services import Verdict

ROUNDS = int(os.environ.get("DRILL_ROUNDS", "1"))
KILLS = int(os.environ.get("DRILL_KILLS", "3"))
KILL_LIMIT_S = 20
"""Seconds for one of the random kills, with the restart that follows."""
SEED_BITS = 32
PASSES_MAX = 40
"""Points that a process passes before a random kill, at the most."""
NEVER = f"{Point.RELAY_RECORDED.value}@{2**62}"
"""Holds nothing; so the points are said that a process passes."""
KILLING = {"TRUECOPY_LEASE_S": "0.4", "TRUECOPY_MARK_WRITING_S": "0.1", "TRUECOPY_READ_WAIT_S": "0.1"}
BY_COLUMNS = KILLING | {"TRUECOPY_BATCH_RECORDS": "250"}
COLUMN_EVENTS = 1_000

BACKENDS = {
    "embedded": (),
    "kafka and postgresql": ("log", "store", "replica"),
    "kafka and sqlite": ("log",),
    "embedded log and postgresql": ("store", "replica"),
}
PLAYED = list(BACKENDS) if ROUNDS > 1 else list(BACKENDS)[:2]
FIRST = {Point.RELAY_TOPIC_EMPTY, Point.RELAY_TOPIC, Point.RELAY_CLAIMED, Point.WORKER_INSTALLED}
"""Points that are only reached where nothing was before; all others are drilled on a history."""
SENT_TWICE = {Point.RELAY_APPENDED, Point.RELAY_RECORDING}
RETRIES = {Point.WORKER_RETRYING, Point.WORKER_RETRIED}
ONLY_BY_COLUMNS = {Point.WORKER_COLUMNS, Point.WORKER_AHEAD}
BEFORE_A_WAY = {Point.WORKER_INSTALLED, Point.WORKER_LEASED}
OVERLAPPED = [(Point.WORKER_WRITING, Point.WORKER_AHEAD)]

PUBLISHING = [point for point in Point if point.value.startswith("publish.")]
RELAYING = [point for point in Point if point.value.startswith("relay.")]
CERTIFYING = [point for point in Point if point.value.startswith("certify.")]
WORKING = [point for point in Point if point.value.startswith("worker.") and point not in RETRIES]
WORKING_BY_RECORDS = [(point,) for point in WORKING if point not in ONLY_BY_COLUMNS]
WORKING_BY_COLUMNS = [(point,) for point in WORKING if point not in BEFORE_A_WAY] + OVERLAPPED


def named(points: Point | tuple[Point, ...]) -> str:
    return points.value if isinstance(points, Point) else all_of(points)


def all_of(points: tuple[Point, ...]) -> str:
    return ",".join(point.value for point in points)


@pytest.fixture(params=PLAYED)
def addresses(request: pytest.FixtureRequest) -> dict[str, str]:
    real = BACKENDS[request.param]
    servers = {"log": "kafka_url", "store": "postgres_url", "replica": "postgres_url"}
    return {f"TRUECOPY_{part.upper()}": str(request.getfixturevalue(servers[part])) for part in real}


def test_every_point_has_its_drill() -> None:
    assert {*PUBLISHING, *RELAYING, *WORKING, *RETRIES, *CERTIFYING, *ELSEWHERE} == set(Point)


@pytest.mark.parametrize("game", range(ROUNDS))
@pytest.mark.parametrize("point", PUBLISHING, ids=named)
async def test_a_killed_publisher_leaves_each_write_whole_or_not_at_all(
    stage: Setting, addresses: dict[str, str], tmp_path: Path, point: Point, game: int
) -> None:
    async with stage(KILLING | addresses) as at:
        await prepare(at.service)
        victim = await at.cast.publisher(tmp_path / "notes", seed=game, hold=f"{point.value}@{20 + 7 * game}")
        await victim.held(point)
        await victim.kill()
        there = await at.journal.settle(at.service, tmp_path / "notes")
        await at.journal.publish(at.service, 20)

        assert there is (point is Point.PUBLISH_COMMITTED)
        assert len(at.journal) == 19 + 7 * game + there + 20
        await verify(at.service, at.journal)
        async with at.at_work(relay=True, projections=ALL):
            await at.proven()


@pytest.mark.parametrize("game", range(ROUNDS))
@pytest.mark.parametrize("point", RELAYING, ids=named)
async def test_a_killed_relay_is_replaced_and_nothing_is_lost(
    stage: Setting, addresses: dict[str, str], point: Point, game: int
) -> None:
    if point is Point.RELAY_TOPIC_EMPTY and "TRUECOPY_LOG" not in addresses:
        return  # the embedded log makes a topic whole, in one transaction
    async with stage(KILLING | addresses) as at:
        await at.service.store.open()
        victim = await at.cast.victim("relay", hold=point.value)
        if point not in FIRST:
            await history(at, game)
        await at.journal.publish(at.service, 30)
        await kill_at(victim, point)
        await at.journal.publish(at.service, 20)
        async with at.at_work(relay=True, projections=ALL):
            assert (await at.proven() > 0) is (point in SENT_TWICE)


@pytest.mark.parametrize("game", range(ROUNDS))
@pytest.mark.parametrize("points", WORKING_BY_RECORDS, ids=named)
async def test_a_killed_worker_is_replaced_and_nothing_is_done_twice(
    stage: Setting, addresses: dict[str, str], points: tuple[Point, ...], game: int
) -> None:
    async with stage(KILLING | addresses) as at:
        await at.service.store.open()
        victim = await at.cast.victim("workers", hold=all_of(points))
        if FIRST.isdisjoint(points):
            await history(at, game, *ALL)
        async with at.at_work(relay=True):
            await at.journal.publish(at.service, 30)
            await at.relayed()
            await kill_at(victim, *points)
            await at.journal.publish(at.service, 20)
            async with at.at_work(projections=ALL):
                assert await at.proven() == 0


@pytest.mark.parametrize("game", range(ROUNDS))
@pytest.mark.parametrize("points", WORKING_BY_COLUMNS, ids=named)
async def test_a_worker_by_columns_is_killed_and_nothing_is_done_twice(
    stage: Setting, addresses: dict[str, str], points: tuple[Point, ...], game: int
) -> None:
    async with stage(BY_COLUMNS | addresses) as at:
        await at.service.store.open()
        victim = await at.cast.victim("latest", hold=all_of(points))
        if game % 2 == 0:
            await history(at, game, latest)
        async with at.at_work(relay=True):
            await at.journal.publish_at_once(at.service, COLUMN_EVENTS)
            await at.relayed()
            await kill_at(victim, *points)
            await at.journal.publish(at.service, 20)
            async with at.at_work(projections=[latest]):
                assert await at.proven(latest) == 0
        assert victim.passed(Point.WORKER_COLUMNS) or points in [(Point.WORKER_READ,), (Point.WORKER_COLUMNS,)]


@pytest.mark.parametrize("game", range(ROUNDS))
@pytest.mark.parametrize("point", sorted(RETRIES, key=named), ids=named)
async def test_a_worker_is_killed_as_it_frees_a_parked_key(
    stage: Setting, addresses: dict[str, str], monkeypatch: pytest.MonkeyPatch, point: Point, game: int
) -> None:
    async with stage(KILLING | addresses) as at:
        await at.service.store.open()
        victim = await at.cast.victim("balance", hold=point.value)
        for amount in (1, 666, 2):
            await at.journal.publish_one(at.service, "k0", amount)
        await history(at, game, *ALL)
        async with at.at_work(relay=True):
            await at.judged(balance, verdict=Verdict.PARKED)
            monkeypatch.setattr("tests.projections.bank.refused", set())
            await kill_at(victim, point)
            await at.journal.publish(at.service, 20)
            async with at.at_work(projections=ALL):
                assert await at.proven() == 0


@pytest.mark.parametrize("game", range(ROUNDS))
@pytest.mark.parametrize("point", CERTIFYING, ids=named)
async def test_what_a_killed_certifier_kept_is_published_by_the_next(
    stage: Setting, addresses: dict[str, str], point: Point, game: int
) -> None:
    async with stage(KILLING | addresses) as at:
        await at.service.store.open()
        await history(at, game, balance)
        async with at.at_work(relay=True, projections=[balance]):
            await at.judged(balance)
            victim = await at.cast.certifier("balance", hold=point.value)
            await victim.held(point)
            await victim.kill()
            [report] = await at.service.check(balance)
            issued = await at.service.certify(report)
        chain = await at.service.certificates(balance)
        topic = at.service.settings.topic_prefix + CERTIFICATES_TOPIC

        assert [one.previous for one in chain] == ["", chain[0].id]
        assert chain[1] == issued
        assert list((await published(at.service.log, lambda _: True, topic=topic)).found) == chain
        assert (await at.service.verify(issued)).standing is Standing.VALID


@pytest.mark.timeout(60 + KILLS * KILL_LIMIT_S)
async def test_kills_at_random_moments_under_load(stage: Setting, addresses: dict[str, str], tmp_path: Path) -> None:
    seed = int(os.environ.get("DRILL_SEED") or random.getrandbits(SEED_BITS))
    print(f"DRILL_SEED={seed}")
    draw, notes = random.Random(seed), tmp_path / "notes"
    async with stage(addresses) as at:
        await prepare(at.service)

        async def start(name: str) -> Role:
            if name == "publisher":
                return await at.cast.publisher(notes, seed=draw.getrandbits(SEED_BITS), hold=NEVER)
            return await at.cast.start(name, hold=NEVER)

        roles = {name: await start(name) for name in ("publisher", "relay", "workers")}
        for _ in range(KILLS):
            name = draw.choice(list(roles))
            await roles[name].hears(PASSED_LINE, times=draw.randrange(1, PASSES_MAX))
            await roles[name].kill()
            print(name, "after", *roles[name].heard[-1:])
            if name == "publisher":
                await at.journal.settle(at.service, notes)
            roles[name] = await start(name)
        await roles["publisher"].hears(PASSED_LINE, times=3)
        await roles["publisher"].kill()
        await at.journal.settle(at.service, notes)

        await at.proven()
        await verify(at.service, at.journal)


@pytest.mark.parametrize(("role", "other"), [("workers", "relay"), ("relay", "workers")])
async def test_a_frozen_process_that_wakes_up_does_no_harm(stage: Setting, postgres_url: str, role: str, other: str) -> None:
    async with stage({"TRUECOPY_STORE": postgres_url, "TRUECOPY_REPLICA": postgres_url}) as at:
        await at.service.store.open()
        await at.journal.publish(at.service, 100)
        await at.cast.start(other)
        frozen = await at.cast.start(role)
        await at.proven()
        frozen.signal(signal.SIGSTOP)
        await at.journal.publish(at.service, 100)
        await at.cast.start(role)
        await at.proven()
        frozen.signal(signal.SIGCONT)
        await at.journal.publish(at.service, 100)

        await at.proven()
        assert await frozen.end() == 0


async def history(at: Stage, game: int, *projections: Projection[Any]) -> None:
    """What was relayed, and applied to these projections, before the victim comes."""
    async with at.at_work(relay=True):
        await at.journal.publish(at.service, 30 + 11 * game)
        await at.relayed()
        async with at.at_work(projections=projections):
            await at.delivered(*projections)


async def kill_at(victim: Role, *points: Point) -> None:
    """Let it come to stay at all of these points at once, and kill it there."""
    victim.go()
    await victim.held(*points)
    await victim.kill()
