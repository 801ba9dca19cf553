"""What a replica promises of stages: one number of a name is live, and a swap changes all that says so, or nothing."""

from collections.abc import Collection, Mapping, Sequence

import pytest

from truecopy_bus.leases import Fence
from truecopy_projections.errors import SwapRefusedError
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.stages import Stage, Staged
from truecopy_projections.state import PartitionState
from truecopy_projections.testing.replica_plans import INCARNATION, LINES, Line, key_states, line, moved_on, rows_of, taken

__all__ = ["NEXT_LINES", "StagingSuite"]

NEXT_LINES = Projection("suite_lines", entity="suite.lines", row=Line, key=("shop", "number"), version=2)
"""The next number of LINES."""
_FOLLOW_MS = 60_000


async def staged(replica: Replica) -> Sequence[Staged]:
    async with replica.snapshot() as snapshot:
        return await snapshot.stages("suite_lines")


async def stages(replica: Replica) -> dict[int, Stage]:
    return {one.number: one.stage for one in await staged(replica)}


async def both(replica: Replica) -> tuple[dict[str, Collection[Fence]], Mapping[int, Fence], dict[int, PartitionState]]:
    """LINES live and the next number following, all of either taken: their fences, and the next number's with its states."""
    old, _ = await taken(replica, LINES)
    new, states = await taken(replica, NEXT_LINES)
    await replica.stage(NEXT_LINES, Stage.FOLLOWING)
    return {LINES.id: old.values(), NEXT_LINES.id: new.values()}, new, states


class StagingSuite:
    """A part of ReplicaSuite."""

    async def test_the_first_number_of_a_name_is_live_and_a_further_one_is_being_built(self, replica: Replica) -> None:
        for _ in range(2):
            await replica.install(LINES, partitions=1, incarnation=INCARNATION)
            await replica.install(NEXT_LINES, partitions=1, incarnation=INCARNATION)

        assert await stages(replica) == {1: Stage.LIVE, 2: Stage.BUILDING}

    async def test_a_swap_changes_both_stages_at_once_with_its_journal(self, replica: Replica) -> None:
        fences, _, _ = await both(replica)

        async with replica.snapshot() as before:
            await replica.swap(NEXT_LINES, LINES, fences, follow_ms=_FOLLOW_MS, by="me", journal=[("swap", {"n": 1})])
            assert [one.stage for one in await before.stages("suite_lines")] == [Stage.LIVE, Stage.FOLLOWING]

        old, new = await staged(replica)
        assert (old.stage, new.stage, new.until_ms, old.by, new.by) == (Stage.FOLLOWING, Stage.LIVE, None, "me", "me")
        assert old.until_ms == old.since_ms + _FOLLOW_MS
        assert (old.at(old.until_ms - 1), old.at(old.until_ms)) == (Stage.FOLLOWING, Stage.RETIRED)
        async with replica.snapshot() as snapshot:
            assert list(await snapshot.journal("swap")) == [{"n": 1}]

    async def test_the_way_back_is_a_swap_as_well(self, replica: Replica) -> None:
        fences, _, _ = await both(replica)
        await replica.swap(NEXT_LINES, LINES, fences, follow_ms=_FOLLOW_MS, by="")

        await replica.swap(LINES, NEXT_LINES, fences, follow_ms=_FOLLOW_MS, by="")

        assert await stages(replica) == {1: Stage.LIVE, 2: Stage.FOLLOWING}

    async def test_a_swap_under_a_lost_fence_changes_nothing(self, replica: Replica) -> None:
        for which in (LINES, NEXT_LINES):
            fences, _, _ = await both(replica)
            await replica.renew(which, "another", (), lease_s=60.0, seize=True)

            with pytest.raises(SwapRefusedError, match=f"partitions of {which.id} were taken meanwhile"):
                await replica.swap(NEXT_LINES, LINES, fences, follow_ms=1, by="", journal=[("swap", {})])

            for one in (LINES, NEXT_LINES):
                everybody = await replica.renew(one, "one", (), lease_s=60.0, seize=True)
                await replica.leave(one, "one", everybody.values())
        assert await stages(replica) == {1: Stage.LIVE, 2: Stage.FOLLOWING}
        async with replica.snapshot() as snapshot:
            assert list(await snapshot.journal("swap")) == []

    async def test_a_swap_of_numbers_at_two_positions_changes_nothing(self, replica: Replica) -> None:
        fences, new, states = await both(replica)
        await replica.apply(NEXT_LINES, [moved_on(new[1], states[1])])

        with pytest.raises(SwapRefusedError, match="positions differ"):
            await replica.swap(NEXT_LINES, LINES, fences, follow_ms=1, by="")

        assert await stages(replica) == {1: Stage.LIVE, 2: Stage.FOLLOWING}

    @pytest.mark.parametrize("stage", [Stage.BUILDING, Stage.RETIRED], ids=lambda stage: stage.name.lower())
    async def test_what_does_not_follow_does_not_become_live(self, replica: Replica, stage: Stage) -> None:
        fences, _, _ = await both(replica)
        await replica.stage(NEXT_LINES, stage)

        with pytest.raises(SwapRefusedError, match=f"@2 {stage.name}"):
            await replica.swap(NEXT_LINES, LINES, fences, follow_ms=1, by="")

        assert await stages(replica) == {1: Stage.LIVE, 2: stage}

    async def test_a_number_that_is_dropped_is_forgotten_and_the_live_one_is_not_dropped(self, replica: Replica) -> None:
        _, new, states = await both(replica)
        plan = moved_on(new[0], states[0], puts=rows_of(NEXT_LINES, {"k": [line()]}), keys=key_states("k"))
        await replica.apply(NEXT_LINES, [plan])
        with pytest.raises(SwapRefusedError, match="it is live"):
            await replica.drop(LINES)

        await replica.drop(NEXT_LINES, by="me")

        assert await stages(replica) == {1: Stage.LIVE}
        async with replica.snapshot() as snapshot:
            assert len(await snapshot.states(LINES.id)) == 2
            assert not await snapshot.states(NEXT_LINES.id)
            assert [entry["projection"] for entry in await snapshot.journal("drop")] == [NEXT_LINES.id]
        _, again = await taken(replica, NEXT_LINES)
        assert [state.position for state in again.values()] == [0, 0]
        async with replica.snapshot() as snapshot:
            state, rows = await snapshot.get(NEXT_LINES, "k")
            assert (state, list(rows)) == (None, [])
