"""What a replica promises of writers: one for each partition, who is at its position and holds its fence."""

import asyncio
from dataclasses import replace

from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.state import PartitionPlan, PartitionState
from truecopy_projections.testing.replica_plans import INCARNATION, LINES, Line, line, moved_on, rows_of, taken

__all__ = ["FencingSuite"]

_LEASE_S = 60.0
_RAN_OUT_S = -1.0
"""A lease that ran out a second ago: time passes without waiting for it."""


async def _states(replica: Replica) -> dict[int, PartitionState]:
    async with replica.snapshot() as snapshot:
        return await snapshot.states(LINES.id)


async def _keys_with_rows(replica: Replica) -> list[str]:
    async with replica.snapshot() as snapshot:
        return sorted([key async for batch in snapshot.rows(LINES) for key, _, _ in batch])


def _put(plan: PartitionPlan, key: str) -> PartitionPlan:
    return replace(plan, puts=rows_of(LINES, {key: [line()]}))


class FencingSuite:
    """A part of ReplicaSuite."""

    async def test_a_lost_fence_drops_its_partition_and_the_rest_commits(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES, partitions=3)
        lost = replace(fences[1], claim=b"another claim id")
        plans = [_put(moved_on(fence, states[part]), f"k{part}") for part, fence in enumerate((fences[0], lost, fences[2]))]

        assert await replica.apply(LINES, plans) == {0, 2}

        assert await _keys_with_rows(replica) == ["k0", "k2"]
        assert await _states(replica) == {0: plans[0].state, 1: states[1], 2: plans[2].state}

    async def test_a_fence_of_another_epoch_does_not_hold(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)

        older = moved_on(replace(fences[0], epoch=fences[0].epoch - 1), states[0])
        newer = moved_on(replace(fences[1], epoch=fences[1].epoch + 1), states[1])

        assert await replica.apply(LINES, [older, newer]) == frozenset()

    async def test_a_fence_of_one_partition_is_none_of_another(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)

        crossed = [_put(moved_on(fences[0], states[1]), "k"), _put(moved_on(fences[1], states[0]), "l")]

        assert await replica.apply(LINES, crossed[:1]) == frozenset()
        assert await replica.apply(LINES, crossed) == frozenset()

        assert await _keys_with_rows(replica) == []

    async def test_a_partition_that_is_elsewhere_is_dropped_and_the_rest_commits(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES, partitions=3)
        first = _put(moved_on(fences[0], states[0], records=5), "first")
        assert await replica.apply(LINES, [first]) == {0}
        stale = _put(moved_on(fences[0], states[0]), "stale")
        ahead = _put(moved_on(fences[1], replace(states[1], position=1)), "ahead")
        right = _put(moved_on(fences[2], states[2]), "right")

        assert await replica.apply(LINES, [stale, ahead, right]) == {2}

        assert await _keys_with_rows(replica) == ["first", "right"]
        assert await _states(replica) == {0: first.state, 1: states[1], 2: right.state}

    async def test_a_partition_of_another_incarnation_is_dropped(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        plan = moved_on(fences[0], replace(states[0], incarnation="another life"))

        assert await replica.apply(LINES, [_put(plan, "k")]) == frozenset()

        assert await _states(replica) == states

    async def test_a_plan_is_applied_once_however_often_it_is_sent(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        plan = _put(moved_on(fences[0], states[0]), "k")

        applied = await asyncio.gather(*(replica.apply(LINES, [plan]) for _ in range(5)))

        assert sorted(applied, key=len) == [frozenset()] * 4 + [frozenset({0})]
        assert await _states(replica) == {0: plan.state, 1: states[1]}

    async def test_nothing_is_journaled_for_plans_that_were_all_dropped(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        lost = moved_on(replace(fences[0], claim=b""), states[0])

        await replica.apply(LINES, [lost], journal=[("repair", {"of": "lost"})])
        await replica.apply(LINES, [lost, moved_on(fences[1], states[1])], journal=[("repair", {"of": "both"})])

        async with replica.snapshot() as snapshot:
            assert await snapshot.journal("repair") == [{"of": "both"}]

    async def test_a_renewal_keeps_fences_and_takes_nothing_twice(self, replica: Replica) -> None:
        fences, _ = await taken(replica, LINES, partitions=3)

        assert set(fences) == {0, 1, 2}
        assert len({fence.claim for fence in fences.values()}) == 3
        assert await replica.renew(LINES, "one", fences.values(), lease_s=_LEASE_S) == fences

    async def test_holders_come_to_fair_shares(self, replica: Replica) -> None:
        one, _ = await taken(replica, LINES, partitions=5)
        two = await replica.renew(LINES, "two", [], lease_s=_LEASE_S)
        assert not two

        one_later = await replica.renew(LINES, "one", one.values(), lease_s=_LEASE_S)
        two = await replica.renew(LINES, "two", [], lease_s=_LEASE_S)

        assert sorted((len(one_later), len(two))) == [2, 3]
        assert set(one_later) | set(two) == set(range(5))
        assert all(one_later[part] == one[part] for part in one_later)

    async def test_a_partition_given_back_is_lost_to_who_gave_it(self, replica: Replica) -> None:
        one, states = await taken(replica, LINES)
        await replica.renew(LINES, "two", [], lease_s=_LEASE_S)
        one_later = await replica.renew(LINES, "one", one.values(), lease_s=_LEASE_S)
        two = await replica.renew(LINES, "two", [], lease_s=_LEASE_S)

        plans = [moved_on(fence, states[part]) for part, fence in one.items()]

        assert await replica.apply(LINES, plans) == set(one_later)
        assert await replica.apply(LINES, [moved_on(fence, states[part]) for part, fence in two.items()]) == set(two)

    async def test_leaving_frees_partitions_at_once(self, replica: Replica) -> None:
        one, states = await taken(replica, LINES)
        await replica.leave(LINES, "one", one.values())

        two = await replica.renew(LINES, "two", [], lease_s=_LEASE_S)

        assert set(two) == {0, 1}
        assert await replica.apply(LINES, [moved_on(one[0], states[0])]) == frozenset()
        assert await replica.apply(LINES, [moved_on(two[0], states[0])]) == {0}

    async def test_leaving_with_lost_fences_frees_nothing_of_others(self, replica: Replica) -> None:
        one, states = await taken(replica, LINES)
        two = await replica.renew(LINES, "two", [], lease_s=_LEASE_S, seize=True)

        await replica.leave(LINES, "one", one.values())

        assert await replica.renew(LINES, "three", [], lease_s=_LEASE_S) == {}
        assert await replica.apply(LINES, [moved_on(two[0], states[0])]) == {0}

    async def test_a_lease_that_ran_out_is_taken_and_its_fence_is_dead(self, replica: Replica) -> None:
        await replica.install(LINES, partitions=2, incarnation=INCARNATION)
        frozen = await replica.renew(LINES, "frozen", [], lease_s=_RAN_OUT_S)
        assert set(frozen) == {0, 1}

        woken = await replica.renew(LINES, "woken", [], lease_s=_LEASE_S)

        states = await _states(replica)
        assert set(woken) == {0, 1}
        assert all(woken[part].epoch > frozen[part].epoch for part in frozen)
        assert await replica.apply(LINES, [moved_on(frozen[part], states[part]) for part in (0, 1)]) == frozenset()
        assert await replica.renew(LINES, "frozen", frozen.values(), lease_s=_LEASE_S) == {}
        assert await replica.apply(LINES, [moved_on(woken[part], states[part]) for part in (0, 1)]) == {0, 1}

    async def test_a_lease_that_ran_out_still_writes_until_somebody_takes_it(self, replica: Replica) -> None:
        await replica.install(LINES, partitions=1, incarnation=INCARNATION)
        late = await replica.renew(LINES, "late", [], lease_s=_RAN_OUT_S)
        states = await _states(replica)

        assert await replica.apply(LINES, [moved_on(late[0], states[0])]) == {0}

    async def test_seizing_takes_every_partition_from_every_holder(self, replica: Replica) -> None:
        one, states = await taken(replica, LINES)

        two = await replica.renew(LINES, "two", [], lease_s=_LEASE_S, seize=True)

        assert set(two) == {0, 1}
        assert await replica.apply(LINES, [moved_on(one[part], states[part]) for part in (0, 1)]) == frozenset()
        assert await replica.renew(LINES, "one", one.values(), lease_s=_LEASE_S) == {}
        assert await replica.apply(LINES, [moved_on(two[part], states[part]) for part in (0, 1)]) == {0, 1}

    async def test_seizing_makes_new_fences_even_of_ones_own(self, replica: Replica) -> None:
        one, states = await taken(replica, LINES)

        again = await replica.renew(LINES, "one", one.values(), lease_s=_LEASE_S, seize=True)

        assert all(again[part] != one[part] for part in one)
        assert await replica.apply(LINES, [moved_on(one[0], states[0])]) == frozenset()

    async def test_projections_are_leased_apart(self, replica: Replica) -> None:
        other = Projection("suite_lines", entity="suite.lines", row=Line, key=("shop", "number"), version=2)
        fences, states = await taken(replica, LINES)
        others, _ = await taken(replica, other)
        await replica.leave(other, "one", others.values())

        assert await replica.apply(other, [moved_on(fences[0], states[0])]) == frozenset()
        assert await replica.apply(LINES, [moved_on(fences[0], states[0])]) == {0}
