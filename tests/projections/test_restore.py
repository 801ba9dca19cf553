"""A replica that goes back to a mark, stands there, and goes forward again past the same figures."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.projections.bank import Closed, Deposited, balance, entries, refused
from tests.projections.town import TOPIC, Town

from truecopy_projections.cut import AtMark
from truecopy_projections.errors import CutError, RestoreRefusedError
from truecopy_projections.projection import Projection
from truecopy_projections.restore import Restore, forward, restore, retraced
from truecopy_projections.state import Checkpoint, MarkVerdict, PartitionPlan, PartitionState, stands_restored
from truecopy_projections.verdicts import Verdict

POISON = next(iter(refused))


async def back(town: Town, projection: Projection[Any], number: int, *, apply: bool = True, **said: str) -> Restore:
    to = AtMark(numbers={0: number, 1: number})
    return await restore(projection, town.replica, town.log, town.registry, topic=TOPIC, to=to, apply=apply, **said)


async def rounds(town: Town, projection: Projection[Any], number: int = 3) -> list[Mapping[int, PartitionState]]:
    """So many rounds of events with a mark each; the states after them."""
    found = []
    for at in range(number):
        await town.deposit()
        await town.publish((f"k{at}", Closed()), (f"new{at}", Deposited(amount=at)))
        await town.settle(projection, town.replica)
        found.append(await town.states(projection))
    return found


async def marked(town: Town, number: int) -> Checkpoint:
    return next(c for c in await town.marks(balance) if c.number == number and c.partition == 0)


async def put(town: Town, *checkpoints: Checkpoint, undone: Collection[int] = ()) -> None:
    """Change the checkpoints of partition 0 behind everybody's back."""
    fences = await town.replica.renew(balance, "test", (), lease_s=30.0, seize=True)
    state = (await town.states(balance))[0]
    plan = PartitionPlan(fence=fences[0], was=state, state=state, checkpoints=checkpoints, undone=frozenset(undone))
    assert await town.replica.apply(balance, [plan]) == {0}
    await town.replica.leave(balance, "test", fences.values())


def figures(states: Mapping[int, PartitionState]) -> dict[int, tuple[Any, ...]]:
    return {p: (s.position, s.count, s.input_digest, s.rows, s.row_digest, s.parked, s.foreign) for p, s in states.items()}


async def everything(town: Town, projection: Projection[Any]) -> dict[str, Any]:
    async with town.replica.snapshot() as snapshot:
        rows = {(key, projection.sub_key(row.values)): row async for some in snapshot.rows(projection) for key, _, row in some}
        keys = {key: (p, state) async for some in snapshot.keys(projection) for key, p, state in some}
        return {"rows": rows, "keys": keys, "waiting": list(await snapshot.waiting(projection.id))}


@pytest.mark.parametrize("projection", [balance, entries], ids=["a row for each key", "many rows"])
async def test_a_replica_goes_back_to_a_mark_and_forward_past_the_same_figures(town: Town, projection: Projection[Any]) -> None:
    first, _, last = await rounds(town, projection)
    before = await everything(town, projection)
    marks = await town.marks(projection)

    done = await back(town, projection, 1, by="Ada", why="to look")

    assert done.applied
    assert figures(await town.states(projection)) == figures(first)
    assert all(stands_restored(state) for state in (await town.states(projection)).values())
    report = await town.check(projection, deep=True)
    assert (report.delivered.verdict, report.computed.verdict, report.stored.verdict) == (
        Verdict.BEHIND,
        Verdict.EQUAL,
        Verdict.EQUAL,
    )
    await town.follow(projection, town.replica)
    assert figures(await town.states(projection)) == figures(first), "a worker leaves it where it stands"

    assert await forward(projection, town.replica) == [0, 1]
    assert (await retraced(projection, town.replica)).ahead == 4
    await town.follow(projection, town.replica)

    assert figures(await town.states(projection)) == figures(last)
    assert await everything(town, projection) == before
    assert await town.marks(projection) == marks
    found = await retraced(projection, town.replica)
    assert (found.equal, found.ahead, found.differing) == (4, 0, ())
    assert (await town.check(projection, deep=True)).verdict is Verdict.EQUAL


async def test_a_dry_run_tells_what_would_change_and_changes_nothing(village: Town) -> None:
    await rounds(village, balance)
    before = await everything(village, balance), await village.states(balance)

    planned = await back(village, balance, 1, apply=False)

    assert not planned.applied
    assert planned.rows_put > 0
    assert planned.rows_dropped > 0
    assert (await everything(village, balance), await village.states(balance)) == before


async def test_what_waited_at_the_mark_waits_again_and_what_came_later_does_not(town: Town) -> None:
    await town.publish(("bad", Deposited(amount=POISON)), ("bad", Deposited(amount=1)), ("good", Deposited(amount=1)))
    await town.settle(balance, town.replica)
    then = await everything(town, balance)
    await town.publish(("bad", Deposited(amount=2)), ("worse", Deposited(amount=POISON)))
    await town.settle(balance, town.replica)
    later = await everything(town, balance)

    await back(town, balance, 1)

    assert await everything(town, balance) == then
    assert (await town.check(balance, deep=True)).stored.verdict is Verdict.EQUAL
    await forward(balance, town.replica)
    await town.follow(balance, town.replica)
    assert await everything(town, balance) == later
    assert (await retraced(balance, town.replica)).differing == ()


async def test_a_mark_whose_recorded_digest_is_another_is_refused_with_both(town: Town) -> None:
    await rounds(town, balance)
    first = await marked(town, 1)
    await put(town, replace(first, row_digest=12345))
    before = await everything(town, balance), await town.states(balance)

    with pytest.raises(RestoreRefusedError, match=r"mark 1 .* were recorded, the log applied up to there gives"):
        await back(town, balance, 1)

    assert (await everything(town, balance), await town.states(balance)) == before


async def test_a_mark_that_is_newer_than_the_replica_is_refused(village: Town) -> None:
    await rounds(village, balance)
    await back(village, balance, 1)

    with pytest.raises(CutError, match="no mark 2"):
        await back(village, balance, 2)


async def test_a_partition_can_go_back_alone_and_further_back_while_it_stands(village: Town) -> None:
    first, second, last = await rounds(village, balance)

    async def alone(number: int) -> None:
        to = AtMark(numbers={1: number})
        await restore(balance, village.replica, village.log, village.registry, topic=TOPIC, to=to, apply=True)

    await alone(2)
    assert figures(await village.states(balance)) == figures({0: last[0], 1: second[1]})
    await alone(1)
    assert figures(await village.states(balance)) == figures({0: last[0], 1: first[1]})

    assert await forward(balance, village.replica) == [1]
    await village.follow(balance, village.replica)
    assert figures(await village.states(balance)) == figures(last)
    assert (await retraced(balance, village.replica)).equal == 2


async def test_of_two_restores_at_once_one_holds_and_the_other_is_refused_or_comes_second(town: Town) -> None:
    first, second, _ = await rounds(town, balance)

    found = await asyncio.gather(back(town, balance, 1), back(town, balance, 2), return_exceptions=True)

    assert not [one for one in found if isinstance(one, BaseException) and not isinstance(one, RestoreRefusedError | CutError)]
    assert figures(await town.states(balance)) in (figures(first), figures(second))
    assert (await town.check(balance, deep=True)).computed.verdict is Verdict.EQUAL


async def test_a_worker_at_work_loses_its_batch_and_respects_where_the_replica_stands(town: Town) -> None:
    first, *_ = await rounds(town, balance)
    await town.deposit()
    await town.mark()
    worker = town.worker(balance)
    await worker.step()
    await town.deposit()
    await town.mark()

    await asyncio.gather(back(town, balance, 1), worker.step())
    await worker.leave()
    await town.follow(balance, town.replica)

    assert figures(await town.states(balance)) == figures(first)
    assert (await town.check(balance, deep=True)).computed.verdict is Verdict.EQUAL


async def test_a_mark_that_only_the_log_knows_proves_count_and_input_digest(village: Town) -> None:
    first, *_ = await rounds(village, balance)
    await put(village, undone=[(await marked(village, 1)).offset])

    done = await back(village, balance, 1)

    assert [done.cut.marks[p].row_digest is None for p in (0, 1)] == [True, False]
    assert figures(await village.states(balance)) == figures(first)


async def test_a_mark_at_which_the_replica_was_no_true_copy_is_refused(village: Town) -> None:
    await rounds(village, balance)
    await put(village, replace(await marked(village, 1), verdict=MarkVerdict.DIVERGED))

    with pytest.raises(RestoreRefusedError, match="was no true copy"):
        await back(village, balance, 1)


async def test_another_digest_at_a_mark_on_the_way_forward_is_found_with_both(village: Town) -> None:
    await rounds(village, balance)
    second = await marked(village, 2)
    await back(village, balance, 1)
    await forward(balance, village.replica)
    await village.follow(balance, village.replica)
    await put(village, replace(second, row_digest=12345))

    found = await retraced(balance, village.replica)

    assert (found.equal, found.ahead) == (3, 0)
    assert [(was.row_digest, now.row_digest) for was, now in found.differing] == [(second.row_digest, 12345)]


async def test_rows_that_rotted_since_are_put_right_on_the_way_back(town: Town) -> None:
    first, *_ = await rounds(town, balance)
    _, rows = await town.stored(balance, "k5")
    values = rows[()].values
    await town.damage(balance, "k5", {(): (values[0], 999_999, *values[2:])})

    await back(town, balance, 1)

    assert figures(await town.states(balance)) == figures(first)
    assert (await town.check(balance, deep=True)).stored.verdict is Verdict.EQUAL


async def test_who_did_it_and_why_and_the_figures_before_are_in_the_journal(village: Town) -> None:
    *_, last = await rounds(village, balance)

    await back(village, balance, 1, by="Ada", why="a wrong import")
    await forward(balance, village.replica, by="Bob", why="it was right")

    async with village.replica.snapshot() as snapshot:
        went_back, went_on = await snapshot.journal("restore")
    assert (went_back["by"], went_back["why"], went_back["forward"]) == ("Ada", "a wrong import", False)
    assert {int(p): one["row_digest"] for p, one in went_back["before"].items()} == {
        p: f"{state.row_digest:064x}" for p, state in last.items()
    }
    assert (went_on["by"], went_on["why"], went_on["forward"]) == ("Bob", "it was right", True)
