"""The quick check: what is still proven without reading the log or the rows, and that it reads no more than it says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from tests.projections.bank import Deposited, balance
from tests.projections.sales import Placed, sale
from tests.projections.town import Town

from truecopy_bus.logs.memory import MemoryLog
from truecopy_projections.limits import BUCKETS, SCRUB_AGE_MAX_S
from truecopy_projections.quick import quickly_stored
from truecopy_projections.replicas import MemoryReplica
from truecopy_projections.verdicts import Report, Verdict


def claims(report: Report) -> tuple[str, str, str]:
    return report.delivered.verdict.name, report.computed.verdict.name, report.stored.verdict.name


async def test_what_was_never_folded_or_scrubbed_is_unproven(village: Town) -> None:
    await village.deposit()
    await village.settle(balance)

    found = await village.check(balance, quick=True)

    assert claims(found) == ("EQUAL", "UNPROVEN", "UNPROVEN")
    assert "no fold" in found.computed.why
    assert "no scrub" in found.stored.why
    assert found.quick


async def test_it_is_equal_while_nothing_changed_since_a_whole_check_and_says_what_was_proven_after(town: Town) -> None:
    await town.deposit()
    await town.settle(balance)
    assert (await town.check(balance)).verdict is Verdict.EQUAL

    same = await town.check(balance, quick=True)
    await town.mark()
    await town.follow(balance)
    marked = await town.check(balance, quick=True)
    await town.publish(("k1", Deposited(amount=1)))
    await town.settle(balance)
    moved = await town.check(balance, quick=True)
    again = await town.check(balance)

    assert claims(same) == claims(marked) == ("EQUAL", "EQUAL", "EQUAL")
    assert claims(moved) == ("EQUAL", "UNPROVEN", "EQUAL")
    assert "proven through 24 events" in moved.computed.why
    assert moved.computed.facts["folded_count"] == 24
    assert "now it holds 25" in moved.computed.why
    assert again.verdict is Verdict.EQUAL
    assert claims(await town.check(balance, quick=True)) == ("EQUAL", "EQUAL", "EQUAL")


async def test_a_scrub_of_contributions_says_nothing_of_what_is_gathered_from_them(village: Town) -> None:
    await village.publish(("o1", Placed(region="north", amount=Decimal(1))))
    await village.settle(sale)
    folded = await village.check(sale)
    later_ms = folded.checked_at_ms + 3_600_000

    await village.replica.scrubbed(sale, dict.fromkeys(range(BUCKETS), later_ms))
    found = await village.check(sale, quick=True)

    assert found.stored.facts["scrubbed_at_ms"] < later_ms


async def test_a_peer_that_agrees_at_the_same_mark_proves_what_was_not_folded(village: Town) -> None:
    await village.deposit()
    await village.settle(balance)

    found = await village.check(balance, quick=True, peers=[village.peer])

    assert claims(found) == ("EQUAL", "EQUAL", "UNPROVEN")
    assert found.computed.facts["through"] == {"0": 12, "1": 12}


async def test_an_altered_digest_is_not_taken_for_what_was_proven(town: Town) -> None:
    await town.deposit()
    await town.settle(balance)
    await town.check(balance)
    states = await town.states(balance)

    await town.damage(balance, "nobody", figures={"row_digest": states[0].row_digest ^ 1})
    summed = await town.check(balance, quick=True)
    await town.damage(balance, "nobody", figures={"rows": states[1].rows, "row_digest": states[1].row_digest})
    moved = await town.check(balance, quick=True)
    swapped = states[0].rows[:32], states[0].rows[32:]
    await town.damage(balance, "nobody", figures={"rows": swapped[1] + swapped[0], "row_digest": states[0].row_digest})
    shuffled = await town.check(balance, quick=True)

    assert summed.computed.verdict is Verdict.DIVERGED
    assert moved.computed.verdict is Verdict.UNPROVEN
    assert shuffled.computed.verdict is Verdict.UNPROVEN, "the sum is right, the buckets are not"


async def test_a_whole_check_that_found_rows_to_differ_takes_back_the_scrub(village: Town) -> None:
    await village.deposit()
    await village.settle(balance)
    await village.check(balance)
    _, rows = await village.stored(balance, "k1")
    await village.damage(balance, "k1", {(): ("k1", 7, *rows[()].values[2:])})

    unseen = await village.check(balance, quick=True)
    seen = await village.check(balance)
    after = await village.check(balance, quick=True)

    assert claims(unseen) == ("EQUAL", "EQUAL", "EQUAL"), "a quick check reads no rows, and says since when they are right"
    assert "hashed again since" in unseen.stored.why
    assert claims(seen) == ("EQUAL", "EQUAL", "DIVERGED")
    assert claims(after) == ("EQUAL", "EQUAL", "UNPROVEN")


@pytest.mark.parametrize(
    ("age_s", "verdict"), [(0, Verdict.EQUAL), (SCRUB_AGE_MAX_S, Verdict.EQUAL), (SCRUB_AGE_MAX_S + 1, Verdict.UNPROVEN)]
)
def test_what_was_scrubbed_is_believed_for_a_day(age_s: float, verdict: Verdict) -> None:
    assert quickly_stored(1_000, 1_000 + int(age_s * 1000)).verdict is verdict


class Metered(MemoryReplica):
    """A replica that counts what its snapshots are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[tuple[str, tuple[str, ...]]] = set()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        async with super().snapshot() as real:
            yield Watched(real, self.asked)


class Watched:
    def __init__(self, real: Any, asked: set[tuple[str, tuple[str, ...]]]) -> None:
        self._real, self._asked = real, asked

    def __getattr__(self, name: str) -> Any:
        def called(*args: Any, **how: Any) -> Any:
            self._asked.add((name, tuple(how)))
            return getattr(self._real, name)(*args, **how)

        return called


async def test_it_reads_neither_rows_nor_keys_nor_the_log_and_few_checkpoints(
    village: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Metered()
    town = village._replace(replica=replica)
    await town.deposit()
    await town.settle(balance)
    await town.check(balance)
    replica.asked.clear()
    monkeypatch.setattr(MemoryLog, "reader", None)

    await town.check(balance, quick=True)

    few = {("remembered", ()), ("scrubs", ()), ("amendments", ())}
    assert replica.asked == {("states", ()), ("checkpoints", ("newest",)), *few}
