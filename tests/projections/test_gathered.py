"""Gathered rows from the owner's write to the proof: they move, go and come back, and a wrong one is found and mended."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.projections.sales import HUGE, UNLUCKY, Cancelled, Placed, Sale, Total, each, merge, sale, totals, turnovers
from tests.projections.world import EQUAL, World

from truecopy_bus.errors import DataRefusedError, UnavailableError
from truecopy_projections.certificate import certify
from truecopy_projections.check import check
from truecopy_projections.errors import ProjectionError, RepairRefusedError
from truecopy_projections.projection import Projection
from truecopy_projections.repair import repair
from truecopy_projections.replicas import MemoryReplica
from truecopy_projections.replicas.sql_gathered import locks_of
from truecopy_projections.signing_keys import signing_key
from truecopy_projections.state import PartitionPlan, Reason
from truecopy_projections.verdicts import Difference, Kind, Verdict


def placed(region: str, amount: int | str, weight: int = 1) -> Placed:
    return Placed(region=region, amount=Decimal(amount), weight=weight)


async def found(world: World) -> dict[str, tuple[int, Decimal]]:
    """Orders and amount by region, as they are stored."""
    async with world.replica.snapshot() as snapshot:
        rows = [totals.restored(row.values) async for some in snapshot.gathered(totals) for row in some]
    return {row.region: (row.orders, row.amount) for row in rows}


async def all_of(world: World) -> tuple[int, Decimal]:
    """Orders and amount of all regions, as they are stored."""
    async with world.replica.snapshot() as snapshot:
        (row,) = [turnovers.restored(row.values) async for some in snapshot.gathered(turnovers) for row in some]
    return row.orders, row.amount


async def parked(world: World) -> dict[str, Reason]:
    async with world.replica.snapshot() as snapshot:
        return {key: state.parked async for some in snapshot.keys(sale) for key, _, state in some if state.parked}


async def begin(world: World) -> None:
    """Nine orders in three partitions: six in the north, three in the south."""
    await world.store.publish_many([(f"o{at}", placed("south" if at % 3 == 0 else "north", at)) for at in range(9)])
    await world.settle(sale)


async def test_totals_follow_what_is_placed_moved_cancelled_and_placed_again(world: World) -> None:
    await begin(world)
    assert await found(world) == {"north": (6, Decimal(27)), "south": (3, Decimal(9))}
    assert await world.verdicts(sale, deep=True) == EQUAL

    await world.store.publish_many([("o1", placed("south", 100)), ("o2", placed("west", 2)), ("o0", Cancelled())])
    await world.settle(sale)
    assert await found(world) == {"north": (4, Decimal(24)), "south": (3, Decimal(109)), "west": (1, Decimal(2))}
    assert await world.verdicts(sale, deep=True) == EQUAL

    await world.store.publish_many([("o2", Cancelled()), *((f"o{at}", Cancelled()) for at in (1, 3, 6))])
    await world.settle(sale)
    assert await found(world) == {"north": (4, Decimal(24))}
    assert await world.verdicts(sale) == EQUAL

    await world.store.publish_many([("o2", placed("west", 3)), ("o2", Cancelled()), ("o2", placed("west", 4))])
    await world.settle(sale)
    assert await found(world) == {"north": (4, Decimal(24)), "west": (1, Decimal(4))}
    assert await all_of(world) == (5, Decimal(28))
    assert await world.verdicts(sale, deep=True) == EQUAL


async def test_readers_have_a_view_of_the_gathered_name(world: World) -> None:
    await begin(world)

    await world.execute("CREATE TABLE seen AS SELECT region, orders FROM region_total")
    await world.execute("INSERT INTO region_total__v1 SELECT region || orders, 1, 1, 1, '', 1 FROM seen")

    assert {"north6", "south3"} < (await found(world)).keys()


DAMAGE = {
    "a value": ("UPDATE region_total__v1 SET amount = 999 WHERE region = 'north'", "north", Kind.DIFFERENT, {"amount"}),
    "a row deleted": (
        "DELETE FROM region_total__v1 WHERE region = 'south'",
        "south",
        Kind.MISSING,
        {"region", "orders", "amount", "weight", "largest", "_count"},
    ),
    "a ghost": (
        "INSERT INTO region_total__v1 SELECT 'east', orders, amount, weight, largest, _count FROM region_total__v1 LIMIT 1",
        "east",
        Kind.GHOST,
        {"region", "orders", "amount", "weight", "largest", "_count"},
    ),
    "the number of its contributions": ("UPDATE region_total__v1 SET _count = 7", "north", Kind.DIFFERENT, {"_count"}),
}


@pytest.mark.parametrize("name", DAMAGE)
async def test_a_damaged_gathered_row_is_found_named_and_folded_again(world: World, name: str) -> None:
    statement, group, kind, fields = DAMAGE[name]
    await begin(world)
    await world.execute(statement)

    told = await check(sale, world.replica, world.log, world.registry, wait_s=0)
    planned = await repair(sale, world.replica, world.log, world.registry)
    applied = await repair(sale, world.replica, world.log, world.registry, apply=True)

    assert (told.delivered.verdict, told.computed.verdict, told.stored.verdict) == (
        Verdict.EQUAL,
        Verdict.DIVERGED,
        Verdict.DIVERGED,
    )
    assert "region_total@1" in told.stored.why
    difference = told.differences[0]
    assert (difference.gathered, difference.row, difference.kind) == ("region_total@1", (group,), kind)
    assert set(difference.fields) == fields
    assert str(difference).startswith(f"region_total@1 of ('{group}',) is {kind.value}: ")
    assert planned.planned == told.differences
    assert applied.applied
    assert await world.verdicts(sale, deep=True) == EQUAL
    async with world.replica.snapshot() as snapshot:
        journal = await snapshot.journal("repair")
    assert [entry["gathered"] for entry in journal] == ["region_total@1"] * len(told.differences)


async def test_a_damaged_contribution_that_was_gathered_is_mended_with_what_it_was_gathered_into(world: World) -> None:
    await begin(world)
    await world.execute("UPDATE sale__v1 SET region = 'west', amount = 500 WHERE _key = 'o1'")
    await world.store.publish("o2", placed("west", 2))
    await world.settle(sale)
    assert (await found(world))["west"] == (2, Decimal(502))

    told = await check(sale, world.replica, world.log, world.registry, wait_s=0)
    await repair(sale, world.replica, world.log, world.registry, apply=True)

    assert [(one.gathered, one.key, one.row) for one in told.differences] == [
        ("", "o1", ()),
        ("region_total@1", "", ("north",)),  # folded without it when o2 left
        ("region_total@1", "", ("west",)),
    ]
    assert await found(world) == {"north": (5, Decimal(25)), "south": (3, Decimal(9)), "west": (1, Decimal(2))}
    assert await all_of(world) == (9, Decimal(36))
    assert await world.verdicts(sale, deep=True) == EQUAL


async def test_gathered_rows_count_among_those_that_a_repair_may_change(world: World) -> None:
    await begin(world)
    await world.execute("UPDATE region_total__v1 SET amount = 1")

    with pytest.raises(RepairRefusedError, match="2 rows differ"):
        await repair(sale, world.replica, world.log, world.registry, apply=True, rows_max=1)


async def test_a_log_without_its_beginning_still_shows_a_gathered_row_that_is_wrong(world: World) -> None:
    await begin(world)
    await world.execute("UPDATE region_total__v1 SET amount = 1 WHERE region = 'south'")
    await world.log.trim("shop.order", 0, before_offset=2)

    told = await check(sale, world.replica, world.log, world.registry, wait_s=0)

    assert (told.computed.verdict, told.stored.verdict) == (Verdict.UNPROVEN, Verdict.DIVERGED)
    assert told.differences == [
        Difference(
            key="",
            row=("south",),
            kind=Kind.DIFFERENT,
            version=0,
            gathered="region_total@1",
            fields={"amount": (1, Decimal(9))},
        )
    ]


async def test_a_contribution_that_cannot_be_merged_parks_its_key_until_it_can(world: World) -> None:
    await begin(world)
    await world.store.publish("o1", placed("south", 5, HUGE))
    await world.settle(sale)
    await world.store.publish_many([("o2", placed("south", 1, HUGE)), ("o4", placed("south", 1))])
    await world.settle(sale)
    await world.store.publish("o2", placed("west", 7))
    await world.settle(sale)

    told = await check(sale, world.replica, world.log, world.registry, deep=True, wait_s=0)
    assert await parked(world) == {"o2": Reason.REFUSED}
    assert (told.verdict, told.computed.verdict, told.stored.verdict) == (Verdict.PARKED, Verdict.EQUAL, Verdict.EQUAL)
    assert await found(world) == {"north": (4, Decimal(22)), "south": (5, Decimal(15))}
    async with world.replica.snapshot() as snapshot:
        (why, behind) = await snapshot.waiting(sale.id)
    assert "region_total@1: group ('south',) can't be folded: RowRejectedError: field 'weight'" in why.detail
    assert behind.reason is Reason.BEHIND

    await world.store.publish("o1", Cancelled())
    await world.settle(sale)  # o1 leaves room
    await world.settle(sale)  # a new worker tries what is parked
    assert await parked(world) == {}
    assert await found(world) == {"north": (3, Decimal(20)), "south": (4, Decimal(10)), "west": (1, Decimal(7))}
    assert await world.verdicts(sale, deep=True) == EQUAL


async def test_a_gathered_row_that_the_database_refuses_parks_the_key_that_contributed_last(world: World) -> None:
    await begin(world)
    if "postgres" in world.replica.name:
        await world.execute("ALTER TABLE region_total__v1 ADD CHECK (orders < 7)")
    else:
        await world.execute(
            "CREATE TRIGGER few BEFORE UPDATE ON region_total__v1 WHEN new.orders > 6 BEGIN SELECT RAISE(ABORT, 'few'); END"
        )

    await world.store.publish_many([("o0", placed("east", 1)), ("o3", placed("north", 1)), ("o6", Cancelled())])
    await world.settle(sale)

    assert await parked(world) == {"o3": Reason.REFUSED}
    assert await found(world) == {"east": (1, Decimal(1)), "north": (6, Decimal(27)), "south": (1, Decimal(3))}
    assert (await world.verdicts(sale, deep=True))[1:] == EQUAL[1:]


async def test_a_reducer_that_parks_a_key_leaves_its_last_contribution_in_its_group(world: World) -> None:
    await begin(world)
    await world.store.publish_many([("o1", placed("north", 10)), ("o1", placed("west", 1, UNLUCKY)), ("o1", placed("west", 1))])
    await world.settle(sale)

    assert await parked(world) == {"o1": Reason.REJECTED}
    assert (await found(world))["north"] == (6, Decimal(36))
    assert await world.verdicts(sale, deep=True) == (Verdict.PARKED, Verdict.EQUAL, Verdict.EQUAL)


async def test_a_projection_that_copies_may_be_gathered(world: World) -> None:
    copied = Projection("copied", entity="shop.order", row=Sale)
    copied.copies(Placed, key="order")
    gathered = copied.gather("copied_total", row=Total, by="region", each=each, merge=merge)
    await world.store.publish_many([(f"o{at % 50}", placed("north" if at % 7 else "south", at)) for at in range(300)])
    await world.settle(copied)

    async with world.replica.snapshot() as snapshot:
        rows = [gathered.restored(row.values) async for some in snapshot.gathered(gathered) for row in some]
    assert sorted((row.region, row.orders, row.amount) for row in rows) == [
        ("north", 43, Decimal(11814)),
        ("south", 7, Decimal(1911)),
    ]
    assert await world.verdicts(copied, deep=True) == EQUAL


async def test_gathering_is_part_of_the_declaration_that_a_replica_remembers(world: World) -> None:
    await begin(world)
    other = Projection("sale", entity="shop.order", row=Sale)

    with pytest.raises(ProjectionError, match=r"gathered was .*region_total.*, is None"):
        await world.replica.install(other, partitions=3, incarnation="any")


@pytest.mark.parametrize("by", ["largest", "amount", "weight", (), "note", "mean"])
def test_groups_share_fields_of_both_rows(by: str) -> None:
    other = Projection("sale", entity="shop.order", row=Sale)
    if by in ("amount", "weight"):
        other.gather("fine", row=Total, by=by, each=each, merge=merge)
        with pytest.raises(ProjectionError, match="has a table already"):
            other.gather("fine", row=Total, by=by, each=each, merge=merge)
    else:
        with pytest.raises(ProjectionError, match=r"fields that a group shares|field of Sale|is not a field of"):
            other.gather("wrong", row=Total, by=by, each=each, merge=merge)


def test_nothing_is_taken_out_of_floats_again() -> None:
    @dataclass(frozen=True)
    class Mean:
        region: str
        mean: float

    with pytest.raises(ProjectionError, match="to the bit; make mean Decimal or int"):
        Projection("sale", entity="shop.order", row=Sale).gather(
            "means", row=Mean, by="region", each=lambda one: Mean(one.region, 1), merge=lambda a, _: a, unmerge=lambda a, _: a
        )


def test_locks_are_taken_in_one_order_whatever_the_order_of_groups() -> None:
    places = [("t@1", (f"g{at}",)) for at in range(1000)]

    locks = locks_of(places)

    assert locks == locks_of(reversed(places)) == sorted(set(locks))


class RefusesOnce(MemoryReplica):
    """A replica in which somebody else makes room just after a batch was refused."""

    refusals = 1

    async def apply(self, projection: Projection[Any], plans: Sequence[PartitionPlan], **options: Any) -> frozenset[int]:
        if any(plan.puts for plan in plans) and self.refusals:
            self.refusals -= 1
            raise DataRefusedError(database=self.name, seen="a group is full")
        return await super().apply(projection, plans, **options)


async def test_a_group_that_others_made_room_in_meanwhile_is_tried_again_and_parks_nobody(world: World) -> None:
    crowded = world._replace(replica=RefusesOnce())
    await crowded.store.publish("o1", placed("north", 1))
    await crowded.relay.drain()

    worker = crowded.worker(sale)
    with pytest.raises(UnavailableError, match="tried again"):
        await worker.step()
    await worker.leave()
    await crowded.settle(sale)

    assert await found(crowded) == {"north": (1, Decimal(1))}
    assert await crowded.verdicts(sale, deep=True) == EQUAL


async def test_two_replicas_gather_the_same_and_one_is_mended_from_the_other(world: World, tmp_path: Path) -> None:
    await begin(world)
    twin = world._replace(replica=MemoryReplica())
    await twin.settle(sale)
    own, other = [await check(sale, one.replica, world.log, world.registry, wait_s=0) for one in (world, twin)]
    assert own.computed.facts["gathered"] == other.computed.facts["gathered"]
    assert {name: one["rows"] for name, one in own.computed.facts["gathered"].items()} == {"region_total@1": 2, "turnover@1": 1}

    await certify(sale, twin.replica, world.log, other, signing_key(tmp_path / "key"))
    await world.execute("UPDATE sale__v1 SET amount = 500 WHERE _key = 'o1'")
    await world.execute("UPDATE region_total__v1 SET orders = 0 WHERE region = 'south'")
    await world.log.trim("shop.order", 0, before_offset=2)
    done = await repair(sale, world.replica, world.log, world.registry, peer=twin.replica, apply=True)

    assert [(one.key, one.gathered, one.row) for one in done.planned] == [
        ("o1", "", ()),
        ("", "region_total@1", ("south",)),
    ]
    assert await found(world) == {"north": (6, Decimal(27)), "south": (3, Decimal(9))}
    assert await all_of(world) == (9, Decimal(36))
    assert (await world.verdicts(sale, deep=True))[2] is Verdict.EQUAL
