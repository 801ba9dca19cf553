"""What a replica promises of its quarantine and of rulings: read in order and counted, written with their rows or not."""

from dataclasses import replace

from truecopy_bus.leases import Fence
from truecopy_projections.amendment import Amendment, Ruling
from truecopy_projections.limits import QUARANTINE_RECORDS
from truecopy_projections.replica import Replica
from truecopy_projections.state import Reason
from truecopy_projections.testing.replica_plans import EVERYTHING, LINES, moved_on, taken, waiting_at

__all__ = ["AmendingSuite", "amendment_of"]


def amendment_of(key: str | None, at: int, *, ruling: Ruling = Ruling.SKIPPED) -> Amendment:
    """A ruling about an event at an offset of partition 0."""
    return Amendment(
        projection=LINES.id,
        replica="suite",
        partition=0,
        offset=at,
        key=key,
        version=at,
        event=bytes([at]) * 32,
        reason=Reason.REJECTED.name,
        ruling=ruling,
        by="it's \u00e9\u200b",
        why='"quoted"; DROP TABLE truecopy_meta; --\x01',
        at_ms=2**53,
        schema="{}" if ruling is Ruling.REPLACED else "",
        body=b"\0\xff" if ruling is Ruling.REPLACED else b"",
    )


class AmendingSuite:
    """A part of ReplicaSuite."""

    async def test_rulings_come_back_whole_with_the_plan_that_holds_them(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        some = [amendment_of("k", 1), amendment_of("k", 2, ruling=Ruling.REPLACED), amendment_of(None, 3)]
        first = replace(moved_on(fences[0], states[0]), amendments=some[:1])

        await replica.apply(LINES, [first])
        async with replica.snapshot() as before:
            await replica.apply(LINES, [replace(moved_on(fences[0], first.state), amendments=some[1:])])
            assert (await before.amendments(LINES.id)).all == tuple(some[:1])

        async with replica.snapshot() as snapshot:
            found = await snapshot.amendments(LINES.id)
            assert found.all == tuple(some)
            assert [one.id for one in found.all] == [one.id for one in some]
            assert len(await snapshot.amendments(EVERYTHING.id)) == 0
            assert len(await snapshot.amendments("nothing@1")) == 0

    async def test_a_ruling_under_a_lost_fence_is_not_written(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        lost = Fence(partition=0, epoch=fences[0].epoch, claim=b"x" * 16)
        plan = replace(moved_on(lost, states[0]), amendments=[amendment_of("k", 1)])

        assert await replica.apply(LINES, [plan], journal=[("amendment", {"n": 1})]) == frozenset()

        async with replica.snapshot() as snapshot:
            assert len(await snapshot.amendments(LINES.id)) == 0
            assert await snapshot.journal("amendment") == []

    async def test_the_quarantine_is_read_key_by_key_in_small_batches(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        many = QUARANTINE_RECORDS + 1
        # By offset the keys take turns, and the versions of each run backwards.
        waits = [replace(waiting_at(0, at, f"k{at % 2}"), version=2 * many - at) for at in range(2 * many)]
        foreign = replace(waiting_at(0, 2 * many, None), key=None, version=None, reason=Reason.FOREIGN)
        await replica.apply(LINES, [moved_on(fences[0], states[0], waits=[*waits, foreign])])

        async with replica.snapshot() as snapshot:
            batches = [batch async for batch in snapshot.quarantine(LINES.id)]
            mine = [one async for batch in snapshot.quarantine(LINES.id, key="k1") for one in batch]
            nobody = [one async for batch in snapshot.quarantine(LINES.id, key="k") for one in batch]
            nothing = [batch async for batch in snapshot.quarantine("nothing@1")]

        assert max(map(len, batches)) <= QUARANTINE_RECORDS
        ordered = sorted(waits, key=lambda one: (one.key or "", one.version or 0))
        assert [one for batch in batches for one in batch] == [foreign, *ordered]
        assert mine == [one for one in ordered if one.key == "k1"]
        assert (nobody, nothing) == ([], [])

    async def test_what_waits_is_tallied_by_partition_and_reason(self, replica: Replica) -> None:
        fences, states = await taken(replica, LINES)
        here = [replace(waiting_at(0, at, key), timestamp_ms=at) for at, key in enumerate(("a", "a", "b"), start=5)]
        foreign = replace(waiting_at(0, 9, None), key=None, record_key=None, record_value=None, reason=Reason.FOREIGN)
        there = replace(waiting_at(1, 5, "c"), reason=Reason.GAP)
        plans = [
            moved_on(fences[0], states[0], waits=[*here, foreign]),
            moved_on(fences[1], states[1], waits=[there]),
        ]
        await replica.apply(LINES, plans)

        async with replica.snapshot() as snapshot:
            found = {(one.partition, one.reason): one for one in await snapshot.tallies(LINES.id)}
            assert list(await snapshot.tallies("nothing@1")) == []

        reason = here[0].reason
        assert found.keys() == {(0, reason), (0, Reason.FOREIGN), (1, Reason.GAP)}
        assert found[0, reason][2:] == (3, 2, sum(one.size for one in here), 5)
        assert found[0, Reason.FOREIGN][2:5] == (1, 0, 0)
