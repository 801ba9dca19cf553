"""Effects are carried out by the app's handler: once, in the order of each key, and a bad one holds up nobody else."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from truecopy_bus.errors import DatabaseUnavailableError
from truecopy_bus.sql import Connection
from truecopy_projections.effects import FiredEffect
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.replicas import open_replica
from truecopy_projections.replicas.memory import MemoryReplica
from truecopy_projections.testing.replica_plans import moved_on, taken
from truecopy_services import Change, Effect, Event, Truecopy
from truecopy_services.delivering import KEYS_RETRIED_MAX, Deliverer
from truecopy_services.effects import EFFECTS_BATCH_MAX
from truecopy_services.errors import DeclarationError, UsageError


class Paid(Event, entity="shop.bill", kind="delta"):
    cents: int


@dataclass(frozen=True)
class Bill:
    cents: int


bills = Projection("bills", entity="shop.bill", row=Bill)


@bills.on(Paid)
def paid(row: Bill | None, event: Paid, _: Change) -> Bill:
    return Bill(event.cents + (row.cents if row else 0))


@bills.effects(Paid)
def told(_: Bill | None, event: Paid, __: Bill | None, ___: Change) -> list[Effect]:
    return [Effect("paid", event.cents)]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return "" if request.param == "memory" else f"sqlite:{tmp_path}/replica.db"


@pytest.fixture
async def replica(url: str) -> AsyncIterator[Replica]:
    opened = await open_replica(url) if url else MemoryReplica()
    yield opened
    await opened.close()


async def fire(replica: Replica, *events: tuple[str, int]) -> None:
    fences, states = await taken(replica, bills)
    effect = FiredEffect(projection="bills", key="", version=1, n=0, kind="paid", payload="1")
    some = [replace(effect, key=key, version=version) for key, version in events]
    assert await replica.apply(bills, [replace(moved_on(fences[0], states[0]), effects=some)])


class Handler:
    """Remembers what it carried out, and fails for what it is told to."""

    def __init__(self, *, failing: dict[str, int]) -> None:
        self.failing, self.done = failing, list[str]()

    async def __call__(self, effect: FiredEffect, connection: Connection | None) -> None:
        if connection is not None:
            await connection.fetch("INSERT INTO truecopy_meta (name, value) VALUES ($1, $2)", f"done {effect.id}", "")
        if self.failing.get(effect.id, 0) > 0:
            self.failing[effect.id] -= 1
            raise ValueError("no such luck")
        self.done.append(effect.id)


async def test_a_failing_effect_holds_up_its_key_alone_and_is_tried_again(replica: Replica) -> None:
    await fire(replica, ("a", 1), ("a", 2), ("b", 1), ("b", 2))
    handler = Handler(failing={"bills:a:1:0": 2})
    deliverer = Deliverer("bills", replica, handler, pause_s=0)

    assert [await deliverer.step() for _ in range(4)] == [2, 0, 2, 0]
    # What the failed tries wrote by the connection is undone with them: else the third would meet its own row.
    assert handler.done == ["bills:b:1:0", "bills:b:2:0", "bills:a:1:0", "bills:a:2:0"]
    assert await replica.pending("bills") == (0, 0)


async def test_after_so_many_tries_the_key_is_held_by_name_until_it_is_released(replica: Replica) -> None:
    await fire(replica, ("a", 1), ("a", 2), ("b", 1))
    handler = Handler(failing={"bills:a:1:0": 3})
    deliverer = Deliverer("bills", replica, handler, tries_max=3, pause_s=0)

    assert [await deliverer.step() for _ in range(4)] == [1, 0, 0, 0]
    assert await replica.held("bills") == {"a": "bills:a:1:0: its handler raised ValueError: no such luck"}
    assert (await replica.pending("bills"))[0] == 2

    await replica.hold("bills", "a", "")
    assert await deliverer.step() == 2
    assert handler.done == ["bills:b:1:0", "bills:a:1:0", "bills:a:2:0"]


async def test_what_waits_for_another_try_is_passed_over_until_it_is_due(replica: Replica) -> None:
    await fire(replica, *[(f"k{at:03}", 1) for at in range(KEYS_RETRIED_MAX)], ("z", 1))
    handler = Handler(failing={f"bills:k{at:03}:1:0": 1 for at in range(KEYS_RETRIED_MAX - 1)})
    deliverer = Deliverer("bills", replica, handler, pause_s=3_600)

    assert [await deliverer.step(), await deliverer.step()] == [1, 1]
    assert handler.done == [f"bills:k{KEYS_RETRIED_MAX - 1:03}:1:0", "bills:z:1:0"]


async def test_at_too_many_failing_keys_nothing_more_is_taken(replica: Replica) -> None:
    await fire(replica, *[(f"k{at:03}", 1) for at in range(KEYS_RETRIED_MAX)], ("z", 1))
    handler = Handler(failing={f"bills:k{at:03}:1:0": 1 for at in range(KEYS_RETRIED_MAX)})
    deliverer = Deliverer("bills", replica, handler, pause_s=3_600)

    assert [await deliverer.step(), await deliverer.step()] == [0, 0]
    assert handler.done == []


async def test_a_world_that_is_away_counts_no_try_and_leaves_all_as_it_was(replica: Replica) -> None:
    await fire(replica, ("a", 1), ("b", 1))

    async def away(*_: object) -> None:
        raise DatabaseUnavailableError(database="elsewhere", seen="it is away")

    deliverer = Deliverer("bills", replica, away, tries_max=1)
    with pytest.raises(DatabaseUnavailableError):
        await deliverer.step()
    assert await replica.held("bills") == {}
    assert (await replica.pending("bills"))[0] == 2


async def test_a_running_app_carries_its_effects_out_in_the_order_of_each_key() -> None:
    shop = Truecopy("shop", log="memory:")
    shop.add(bills)
    seen: asyncio.Queue[FiredEffect] = asyncio.Queue()

    @shop.delivers(bills)
    async def carry(effect: FiredEffect, _: Connection | None) -> None:
        await seen.put(effect)

    async with shop.running() as service:
        for cents in range(1, 6):
            await service.publish("a", Paid(cents=cents))
        found = [await seen.get() for _ in range(5)]

    assert [(one.version, one.payload) for one in found] == [(at, str(at)) for at in range(1, 6)]


async def test_one_handler_for_each_name_and_a_limit_for_each_batch() -> None:
    shop = Truecopy("shop", log="memory:")
    shop.delivers(bills)(Handler(failing={}))
    with pytest.raises(DeclarationError, match="delivers the effects of 'bills' already"):
        shop.delivers(bills)(Handler(failing={}))
    async with shop.open() as service:
        for limit in (0, EFFECTS_BATCH_MAX + 1):
            with pytest.raises(UsageError, match="expected 1 to"):
                service.effects(bills).batch(limit)
