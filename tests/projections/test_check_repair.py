"""Repairs: from the log and from a peer that is proven right, within limits, and with a journal of who did it from where."""

from pathlib import Path
from typing import Any

import pytest
from tests.projections.bank import Deposited, balance, entries
from tests.projections.town import TOPIC, Town

from truecopy_projections.certificate import certify
from truecopy_projections.errors import RepairRefusedError
from truecopy_projections.limits import REPAIR_ROWS_FREE
from truecopy_projections.projection import Projection
from truecopy_projections.repair import Repair, repair
from truecopy_projections.signing_keys import signing_key
from truecopy_projections.verdicts import Kind, Verdict


async def mend(town: Town, projection: Projection[Any] = balance, **how: Any) -> Repair:
    return await repair(projection, town.replica, town.log, town.registry, apply=True, by="a test", **how)


async def certified(town: Town, tmp_path: Path, projection: Projection[Any] = balance) -> None:
    """Certify the peer."""
    report = await town._replace(replica=town.peer).check(projection)
    await certify(projection, town.peer, town.log, report, signing_key(tmp_path / "key"))


async def spoil(town: Town, projection: Projection[Any], key: str = "k1") -> None:
    _, rows = await town.stored(projection, key)
    sub = max(rows)
    await town.damage(projection, key, {sub: (*rows[sub].values[:-1], 99)})


@pytest.mark.parametrize("projection", [balance, entries], ids=["one row per key", "several"])
async def test_rows_are_mended_from_a_certified_peer_where_the_log_is_gone(
    town: Town, projection: Projection[Any], tmp_path: Path
) -> None:
    await town.deposit()
    await town.settle(projection)
    await certified(town, tmp_path, projection)
    _, rows = await town.stored(projection, "k2")
    await spoil(town, projection)
    await town.damage(projection, "k2", {max(rows): None})
    await town.damage(projection, "ghost", {((9,) if projection.key else ()): ("ghost", 9, 9) if projection.key else
                                            ("ghost", *rows[()].values[1:])})  # fmt: skip
    await town.log.trim(TOPIC, 0, before_offset=2)

    planned = await repair(projection, town.replica, town.log, town.registry, peer=town.peer)
    done = await mend(town, projection, peer=town.peer)

    kinds = [(one.key, one.kind) for one in done.planned]
    assert kinds == [("ghost", Kind.GHOST), ("k1", Kind.DIFFERENT), ("k2", Kind.MISSING)]
    assert [(one.key, one.kind) for one in planned.planned] == kinds
    after = await town.check(projection, peers=[town.peer])
    assert (after.computed.verdict, after.stored.verdict) == (Verdict.EQUAL, Verdict.EQUAL)
    async with town.replica.snapshot() as snapshot:
        journal = await snapshot.journal("repair")
    assert [(one["key"], one["by"], one["source"]) for one in journal] == [(key, "a test", town.peer.name) for key, _ in kinds]
    assert journal[1]["fields"]
    assert all(one["at_ms"] for one in journal)


async def test_what_moved_on_at_the_peer_is_left_alone_and_told(village: Town, tmp_path: Path) -> None:
    await village.deposit()
    await village.settle(balance)
    await certified(village, tmp_path)
    for key in ("k1", "k2"):
        await spoil(village, balance, key)
    await village.publish(("k1", Deposited(amount=1)), ("k7", Deposited(amount=1)))
    await village.settle(balance, village.peer)

    done = await mend(village, peer=village.peer)
    rest = (await village.check(balance)).differences

    assert [one.key for one in done.planned] == ["k2"]
    assert "not where the peer's are" in done.left
    assert [one.key for one in rest] == ["k1"]
    await mend(village)
    await village.follow(balance)
    assert (await village.check(balance)).verdict is Verdict.EQUAL


async def test_wrong_digests_and_keys_are_taken_from_the_peer_too(village: Town, tmp_path: Path) -> None:
    await village.deposit()
    await village.settle(balance)
    await certified(village, tmp_path)
    states = await village.states(balance)
    await village.damage(balance, "k1", version=1)
    await village.damage(balance, "nobody", figures={"rows": states[1].rows, "row_digest": states[1].row_digest})

    done = await mend(village, peer=village.peer)

    assert done.keys == ["k1"]
    assert done.digests == [0]
    assert (await village.check(balance, deep=True)).verdict is Verdict.EQUAL


async def test_a_peer_without_a_certificate_or_whose_own_rows_differ_is_no_truth(village: Town, tmp_path: Path) -> None:
    await village.deposit()
    await village.settle(balance)
    await spoil(village, balance)

    with pytest.raises(RepairRefusedError, match="no valid certificate"):
        await mend(village, peer=village.peer)
    await certified(village, tmp_path)
    _, rows = await village._replace(replica=village.peer).stored(balance, "k3")
    await village.damage(balance, "k3", {(): (*rows[()].values[:-1], 77)}, replica=village.peer)
    with pytest.raises(RepairRefusedError, match="not trusted here"):
        await mend(village, peer=village.peer, trusted=["another's key"])
    with pytest.raises(RepairRefusedError, match="not what was written"):
        await mend(village, peer=village.peer)

    assert len((await village.check(balance)).differences) == 1


async def test_a_peer_that_is_not_delivered_or_not_comparable_is_no_truth(village: Town, tmp_path: Path) -> None:
    await village.deposit()
    await village.settle(balance)
    await certified(village, tmp_path)
    states = await village.states(balance, village.peer)
    await village.damage(balance, "nobody", figures={"halted": "position lost: a test"}, replica=village.peer)

    with pytest.raises(RepairRefusedError, match="delivered is INCOMPARABLE"):
        await mend(village, peer=village.peer)
    await village.damage(balance, "nobody", figures={"halted": "", "incarnation": "x"}, replica=village.peer)
    with pytest.raises(RepairRefusedError, match="follows incarnation x"):
        await mend(village, peer=village.peer)

    assert states[0].halted == ""


async def test_a_large_share_of_the_rows_is_refused_but_not_of_a_few(village: Town) -> None:
    keys = 2 * REPAIR_ROWS_FREE
    await village.deposit(keys=keys, each=1)
    await village.settle(balance)
    names = [f"k{at}" for at in range(keys)]
    for name in names[:REPAIR_ROWS_FREE]:
        await spoil(village, balance, name)
    assert len((await repair(balance, village.replica, village.log, village.registry)).planned) == REPAIR_ROWS_FREE
    await spoil(village, balance, names[REPAIR_ROWS_FREE])

    with pytest.raises(RepairRefusedError, match=r"101 of 200 rows differ, the limit is a share of 0\.1"):
        await mend(village)
    done = await mend(village, share_max=0.6)

    assert len(done.planned) == REPAIR_ROWS_FREE + 1
    assert (await village.check(balance)).verdict is Verdict.EQUAL
