"""What proofs say of records that wait, where the one who checks knows more than the worker did."""

from collections.abc import Sequence
from typing import Any

from tests.projections.bank import balance
from tests.projections.world import EQUAL, LEASE_S, TOPIC, World, deposit

from truecopy_bus.record import Outgoing
from truecopy_bus.registry import Registry
from truecopy_projections.projection import Projection
from truecopy_projections.repair import repair
from truecopy_projections.replica import Replica
from truecopy_projections.state import PartitionPlan
from truecopy_projections.verdicts import Verdict
from truecopy_projections.worker import Worker
from truecopy_schemas.errors import UnknownSchemaError
from truecopy_schemas.registry import Registered


class Blind:
    """A schema source that finds nothing."""

    async def refresh(self) -> None: ...

    async def schema(self, schema_id: int) -> Registered:
        raise UnknownSchemaError(schema_id)


class Noting:
    """A replica that notes of each commit whether it moved a position, and whether it was durable."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.commits: set[tuple[bool, bool]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replica, name)

    async def apply(self, projection: Projection[Any], plans: Sequence[PartitionPlan], *, durable: bool) -> frozenset[int]:
        self.commits |= {(one.state.position != one.was.position, durable) for one in plans}
        return await self._replica.apply(projection, plans, durable=durable)


async def apply_all(worker: Worker) -> None:
    while await worker.step():
        pass
    await worker.leave()


async def test_what_waits_for_its_schema_is_parked_and_unproven_until_a_mark_was_compared(world: World) -> None:
    await deposit(world)
    await world.relay.drain()
    await world.relay.mark()
    await apply_all(Worker(balance, world.replica, world.log, Blind(), lease_s=LEASE_S, wait_s=0.02))
    assert (await world.verdicts(balance))[0] is Verdict.PARKED

    await apply_all(world.worker(balance))
    assert (await world.verdicts(balance))[0] is Verdict.UNPROVEN

    await world.relay.mark()
    await world.settle(balance)
    assert await world.verdicts(balance, deep=True) == EQUAL


async def test_strangers_that_a_repair_of_the_position_lets_come_again_wait_once(world: World) -> None:
    await deposit(world)
    await world.relay.drain()
    await world.log.append(TOPIC, 0, [Outgoing(b"k", b"stranger", 0)])
    await world.settle(balance)
    await world.execute('UPDATE truecopy_partitions SET "position" = 1 WHERE part = 0')

    await repair(balance, world.replica, world.log, Registry(world.log), apply=True)
    await world.settle(balance)

    assert await world.verdicts(balance, deep=True) == EQUAL


async def test_marks_that_come_again_after_a_repair_are_judged_by_the_relays_before_them(world: World) -> None:
    await deposit(world)
    await world.settle(balance)
    await world.execute('UPDATE truecopy_partitions SET "position" = 1, relay_epoch = 9 WHERE part = 0')

    await repair(balance, world.replica, world.log, Registry(world.log), apply=True)
    await world.settle(balance)

    assert await world.verdicts(balance, deep=True) == EQUAL


async def test_a_crash_can_take_back_only_what_moved_a_position(world: World) -> None:
    await deposit(world)
    await world.relay.drain()
    noting = Noting(world.replica)

    for schemas in (Blind(), world.registry):
        await apply_all(Worker(balance, noting, world.log, schemas, lease_s=LEASE_S, wait_s=0.02, durable=False))

    assert noting.commits == {(True, False), (False, True)}
