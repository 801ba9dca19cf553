"""Effects fire once for each name, key and version, whatever is applied again, and are handed out until somebody has them."""

import asyncio
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from tests.projections.bank import Closed, Deposited
from tests.projections.world import EQUAL, TOPIC, World

from truecopy_bus.sql.address import connect
from truecopy_projections.effects import Effect, FiredEffect
from truecopy_projections.errors import ProjectionError
from truecopy_projections.projection import Change, Projection
from truecopy_projections.replica import Replica
from truecopy_projections.replicas import open_replica
from truecopy_projections.stages import Stage
from truecopy_projections.state import Reason


@dataclass
class Sum:
    amount: int


REFUSED = {666}


def summing(number: int) -> Projection[Sum]:
    found = Projection("sums", entity=TOPIC, row=Sum, version=number)

    @found.on(Deposited)
    def deposited(row: Sum | None, event: Deposited, _: Change) -> Sum:
        if event.amount in REFUSED:
            raise ValueError("no such luck")
        row = row or Sum(0)
        row.amount += event.amount  # in place: what effects are told must not follow
        return row

    @found.on(Closed)
    def closed(*_: Any) -> None:
        return None

    @found.effects(Deposited, Closed)
    def told(before: Sum | None, event: Deposited | Closed, after: Sum | None, change: Change) -> list[Effect]:
        amounts = [None if row is None else row.amount for row in (before, after)]
        if isinstance(event, Closed):
            return [Effect("closed", {"was": amounts[0]}), Effect("farewell", change.key)]
        return [Effect("moved", amounts)] if event.amount else []

    return found


sums, again = summing(1), summing(2)


async def drained(replica: Replica, *, limit: int = 3) -> list[FiredEffect]:
    found: list[FiredEffect] = []
    while True:
        async with replica.delivering("sums", limit) as delivery:
            if not delivery.effects:
                return found
            found += delivery.effects


def told(effects: list[FiredEffect]) -> dict[str, list[tuple[int, int, str, str]]]:
    by_key: dict[str, list[tuple[int, int, str, str]]] = {}
    for one in effects:
        by_key.setdefault(one.key, []).append((one.version, one.n, one.kind, one.payload))
    return by_key


async def publish(world: World, *events: tuple[str, Any]) -> None:
    await world.store.publish_many([(key, event, None) for key, event in events])


SOME = [
    ("a", Deposited(amount=5)),
    ("b", Deposited(amount=1)),
    ("a", Deposited(amount=0)),
    ("a", Deposited(amount=2)),
    ("a", Closed()),
]
WANTED = {
    "a": [(1, 0, "moved", "[null,5]"), (3, 0, "moved", "[5,7]"), (4, 0, "closed", '{"was":7}'), (4, 1, "farewell", '"a"')],
    "b": [(1, 0, "moved", "[null,1]")],
}


async def rewound(world: World, projection: Projection[Any]) -> None:
    """Take the replica back to the beginning behind everybody's back, as a restore does."""
    for table in (projection.table, f"{projection.table}_keys"):
        await world.execute(f"DELETE FROM {table}")
    await world.execute(f"DELETE FROM truecopy_partitions WHERE projection = '{projection.id}'")


async def test_each_event_fires_its_effects_once_in_the_order_of_its_key(world: World) -> None:
    await publish(world, *SOME)
    await world.settle(sums)

    count, age_ms = await world.replica.pending("sums")
    assert (count, age_ms >= 0) == (5, True)
    effects = await drained(world.replica)
    assert told(effects) == WANTED
    assert effects[-1].id in {f"sums:{key}:{version}:{n}" for key, some in WANTED.items() for version, n, *_ in some}
    assert await world.replica.pending("sums") == (0, 0)
    assert await world.verdicts(sums, deep=True) == EQUAL


async def test_nothing_fires_again_when_all_is_applied_again_or_by_another_number(world: World) -> None:
    await publish(world, *SOME)
    await world.settle(sums)
    first = await drained(world.replica)
    await rewound(world, sums)
    await world.settle(sums, again)
    assert await drained(world.replica) == []

    await publish(world, ("b", Deposited(amount=3)))
    await world.settle(again)
    await world.settle(sums)
    assert told(first) == WANTED
    assert told(await drained(world.replica)) == {"b": [(2, 0, "moved", "[1,4]")]}


async def test_a_number_that_is_built_beside_fires_nothing_and_goes_on_where_the_other_stood_at_the_swap(world: World) -> None:
    await publish(world, *SOME)
    await world.settle(sums)
    first = await drained(world.replica)
    await world.settle(again)
    await publish(world, ("b", Deposited(amount=3)))
    await world.settle(again)
    assert await drained(world.replica) == []  # what the live one has not applied is not fired by the one that is ahead
    await world.settle(sums, again)

    await world.replica.stage(again, Stage.FOLLOWING)
    fences = {one.id: (await world.replica.renew(one, "swap", (), lease_s=60.0, seize=True)).values() for one in (sums, again)}
    await world.replica.swap(again, sums, fences, follow_ms=60_000, by="a test")
    for one in (sums, again):
        await world.replica.leave(one, "swap", fences[one.id])
    await publish(world, ("b", Deposited(amount=5)))
    await world.settle(sums, again)

    assert told(first) == WANTED
    assert told(await drained(world.replica)) == {"b": [(2, 0, "moved", "[1,4]"), (3, 0, "moved", "[4,9]")]}


async def test_two_numbers_that_apply_at_the_same_time_fire_once(world: World) -> None:
    many = [(f"k{at % 30}", Deposited(amount=1 + at)) for at in range(300)]
    await publish(world, *many)
    await world.settle()
    workers = [world.worker(projection) for projection in (sums, again)]

    async def work(worker: Any) -> None:
        while await worker.step():
            pass
        await worker.leave()

    await asyncio.gather(*map(work, workers))

    found = [(one.key, one.version) for one in await drained(world.replica, limit=100)]
    assert sorted(found) == sorted((f"k{at % 30}", 1 + at // 30) for at in range(300))
    for key in {key for key, _ in found}:
        assert [version for one, version in found if one == key] == list(range(1, 11))


async def test_a_parked_keys_effects_fire_when_it_is_applied_at_last(world: World) -> None:
    await publish(world, ("a", Deposited(amount=5)), ("a", Deposited(amount=666)), ("a", Deposited(amount=1)))
    await world.settle(sums)
    assert told(await drained(world.replica)) == {"a": [(1, 0, "moved", "[null,5]")]}

    REFUSED.clear()
    try:
        await world.settle(sums)
    finally:
        REFUSED.add(666)
    assert told(await drained(world.replica)) == {"a": [(2, 0, "moved", "[5,671]"), (3, 0, "moved", "[671,672]")]}


async def test_a_block_that_raises_leaves_its_effects_where_they_were(world: World) -> None:
    await publish(world, *SOME)
    await world.settle(sums)

    async def failing() -> None:
        async with world.replica.delivering("sums", 2) as delivery:
            assert delivery.connection is not None
            await delivery.connection.fetch("UPDATE truecopy_effects SET kind = 'changed'")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await failing()

    assert told(await drained(world.replica)) == WANTED


async def test_two_deliverers_at_once_hand_out_each_effect_once(world: World, url: str) -> None:
    await publish(world, *[("a", Deposited(amount=at)) for at in range(1, 41)])
    await world.settle(sums)
    other = await open_replica(url)
    try:
        halves = await asyncio.gather(drained(world.replica), drained(other))
    finally:
        await other.close()

    assert sorted(one.version for half in halves for one in half) == list(range(1, 41))
    for half in halves:
        assert [one.version for one in half] == sorted(one.version for one in half)


async def test_what_a_block_writes_by_the_connection_is_written_exactly_once(world: World, url: str) -> None:
    await publish(world, *SOME)
    await world.settle(sums)
    database = await connect(url)
    try:
        async with database.transaction() as tx:
            await tx.fetch("CREATE TABLE sent (id TEXT NOT NULL)")
        for dies in (True, False):
            try:
                async with world.replica.delivering("sums", 9) as delivery:
                    assert delivery.connection is not None
                    for one in delivery.effects:
                        await delivery.connection.fetch("INSERT INTO sent (id) VALUES ($1)", one.id)
                    if dies:
                        raise ConnectionAbortedError
            except ConnectionAbortedError:
                continue
        async with database.snapshot() as read:
            sent = sorted(row[0] for row in await read.fetch("SELECT id FROM sent"))
    finally:
        await database.close()

    assert sent == sorted(f"sums:{key}:{version}:{n}" for key, some in WANTED.items() for version, n, *_ in some)


CHILD = """
import asyncio, sys

from truecopy_projections.replicas import open_replica


async def main():
    replica = await open_replica(sys.argv[1])
    async with replica.delivering("sums", 9) as delivery:
        for one in delivery.effects:
            await delivery.connection.fetch("INSERT INTO sent (id) VALUES ($1)", one.id)
        print(len(delivery.effects), flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
"""


async def test_a_deliverer_that_is_killed_has_delivered_nothing(world: World, url: str) -> None:
    await publish(world, *SOME)
    await world.settle(sums)
    await world.execute("CREATE TABLE sent (id TEXT NOT NULL)")
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, url, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    taken_by_it = await child.stdout.readline()
    child.kill()
    await child.wait()

    assert taken_by_it == b"5\n"
    async with world.replica.delivering("sums", 9) as delivery:
        assert delivery.connection is not None
        assert await delivery.connection.fetch("SELECT id FROM sent") == []
        assert told(list(delivery.effects)) == WANTED
    assert await drained(world.replica) == []


BAD = [
    pytest.param("text", "str was made, expected an Effect", id="no effect"),
    pytest.param(Effect("", 1), "has not 1 to", id="no kind"),
    pytest.param(Effect("k\0", 1), "has not 1 to", id="a kind that no database takes"),
    pytest.param(Effect("k", object()), "its payload is no JSON", id="no JSON"),
]


@pytest.mark.parametrize(("made", "said"), BAD)
async def test_effects_that_cannot_be_kept_park_the_key_with_its_row_as_it_was(made: Any, said: str, world: World) -> None:
    bad = Projection("sums", entity=TOPIC, row=Sum, version=3)
    bad.on(Deposited)(lambda row, event, _: Sum(event.amount + (row.amount if row else 0)))
    bad.effects(Deposited)(lambda _, event, __, ___: [made] if event.amount == 2 else [])
    await publish(world, ("a", Deposited(amount=1)), ("a", Deposited(amount=2)))
    await world.settle(bad)

    async with world.replica.snapshot() as snapshot:
        [waiting] = await snapshot.waiting(bad.id)
        [[(_, _, row)]] = [some async for some in snapshot.rows(bad)]
    assert (waiting.version, waiting.reason, tuple(row.values)) == (2, Reason.REJECTED, (1,))
    assert said in waiting.detail


def test_effects_are_declared_after_the_reducer_and_once() -> None:
    one = Projection("one", entity=TOPIC, row=Sum)
    with pytest.raises(ProjectionError, match="has no reducer yet"):
        one.effects(Deposited)(lambda *_: [])
    one.on(Deposited)(lambda *_: Sum(1))
    one.effects(Deposited)(lambda *_: [])
    with pytest.raises(ProjectionError, match="has effects already"):
        one.effects(Deposited)(lambda *_: [])
