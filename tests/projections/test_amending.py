"""Rulings about what waits in quarantine: what they do to rows, to what waits behind, to proofs, and when they are refused."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.projections.bank import Deposited, balance, entries
from tests.projections.town import PARTITIONS, TOPIC, Town, opened

from truecopy_bus.partitioner import partition_of
from truecopy_bus.record import Outgoing
from truecopy_projections.amending import JOURNAL, Amending, amending
from truecopy_projections.amendment import Amendment, Ruling, event_of
from truecopy_projections.errors import AmendmentRefusedError
from truecopy_projections.limits import COLUMN_RECORDS_MIN
from truecopy_projections.peers import compare
from truecopy_projections.projection import Projection
from truecopy_projections.quarantine import head_of
from truecopy_projections.repair import repair
from truecopy_projections.replica import Replica
from truecopy_projections.state import PartitionPlan, Reason
from truecopy_projections.testing.replica_amending import amendment_of
from truecopy_projections.verdicts import Verdict
from truecopy_schemas import Event
from truecopy_schemas.avro_schema import avro_schema, fingerprint
from truecopy_schemas.codec import Decoder, encode, read_version
from truecopy_schemas.framing import frame, unframe

BAD = 666
EQUAL = Verdict.EQUAL


def desk(town: Town, projection: Projection[Any] = balance, replica: Replica | None = None, **how: Any) -> Any:
    return amending(projection, replica or town.replica, town.registry, by="a test", **how)


async def ruled(at: Amending, key: str, event: Event | None = None, why: str = "a test", version: int | None = None) -> None:
    """Skip the head of a key (or what waits under `version`), or put `event` in its place."""
    state, held = await at.look(key)
    assert state is not None
    head = head_of(state, [one.waiting for one in held])
    wanted = version or (head.version if head else None)
    chosen = next(
        one
        for one in held
        if one.waiting.version == wanted and (state.parked is not Reason.CONFLICT or one.waiting.reason is Reason.CONFLICT)
    )
    how: dict[str, Any] = {}
    if event is not None:
        how = {
            "schema": json.dumps(avro_schema(type(event))),
            "body": encode(event, version=chosen.waiting.version or 0),
        }
    ruling = at.ruling(chosen, why, **how)
    assert ruling is not None
    await at.treat([key], [ruling])


async def amendments(town: Town, projection: Projection[Any] = balance) -> Sequence[Amendment]:
    async with town.replica.snapshot() as snapshot:
        return (await snapshot.amendments(projection.id)).all


async def forge(town: Town, key: str, version: int, event: Event, *, spoilt: bytes = b"") -> None:
    """Append an event of a second writer, with `spoilt` behind its body."""
    (subject,) = [one for one in town.registry.state.subjects if one.endswith(type(event).__name__)]
    schema_id = town.registry.state.versions(subject)[-1].id
    value = frame(schema_id, encode(event, version=version) + spoilt)
    await town.log.append(TOPIC, partition_of(key, PARTITIONS), [Outgoing(key.encode(), value, 0)])


@pytest.mark.parametrize("event", [None, Deposited(amount=5)], ids=["skip", "edit"])
async def test_a_ruling_lets_its_key_go_on_in_order_and_the_replica_is_equal(town: Town, event: Event | None) -> None:
    await town.publish(*(("a", Deposited(amount=amount)) for amount in (1, BAD, 10, 100)), ("b", Deposited(amount=7)))
    await town.settle(balance)
    assert (await town.check(balance)).verdict is Verdict.PARKED

    async with desk(town) as at:
        await ruled(at, "a", event)

    state, rows = await town.stored(balance, "a")
    assert (state.applied, state.parked) == (4, None)
    assert rows[()].values[1] == 111 + (5 if event else 0)
    await town.settle(balance)
    for how in ({}, {"deep": True}, {"quick": True}):
        report = await town.check(balance, **how)
        assert report.verdict is EQUAL, report
        assert [(one.key, one.version, one.by, one.why) for one in report.amendments] == [("a", 2, "a test", "a test")]
    async with town.replica.snapshot() as snapshot:
        [entry] = await snapshot.journal(JOURNAL)
        assert await snapshot.waiting(balance.id) == []
    assert (entry["key"], entry["ruling"], entry["by"]) == ("a", "REPLACED" if event else "SKIPPED", "a test")


async def test_a_dry_run_tells_what_would_come_of_it_and_changes_nothing(town: Town) -> None:
    await town.publish(*(("a", Deposited(amount=amount)) for amount in (1, BAD, 10)))
    await town.settle(balance)
    before = await town.states(balance)

    async with desk(town, dry_run=True) as at:
        _, held = await at.look("a")
        ruling = at.ruling(held[0], "why not")
        assert ruling is not None
        would = await at.treat(["a"], [ruling])

    assert would.keys["a"].applied == 3
    assert would.rows["a", ()].values[1] == 11  # type: ignore[union-attr]
    assert await town.states(balance) == before
    assert not await amendments(town)


async def test_a_key_with_a_second_writer_goes_on_with_the_first(town: Town) -> None:
    await town.publish(("a", Deposited(amount=1)))
    await town.settle(balance)
    await forge(town, "a", 1, Deposited(amount=50))
    await town.publish(("a", Deposited(amount=10)), ("a", Deposited(amount=100)))
    await town.settle(balance)
    state, _ = await town.stored(balance, "a")
    assert (state.parked, state.applied) == (Reason.CONFLICT, 1)

    async with desk(town) as at:
        await at.treat(["a"])
        assert (await at.look("a"))[0].parked is Reason.CONFLICT  # type: ignore[union-attr]
        await ruled(at, "a")

    state, rows = await town.stored(balance, "a")
    assert (state.parked, state.applied, rows[()].values[1]) == (None, 3, 111)
    await town.settle(balance)
    assert (await town.check(balance, deep=True)).verdict is EQUAL
    await forge(town, "a", 1, Deposited(amount=50))
    await town.settle(balance)
    assert (await town.check(balance, deep=True)).verdict is EQUAL


async def test_what_was_ruled_about_a_second_writer_holds_when_it_comes_again(town: Town) -> None:
    await town.publish(("a", Deposited(amount=1)))
    await town.settle(balance)
    await forge(town, "a", 1, Deposited(amount=50))
    await town.settle(balance)
    async with desk(town) as at:
        await ruled(at, "a")

    await forge(town, "a", 1, Deposited(amount=50))
    await town.settle(balance)
    again, _ = await town.stored(balance, "a")
    await forge(town, "a", 1, Deposited(amount=51))
    await town.settle(balance)
    another, _ = await town.stored(balance, "a")

    assert (again.parked, another.parked) == (None, Reason.CONFLICT)


async def test_a_second_writer_found_behind_a_parked_event_holds_the_key_up_where_it_wrote(town: Town) -> None:
    await town.publish(("a", Deposited(amount=1)), ("a", Deposited(amount=BAD)))
    await town.settle(balance)
    await forge(town, "a", 2, Deposited(amount=50))
    await town.publish(("a", Deposited(amount=10)))
    await town.settle(balance)

    async with desk(town) as at:
        await ruled(at, "a")

    state, rows = await town.stored(balance, "a")
    assert (state.parked, state.applied, rows[()].values[1]) == (Reason.CONFLICT, 2, 1)
    await town.settle(balance)
    assert (await town.check(balance, deep=True)).verdict is Verdict.PARKED
    async with desk(town) as at:
        await ruled(at, "a")
    await town.settle(balance)
    assert (await town.check(balance, deep=True)).verdict is EQUAL


async def test_a_second_writer_before_a_gap_is_seen_before_the_gap_closes(town: Town) -> None:
    await town.publish(("a", Deposited(amount=1)))
    await town.settle(balance)
    await forge(town, "a", 3, Deposited(amount=100))
    await forge(town, "a", 1, Deposited(amount=50))
    await forge(town, "a", 2, Deposited(amount=10))
    await town.follow(balance)

    report = await town.check(balance, deep=True)
    state, _ = await town.stored(balance, "a")

    assert (state.parked, state.applied) == (Reason.CONFLICT, 1)
    assert (report.computed.verdict, report.stored.verdict) == (EQUAL, EQUAL)
    async with desk(town) as at:
        await ruled(at, "a")
    assert (await town.stored(balance, "a"))[1][()].values[1] == 111


async def test_a_foreign_record_is_dismissed_and_frees_its_bytes(town: Town) -> None:
    await town.deposit(keys=2, each=1)
    await town.settle(balance)
    await town.log.append(TOPIC, 0, [Outgoing(b"key", b"no frame", 0)])
    await town.settle(balance)
    async with town.replica.snapshot() as snapshot:
        [waiting] = await snapshot.waiting(balance.id)

    async with desk(town) as at:
        held = await at.foreign(0, waiting.offset)
        assert held is not None
        ruling = at.ruling(held, "a test wrote it")
        assert ruling is not None
        await at.dismiss([ruling], [waiting.size])
        assert await at.foreign(0, waiting.offset) is None

    assert [state.waiting_bytes for state in (await town.states(balance)).values()] == [0, 0]
    await town.settle(balance)
    report = await town.check(balance, deep=True)
    assert (report.verdict, len(report.amendments)) == (EQUAL, 1)


@pytest.mark.parametrize("projection", [balance, entries], ids=["one row per key", "several"])
async def test_bytes_that_do_not_decode_are_given_a_body_that_repairs_know_too(town: Town, projection: Projection[Any]) -> None:
    await town.publish(("a", Deposited(amount=1)))
    await town.mark()
    await forge(town, "a", 2, Deposited(amount=77), spoilt=b"?")
    await forge(town, "a", 3, Deposited(amount=10))
    await town.settle(projection)
    async with desk(town, projection) as at:
        await ruled(at, "a", Deposited(amount=5))
    _, rows = await town.stored(projection, "a")
    amount = {sub: row.values[-1] if projection.key else row.values[1] for sub, row in rows.items()}
    assert amount == ({(1,): 1, (2,): 5, (3,): 10} if projection.key else {(): 16})
    await town.damage(projection, "a", {max(rows): (*rows[max(rows)].values[:-1], 99)})
    [difference] = (await town.check(projection)).differences
    assert difference.explanation is not None
    assert "version 2 (bank.account.Deposited, replaced by a test" in difference.explanation.why

    done = await repair(projection, town.replica, town.log, town.registry, apply=True)

    assert [one.key for one in done.planned] == ["a"]
    assert (await town.stored(projection, "a"))[1] == rows


async def test_an_explanation_names_what_was_ruled_about_its_event(town: Town) -> None:
    await town.publish(*(("a", Deposited(amount=amount)) for amount in (1, BAD)))
    await town.settle(balance)
    async with desk(town) as at:
        await ruled(at, "a", Deposited(amount=5))
    await town.settle(balance)
    _, rows = await town.stored(balance, "a")
    await town.damage(balance, "a", {(): (*rows[()].values[:-1], 99)})

    [difference] = (await town.check(balance, afresh=True)).differences

    assert difference.explanation is not None
    assert difference.explanation.event == "bank.account.Deposited, replaced by a test"
    assert "not deterministic" not in difference.explanation.why


async def test_why_a_key_waits_is_told_anew_when_something_else_holds_it_up(town: Town) -> None:
    await town.publish(*(("a", Deposited(amount=amount)) for amount in (1, BAD, BAD, 10)))
    await town.settle(balance)
    async with desk(town) as at:
        await ruled(at, "a")

    async with town.replica.snapshot() as snapshot:
        told = {one.version: (one.reason, one.detail) for one in await snapshot.waiting(balance.id)}

    assert told == {3: (Reason.REJECTED, "ValueError: no such luck"), 4: (Reason.BEHIND, "")}


async def test_peers_that_were_ruled_apart_are_told_so_by_name(town: Town) -> None:
    await town.publish(*(("a", Deposited(amount=amount)) for amount in (1, BAD, 10)))
    await town.settle(balance)
    async with desk(town) as at:
        await ruled(at, "a")
    await town.settle(balance)

    found = await compare(balance, town.replica, town.peer, wait_s=0)
    assert found.verdict is Verdict.INCOMPARABLE
    assert "only here 'a' version 2" in found.why
    back = await compare(balance, town.peer, town.replica, wait_s=0)
    assert "only there 'a' version 2" in back.why

    async with desk(town, replica=town.peer) as at:
        await ruled(at, "a", why="said otherwise, and done the same")
    await town.settle(balance)
    assert (await compare(balance, town.replica, town.peer, wait_s=0)).verdict is EQUAL


async def test_what_does_not_let_its_key_go_on_is_refused(town: Town) -> None:
    await town.publish(*(("a", Deposited(amount=amount)) for amount in (1, BAD, BAD, 10)))
    await forge_gap(town)
    await town.settle(balance)

    async with desk(town) as at:
        with pytest.raises(AmendmentRefusedError, match="'a' version 2 does not go on by that: version 2: REJECTED"):
            await ruled(at, "a", Deposited(amount=BAD))
        with pytest.raises(AmendmentRefusedError, match="'a' version 3 does not go on by that: version 2: REJECTED"):
            await ruled(at, "a", version=3)
        with pytest.raises(AmendmentRefusedError, match="reason of 1 to 500 characters, seen 0"):
            await ruled(at, "a", why="")
        await ruled(at, "a")
        await ruled(at, "a")
        state, _ = await at.look("a")
        assert state is not None
        assert (state.applied, state.parked) == (4, None)
        state, held = await at.look("gap")
        assert state is not None
        assert head_of(state, [one.waiting for one in held]) is None
        with pytest.raises(AmendmentRefusedError, match="'gap' version 2 does not go on by that: version 1: GAP"):
            await ruled(at, "gap", version=2)
        assert (await at.look("nobody")) == (None, [])


async def forge_gap(town: Town) -> None:
    await town.relay.drain()
    await forge(town, "gap", 2, Deposited(amount=1))


async def test_of_two_who_rule_at_once_one_is_told_so_and_nothing_is_done_twice(town: Town) -> None:
    await town.publish(*(("a", Deposited(amount=amount)) for amount in (1, BAD, 10)))
    await town.settle(balance)

    async with desk(town) as first:
        _, held = await first.look("a")
        async with desk(town) as second:
            await ruled(second, "a", Deposited(amount=5))
        ruling = first.ruling(held[0], "I was first")
        assert ruling is not None
        with pytest.raises(AmendmentRefusedError, match=r"taken meanwhile|does not wait any more"):
            await first.treat(["a"], [ruling])

    assert [one.ruling for one in await amendments(town)] == [Ruling.REPLACED]
    await town.settle(balance)
    assert (await town.check(balance)).verdict is EQUAL


async def test_a_worker_at_work_loses_its_batch_and_goes_on_by_the_ruling(town: Town) -> None:
    await town.publish(("a", Deposited(amount=1)), ("a", Deposited(amount=BAD)))
    await town.mark()
    worker = town.worker(balance)
    while await worker.step():
        pass
    await town.publish(("a", Deposited(amount=10)), ("b", Deposited(amount=1)))
    await town.relay.drain()

    async with desk(town) as at:
        await ruled(at, "a")
    while await worker.step():
        pass
    await worker.leave()
    await town.settle(balance)

    assert (await town.stored(balance, "a"))[1][()].values[1] == 11
    assert (await town.check(balance, deep=True)).verdict is EQUAL


@dataclass(frozen=True)
class Latest:
    account: str
    amount: int


latest = Projection("latest", entity=TOPIC, row=Latest)
latest.copies(Deposited, key="account")


@pytest.mark.parametrize("told", [False, True], ids=["by columns", "by records"])
async def test_a_ruling_that_is_there_before_its_event_is_read_holds_on_either_way(village: Town, told: bool) -> None:
    """So it is where a replica goes back to an earlier mark and forward again."""
    await village.publish(*(("a", Deposited(amount=amount)) for amount in range(1, COLUMN_RECORDS_MIN + 2)))
    await village.mark()
    records = [record for p in range(PARTITIONS) for record in await _all(village, p) if record.key == b"a"]
    body = bytes(unframe(records[-1].value)[1])
    last = read_version(body)
    ruling = replace(amendment_of("a", 1), version=last, event=event_of("a", last, fingerprint(avro_schema(Deposited)), body))
    incarnation = (await village.log.describe(TOPIC)).incarnation or ""
    await village.replica.install(latest, partitions=PARTITIONS, incarnation=incarnation)
    fences = await village.replica.renew(latest, "a test", (), lease_s=30.0)
    state = (await village.states(latest))[0]
    plan = PartitionPlan(fence=fences[0], was=state, state=state, amendments=[ruling] if told else [])
    await village.replica.apply(latest, [plan])
    await village.replica.leave(latest, "a test", fences.values())

    await village.follow(latest, village.replica)

    _, rows = await village.stored(latest, "a")
    assert rows[()].values == ("a", last - 1 if told else last)
    report = await village.check(latest)
    assert (report.computed.verdict, report.stored.verdict) == (EQUAL, EQUAL)


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["skip", "edit", "retry", "forge", "follow", "publish"]),
        st.sampled_from("ab"),
        st.sampled_from([1, 10, BAD]),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(amounts=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([1, 3, BAD])), min_size=1, max_size=8), acts=ACTS)
def test_whatever_is_done_the_rows_are_the_fold_of_the_amended_history(
    amounts: list[tuple[str, int]], acts: list[tuple[str, str, int]]
) -> None:
    async def play() -> None:
        async with opened("memory:") as town:
            await town.publish(*((key, Deposited(amount=amount)) for key, amount in amounts))
            await town.settle(balance, town.replica)
            for act, key, amount in acts:
                await _act(town, act, key, amount)
            await town.settle(balance, town.replica)
            report = await town.check(balance, deep=True)
            assert (report.computed.verdict, report.stored.verdict) == (EQUAL, EQUAL), report
            assert report.delivered.verdict in (EQUAL, Verdict.PARKED, Verdict.UNPROVEN), report
            for one in "ab":
                await _in_order(town, one)

    asyncio.run(play())


async def _act(town: Town, act: str, key: str, amount: int) -> None:
    if act == "publish":
        await town.publish((key, Deposited(amount=amount)))
    elif act == "follow":
        await town.settle(balance, town.replica)
    elif act == "forge":
        async with town.replica.snapshot() as snapshot:
            state, _ = await snapshot.get(balance, key)
        if state is not None:
            await forge(town, key, state.head.version, Deposited(amount=amount + 1))
    else:
        async with desk(town) as at:
            state, held = await at.look(key)
            if act == "retry" or state is None or head_of(state, [one.waiting for one in held]) is None:
                await at.treat([key])
                return
            # An edit to what the reducer refuses, too, is refused; nothing else is.
            with suppress(AmendmentRefusedError) if amount == BAD else nullcontext():
                await ruled(
                    at, key, Deposited(amount=amount) if act == "edit" and state.parked is not Reason.CONFLICT else None
                )


async def _in_order(town: Town, key: str) -> None:
    """What the row sums up is what the events come to, one after the other, each as it was ruled."""
    async with town.replica.snapshot() as snapshot:
        state, rows = await snapshot.get(balance, key)
        rulings = {
            (one.key, one.version): one for one in (await snapshot.amendments(balance.id)).all if one.reason != "CONFLICT"
        }
    if state is None:
        return
    sums, events = 0, 0
    seen: set[int] = set()
    records = [record for p in (0, 1) for record in await _all(town, p) if record.key == key.encode()]
    decoder = Decoder(avro_schema(Deposited), Deposited)
    for record in records:
        body = bytes(unframe(record.value)[1])
        version = read_version(body)
        if version in seen or version > state.applied:
            continue
        seen.add(version)
        ruling = rulings.get((key, version))
        if ruling is not None and ruling.ruling is Ruling.SKIPPED:
            continue
        amount = decoder.decode_event(ruling.body if ruling else body).amount
        sums, events = sums + amount, events + 1
    assert [(row.values[1], row.values[3]) for row in rows] == ([(sums, events)] if events else [])


async def _all(town: Town, partition: int) -> list[Any]:
    end = (await town.log.describe(TOPIC)).bounds[partition][1]
    reader, found = town.log.reader(TOPIC), []
    while len(found) < end:
        found += await reader.read({partition: len(found)}, records_max=1_000, wait_s=0.1)
    await reader.close()
    return found
