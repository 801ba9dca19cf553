"""Gathered rows under the harness: right on a bad day, read at a token, and refused when their merge keeps no law."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from truecopy_bus.errors import InvalidTokenError
from truecopy_projections.errors import ProjectionError
from truecopy_projections.testing import gathering
from truecopy_services import Change, Event, Gathered, NotReachedError, Token, Truecopy, UnknownProjectionError
from truecopy_services.errors import DeclarationError
from truecopy_services.testing import NotConvergedError

REGIONS = ("north", "south", "west")


class Placed(Event, entity="shop.order"):
    region: str
    pieces: int


class Cancelled(Event, entity="shop.order", deletes=True):
    pass


@dataclass(frozen=True)
class Order:
    region: str
    pieces: int


@dataclass(frozen=True)
class Total:
    region: str
    orders: int
    pieces: float


def add(one: Total, other: Total) -> Total:
    return Total(one.region, one.orders + other.orders, one.pieces + other.pieces)


def shop(merge: Callable[[Total, Total], Total] = add, scale: float = 1.0) -> tuple[Truecopy, Gathered[Total]]:
    app = Truecopy("shop", partitions=3)
    orders = app.projection("orders", entity="shop.order", row=Order)

    @orders.on(Placed)
    def placed(_: Order | None, event: Placed, __: Change) -> Order:
        return Order(event.region, event.pieces)

    def each(order: Order) -> Total:
        return Total(order.region, 1, order.pieces * scale)

    return app, orders.gather("totals", row=Total, by="region", each=each, merge=merge)


@pytest.mark.parametrize("seed", range(4))
async def test_totals_are_right_on_a_bad_day(seed: int, tmp_path: Path) -> None:
    app, totals = shop()
    left: dict[str, Placed] = {}

    async with app.test(shuffle=True, duplicates=0.3, seed=seed, folder=tmp_path if seed % 2 else None) as service:
        for at in range(60):
            key = f"o{at * 7 % 11}"
            if at % 5 == 4:
                left.pop(key, None)
                await service.publish(key, Cancelled())
            else:
                left[key] = Placed(region=REGIONS[at % 3], pieces=at)
                await service.publish(key, left[key])
        await service.settle()
        orders = Counter(order.region for order in left.values())
        assert await service.replica(totals).rows() == [
            Total(region, orders[region], sum(order.pieces for order in left.values() if order.region == region))
            for region in sorted(orders)
        ]


async def test_a_read_at_a_token_sees_what_it_stands_for_whichever_group_it_is_in() -> None:
    app, totals = shop()

    async with app.test() as service:
        reader = service.replica(totals)
        with pytest.raises(UnknownProjectionError, match="orders@1"):
            await reader.get("north")
        await service.publish("o1", Placed(region="north", pieces=5))
        token = await service.publish("o2", Placed(region="north", pieces=7))
        assert await reader.get("north", at_least=token) == Total("north", 2, 12)
        token = await service.publish("o1", Placed(region="south", pieces=5))
        assert await reader.get("north") == Total("north", 2, 12)
        assert await reader.rows(at_least=str(token)) == [Total("north", 1, 7), Total("south", 1, 5)]
        token = await service.publish("o1", Cancelled())
        with service.paused(), pytest.raises(NotReachedError, match="wanted version 3"):
            await reader.get("south", at_least=token)
        assert await reader.get("south", at_least=token) is None
        with pytest.raises(InvalidTokenError):
            await reader.get("south", at_least=Token(entity="bank.account", key="o1", version=1))
        with pytest.raises(ProjectionError, match="asked for group"):
            await reader.get("south", "pole")


_turns = count()
UNLAWFUL: dict[str, tuple[Callable[[Total, Total], Total], float]] = {
    "it keeps one side": (lambda one, other: replace(add(one, other), pieces=one.pieces), 1),
    "it halves": (lambda one, other: replace(add(one, other), pieces=(one.pieces + other.pieces) / 2), 1),
    "it remembers": (lambda one, other: replace(add(one, other), pieces=next(_turns)), 1),
    "it adds floats": (add, 0.1),
    "it changes the group": (lambda one, other: replace(add(one, other), region=max(one.region, other.region, "p")), 1),
}


@pytest.mark.parametrize("name", UNLAWFUL)
async def test_a_merge_that_keeps_no_law_is_refused_with_its_group_and_both_rows(name: str) -> None:
    app, _ = shop(*UNLAWFUL[name])

    with pytest.raises(Exception, match=r"totals@1.*north") as told:
        async with app.test() as service:
            await service.publish_many([(f"o{at}", Placed(region="north", pieces=at)) for at in range(1, 6)])

    if name == "it changes the group":
        assert "the merge of group ('north',) returned a row of group ('p',)" in str(told.value)
    else:
        assert isinstance(told.value, NotConvergedError)
        assert str(told.value).count("Total(region='north', orders=5") == 2 or name == "it remembers"
        assert "commutative and associative" in str(told.value)


@dataclass(frozen=True)
class Pieces:
    region: str
    pieces: int


@pytest.mark.parametrize("is_right", [True, False], ids=["it undoes the merge", "it forgets some"])
def test_an_unmerge_must_undo_the_merge(is_right: bool) -> None:
    orders = Truecopy("shop").projection("orders", entity="shop.order", row=Order)
    pieces = orders.gather(
        "pieces",
        row=Pieces,
        by="region",
        each=lambda order: Pieces(order.region, order.pieces),
        merge=lambda one, other: Pieces(one.region, one.pieces + other.pieces),
        unmerge=lambda whole, part: Pieces(whole.region, whole.pieces - min(part.pieces, 9 if is_right else 2)),
    )
    then = gathering(pieces, *(Order("north", at) for at in range(1, 6))).then

    if is_right:
        then(Pieces("north", 15))
    else:
        with pytest.raises(AssertionError, match=r"taken out and merged in again it is .*pieces=27"):
            then(Pieces("north", 15))


def test_given_contributions_then_gathered_rows() -> None:
    _, totals = shop()
    three = (Order("north", 1), Order("south", 2), Order("north", 4))

    gathering(totals).then()
    gathering(totals, *three).then(Total("south", 1, 2), Total("north", 2, 5))
    for rows, told in [
        ([Total("north", 2, 5)], "('south',) differs: region: seen 'south', expected None"),
        ([Total("south", 1, 2), Total("north", 2, 6)], "('north',) differs: pieces: seen 5.0, expected 6.0"),
        ([Total("south", 1, 2), Total("north", 2, 5), Total("west", 1, 1)], "('west',) differs: region: seen None"),
    ]:
        with pytest.raises(AssertionError) as failed:
            gathering(totals, *three).then(*rows)
        assert told in str(failed.value)


@pytest.mark.parametrize("name", ["it keeps one side", "it halves", "it remembers", "it adds floats"])
def test_a_merge_that_keeps_no_law_fails_without_a_service(name: str) -> None:
    _, totals = shop(*UNLAWFUL[name])
    some: list[Any] = [Order("north", at) for at in range(1, 6)]

    with pytest.raises(AssertionError, match=r"totals@1 of .*commutative"):
        gathering(totals, *some).then(Total("north", 5, 15))


async def test_two_projections_cannot_have_rows_of_one_name() -> None:
    app, _ = shop()
    app.projection("totals", entity="shop.order", row=Order)

    with pytest.raises(DeclarationError, match="projections 'orders' and 'totals' both have rows called 'totals'"):
        async with app.test():
            pass
