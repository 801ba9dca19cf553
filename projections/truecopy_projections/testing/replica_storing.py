"""What a replica promises of storing: what is put comes back, all of a batch or none of it, and only what was planned."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from truecopy_bus.errors import DataRefusedError
from truecopy_bus.fold import Head
from truecopy_projections.columns import encode
from truecopy_projections.digest import row_hash
from truecopy_projections.limits import BUCKETS, CHECKPOINTS_KEPT
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.state import KeyState, MarkVerdict, Reason, StoredRow, Wanted
from truecopy_projections.testing.replica_plans import (
    EVERYTHING,
    HOSTILE_ROWS,
    HOSTILE_TEXTS,
    INCARNATION,
    LINES,
    checkpoint_at,
    everything,
    gathered,
    head,
    key_states,
    line,
    moved_on,
    rows_of,
    taken,
    unstorable,
    waiting_at,
)

__all__ = ["StoringSuite"]


def same(one: StoredRow, other: StoredRow) -> bool:
    """Equal in values, types and hash; a NaN is itself here."""
    return list(map(encode, one.values)) == list(map(encode, other.values)) and one.hash == other.hash


async def all_rows(replica: Replica, projection: Projection[Any]) -> dict[tuple[str, Any], StoredRow]:
    async with replica.snapshot() as snapshot:
        found = await gathered(snapshot.rows(projection))
    return {(key, projection.sub_key(row.values)): row for key, _, row in found}


class StoringSuite:
    """A part of ReplicaSuite."""

    async def test_storing_is_the_identity_for_hostile_values_of_every_type(self, replica: Replica) -> None:
        fences, states = await taken(replica, EVERYTHING)
        puts = rows_of(EVERYTHING, {f"key-{at}": [row] for at, row in enumerate(HOSTILE_ROWS)})

        await replica.apply(EVERYTHING, [moved_on(fences[0], states[0], puts=puts)])

        one_by_one = (await replica.load(EVERYTHING, Wanted(rows=frozenset(puts)))).rows
        whole = (await replica.load(EVERYTHING, Wanted(whole=frozenset(key for key, _ in puts)))).rows
        streamed = await all_rows(replica, EVERYTHING)
        keys = frozenset(key for key, _ in puts)
        assert (await replica.load(EVERYTHING, Wanted(hashes=keys | {"none"}))).hashes == {
            key: row.hash for (key, _), row in puts.items()
        }
        for address, row in puts.items():
            assert same(one_by_one[address], row)
            assert same(whole[address], row)
            assert same(streamed[address], row)
            assert row_hash(EVERYTHING.id, address[0], streamed[address].values) == row.hash

    async def test_values_read_back_can_be_put_again_unchanged(self, replica: Replica) -> None:
        fences, states = await taken(replica, EVERYTHING)
        first = moved_on(fences[0], states[0], puts=rows_of(EVERYTHING, {f"k{a}": [r] for a, r in enumerate(HOSTILE_ROWS)}))
        await replica.apply(EVERYTHING, [first])
        read = await all_rows(replica, EVERYTHING)

        await replica.apply(EVERYTHING, [moved_on(fences[0], first.state, puts=read)])

        again = await all_rows(replica, EVERYTHING)
        assert all(same(again[address], row) for address, row in first.puts.items())

    @pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
    async def test_any_text_can_be_a_key(self, replica: Replica, text: str) -> None:
        fences, states = await taken(replica, LINES)
        name = text[:500]  # index entries are limited, on PostgreSQL to a third of a page
        puts = rows_of(LINES, {name: [line(shop=name)]})
        keys = key_states(name)
        waits = [waiting_at(0, 5, name)]

        await replica.apply(LINES, [moved_on(fences[0], states[0], puts=puts, keys=keys, waits=waits)])

        assert await all_rows(replica, LINES) == puts
        assert (await replica.load(LINES, Wanted(keys=frozenset({name})))).keys == keys
        async with replica.snapshot() as snapshot:
            assert await snapshot.waiting(LINES.id) == waits
            assert await snapshot.get(LINES, name) == (keys[name], list(puts.values()))

    async def test_text_with_u0000_is_refused_or_kept_whole(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        values = ("before\0after", 1, 1)
        puts = {("key", ("before\0after", 1)): StoredRow(values, row_hash(LINES.id, "key", values))}

        try:
            await replica.apply(LINES, [moved_on(fences[0], states[0], puts=puts)])
        except DataRefusedError:
            puts = {}

        assert await all_rows(replica, LINES) == puts

    async def test_rows_of_a_key_do_not_meet_whatever_separates_their_fields(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        pairs = [("a", "b|c"), ("a|b", "c"), ("a", "b\x1fc"), ("a\x1fb", "c"), ("a,b", "c"), ("a", "b,c"), ("('a',", "'b')")]
        puts = rows_of(LINES, {key: [line(shop, n, amount=n) for n in (1, 11, 111)] for key, shop in pairs[:1]})
        for at, (key, shop) in enumerate(pairs):
            puts |= rows_of(LINES, {key: [line(shop, n, amount=at) for n in (1, 11, 111)]})

        await replica.apply(LINES, [moved_on(fences[0], states[0], puts=puts)])

        assert await all_rows(replica, LINES) == puts
        async with replica.snapshot() as snapshot:
            _, found = await snapshot.get(LINES, "a")
        assert sorted(row.values[0] for row in found) == sorted(["b|c", "b\x1fc", "b,c"] * 3)

    async def test_a_drop_removes_one_row_and_leaves_its_neighbours(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        first = moved_on(
            fences[0], states[0], puts=rows_of(LINES, {"k": [line("s", n) for n in (1, 2, 3)], "l": [line("s", 2)]})
        )
        await replica.apply(LINES, [first])

        await replica.apply(LINES, [moved_on(fences[0], first.state, drops=frozenset({("k", ("s", 2)), ("none", ("s", 2))}))])

        assert set(await all_rows(replica, LINES)) == {("k", ("s", 1)), ("k", ("s", 3)), ("l", ("s", 2))}

    async def test_drops_come_before_puts(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        puts = rows_of(LINES, {"k": [line(amount=1)]})
        waits = [waiting_at(0, 3, "k")]

        plan = moved_on(fences[0], states[0], puts=puts, drops=frozenset(puts), waits=waits, freed=frozenset({3}))
        await replica.apply(LINES, [plan])

        assert await all_rows(replica, LINES) == puts
        async with replica.snapshot() as snapshot:
            assert await snapshot.waiting(LINES.id) == waits

    async def test_a_put_replaces_the_row_at_its_address(self, replica: Replica) -> None:
        fences, states = await taken(replica, EVERYTHING)
        first = moved_on(fences[0], states[0], puts=rows_of(EVERYTHING, {"k": [everything(1)]}))
        await replica.apply(EVERYTHING, [first])
        puts = rows_of(EVERYTHING, {"k": [everything(2, text_or_none=None)]})

        await replica.apply(EVERYTHING, [moved_on(fences[0], first.state, puts=puts)])

        assert await all_rows(replica, EVERYTHING) == puts

    async def test_states_of_keys_come_back_for_every_reason(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        keys = {reason.name: KeyState(head(9), 7, reason) for reason in Reason}
        keys |= {"new": KeyState(head(1), 1, None), "empty": KeyState(Head(0, b"", b""), 0, None)}
        keys["old"] = KeyState(Head(2**63 - 1, b"\xff" * 32, b"\0" * 32), 2**63 - 1, None)

        await replica.apply(LINES, [moved_on(fences[1], states[1], keys=keys)])

        assert (await replica.load(LINES, Wanted(keys=frozenset(keys)))).keys == keys
        async with replica.snapshot() as snapshot:
            assert {key: (part, state) for key, part, state in await gathered(snapshot.keys(LINES))} == {
                key: (1, state) for key, state in keys.items()
            }

    async def test_states_and_rows_of_a_key_stand_apart(self, replica: Replica) -> None:
        """Whatever is said of a row without a word on its key's state, or of the state without its row, leaves the other."""
        fences, states = await taken(replica, EVERYTHING)
        names = ("row put alone", "row dropped", "state alone", "parked", "mended", "forgotten", "gone")
        old, new = KeyState(head(1), 1, None), KeyState(head(2), 2, None)
        parked = KeyState(head(2), 1, Reason.REJECTED)
        rows = rows_of(EVERYTHING, {name: [everything(4)] for name in names})
        later = rows_of(EVERYTHING, {name: [everything(5)] for name in names})
        address = {name: (name, ()) for name in names}
        first = moved_on(fences[0], states[0], puts=rows, keys={name: old for name in names} | {"mended": parked})
        await replica.apply(EVERYTHING, [first])

        plan = moved_on(
            fences[0],
            first.state,
            puts={address[name]: later[address[name]] for name in ("row put alone", "mended")},
            drops=frozenset({address["row dropped"], address["gone"]}),
            keys={"state alone": new, "parked": parked, "mended": new},
            forgotten=frozenset({"forgotten", "gone"}),
        )
        await replica.apply(EVERYTHING, [plan])

        expected = {"row put alone": old, "row dropped": old, "state alone": new, "parked": parked, "mended": new}
        assert (await replica.load(EVERYTHING, Wanted(keys=frozenset(names)))).keys == expected
        async with replica.snapshot() as snapshot:
            assert {key: state for key, _, state in await gathered(snapshot.keys(EVERYTHING))} == expected
            assert await snapshot.get(EVERYTHING, "forgotten") == (None, [rows[address["forgotten"]]])
        kept = {address[name]: rows[address[name]] for name in ("state alone", "parked", "forgotten")}
        assert await all_rows(replica, EVERYTHING) == kept | dict(plan.puts)

    async def test_a_partition_state_comes_back_in_every_field(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        highest, sums = 2**63 - 1, bytes(range(32)) * BUCKETS
        state = replace(
            states[0],
            position=highest,
            count=highest - 1,
            input_digest=2**256 - 1,
            rows=sums,
            row_digest=2**255 + 1,
            relay_epoch=highest - 2,
            parked=11,
            uncounted=12,
            waiting_bytes=highest - 3,
            duplicates=highest - 4,
            foreign=highest - 5,
            halted="position: seen 7, 'stored' 8 to 9",
        )

        await replica.apply(LINES, [replace(moved_on(fences[0], states[0]), state=state)])

        async with replica.snapshot() as snapshot:
            assert await snapshot.states(LINES.id) == {0: state, 1: states[1]}

    async def test_a_waiting_record_comes_back_whole_and_leaves_when_it_is_freed(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        headers = (("", b""), ("ce_id", b"\0\xff"), ("ce_id", b"twice"), ("na:me=\u00e9", bytes(range(256))))
        waits = [
            waiting_at(0, 2**63 - 1, "k", Reason.GAP, headers=headers, detail="it's\nso", version=2**63 - 1),
            waiting_at(0, 4, None, Reason.FOREIGN, version=None, record_value=None, timestamp_ms=-1),
            waiting_at(0, 5, "", Reason.SCHEMA, record_key=b"", record_value=b""),
        ]
        same_offset_elsewhere = waiting_at(1, 4, "l")
        first = moved_on(fences[0], states[0], waits=waits)
        await replica.apply(LINES, [first, moved_on(fences[1], states[1], waits=[same_offset_elsewhere])])
        async with replica.snapshot() as snapshot:
            assert await snapshot.waiting(LINES.id) == [waits[1], waits[2], waits[0], same_offset_elsewhere]

        await replica.apply(LINES, [moved_on(fences[0], first.state, freed=frozenset({4, 5}))])

        async with replica.snapshot() as snapshot:
            assert await snapshot.waiting(LINES.id) == [waits[0], same_offset_elsewhere]

    async def test_checkpoints_come_back_by_partition_and_offset(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        digests = {"input_digest": 2**256 - 1, "mark_digest": 0, "row_digest": 1}
        some = [checkpoint_at(0, at, verdict=verdict, **digests) for at, verdict in enumerate(MarkVerdict)]
        other = checkpoint_at(1, 0, epoch=2**63 - 1, number=2, count=3, mark_count=4, at_ms=5)

        await replica.apply(
            LINES,
            [
                moved_on(fences[1], states[1], checkpoints=[other]),
                moved_on(fences[0], states[0], checkpoints=list(reversed(some))),
            ],
        )

        async with replica.snapshot() as snapshot:
            assert await snapshot.checkpoints(LINES.id) == [*some, other]

    async def test_the_last_checkpoint_of_a_verdict_is_told_for_each_partition(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        equal = [checkpoint_at(0, at, verdict=MarkVerdict.EQUAL) for at in (3, 1, 2)]
        later = checkpoint_at(0, 4, verdict=MarkVerdict.DIVERGED)
        late = checkpoint_at(1, 9, verdict=MarkVerdict.LATE)
        plans = [
            moved_on(fences[0], states[0], checkpoints=[*equal, later]),
            moved_on(fences[1], states[1], checkpoints=[late]),
        ]

        await replica.apply(LINES, plans)

        async with replica.snapshot() as snapshot:
            told = {verdict: list(await snapshot.checkpoints(LINES.id, latest=verdict)) for verdict in MarkVerdict}
        assert {verdict: found for verdict, found in told.items() if found} == {
            MarkVerdict.EQUAL: [equal[0]],
            MarkVerdict.DIVERGED: [later],
            MarkVerdict.LATE: [late],
        }

    async def test_the_oldest_checkpoints_go_and_the_newest_stay(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        plan = moved_on(fences[0], states[0], checkpoints=[checkpoint_at(0, at) for at in range(CHECKPOINTS_KEPT + 1_200)])
        few = moved_on(fences[1], states[1], checkpoints=[checkpoint_at(1, 7)])
        await replica.apply(LINES, [plan, few])

        await replica.apply(LINES, [moved_on(fences[0], plan.state, checkpoints=[checkpoint_at(0, CHECKPOINTS_KEPT + 1_200)])])

        async with replica.snapshot() as snapshot:
            kept = [checkpoint.offset for checkpoint in await snapshot.checkpoints(LINES.id) if checkpoint.partition == 0]
            others = [checkpoint for checkpoint in await snapshot.checkpoints(LINES.id) if checkpoint.partition == 1]
        assert others == list(few.checkpoints)
        assert CHECKPOINTS_KEPT <= len(kept) <= CHECKPOINTS_KEPT * 1.1
        assert kept == list(range(kept[0], CHECKPOINTS_KEPT + 1_201))

    async def test_the_journal_keeps_entries_by_kind_in_order(self, replica: Replica) -> None:
        entry = {"by": "it's \u00e9\0", "digest": 2**256 - 1, "rows": [1, 2.5, None, True, {"deep": []}]}

        await replica.install(LINES, partitions=1, incarnation=INCARNATION)
        assert await replica.apply(LINES, [], journal=[("repair", {"n": 1}), ("swap", entry)]) == frozenset()
        await replica.apply(LINES, [], journal=[("repair", {"n": 2})])

        async with replica.snapshot() as snapshot:
            assert await snapshot.journal("repair") == [{"n": 1}, {"n": 2}]
            assert await snapshot.journal("swap") == [entry]
            assert await snapshot.journal("none") == []
            assert await snapshot.journal("repair", newest=1) == [{"n": 2}]
            assert await snapshot.journal("repair", newest=9) == [{"n": 1}, {"n": 2}]

    async def test_refused_data_leaves_nothing_of_the_whole_batch(self, replica: Replica) -> None:
        fences, states = await taken(replica, EVERYTHING)
        first = moved_on(fences[0], states[0], puts=rows_of(EVERYTHING, {"before": [everything(4)]}))
        await replica.apply(EVERYTHING, [first])
        puts = rows_of(EVERYTHING, {"good": [everything(2)]})
        bad = moved_on(
            fences[0],
            first.state,
            puts=puts | unstorable(EVERYTHING, "bad"),
            drops=frozenset({("before", ())}),
            keys=key_states("good", "bad"),
            waits=[waiting_at(0, 4, "k")],
            checkpoints=[checkpoint_at(0, 1)],
        )
        good = moved_on(fences[1], states[1], puts=rows_of(EVERYTHING, {"elsewhere": [everything(5)]}))

        with pytest.raises(DataRefusedError):
            await replica.apply(EVERYTHING, [bad, good], journal=[("repair", {})])

        assert set(await all_rows(replica, EVERYTHING)) == {("before", ())}
        async with replica.snapshot() as snapshot:
            assert await snapshot.states(EVERYTHING.id) == {0: first.state, 1: states[1]}
            assert await gathered(snapshot.keys(EVERYTHING)) == []
            assert await snapshot.waiting(EVERYTHING.id) == []
            assert await snapshot.checkpoints(EVERYTHING.id) == []
            assert await snapshot.journal("repair") == []
        assert await replica.apply(EVERYTHING, [replace(bad, puts=puts), good]) == {0, 1}

    async def test_culprits_are_named_and_nothing_is_written(self, replica: Replica) -> None:
        fences, states = await taken(replica, EVERYTHING)
        puts = rows_of(EVERYTHING, {f"k{at}": [everything(at)] for at in range(50)})
        for bad in ("k0", "k7", "k8", "k49"):
            puts |= unstorable(EVERYTHING, bad)
        plans = [
            moved_on(fences[part], states[part], puts={a: row for a, row in puts.items() if int(a[0][1:]) % 2 == part})
            for part in (0, 1)
        ]

        found = await replica.culprits(EVERYTHING, plans)

        assert set(found) == {"k0", "k7", "k8", "k49"}
        assert all(found.values())
        assert await all_rows(replica, EVERYTHING) == {}
        async with replica.snapshot() as snapshot:
            assert await snapshot.states(EVERYTHING.id) == states

    async def test_a_batch_that_is_taken_has_no_culprits(self, replica: Replica) -> None:
        fences, states = await taken(replica, EVERYTHING)
        plan = moved_on(fences[0], states[0], puts=rows_of(EVERYTHING, {"k": [everything(1)]}), drops=frozenset({("l", ())}))

        assert await replica.culprits(EVERYTHING, [plan]) == {}
        assert await replica.culprits(EVERYTHING, [moved_on(fences[0], states[0])]) == {}

    async def test_what_is_handed_in_and_out_is_not_shared(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        puts, keys, waits = rows_of(LINES, {"k": [line()]}), key_states("k"), [waiting_at(0, 3, "k")]
        expected = dict(puts), dict(keys), list(waits)
        entry: dict[str, Any] = {"rows": [1]}
        await replica.apply(LINES, [moved_on(fences[0], states[0], puts=puts, keys=keys, waits=waits)], journal=[("k", entry)])

        for mine in (puts, keys, waits, entry["rows"]):
            mine.clear()
        async with replica.snapshot() as snapshot:
            _clear(await snapshot.states(LINES.id), await snapshot.waiting(LINES.id), await snapshot.journal("k"))
        known = await replica.load(LINES, Wanted(keys=frozenset({"k"}), whole=frozenset({"k"})))
        _clear(known.keys, known.rows)

        known = await replica.load(LINES, Wanted(keys=frozenset({"k"}), whole=frozenset({"k"})))
        assert (known.rows, known.keys) == expected[:2]
        async with replica.snapshot() as snapshot:
            assert await snapshot.waiting(LINES.id) == expected[2]
            assert await snapshot.journal("k") == [{"rows": [1]}]
            assert set(await snapshot.states(LINES.id)) == {0, 1}


def _clear(*containers: Any) -> None:
    for container in containers:
        if isinstance(container, dict | list):
            container.clear()
        else:
            assert isinstance(container, Sequence)
