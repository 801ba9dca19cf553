"""What a replica promises of effects: fired with their plan and once, handed out in order, removed when carried out."""

from collections.abc import Collection
from dataclasses import replace

import pytest

from truecopy_projections.effects import FiredEffect
from truecopy_projections.replica import Replica
from truecopy_projections.testing.replica_plans import LINES, moved_on, taken

__all__ = ["EffectsSuite"]

NAME = LINES.name
ONE = FiredEffect(projection=NAME, key="a", version=1, n=0, kind="k", payload="1")
TWO, THREE = replace(ONE, n=1, payload='"\u00e9"'), replace(ONE, version=2)
OTHER = replace(ONE, key="b")


async def fire(replica: Replica, *effects: FiredEffect) -> None:
    fences, states = await taken(replica, LINES)
    assert await replica.apply(LINES, [replace(moved_on(fences[0], states[0]), effects=effects)])
    await replica.leave(LINES, "one", fences.values())


async def handed_out(replica: Replica, limit: int = 9, *, without: Collection[str] = ()) -> list[FiredEffect]:
    async with replica.delivering(NAME, limit, without=without) as delivery:
        return list(delivery.effects)


class EffectsSuite:
    """A part of ReplicaSuite."""

    async def test_effects_fire_with_their_plan_or_not_at_all(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        plan = replace(moved_on(fences[0], states[0]), effects=[THREE, TWO, ONE])
        lost = replace(plan, fence=replace(fences[0], claim=b"x" * 16))

        assert await replica.apply(LINES, [lost]) == frozenset()
        assert await handed_out(replica) == []
        assert await replica.apply(LINES, [plan]) == {0}
        assert await replica.apply(LINES, [plan]) == frozenset()
        assert await handed_out(replica, 1) == [ONE]
        assert await handed_out(replica) == [TWO, THREE]
        assert await handed_out(replica) == []

    async def test_a_version_of_a_key_fires_once_whatever_is_applied_again(self, replica: Replica) -> None:
        await fire(replica, ONE, THREE)
        await handed_out(replica)
        await fire(replica, ONE, TWO, THREE, OTHER)

        assert await handed_out(replica) == [OTHER]

    async def test_a_block_that_raises_leaves_its_effects(self, replica: Replica) -> None:
        await fire(replica, ONE, OTHER)

        async def failing() -> None:
            async with replica.delivering(NAME, 1):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await failing()
        assert await replica.pending("elsewhere") == (0, 0)
        assert (await replica.pending(NAME))[0] == 2
        assert await handed_out(replica) == [ONE, OTHER]

    async def test_what_a_block_leaves_stays_and_the_rest_goes(self, replica: Replica) -> None:
        await fire(replica, ONE, OTHER)
        async with replica.delivering(NAME, 9) as delivery:
            delivery.left.add(ONE.id)

        assert await handed_out(replica) == [ONE]

    async def test_held_keys_and_those_left_out_are_passed_over(self, replica: Replica) -> None:
        await fire(replica, ONE, OTHER)
        await replica.hold(NAME, "a", "no such luck\0")

        assert list(await replica.held(NAME)) == ["a"]
        assert await handed_out(replica, without=["b"]) == []
        assert await handed_out(replica) == [OTHER]
        await replica.hold(NAME, "a", "")
        assert await replica.held(NAME) == {}
        assert await handed_out(replica) == [ONE]
