"""Replicas held against each other: equal at a common mark, different for sure, or not comparable and why."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.projections.bank import Deposited, balance, entries, refused
from tests.projections.town import TOPIC, Town, opened

from truecopy_projections.peers import Side, common, compare
from truecopy_projections.projection import Projection
from truecopy_projections.replicas import MemoryReplica, open_replica
from truecopy_projections.testing.replica_plans import checkpoint_at
from truecopy_projections.verdicts import Comparison, Kind, Verdict


async def held_against(town: Town, projection: Projection[Any], *, wait_s: float = 0.0) -> Comparison:
    return await compare(projection, town.replica, town.peer, wait_s=wait_s)


@pytest.mark.parametrize("projection", [balance, entries], ids=["one row per key", "several"])
async def test_replicas_of_any_kinds_agree_at_a_common_mark(town: Town, projection: Projection[Any]) -> None:
    await town.deposit()
    await town.settle(projection)

    found = await held_against(town, projection)

    assert (found.verdict, found.through) == (Verdict.EQUAL, {0: 12, 1: 12})


async def test_one_that_went_on_is_compared_at_the_last_mark_that_both_passed(village: Town) -> None:
    await village.deposit()
    await village.settle(balance)
    await village.deposit()
    await village.settle(balance, village.replica)

    found = await held_against(village, balance)

    assert (found.verdict, found.through) == (Verdict.EQUAL, {0: 12, 1: 12})


@pytest.mark.parametrize(
    ("changed", "is_common"),
    [
        pytest.param({}, True, id="the same"),
        pytest.param({"count": 6}, False, id="another count"),
        pytest.param({"number": 2}, False, id="another mark"),
        pytest.param({"epoch": 9}, False, id="another epoch"),
        pytest.param({"partition": 1}, False, id="another partition"),
        pytest.param({"row_digest": 8}, True, id="another digest, which is for the comparison to say"),
    ],
)
def test_a_mark_is_common_at_equal_counts_alone(changed: dict[str, int], is_common: bool) -> None:
    mark = checkpoint_at(0, 7, epoch=1, number=1, count=5, mark_count=5)
    mine, theirs = (Side(name="", states={}, checkpoints=[one], nonce="") for one in (mark, replace(mark, **changed)))

    assert (0 in common(mine, theirs)) is is_common


def test_a_mark_that_both_passed_late_is_not_common() -> None:
    late = Side(name="", states={}, checkpoints=[checkpoint_at(0, 7, count=6, mark_count=5)], nonce="")

    assert common(late, late) == {}


async def test_without_a_common_mark_nothing_is_proven(village: Town) -> None:
    await village.deposit()
    await village.settle(balance, village.replica)
    worker = village.worker(balance, village.peer)
    await village.peer.install(balance, partitions=2, incarnation=(await village.states(balance))[0].incarnation)
    await worker.leave()

    found = await held_against(village, balance)

    assert found.verdict is Verdict.UNPROVEN
    assert "no mark" in found.why


async def test_a_peer_of_another_number_incarnation_declaration_or_partitions_is_incomparable(village: Town) -> None:
    await village.deposit()
    await village.settle(balance, village.replica)
    incarnation = (await village.states(balance))[0].incarnation

    @dataclass(frozen=True)
    class Other:
        account: str

    other = Projection("balance", entity=TOPIC, row=Other)
    second = Projection("balance", entity=TOPIC, row=Other, version=2)
    told = {}
    for name, projection, partitions, life in (
        ("number", second, 2, incarnation),
        ("incarnation", balance, 2, "another"),
        ("declaration", other, 2, incarnation),
        ("partitions", balance, 3, incarnation),
    ):
        peer = MemoryReplica()
        await peer.install(projection, partitions=partitions, incarnation=life)
        found = await compare(balance, village.replica, peer, wait_s=0)
        assert found.verdict is Verdict.INCOMPARABLE
        told[name] = found.why
    assert "holds no balance@1" in told["number"]
    assert "follows incarnation another" in told["incarnation"]
    assert "declared otherwise" in told["declaration"]
    assert "partitions [0, 1, 2]" in told["partitions"]


async def test_a_replica_does_not_vouch_for_itself(any_url: str) -> None:
    async with opened(any_url) as town:
        await town.deposit()
        await town.settle(balance, town.replica)
        again = town.replica if any_url == "memory:" else await open_replica(any_url)

        found = await compare(balance, town.replica, again, wait_s=0)
        await again.close()

    assert found.verdict is Verdict.INCOMPARABLE
    assert "this replica itself" in found.why


async def test_a_peer_that_is_away_proves_nothing(village: Town, tmp_path: Path) -> None:
    await village.deposit()
    await village.settle(balance, village.replica)
    (tmp_path / "peer.db").write_bytes(b"no database at all" * 100)
    peer = await open_replica(f"sqlite:{tmp_path}/peer.db")

    found = await compare(balance, village.replica, peer, wait_s=0)
    await peer.close()

    assert found.verdict is Verdict.UNPROVEN
    assert "away" in found.why


KINDS = [pytest.param(kind, id=kind.value) for kind in Kind]
SEVERAL = pytest.mark.parametrize("projection", [balance, entries], ids=["one row per key", "several"])


async def spoil(town: Town, projection: Projection[Any], kind: Kind, *, written: bool) -> str:
    """Make a row of the replica differ in this way; the key that it is of."""
    state, rows = await town.stored(projection, "k1")
    sub = max(rows)
    values = rows[sub].values
    if kind is Kind.GHOST:
        ghost = ("ghost", 9, 9) if projection.key else ("ghost", *values[1:])
        await town.damage(projection, "ghost", {projection.sub_key(ghost): ghost}, written=written)
        return "ghost"
    version = state.applied + {Kind.STALE: -1, Kind.AHEAD: 1}.get(kind, 0)
    spoilt = None if kind is Kind.MISSING else (*values[:-1], 99)
    await town.damage(projection, "k1", {sub: spoilt}, version=version, written=written)
    return "k1"


@SEVERAL
@pytest.mark.parametrize("kind", KINDS)
async def test_all_five_kinds_are_told_against_a_peer(village: Town, projection: Projection[Any], kind: Kind) -> None:
    await village.deposit()
    await village.settle(projection)
    key = await spoil(village, projection, kind, written=True)

    found = await held_against(village, projection)

    assert found.verdict is Verdict.DIVERGED
    assert [(one.key, one.kind) for one in found.differences] == [(key, kind)]


@SEVERAL
@pytest.mark.parametrize("kind", KINDS)
async def test_all_five_kinds_are_told_by_a_peer_where_the_log_is_gone(
    village: Town, projection: Projection[Any], kind: Kind
) -> None:
    await village.deposit()
    await village.settle(projection)
    key = await spoil(village, projection, kind, written=False)
    await village.log.trim(TOPIC, 0, before_offset=2)

    found = await village.check(projection, peers=[village.peer])

    assert (found.computed.verdict, found.stored.verdict) == (Verdict.EQUAL, Verdict.DIVERGED)
    assert [(one.key, one.kind) for one in found.differences] == [(key, kind)]


@SEVERAL
async def test_all_five_kinds_are_told_by_the_log(town: Town, projection: Projection[Any]) -> None:
    await town.deposit()
    await town.settle(projection)
    _, before = await town.stored(projection, "k1")
    for kind in Kind:
        key = await spoil(town, projection, kind, written=False)

        found = await town.check(projection)

        assert found.stored.verdict is Verdict.DIVERGED
        assert [(one.key, one.kind) for one in found.differences] == [(key, kind)]
        gone = {projection.sub_key(one.stored): None for one in found.differences if one.stored} if kind is Kind.GHOST else {}
        right = {} if kind is Kind.GHOST else {sub: row.values for sub, row in before.items()}
        await town.damage(projection, key, {**gone, **right}, version=3)


async def test_a_wrong_row_is_named_though_both_went_on_and_stand_elsewhere(village: Town) -> None:
    await village.deposit()
    await village.settle(balance)
    await spoil(village, balance, Kind.DIFFERENT, written=True)
    await village.publish(*((f"k{at}", Deposited(amount=1)) for at in range(8) if at != 1))
    await village.settle(balance, village.replica)
    await village.mark()
    await village.follow(balance, village.peer)
    await village.publish(*((f"k{at}", Deposited(amount=1)) for at in range(8) if at != 1))
    await village.settle(balance, village.replica)

    found = await held_against(village, balance)

    assert found.verdict is Verdict.DIVERGED
    assert [(one.key, one.kind) for one in found.differences] == [("k1", Kind.DIFFERENT)]


async def test_keys_that_one_side_has_parked_are_no_difference(village: Town) -> None:
    await village.publish(("k1", Deposited(amount=6)), ("k2", Deposited(amount=6)), ("k1", Deposited(amount=600)))
    await village.mark()
    await village.follow(balance, village.peer)
    refused.add(600)
    try:
        await village.follow(balance, village.replica)
    finally:
        refused.remove(600)

    there = await held_against(village, balance)
    await village.follow(balance)
    mended = await held_against(village, balance)

    assert there.verdict is Verdict.PARKED
    assert not there.differences
    assert mended.verdict is Verdict.EQUAL


async def test_a_mark_at_which_a_key_was_parked_is_doubted_and_settled_by_a_later_one(village: Town) -> None:
    await village.publish(("k1", Deposited(amount=6)), ("k1", Deposited(amount=600)))
    await village.mark()
    await village.follow(balance, village.peer)
    refused.add(600)
    try:
        await village.follow(balance, village.replica)
    finally:
        refused.remove(600)
    await village.publish(("k1", Deposited(amount=1)))
    await village.relay.drain()
    await village.follow(balance, village.replica)

    doubted = await held_against(village, balance)
    await village.settle(balance)

    assert doubted.verdict is Verdict.UNPROVEN
    assert "at a later mark" in doubted.why
    assert (await held_against(village, balance)).verdict is Verdict.EQUAL


async def test_altered_digests_show_though_all_rows_are_right(village: Town) -> None:
    await village.deposit()
    await village.settle(balance)
    states = await village.states(balance)
    await village.damage(balance, "nobody", figures={"rows": states[1].rows, "row_digest": states[1].row_digest})

    found = await held_against(village, balance)

    assert found.verdict is Verdict.DIVERGED
    assert "the digests themselves" in found.why
