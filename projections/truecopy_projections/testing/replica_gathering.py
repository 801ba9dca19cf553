"""What a replica promises of gathered rows: each is the fold of the contributions that are there, whoever else writes."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from truecopy_bus.errors import DataRefusedError
from truecopy_projections.gathered import GatheredRow
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.state import PartitionPlan
from truecopy_projections.testing.replica_plans import Line, gathered, line, moved_on, rows_of, taken

__all__ = ["GatheringSuite"]

ROUNDS = 50
"""Rounds in which a batch of each of two partitions is applied at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What the lines of a shop come to."""

    shop: str
    amount: int
    lines: str


def _each(one: Line) -> Sum:
    return Sum(shop=one.shop, amount=one.amount, lines=str(one.number))


def _merge(one: Sum, other: Sum) -> Sum:
    # Not commutative, on purpose: here it shows the order in which a group is folded.
    return Sum(shop=one.shop, amount=one.amount + other.amount, lines=f"{one.lines} {other.lines}")


SUMMED = Projection("suite_summed", entity="suite.summed", row=Line, key=("shop", "number"))
SUMS = SUMMED.gather("suite_sums", row=Sum, by="shop", each=_each, merge=_merge)


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How much the lines of a shop come to, kept up by what changes alone."""

    shop: str
    amount: int


COUNTS = SUMMED.gather(
    "suite_counts",
    row=Count,
    by="shop",
    each=lambda one: Count(shop=one.shop, amount=one.amount),
    merge=lambda one, other: Count(shop=one.shop, amount=one.amount + other.amount),
    unmerge=lambda whole, part: Count(shop=whole.shop, amount=whole.amount - part.amount),
)


async def counts(replica: Replica) -> dict[str, tuple[int, int]]:
    """By shop: the amount, and of how many lines."""
    async with replica.snapshot() as snapshot:
        rows = await gathered(snapshot.gathered(COUNTS))
    return {row.values[0]: (row.values[1], row.size) for row in rows}


async def sums(replica: Replica) -> dict[str, tuple[int, str, int]]:
    """By shop: the amount, the lines in the order in which they were merged, and how many they are."""
    async with replica.snapshot() as snapshot:
        return _by_shop(await gathered(snapshot.gathered(SUMS)))


def _by_shop(rows: Sequence[GatheredRow]) -> dict[str, tuple[int, str, int]]:
    return {row.values[0]: (row.values[1], row.values[2], row.size) for row in rows}


def lines(**amounts: dict[str, int]) -> Any:
    """Lines by source key: each by `shop/number`, with its amount."""
    told: dict[str, list[Line]] = {key: [] for key in amounts}
    for key, some in amounts.items():
        for name, amount in some.items():
            shop, number = name.split("/")
            told[key].append(line(shop, int(number), amount))
    return rows_of(SUMMED, told)


class GatheringSuite:
    """A part of ReplicaSuite."""

    async def test_a_gathered_row_is_folded_from_all_keys_in_one_order(self, replica: Replica) -> None:
        fences, states = await taken(replica, SUMMED)
        one = moved_on(fences[1], states[1], puts=lines(b={"s/2": 5, "t/9": 1}, a={"s/11": 3, "s/4": 2}))
        other = moved_on(fences[0], states[0], puts=lines(**{"á": {"s/3": 7}, "Z": {"s/8": 1}}))

        await replica.apply(SUMMED, [one])
        await replica.apply(SUMMED, [other])

        assert await sums(replica) == {"s": (18, "8 4 11 2 3", 5), "t": (1, "9", 1)}
        async with replica.snapshot() as snapshot:
            assert _by_shop(await gathered(snapshot.gathered(SUMS, ("t",)))) == {"t": (1, "9", 1)}
            assert await gathered(snapshot.gathered(SUMS, ("none",))) == []

    async def test_a_contribution_that_goes_leaves_its_group_and_the_last_one_ends_it(self, replica: Replica) -> None:
        fences, states = await taken(replica, SUMMED)
        first = moved_on(fences[0], states[0], puts=lines(a={"s/1": 1, "t/1": 10}, b={"s/2": 2}))
        await replica.apply(SUMMED, [first])
        second = moved_on(fences[0], first.state, drops=frozenset({("a", ("s", 1)), ("a", ("t", 1)), ("a", ("none", 1))}))

        await replica.apply(SUMMED, [second])
        assert await sums(replica) == {"s": (2, "2", 1)}
        assert await counts(replica) == {"s": (2, 1)}

        await replica.apply(SUMMED, [moved_on(fences[0], second.state, puts=lines(a={"t/1": 4}, b={"s/2": 3}))])
        assert await sums(replica) == {"s": (3, "2", 1), "t": (4, "1", 1)}
        assert await counts(replica) == {"s": (3, 1), "t": (4, 1)}

    async def test_batches_that_touch_the_same_groups_at_once_lose_nothing(self, replica: Replica) -> None:
        fences, states = await taken(replica, SUMMED)
        shops = ("s", "t", "u")

        def told(left: list[int]) -> str:
            return " ".join(str(at) for _, at in sorted((f"k{p}{at % 7}", at) for p in (0, 1) for at in left))

        def batch(partition: int, at: int) -> PartitionPlan:
            turned = shops[::-1] if partition else shops
            some = {f"k{partition}{at % 7}": {f"{shop}/{at}": at for shop in turned}}
            gone = {(f"k{partition}{(at - 3) % 7}", (shop, at - 3)) for shop in turned if at % 2 and at > 3}
            return moved_on(fences[partition], states[partition], puts=lines(**some), drops=frozenset(gone))

        left: list[int] = []
        for at in range(1, ROUNDS + 1):
            plans = [batch(0, at), batch(1, at)]
            applied = await asyncio.gather(*(replica.apply(SUMMED, [plan]) for plan in plans))
            states = {plan.state.partition: plan.state for plan in plans}
            left = [one for one in left if not (at % 2 and one == at - 3)] + [at]
            found = await sums(replica)  # after each: the next batch would make good what this one lost
            assert applied == [{0}, {1}]
            assert found == dict.fromkeys(shops, (2 * sum(left), told(left), 2 * len(left)))
            assert await counts(replica) == dict.fromkeys(shops, (2 * sum(left), 2 * len(left)))

    async def test_a_group_that_cannot_be_folded_takes_the_whole_batch_back_and_names_the_key(self, replica: Replica) -> None:
        fences, states = await taken(replica, SUMMED)
        first = moved_on(fences[0], states[0], puts=lines(a={"s/1": 2**62}))
        await replica.apply(SUMMED, [first])
        beyond = moved_on(fences[0], first.state, puts=lines(b={"t/1": 1}, c={"s/2": 2**62}, d={"t/2": 2}))

        with pytest.raises(DataRefusedError, match=r"suite_sums@1: group \('s',\)"):
            await replica.apply(SUMMED, [beyond])

        assert await sums(replica) == {"s": (2**62, "1", 1)}
        found = await replica.culprits(SUMMED, [beyond])
        assert found.keys() == {"c"}
        assert "suite_sums@1" in found["c"]
        assert await sums(replica) == {"s": (2**62, "1", 1)}

    async def test_named_groups_are_folded_anew(self, replica: Replica) -> None:
        fences, states = await taken(replica, SUMMED)
        first = moved_on(fences[0], states[0], puts=lines(a={"s/1": 1}))
        await replica.apply(SUMMED, [first])

        some = {(gathered.id, (shop,)) for gathered in (SUMS, COUNTS) for shop in ("s", "none")}
        plan = moved_on(fences[0], first.state, refolds=frozenset(some), puts=lines(a={"s/1": 1}))
        assert await replica.apply(SUMMED, [plan]) == {0}

        assert await sums(replica) == {"s": (1, "1", 1)}
        assert await counts(replica) == {"s": (1, 1)}

    async def test_a_snapshot_holds_gathered_rows_and_contributions_of_one_moment(self, replica: Replica) -> None:
        fences, states = await taken(replica, SUMMED)
        first = moved_on(fences[0], states[0], puts=lines(a={"s/1": 1}))
        await replica.apply(SUMMED, [first])

        async with replica.snapshot() as snapshot:
            before = await gathered(snapshot.rows(SUMMED))
            await replica.apply(SUMMED, [moved_on(fences[0], first.state, puts=lines(b={"s/2": 2}))])
            assert len(before) == 1
            assert _by_shop(await gathered(snapshot.gathered(SUMS))) == {"s": (1, "1", 1)}

        assert await sums(replica) == {"s": (3, "1 2", 2)}
