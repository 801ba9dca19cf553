"""What a replica promises of reading: answers to what was asked, and one state of everything in a snapshot."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from truecopy_bus.errors import TopicMismatchError
from truecopy_projections.digest import bucket_of
from truecopy_projections.errors import ProjectionError
from truecopy_projections.limits import BUCKETS, SCAN_ROWS
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica, Snapshot
from truecopy_projections.state import KeyState, Known, PartitionState, Reason, Wanted
from truecopy_projections.testing.replica_plans import (
    EVERYTHING,
    INCARNATION,
    LINES,
    Line,
    checkpoint_at,
    everything,
    gathered,
    head,
    key_states,
    line,
    moved_on,
    rows_of,
    taken,
    waiting_at,
)

__all__ = ["ReadingSuite"]


@dataclass(frozen=True, slots=True)
class OtherLine:
    """Another declaration of LINES."""

    shop: str
    number: int
    amount: str


async def everything_in(snapshot: Snapshot) -> list[Any]:
    """All that a snapshot says of LINES, in an order of its own."""
    return [
        await snapshot.states(LINES.id),
        sorted(await gathered(snapshot.rows(LINES))),
        sorted(await gathered(snapshot.keys(LINES)), key=lambda found: found[0]),
        await snapshot.get(LINES, "k"),
        list(await snapshot.checkpoints(LINES.id)),
        list(await snapshot.waiting(LINES.id)),
        list(await snapshot.journal("repair")),
    ]


class ReadingSuite:
    """A part of ReplicaSuite."""

    async def test_checkpoints_that_are_undone_are_gone_and_those_of_other_partitions_stay(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        mine, others = [checkpoint_at(0, at) for at in range(3)], [checkpoint_at(1, at) for at in range(3)]
        plans = [moved_on(fences[0], states[0], checkpoints=mine), moved_on(fences[1], states[1], checkpoints=others)]
        await replica.apply(LINES, plans)

        await replica.apply(LINES, [moved_on(fences[0], plans[0].state, undone=frozenset({1, 2}))])

        async with replica.snapshot() as snapshot:
            assert list(await snapshot.checkpoints(LINES.id)) == [*mine[:1], *others]

    async def test_the_newest_checkpoints_are_told_for_each_partition(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        mine = [checkpoint_at(0, at) for at in range(5)]
        others = [checkpoint_at(1, at) for at in (7, 8)]
        plans = [moved_on(fences[0], states[0], checkpoints=mine), moved_on(fences[1], states[1], checkpoints=others)]

        await replica.apply(LINES, plans)

        async with replica.snapshot() as snapshot:
            assert list(await snapshot.checkpoints(LINES.id, newest=1)) == [mine[-1], others[-1]]
            assert list(await snapshot.checkpoints(LINES.id, newest=3)) == [*mine[-3:], *others]
            assert list(await snapshot.checkpoints(LINES.id, newest=99)) == [*mine, *others]

    async def test_what_is_remembered_of_a_projection_takes_the_place_of_what_was(self, replica: Replica) -> None:
        await replica.install(LINES, partitions=1, incarnation=INCARNATION)
        await replica.install(EVERYTHING, partitions=1, incarnation=INCARNATION)

        async with replica.snapshot() as before:
            nothing = await before.remembered(LINES.id, "fold")
        await replica.remember(LINES, "fold", {"at_ms": 1, "deep": {"0": [None, "\u00e9\0"]}})
        await replica.remember(LINES, "fold", {"at_ms": 2})
        await replica.remember(LINES, "other", {})

        async with replica.snapshot() as snapshot:
            assert nothing is None
            assert await snapshot.remembered(LINES.id, "fold") == {"at_ms": 2}
            assert await snapshot.remembered(LINES.id, "other") == {}
            assert await snapshot.remembered(EVERYTHING.id, "fold") is None

    async def test_a_replica_that_holds_nothing_says_so_without_an_error(self, replica: Replica) -> None:
        async with replica.snapshot() as snapshot:
            found = await everything_in(snapshot)
            assert not await snapshot.unreachable(LINES)

        assert found[:3] == [{}, [], []]
        assert found[3][0] is None
        assert not found[3][1]
        assert found[4:] == [[], [], []]

    async def test_a_projection_that_is_not_there_is_empty_beside_one_that_is(self, replica: Replica) -> None:
        await taken(replica, EVERYTHING)

        async with replica.snapshot() as snapshot:
            assert (await everything_in(snapshot))[:3] == [{}, [], []]

    async def test_installing_makes_every_partition_at_its_start(self, replica: Replica) -> None:
        await replica.install(LINES, partitions=3, incarnation=INCARNATION)

        async with replica.snapshot() as snapshot:
            assert await snapshot.states(LINES.id) == {
                part: PartitionState(partition=part, incarnation=INCARNATION) for part in range(3)
            }
            assert await snapshot.get(LINES, "k") == (None, [])

    async def test_installing_again_changes_nothing(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        plan = moved_on(fences[0], states[0], puts=rows_of(LINES, {"k": [line()]}), keys=key_states("k"))
        await replica.apply(LINES, [plan], journal=[("repair", {})])
        async with replica.snapshot() as snapshot:
            before = await everything_in(snapshot)

        await replica.install(LINES, partitions=2, incarnation="another life")

        async with replica.snapshot() as snapshot:
            assert await everything_in(snapshot) == before
        assert await replica.apply(LINES, [moved_on(fences[0], plan.state)]) == {0}

    async def test_another_number_of_partitions_is_refused_and_changes_nothing(self, replica: Replica) -> None:
        await replica.install(LINES, partitions=2, incarnation=INCARNATION)

        with pytest.raises(TopicMismatchError, match="3 partitions"):
            await replica.install(LINES, partitions=3, incarnation=INCARNATION)

        async with replica.snapshot() as snapshot:
            assert len(await snapshot.states(LINES.id)) == 2

    async def test_several_may_install_at_once(self, replica: Replica) -> None:
        await asyncio.gather(*(replica.install(LINES, partitions=4, incarnation=INCARNATION) for _ in range(4)))

        fences, states = await taken(replica, LINES, partitions=4)
        assert set(fences) == set(states) == {0, 1, 2, 3}

    @pytest.mark.parametrize(
        "other",
        [
            Projection("suite_lines", entity="suite.lines", row=OtherLine, key=("shop", "number")),
            Projection("suite_lines", entity="suite.lines", row=Line, key="shop"),
            Projection("suite_lines", entity="suite.others", row=Line, key=("shop", "number")),
        ],
        ids=["other columns", "other key", "other entity"],
    )
    async def test_another_declaration_under_the_same_number_is_refused(self, replica: Replica, other: Projection[Any]) -> None:
        fences, states = await taken(replica, LINES)

        with pytest.raises(ProjectionError, match="suite_lines@1"):
            await replica.install(other, partitions=2, incarnation=INCARNATION)

        assert await replica.apply(LINES, [moved_on(fences[0], states[0])]) == {0}

    async def test_two_numbers_of_a_projection_are_kept_apart(self, replica: Replica) -> None:
        other = Projection("suite_lines", entity="suite.lines", row=OtherLine, key="shop", version=2)
        fences, states = await taken(replica, LINES)
        others, other_states = await taken(replica, other)
        puts, other_puts = rows_of(LINES, {"k": [line(amount=1)]}), rows_of(other, {"k": [OtherLine("s", 1, "2")]})

        plan = moved_on(fences[0], states[0], puts=puts, waits=[waiting_at(0, 1, "k")], checkpoints=[checkpoint_at(0, 1)])
        await replica.apply(LINES, [plan])
        await replica.apply(other, [moved_on(others[0], other_states[0], records=3, puts=other_puts)])

        async with replica.snapshot() as snapshot:
            assert [row for _, _, row in await gathered(snapshot.rows(LINES))] == list(puts.values())
            assert [row for _, _, row in await gathered(snapshot.rows(other))] == list(other_puts.values())
            assert [(await snapshot.states(one.id))[0].position for one in (LINES, other)] == [1, 3]
            assert [len(await snapshot.waiting(one.id)) for one in (LINES, other)] == [1, 0]
            assert [len(await snapshot.checkpoints(one.id)) for one in (LINES, other)] == [1, 0]

    async def test_load_answers_what_was_asked_and_nothing_else(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        puts = rows_of(LINES, {key: [line("s", n) for n in (1, 2)] for key in ("a", "b", "c")})
        keys = key_states("a", "b", "c", version=3)
        await replica.apply(LINES, [moved_on(fences[1], states[1], puts=puts, keys=keys)])

        known = await replica.load(
            LINES,
            Wanted(
                keys=frozenset({"a", "none"}),
                rows=frozenset({("a", ("s", 2)), ("b", ("s", 3)), ("none", ("s", 1)), ("c", ("s", 1))}),
                whole=frozenset({"c", "nothing"}),
            ),
        )

        assert known.keys == {"a": keys["a"]}
        assert known.rows == {at: puts[at] for at in [("a", ("s", 2)), ("c", ("s", 1)), ("c", ("s", 2))]}
        assert known.waiting == {}
        assert await replica.load(LINES, Wanted()) == Known()

    async def test_load_brings_what_waits_for_parked_keys_in_order(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        keys = {
            "gap": KeyState(head(5), 3, Reason.GAP),
            "refused": KeyState(head(2), 1, Reason.REFUSED),
            "parked, not wanted": KeyState(head(2), 1, Reason.SCHEMA),
            "flows": KeyState(head(2), 2, None),
        }
        waits = [waiting_at(0, at, key) for at, key in [(30, "gap"), (4, "gap"), (5, "refused"), (100, "gap")]]
        others = [waiting_at(0, 6, "flows"), waiting_at(0, 7, "parked, not wanted"), waiting_at(0, 8, None, Reason.FOREIGN)]
        await replica.apply(LINES, [moved_on(fences[0], states[0], keys=keys, waits=[*waits, *others])])

        known = await replica.load(LINES, Wanted(keys=frozenset({"gap", "refused", "flows", "none"})))

        assert {key: list(found) for key, found in known.waiting.items()} == {
            "gap": [waits[1], waits[0], waits[3]],
            "refused": [waits[2]],
        }

    async def test_a_large_batch_is_loaded_and_scanned_without_a_loss(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        names = [f"key-{at}" for at in range(2 * SCAN_ROWS + 500)]
        puts = rows_of(LINES, {name: [line(amount=at)] for at, name in enumerate(names)})
        keys = key_states(*names)
        await replica.apply(LINES, [moved_on(fences[1], states[1], puts=puts, keys=keys)], durable=False)

        known = await replica.load(LINES, Wanted(keys=frozenset(names), rows=frozenset(puts)))

        assert (known.rows, known.keys) == (puts, keys)
        async with replica.snapshot() as snapshot:
            batches = [len(batch) async for batch in snapshot.rows(LINES)]
            assert sorted(await gathered(snapshot.rows(LINES))) == sorted((key, 1, row) for (key, _), row in puts.items())
            assert sorted(key for key, _, _ in await gathered(snapshot.keys(LINES))) == sorted(names)
            assert not await snapshot.unreachable(LINES)
        assert max(batches) <= SCAN_ROWS

    async def test_rows_and_keys_are_read_by_the_buckets_of_their_keys(self, replica: Replica) -> None:
        names = [f"key-{at}" for at in range(300)]
        for projection, row in ((LINES, line()), (EVERYTHING, everything(1))):
            fences, states = await taken(replica, projection)
            keys = {**key_states(*names, "rowless"), "key-7": KeyState(head(2), 1, Reason.REFUSED)}
            puts = rows_of(projection, {name: [row] for name in names})
            await replica.apply(projection, [moved_on(fences[1], states[1], puts=puts, keys=keys)])

            own = [bucket_of("key-7"), bucket_of("rowless")]
            async with replica.snapshot() as snapshot:
                for buckets in ([], own[:1], own, range(512), range(500, BUCKETS), range(0, BUCKETS, 2), range(BUCKETS)):
                    rows = await gathered(snapshot.rows(projection, buckets=buckets))
                    known = await gathered(snapshot.keys(projection, buckets=buckets))
                    mine = {key for key in keys if bucket_of(key) in buckets}
                    assert sorted(key for key, _, _ in known) == sorted(mine)
                    assert sorted(key for key, _, _ in rows) == sorted(mine - {"rowless"})
                    assert {row.astray for _, _, row in rows} <= {None}

    async def test_get_returns_a_key_with_its_rows_alone(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        puts = rows_of(LINES, {"k": [line("s", 1), line("t", 1)], "kk": [line("s", 1)]})
        await replica.apply(LINES, [moved_on(fences[0], states[0], puts=puts, keys=key_states("k", "rowless"))])

        async with replica.snapshot() as snapshot:
            state, rows = await snapshot.get(LINES, "k")
            assert await snapshot.get(LINES, "rowless") == (key_states("rowless")["rowless"], [])
            assert await snapshot.get(LINES, "none") == (None, [])
        assert state == key_states("k")["k"]
        assert sorted(row.values[0] for row in rows) == ["s", "t"]

    async def test_a_snapshot_stays_as_it_was_whatever_is_applied(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        names = [f"key-{at}" for at in range(SCAN_ROWS + 10)] + ["k"]
        first = moved_on(
            fences[0],
            states[0],
            puts=rows_of(LINES, {name: [line()] for name in names}),
            keys=key_states(*names),
            waits=[waiting_at(0, 3, "k")],
            checkpoints=[checkpoint_at(0, 3)],
        )
        await replica.apply(LINES, [first], journal=[("repair", {"n": 1})])
        second = moved_on(
            fences[0],
            first.state,
            puts=rows_of(LINES, {name: [line(amount=2)] for name in [*names[10:], "new"]}),
            drops=frozenset((name, ("s", 1)) for name in names[:10]),
            keys=key_states(*names, "new", version=2),
            waits=[waiting_at(0, 4, "k")],
            freed=frozenset({3}),
            checkpoints=[checkpoint_at(0, 4)],
        )

        async with replica.snapshot() as snapshot:
            before = await everything_in(snapshot)
            scan = snapshot.rows(LINES)
            scanned = list(await anext(aiter(scan)))
            await replica.apply(LINES, [second], journal=[("repair", {"n": 2})])
            scanned += await gathered(scan)
            assert sorted(scanned) == before[1]
            assert await everything_in(snapshot) == before

        async with replica.snapshot() as snapshot:
            after = await everything_in(snapshot)
        assert all(one != other for one, other in zip(after, before, strict=True))
        assert after[0][0] == second.state

    async def test_the_first_read_of_a_snapshot_is_of_when_it_was_opened(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)

        async with replica.snapshot() as snapshot:
            await replica.apply(LINES, [moved_on(fences[0], states[0], puts=rows_of(LINES, {"k": [line()]}))])
            assert await snapshot.states(LINES.id) == states
            assert await gathered(snapshot.rows(LINES)) == []

    async def test_rows_are_restored_to_what_the_reducer_returned(self, replica: Replica) -> None:
        fences, states = await taken(replica, EVERYTHING)
        row = everything(1)
        await replica.apply(EVERYTHING, [moved_on(fences[0], states[0], puts=rows_of(EVERYTHING, {"k": [row]}))])

        async with replica.snapshot() as snapshot:
            _, rows = await snapshot.get(EVERYTHING, "k")

        assert [EVERYTHING.restored(found.values) for found in rows] == [row]
