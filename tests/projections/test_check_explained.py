"""Explanations of differing rows: the event after which the two sides part, what either had, and whose fault it is."""

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.projections.bank import Closed, Deposited, balance, entries
from tests.projections.town import TOPIC, Town

from truecopy_projections.projection import Change, Projection
from truecopy_projections.verdicts import Difference, Kind, Verdict


async def explained(town: Town, projection: Projection[Any]) -> Difference:
    (found,) = (await town.check(projection)).differences
    assert found.explanation is not None
    return found


async def thrice(town: Town) -> None:
    """Three events of k1 with a mark after each, and another key."""
    for amount in (1, 20, 300):
        await town.publish(("k1", Deposited(amount=amount)), ("other", Deposited(amount=amount)))
        await town.settle(balance)


def values(key: str, *amounts: int) -> tuple[Any, ...]:
    row = None
    for version, amount in enumerate(amounts, start=1):
        row = balance.handlers[Deposited.__event_name__].reduce(row, Deposited(amount=amount), Change(key, version, ()))
    return balance.stored(row)


async def test_an_older_page_is_told_by_the_version_that_it_equals_and_the_event_that_is_missing(town: Town) -> None:
    await thrice(town)
    await town.damage(balance, "k1", {(): values("k1", 1, 20)})

    found = await explained(town, balance)

    told = found.explanation
    assert told is not None
    assert (told.version, told.event) == (3, Deposited.__event_name__)
    assert told.log == (values("k1", 1, 20), values("k1", 1, 20, 300))
    assert told.replica == (values("k1", 1, 20), values("k1", 1, 20))
    assert "as after version 2" in told.why
    assert "an older page was restored" in told.why
    assert "written right" in told.why
    record = (await town.stored(balance, "k1"))[0]
    assert record.applied == 3


async def test_the_event_is_named_by_its_offset_and_its_owners_time(village: Town) -> None:
    await thrice(village)
    await village.damage(balance, "k1", {(): values("k1", 1, 20)})

    told = (await explained(village, balance)).explanation

    assert told is not None
    at = [record for partition in village.log._topics[TOPIC].partitions for record in partition.records if record.key == b"k1"]
    assert (told.offset, told.at_ms) == (at[2].offset, at[2].timestamp_ms)


async def test_a_row_that_equals_no_version_was_altered_after_the_last_one(town: Town) -> None:
    await thrice(town)
    await town.damage(balance, "k1", {(): (*values("k1", 1, 20, 300)[:1], 777, *values("k1", 1, 20, 300)[2:])})

    told = (await explained(town, balance)).explanation

    assert told is not None
    assert told.version == 3
    assert "equals no version of its key: it was altered after version 3" in told.why
    assert "the maintained digest is that of the log through mark" in told.why


async def test_a_row_that_was_removed_is_told_from_one_that_was_never_written(village: Town) -> None:
    await thrice(village)
    await village.damage(balance, "k1", {(): None})
    removed = await explained(village, balance)
    await village.damage(balance, "k1", {(): values("k1", 1, 20, 300)})
    await village.damage(balance, "k1", {(): None}, written=True)
    await village.mark()
    await village.follow(balance)
    lost = await explained(village, balance)

    assert removed.explanation is not None
    assert "it was removed after version 3" in removed.explanation.why
    assert lost.explanation is not None
    assert "there is no row: the effect of version 1" in lost.explanation.why
    assert "the maintained digest parts from the log after mark" in lost.explanation.why


async def test_a_ghost_has_no_event(village: Town) -> None:
    await thrice(village)
    await village.damage(balance, "ghost", {(): values("ghost", 5)})

    found = await explained(village, balance)

    assert found.kind is Kind.GHOST
    assert found.explanation is not None
    assert "holds no event of this key" in found.explanation.why


async def test_a_row_that_outlived_its_deletion_is_as_before_it(village: Town) -> None:
    await thrice(village)
    await village.publish(("k1", Closed()))
    await village.settle(balance)
    await village.damage(balance, "k1", {(): values("k1", 1, 20, 300)})

    told = (await explained(village, balance)).explanation

    assert told is not None
    assert (told.version, told.event) == (4, Closed.__event_name__)
    assert told.log == (values("k1", 1, 20, 300), None)


async def test_of_several_rows_of_a_key_the_one_is_explained(village: Town) -> None:
    for amount in (1, 20, 300):
        await village.publish(("k1", Deposited(amount=amount)))
        await village.settle(entries)
    await village.damage(entries, "k1", {(2,): ("k1", 2, 99)})

    found = await explained(village, entries)

    assert found.explanation is not None
    assert (found.row, found.explanation.version) == ((2,), 2)


async def test_a_worker_that_computed_wrongly_is_told_by_the_mark_from_which_its_digest_parts(village: Town) -> None:
    """A worker ran another reducer for a while: its digests and rows agree with each other, and not with the log."""
    await village.publish(("k1", Deposited(amount=1)))
    await village.settle(balance)
    right = balance.handlers[Deposited.__event_name__]

    def wrong(row: Any, event: Any, change: Change) -> Any:
        made = right.reduce(row, event, change)
        return replace(made, amount=made.amount + 1)

    balance.handlers[Deposited.__event_name__] = right._replace(reduce=wrong)
    try:
        await village.publish(("k1", Deposited(amount=20)))
        await village.settle(balance)
    finally:
        balance.handlers[Deposited.__event_name__] = right
    await village.publish(("k1", Deposited(amount=300)))
    await village.settle(balance)

    report = await village.check(balance)

    (found,) = report.differences
    told = found.explanation
    assert (report.computed.verdict, report.stored.verdict) == (Verdict.DIVERGED, Verdict.EQUAL)
    assert told is not None
    assert (told.version, told.event) == (2, Deposited.__event_name__)
    assert "parts from the log after mark" in told.why


@dataclass(frozen=True)
class Fickle:
    account: str
    amount: int
    noise: str


def fickle(noise: Callable[[], str]) -> Projection[Fickle]:
    """A projection whose reducer takes `noise` into its row from the second event of a key on."""
    made = Projection("fickle", entity=TOPIC, row=Fickle)

    @made.on(Deposited)
    def _reduce(row: Fickle | None, event: Deposited, change: Change) -> Fickle:
        amount = event.amount + (row.amount if row else 0)
        return Fickle(change.key, amount, noise() if change.version > 1 else "")

    return made


unordered = fickle(lambda: " ".join({"never", "rely", "on", "the", "order", "of", "sets"}))
"""It stands in the module, where a fresh process finds it."""
_counted = itertools.count()
NOISES = {
    "random": lambda: str(random.random()),
    "the time": lambda: str(time.time_ns()),
    "a global counter": lambda: str(next(_counted)),
    "an object's address": lambda: str(id(object()) + next(_counted)),
}


@pytest.mark.parametrize("name", NOISES)
async def test_a_reducer_that_is_not_deterministic_is_told_from_which_event_on_and_in_which_fields(
    village: Town, name: str
) -> None:
    projection = fickle(NOISES[name])
    await village.publish(*(("k1", Deposited(amount=amount)) for amount in (1, 20, 300)), ("k2", Deposited(amount=1)))
    await village.settle(projection)

    report = await village.check(projection)

    (found,) = report.differences
    assert report.computed.verdict is Verdict.DIVERGED
    assert found.explanation is not None
    assert found.explanation.version == 2
    assert found.explanation.parted == ("noise",)
    assert "the reducer is not deterministic" in found.explanation.why
    assert "not deterministic" in report.computed.why


async def test_a_reducer_that_leaks_from_key_to_key_is_not_deterministic(village: Town) -> None:
    seen: list[int] = []

    def leak() -> str:
        seen.append(1)
        return str(len(seen))

    projection = fickle(leak)
    await village.deposit(keys=2, each=3)
    await village.settle(projection)

    found = (await village.check(projection)).differences

    assert {one.explanation.parted for one in found if one.explanation} == {("noise",)}


async def test_a_reducer_that_depends_on_the_order_of_a_set_is_told_by_a_process_of_its_own(
    village: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent.parent)
    await village.publish(*(("k1", Deposited(amount=amount)) for amount in (1, 20, 300)))
    await village.settle(unordered)
    _, rows = await village.stored(unordered, "k1")
    another = tuple(reversed(rows[()].values[2].split()))
    await village.damage(unordered, "k1", {(): (*rows[()].values[:2], " ".join(another))}, written=True)

    report = await village.check(unordered, afresh=True)

    (found,) = report.differences
    assert report.computed.verdict is Verdict.DIVERGED
    assert found.explanation is not None
    assert found.explanation.version == 2
    assert found.explanation.parted == ("noise",)
    assert "another process" in found.explanation.why
