"""Cuts of a history, by offsets, times and marks; and the rows of a key as of one."""

from collections.abc import Sequence

import pytest
from tests.projections.bank import Closed, Deposited, balance, entries, refused
from tests.projections.town import TOPIC, Town

from truecopy_bus.log import Log
from truecopy_bus.record import Outgoing, Record
from truecopy_projections.as_of import rows_as_of
from truecopy_projections.cut import Asked, AtEnd, AtMark, AtOffset, AtTime, Cut, find_cut
from truecopy_projections.errors import CutError, StateUnknownError, UnknownVersionError
from truecopy_projections.state import Checkpoint

BOTH_ZERO = {0: 0, 1: 0}


async def records(log: Log) -> Sequence[Record]:
    ends = {p: end for p, (_, end) in (await log.describe(TOPIC)).bounds.items()}
    reader, found, at = log.reader(TOPIC), list[Record](), dict.fromkeys(ends, 0)
    while left := {p: offset for p, offset in at.items() if offset < ends[p]}:
        for record in await reader.read(left, records_max=1_000, wait_s=0.1):
            found.append(record)
            at[record.partition] = record.offset + 1
    await reader.close()
    return found


async def cut(town: Town, asked: Asked, *, kept: Sequence[Checkpoint] = (), ends: dict[int, int] | None = None) -> Cut:
    return await find_cut(asked, town.log, topic=TOPIC, checkpoints=kept, ends=ends)


async def three_rounds(town: Town) -> None:
    for _ in range(3):
        await town.deposit()
        await town.settle(balance, town.replica)


async def test_a_cut_at_the_end_has_all_partitions(village: Town) -> None:
    await three_rounds(village)

    bounds = (await village.log.describe(TOPIC)).bounds
    assert (await cut(village, AtEnd())).offsets == {p: end for p, (_, end) in bounds.items()}


async def test_a_cut_by_offsets_has_the_partitions_that_it_names(village: Town) -> None:
    await three_rounds(village)

    assert (await cut(village, AtOffset({1: 4}))).offsets == {1: 4}
    assert (await cut(village, AtOffset(3))).offsets == {0: 3, 1: 3}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        pytest.param(AtOffset({7: 0}), "no partition", id="no such partition"),
        pytest.param(AtOffset({0: 10_000}), "offset 10000 is not there", id="beyond the end"),
        pytest.param(AtMark(numbers={0: 99}), "no mark 99", id="a mark that never was"),
        pytest.param(AtMark(numbers={0: 0}), "no mark 0", id="a mark before the first"),
        pytest.param(AtMark(at_ms=1), "no mark of that time or before", id="a time before the first mark"),
    ],
)
@pytest.mark.parametrize("keeps", [pytest.param(True, id="with checkpoints"), pytest.param(False, id="by the log alone")])
async def test_what_is_not_there_is_said(village: Town, asked: Asked, says: str, keeps: bool) -> None:
    await three_rounds(village)
    kept = await village.marks(balance) if keeps else ()

    with pytest.raises(CutError, match=says):
        await cut(village, asked, kept=kept)


async def test_the_newest_mark_is_found_with_and_without_checkpoints(village: Town) -> None:
    await three_rounds(village)
    kept = await village.marks(balance)
    last = {c.partition: c for c in kept}

    by_log, by_replica = await cut(village, AtMark()), await cut(village, AtMark(), kept=kept)

    assert by_log.offsets == by_replica.offsets == {p: c.offset + 1 for p, c in last.items()}
    assert {p: (m.count, m.input_digest, m.row_digest) for p, m in by_replica.marks.items()} == {
        p: (c.count, c.input_digest, c.row_digest) for p, c in last.items()
    }
    assert {m.row_digest for m in by_log.marks.values()} == {None}
    assert {p: (m.count, m.input_digest) for p, m in by_log.marks.items()} == {
        p: (c.count, c.input_digest) for p, c in last.items()
    }


async def test_a_mark_newer_than_the_kept_checkpoints_is_found_on_the_log(village: Town) -> None:
    await three_rounds(village)
    kept = await village.marks(balance)
    await village.deposit()
    await village.mark()

    found = await cut(village, AtMark(), kept=kept)

    assert {m.number for m in found.marks.values()} == {max(c.number for c in kept) + 1}


async def test_a_mark_older_than_the_kept_checkpoints_is_found_on_the_log(village: Town) -> None:
    await three_rounds(village)
    kept = await village.marks(balance)
    first = {c.partition: c for c in reversed(kept)}
    newest = [c for c in kept if c not in first.values()]

    found = await cut(village, AtMark(numbers={p: c.number for p, c in first.items()}), kept=newest)

    assert found.offsets == {p: c.offset + 1 for p, c in first.items()}


async def test_nothing_is_looked_at_beyond_the_ends_that_are_given(village: Town) -> None:
    await three_rounds(village)
    kept = await village.marks(balance)
    last = {c.partition: c for c in kept}

    found = await cut(village, AtMark(), kept=kept, ends={p: c.offset for p, c in last.items()})

    assert all(m.number < last[p].number for p, m in found.marks.items())


async def test_a_mark_of_a_time_is_the_last_that_is_not_later(village: Town) -> None:
    await three_rounds(village)
    kept = await village.marks(balance)
    one = kept[len(kept) // 2]

    for known in (kept, ()):
        found = await cut(village, AtMark(at_ms=one.at_ms), kept=known)

        expected = {c.partition: c.offset + 1 for c in kept if c.at_ms <= one.at_ms}
        assert found.offsets == expected


async def test_a_cut_by_time_is_before_the_first_later_record(village: Town) -> None:
    await three_rounds(village)
    await village.log.append(TOPIC, 0, [Outgoing(b"k", b"late", 10**13), Outgoing(b"k", b"again early", 5)])
    there = await records(village.log)
    at_ms = there[len(there) // 2].timestamp_ms
    later = {p: min((r.offset for r in there if r.partition == p and r.timestamp_ms > at_ms), default=None) for p in (0, 1)}
    ends = {p: end for p, (_, end) in (await village.log.describe(TOPIC)).bounds.items()}

    found = await cut(village, AtTime(at_ms))

    assert found.offsets == {p: ends[p] if offset is None else offset for p, offset in later.items()}
    assert (await cut(village, AtTime(at_ms), kept=await village.marks(balance))).offsets == found.offsets
    assert (await cut(village, AtTime(0))).offsets == BOTH_ZERO


async def test_the_rows_of_a_key_are_those_of_each_version(village: Town) -> None:
    await village.publish(*(("a", Deposited(amount=n)) for n in (5, 7, 9)))
    await village.publish(("a", Closed()), ("a", Deposited(amount=1)), ("b", Deposited(amount=100)))
    await village.settle(balance, village.replica)

    async def amounts(version: int | None) -> list[int]:
        was = await rows_as_of(balance, village.log, village.registry, topic=TOPIC, key="a", version=version)
        assert (was.version, was.versions) == (version or 5, 5)
        return [balance.restored(row).amount for row in was.rows]

    assert [await amounts(version) for version in (1, 2, 3, 4, 5, None)] == [[5], [12], [21], [], [1], [1]]


async def test_many_rows_of_a_key_come_in_order_as_of_a_mark(village: Town) -> None:
    await village.publish(*(("a", Deposited(amount=n)) for n in (5, 7)))
    await village.mark()
    there = await cut(village, AtMark())
    await village.publish(("a", Deposited(amount=9)))
    await village.mark()

    asked = AtMark(numbers={p: m.number for p, m in there.marks.items()})
    was = await rows_as_of(entries, village.log, village.registry, topic=TOPIC, key="a", cut=asked)

    assert [entries.restored(row).amount for row in was.rows] == [5, 7]
    assert (was.version, was.versions) == (2, 2)


async def test_a_version_that_is_not_there_is_said_with_those_that_are(village: Town) -> None:
    await village.publish(("a", Deposited(amount=5)))
    await village.mark()

    with pytest.raises(UnknownVersionError, match="no version 2, its versions are 1 to 1"):
        await rows_as_of(balance, village.log, village.registry, topic=TOPIC, key="a", version=2)
    with pytest.raises(UnknownVersionError, match="nothing was ever published under it"):
        await rows_as_of(balance, village.log, village.registry, topic=TOPIC, key="nobody", version=1)


async def test_a_key_has_version_0_before_its_first_event(village: Town) -> None:
    await village.publish(("a", Deposited(amount=5)))
    await village.mark()

    was = await rows_as_of(balance, village.log, village.registry, topic=TOPIC, key="a", cut=AtTime(0))

    assert (was.version, was.versions, was.rows) == (0, 0, [])


async def test_a_version_that_the_reducer_fails_for_is_not_told_as_the_one_before(village: Town) -> None:
    await village.publish(("a", Deposited(amount=5)), ("a", Deposited(amount=next(iter(refused)))))
    await village.mark()

    with pytest.raises(StateUnknownError, match="beyond version 1"):
        await rows_as_of(balance, village.log, village.registry, topic=TOPIC, key="a")
