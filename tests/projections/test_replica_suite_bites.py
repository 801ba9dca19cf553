"""The replica suite fails for replicas that break one promise each, in the test that is named for it."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from truecopy_bus.errors import DataRefusedError
from truecopy_bus.leases import Fence
from truecopy_projections.gathered import GatheredRow
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Snapshot
from truecopy_projections.replicas import MemoryReplica
from truecopy_projections.state import Known, MarkVerdict, PartitionPlan, StoredRow, Wanted
from truecopy_projections.testing.replica_plans import EVERYTHING
from truecopy_projections.testing.replica_suite import ReplicaSuite

Projected = Projection[Any]
Plans = Sequence[PartitionPlan]


class Bent(MemoryReplica):
    """A replica that applies something else than each plan says."""

    def bent(self, plan: PartitionPlan) -> PartitionPlan:
        raise NotImplementedError

    async def apply(self, projection: Projected, plans: Plans, **options: Any) -> frozenset[int]:
        return await super().apply(projection, [self.bent(plan) for plan in plans], **options)


class ForgetsDrops(Bent):
    def bent(self, plan: PartitionPlan) -> PartitionPlan:
        return replace(plan, drops=frozenset())


class DropsAfterPuts(Bent):
    def bent(self, plan: PartitionPlan) -> PartitionPlan:
        return replace(plan, puts={at: row for at, row in plan.puts.items() if at not in plan.drops})


class LosesAWaitingRecord(Bent):
    def bent(self, plan: PartitionPlan) -> PartitionPlan:
        return replace(plan, waits=plan.waits[:-1])


class ForgetsToFree(Bent):
    def bent(self, plan: PartitionPlan) -> PartitionPlan:
        return replace(plan, freed=frozenset())


class ForgetsRulings(Bent):
    def bent(self, plan: PartitionPlan) -> PartitionPlan:
        return replace(plan, amendments=plan.amendments[:1])


class TellsTheQuarantineByOffset(MemoryReplica):
    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        async with super().snapshot() as snapshot:

            async def quarantine(projection: str, *, key: str | None = None) -> AsyncIterator[Any]:
                for one in await snapshot.waiting(projection):
                    if key in (None, one.key):
                        yield [one]

            snapshot.quarantine = quarantine
            yield snapshot


class KeepsTheLastCheckpointAlone(Bent):
    def bent(self, plan: PartitionPlan) -> PartitionPlan:
        return replace(plan, checkpoints=plan.checkpoints[-1:])


class TellsTheLastCheckpointOfAny(MemoryReplica):
    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        async with super().snapshot() as snapshot:
            sound = snapshot.checkpoints

            async def checkpoints(projection: str, *, latest: MarkVerdict | None = None) -> Any:
                found = await sound(projection)
                return found if latest is None else list({one.partition: one for one in found}.values())

            snapshot.checkpoints = checkpoints
            yield snapshot


class WrapsDigests(Bent):
    def bent(self, plan: PartitionPlan) -> PartitionPlan:
        return replace(plan, state=replace(plan.state, input_digest=plan.state.input_digest % 2**255))


class Lossy(Bent):
    """A replica that stores other values than it was given."""

    def stored(self, value: Any) -> Any:
        raise NotImplementedError

    def bent(self, plan: PartitionPlan) -> PartitionPlan:
        puts = {at: StoredRow(tuple(map(self.stored, row.values)), row.hash) for at, row in plan.puts.items()}
        return replace(plan, puts=puts)


class RoundsDecimals(Lossy):
    def stored(self, value: Any) -> Any:
        return Decimal(repr(float(value))) if isinstance(value, Decimal) else value


class TrimsText(Lossy):
    def stored(self, value: Any) -> Any:
        return value.strip(" ") if isinstance(value, str) else value


class CutsTimes(Lossy):
    def stored(self, value: Any) -> Any:
        return value.replace(microsecond=0) if isinstance(value, datetime) else value


class TakesNanForZero(Lossy):
    def stored(self, value: Any) -> Any:
        return value if value == value else 0.0


class IgnoresFences(MemoryReplica):
    async def apply(self, projection: Projected, plans: Plans, **options: Any) -> frozenset[int]:
        leases = self._leases[projection.id]._leases
        valid = [replace(plan, fence=leases[plan.was.partition].fence) for plan in plans]
        return await super().apply(projection, valid, **options)


class IgnoresPositions(MemoryReplica):
    async def apply(self, projection: Projected, plans: Plans, **options: Any) -> frozenset[int]:
        states = self._contents[projection.id].states
        return await super().apply(projection, [replace(plan, was=states[plan.was.partition]) for plan in plans], **options)


class CommitsThePositionFirst(MemoryReplica):
    async def apply(self, projection: Projected, plans: Plans, **options: Any) -> frozenset[int]:
        try:
            return await super().apply(projection, plans, **options)
        except DataRefusedError:
            await super().apply(projection, [PartitionPlan(fence=p.fence, was=p.was, state=p.state) for p in plans])
            raise


class AppliesPartByPart(MemoryReplica):
    async def apply(self, projection: Projected, plans: Plans, **options: Any) -> frozenset[int]:
        if not plans:
            return await super().apply(projection, plans, **options)
        found = [await super(AppliesPartByPart, self).apply(projection, [plan], **options) for plan in reversed(plans)]
        return frozenset().union(*found)


class RefusesTheWholeForOneLostFence(MemoryReplica):
    async def apply(self, projection: Projected, plans: Plans, **options: Any) -> frozenset[int]:
        if plans and len(self._current(projection, plans)) < len(plans):
            return frozenset()
        return await super().apply(projection, plans, **options)


class JournalsWhatWasDropped(MemoryReplica):
    async def apply(self, projection: Projected, plans: Plans, **options: Any) -> frozenset[int]:
        done = await super().apply(projection, plans, **options)
        if plans and not done and options.get("journal"):
            await super().apply(projection, [], journal=options["journal"])
        return done


class SharesItsContents(MemoryReplica):
    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        async with super().snapshot() as snapshot:
            for contents in self._contents.values():
                contents.shared = False
            yield snapshot


class HandsOutItsStates(MemoryReplica):
    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        async with super().snapshot() as snapshot:

            async def states(projection: str) -> Any:
                return self._contents[projection].states if projection in self._contents else {}

            snapshot.states = states  # type: ignore[method-assign]
            yield snapshot


class LoadMissesARow(MemoryReplica):
    async def load(self, projection: Projected, wanted: Wanted) -> Known:
        known = await super().load(projection, wanted)
        return replace(known, rows=dict(list(known.rows.items())[:-1]))


class LoadBringsAllThatWaits(MemoryReplica):
    async def load(self, projection: Projected, wanted: Wanted) -> Known:
        known = await super().load(projection, wanted)
        waiting = [one for _, one in sorted(self._contents[projection.id].waiting.items())]
        return replace(known, waiting={key: [one for one in waiting if one.key == key] for key in known.keys})


class BlamesAll(MemoryReplica):
    async def culprits(self, projection: Projected, plans: Plans) -> Mapping[str, str]:
        return {key: "?" for plan in plans for key, _ in plan.puts} if await super().culprits(projection, plans) else {}


class TriesForReal(MemoryReplica):
    async def culprits(self, projection: Projected, plans: Plans) -> Mapping[str, str]:
        refused = await super().culprits(projection, plans)
        good = [replace(p, puts={a: row for a, row in p.puts.items() if a[0] not in refused}) for p in plans]
        await self.apply(projection, good)
        return refused


class NeverGivesBack(MemoryReplica):
    async def renew(self, projection: Projected, holder: str, held: Collection[Fence], **options: Any) -> Mapping[int, Fence]:
        kept = await super().renew(projection, holder, held, **options)
        return {**{fence.partition: fence for fence in held}, **kept}


class SeizesNothing(MemoryReplica):
    async def renew(self, projection: Projected, holder: str, held: Collection[Fence], **options: Any) -> Mapping[int, Fence]:
        return await super().renew(projection, holder, held, **{**options, "seize": False})


class LeavesNothing(MemoryReplica):
    async def leave(self, projection: Projected, holder: str, held: Collection[Fence]) -> None:
        pass


class NeverLetsALeaseRunOut(MemoryReplica):
    async def renew(self, projection: Projected, holder: str, held: Collection[Fence], **options: Any) -> Mapping[int, Fence]:
        return await super().renew(projection, holder, held, **{**options, "lease_s": 60.0})


class InstallsAnew(MemoryReplica):
    async def install(self, projection: Projected, *, partitions: int, incarnation: str) -> None:
        self._contents.pop(projection.id, None)
        await super().install(projection, partitions=partitions, incarnation=incarnation)


class ForgetsToGather(Bent):
    async def apply(self, projection: Projected, plans: Plans, **options: Any) -> frozenset[int]:
        before = dict(self._contents[projection.id].gathered)
        done = await MemoryReplica.apply(self, projection, plans, **options)
        if plans and not plans[0].refolds and any(plan.drops for plan in plans):
            self._contents[projection.id].gathered = before
        return done


class GathersBeforeItIsSure(MemoryReplica):
    async def apply(self, projection: Projected, plans: Plans, **options: Any) -> frozenset[int]:
        try:
            return await super().apply(projection, plans, **options)
        except DataRefusedError:
            self._contents[projection.id].gathered.clear()
            raise


class SharesGatheredRows(MemoryReplica):
    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        async with super().snapshot() as snapshot:
            sound = self._contents

            async def gathered(of: Any, group: Any = None) -> AsyncIterator[Any]:
                rows = sound[of.of.id].gathered.items()
                yield [row for place, row in rows if place[0] == of.id and group in (None, place[1])]

            snapshot.gathered = gathered  # type: ignore[method-assign, assignment]
            yield snapshot


class FoldsAsTheyCame(MemoryReplica):
    """It merges what came into what was there, and reads that before it lets others have their turn."""

    async def apply(self, projection: Projected, plans: Plans, **options: Any) -> frozenset[int]:
        before = dict(self._contents[projection.id].gathered) if projection.gathers else {}
        done = await super().apply(projection, plans, **options)
        await asyncio.sleep(0)
        contents = self._contents[projection.id]
        for (key, _), row in [put for plan in plans for put in plan.puts.items()]:
            for of in projection.gathers:
                place = of.id, of.group(row.values)
                one = of.folded(place[1], [(key, row.values)])
                assert one is not None
                if (known := before.get(place)) is not None:
                    merged = of.merge(of.restored(known.values), of.restored(one.values))
                    one = GatheredRow(of.stored(merged), known.size + 1)
                before[place] = contents.gathered[place] = one
        return done


class ReadsAllBuckets(MemoryReplica):
    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        async with super().snapshot() as snapshot:
            sound = snapshot.rows
            snapshot.rows = lambda projection, **_: sound(projection)  # type: ignore[method-assign]
            yield snapshot


class TellsTheOldestCheckpoints(MemoryReplica):
    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        async with super().snapshot() as snapshot:
            sound = snapshot.checkpoints

            async def checkpoints(projection: str, *, newest: int | None = None) -> Any:
                found = await sound(projection)
                return [one for p in (0, 1) for one in [one for one in found if one.partition == p][:newest]]

            snapshot.checkpoints = checkpoints  # type: ignore[method-assign,assignment]
            yield snapshot


class RemembersForAll(MemoryReplica):
    async def remember(self, projection: Any, what: str, said: Any) -> None:
        await super().remember(projection, what, said)
        await super().remember(EVERYTHING, what, said)


class RemembersTheFirst(MemoryReplica):
    async def remember(self, projection: Any, what: str, said: Any) -> None:
        if (projection.id, what) not in self._remembered:
            await super().remember(projection, what, said)


BROKEN = [
    (TellsTheOldestCheckpoints, "test_the_newest_checkpoints_are_told_for_each_partition"),
    (RemembersForAll, "test_what_is_remembered_of_a_projection_takes_the_place_of_what_was"),
    (RemembersTheFirst, "test_what_is_remembered_of_a_projection_takes_the_place_of_what_was"),
    (IgnoresFences, "test_a_lost_fence_drops_its_partition_and_the_rest_commits"),
    (IgnoresPositions, "test_a_partition_that_is_elsewhere_is_dropped_and_the_rest_commits"),
    (ForgetsDrops, "test_a_drop_removes_one_row_and_leaves_its_neighbours"),
    (DropsAfterPuts, "test_drops_come_before_puts"),
    (ForgetsRulings, "test_rulings_come_back_whole_with_the_plan_that_holds_them"),
    (TellsTheQuarantineByOffset, "test_the_quarantine_is_read_key_by_key_in_small_batches"),
    (LosesAWaitingRecord, "test_a_waiting_record_comes_back_whole_and_leaves_when_it_is_freed"),
    (ForgetsToFree, "test_a_waiting_record_comes_back_whole_and_leaves_when_it_is_freed"),
    (KeepsTheLastCheckpointAlone, "test_checkpoints_come_back_by_partition_and_offset"),
    (TellsTheLastCheckpointOfAny, "test_the_last_checkpoint_of_a_verdict_is_told_for_each_partition"),
    (RoundsDecimals, "test_storing_is_the_identity_for_hostile_values_of_every_type"),
    (TrimsText, "test_storing_is_the_identity_for_hostile_values_of_every_type"),
    (CutsTimes, "test_storing_is_the_identity_for_hostile_values_of_every_type"),
    (TakesNanForZero, "test_storing_is_the_identity_for_hostile_values_of_every_type"),
    (ReadsAllBuckets, "test_rows_and_keys_are_read_by_the_buckets_of_their_keys"),
    (WrapsDigests, "test_a_partition_state_comes_back_in_every_field"),
    (CommitsThePositionFirst, "test_refused_data_leaves_nothing_of_the_whole_batch"),
    (AppliesPartByPart, "test_refused_data_leaves_nothing_of_the_whole_batch"),
    (RefusesTheWholeForOneLostFence, "test_a_lost_fence_drops_its_partition_and_the_rest_commits"),
    (JournalsWhatWasDropped, "test_nothing_is_journaled_for_plans_that_were_all_dropped"),
    (SharesItsContents, "test_a_snapshot_stays_as_it_was_whatever_is_applied"),
    (HandsOutItsStates, "test_what_is_handed_in_and_out_is_not_shared"),
    (LoadMissesARow, "test_load_answers_what_was_asked_and_nothing_else"),
    (LoadBringsAllThatWaits, "test_load_brings_what_waits_for_parked_keys_in_order"),
    (BlamesAll, "test_culprits_are_named_and_nothing_is_written"),
    (TriesForReal, "test_culprits_are_named_and_nothing_is_written"),
    (NeverGivesBack, "test_holders_come_to_fair_shares"),
    (SeizesNothing, "test_seizing_takes_every_partition_from_every_holder"),
    (LeavesNothing, "test_leaving_frees_partitions_at_once"),
    (NeverLetsALeaseRunOut, "test_a_lease_that_ran_out_is_taken_and_its_fence_is_dead"),
    (ForgetsToGather, "test_a_contribution_that_goes_leaves_its_group_and_the_last_one_ends_it"),
    (GathersBeforeItIsSure, "test_a_group_that_cannot_be_folded_takes_the_whole_batch_back_and_names_the_key"),
    (SharesGatheredRows, "test_a_snapshot_holds_gathered_rows_and_contributions_of_one_moment"),
    (FoldsAsTheyCame, "test_a_gathered_row_is_folded_from_all_keys_in_one_order"),
    (FoldsAsTheyCame, "test_batches_that_touch_the_same_groups_at_once_lose_nothing"),
    (InstallsAnew, "test_installing_again_changes_nothing"),
]


@pytest.mark.parametrize(
    ("broken", "promise"),
    BROKEN,
    ids=[f"{broken.__name__}-{promise}" if broken is FoldsAsTheyCame else broken.__name__ for broken, promise in BROKEN],
)
async def test_a_replica_that_breaks_a_promise_fails_the_suite(broken: Callable[[], MemoryReplica], promise: str) -> None:
    with pytest.raises((AssertionError, KeyError, RuntimeError, pytest.fail.Exception)):
        await getattr(ReplicaSuite(), promise)(broken())


@pytest.mark.parametrize("promise", sorted({promise for _, promise in BROKEN}))
async def test_a_sound_replica_passes_the_same_tests(promise: str) -> None:
    await getattr(ReplicaSuite(), promise)(MemoryReplica())


def test_every_promise_of_the_suite_is_a_coroutine_that_pytest_finds() -> None:
    def promises() -> Iterator[Any]:
        yield from (method for name, method in inspect.getmembers(ReplicaSuite) if name.startswith("test_"))

    assert len(list(promises())) >= 40
    assert all(inspect.iscoroutinefunction(method) for method in promises())
