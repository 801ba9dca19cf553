"""Drives of the bounds that reads, checks and repairs keep: how long they wait, how often they look, how much they change."""

from argparse import ArgumentParser
from dataclasses import replace
from typing import Any

import pytest
from tests.limits.clock import Clock
from tests.limits.drives import BRIEF_S, default, drives
from tests.limits.history import TOPIC, copied, deposited, history
from tests.limits.metered import MeteredLog, MeteredReplica, steps
from tests.projections.test_certificate_form import issued

from truecopy_bus import limits as bus
from truecopy_bus.errors import LogUnavailableError, TopicMissingError
from truecopy_bus.registry import Registry
from truecopy_bus.token import Token
from truecopy_projections import evidence, limits, peers, reference
from truecopy_projections.check import check
from truecopy_projections.errors import InvalidCertificateError, NotReachedError, RepairRefusedError
from truecopy_projections.peers import compare, side_of
from truecopy_projections.quick import glance, quickly_stored
from truecopy_projections.reference import replay
from truecopy_projections.repair import repair
from truecopy_projections.scrub import scrub
from truecopy_projections.state import PartitionPlan, StoredRow
from truecopy_projections.testing.replica_plans import checkpoint_at
from truecopy_projections.verdicts import Verdict
from truecopy_projections.worker import Worker
from truecopy_services import reading
from truecopy_services.cli.repair import REPAIR
from truecopy_services.config import Settings
from truecopy_services.reading import ReplicaReader
from truecopy_services.service import Service

INCARNATION = "a" * 32


@drives("projections.READ_AT_LEAST_S")
@drives("projections.READ_POLL_S")
async def a_read_that_waits(clock: Clock) -> None:
    assert default(ReplicaReader, "wait_s") == Settings.model_fields["at_least_s"].default == limits.READ_AT_LEAST_S
    clock.rule(reading)
    replica = MeteredReplica(lambda: clock.now_s)
    await replica.install(copied, partitions=1, incarnation=INCARNATION)
    with pytest.raises(NotReachedError, match=f"after {limits.READ_AT_LEAST_S} s"):
        await ReplicaReader(copied, replica).get("k", at_least=Token(TOPIC, "k", 1))
    assert clock.now_s == limits.READ_AT_LEAST_S
    assert steps(replica.looks) == {limits.READ_POLL_S}


@drives("projections.CHECK_WAIT_S")
@drives("projections.CHECK_POLL_S")
async def a_check_that_waits_for_the_replica(clock: Clock) -> None:
    assert default(check, "wait_s") == Settings.model_fields["check_wait_s"].default == limits.CHECK_WAIT_S
    clock.rule(evidence, reference)
    log, registry = await history(deposited("k"))
    replica = MeteredReplica(lambda: clock.now_s)
    state = await log.describe(TOPIC)
    await replica.install(copied, partitions=1, incarnation=str(state.incarnation))

    found = await check(copied, replica, log, registry)
    assert found.verdict is Verdict.BEHIND
    assert clock.now_s == limits.CHECK_WAIT_S
    *waiting, last = replica.looks
    assert steps(waiting) == {limits.CHECK_POLL_S}
    assert waiting[-1] == last == limits.CHECK_WAIT_S


@drives("projections.CHECK_WAIT_S")
@drives("projections.CHECK_POLL_S")
async def a_check_that_waits_for_the_topic(clock: Clock) -> None:
    clock.rule(evidence)
    log = MeteredLog(lambda: clock.now_s)
    with pytest.raises(TopicMissingError):
        await check(copied, MeteredReplica(), log, Registry(log))
    assert clock.now_s == limits.CHECK_WAIT_S
    assert steps(log.looks(TOPIC)) == {limits.CHECK_POLL_S}


@drives("bus.READ_RECORDS_MAX")
@drives("bus.READ_WAIT_S")
@drives("projections.REPLAY_STALL_S")
async def a_fold_of_a_silent_log(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    clock.rule(reference)
    log, registry = await history(deposited("kl"))

    async def given_up_at() -> float:
        began = clock.now_s
        with pytest.raises(LogUnavailableError, match=f"no record for {limits.REPLAY_STALL_S:.0f} s"):
            await replay(copied, log, registry, topic=TOPIC, upto={0: 3})
        return clock.now_s - began

    log.reads = 0
    assert limits.REPLAY_STALL_S < await given_up_at() <= limits.REPLAY_STALL_S + bus.READ_WAIT_S
    asked = [one for one in log.asked if one.topic == TOPIC]
    assert {(one.records_max, one.wait_s) for one in asked} == {(bus.READ_RECORDS_MAX, bus.READ_WAIT_S)}

    # It is the silence that is bounded, not the fold: each record begins it anew.
    monkeypatch.setattr(reference, "READ_RECORDS_MAX", 1)
    log.reads, log.slow_s = 2, limits.REPLAY_STALL_S - BRIEF_S
    expected = 2 * log.slow_s + limits.REPLAY_STALL_S
    assert expected < await given_up_at() <= expected + bus.READ_WAIT_S


async def applied_from(replica: MeteredReplica, log: MeteredLog, registry: Registry) -> None:
    """Apply what is on the log, all of it."""
    worker = Worker(copied, replica, log, registry, wait_s=BRIEF_S)
    await worker.step()
    await worker.leave()


async def damaged(replica: MeteredReplica, rows: int, *, of: int = 5) -> tuple[MeteredLog, Registry]:
    """A log, and a replica that is right but for the amounts of so many of its rows."""
    log, registry = await history(deposited(f"k{each}" for each in range(of)))
    await applied_from(replica, log, registry)
    contents = replica._contents[copied.id]
    for key in list(contents.rows)[:rows]:
        partition, row = contents.rows[key][()]
        contents.rows[key][()] = partition, StoredRow((key, -1), row.hash)
    return log, registry


@drives("projections.REPAIR_LEASE_S")
async def the_lease_of_a_repair(clock: Clock) -> None:
    for seconds, is_taken in ((limits.REPAIR_LEASE_S - BRIEF_S, False), (limits.REPAIR_LEASE_S, True)):
        replica = MeteredReplica(clock.monotonic)
        log, registry = await damaged(replica, 1)
        got: list[Any] = []

        async def another(replica: MeteredReplica = replica, seconds: float = seconds, got: list[Any] = got) -> None:
            """While the repair gathers: so much time passes, and another holder comes."""
            replica.looking = None
            clock.forward(seconds)
            got += await replica.renew(copied, "!", (), lease_s=1.0)

        replica.looking = another
        if is_taken:
            with pytest.raises(RepairRefusedError, match="taken meanwhile"):
                await repair(copied, replica, log, registry, apply=True)
        else:
            assert len((await repair(copied, replica, log, registry, apply=True)).planned) == 1
        assert got == [0] * is_taken


@drives("projections.REPAIR_ROWS_MAX")
async def rows_of_a_repair() -> None:
    parser = ArgumentParser()
    REPAIR.arguments(parser)
    stated = [default(each, "rows_max") for each in (repair, Service.repair)] + [parser.get_default("rows_max")]
    assert stated == [limits.REPAIR_ROWS_MAX] * 3

    replica = MeteredReplica()
    log, registry = await damaged(replica, 3)
    with pytest.raises(RepairRefusedError, match="3 rows differ, the limit is 2"):
        await repair(copied, replica, log, registry, apply=True, rows_max=2)
    assert len((await repair(copied, replica, log, registry, apply=True, rows_max=3)).planned) == 3


@drives("projections.SCRUB_ROWS_NAMED_MAX")
async def rows_that_a_scrub_names() -> None:
    replica = MeteredReplica(lambda: 0.0)
    await replica.install(copied, partitions=1, incarnation=INCARNATION)
    fences = await replica.renew(copied, "one", (), lease_s=1.0)
    async with replica.snapshot() as snapshot:
        was = (await snapshot.states(copied.id))[0]
    puts = {(f"k{each}", ()): StoredRow((f"k{each}", each), b"") for each in range(limits.SCRUB_ROWS_NAMED_MAX + 1)}
    await replica.apply(copied, [PartitionPlan(fence=fences[0], was=was, state=replace(was, position=1), puts=puts)])

    found = await scrub(copied, replica)

    assert found.rows == limits.SCRUB_ROWS_NAMED_MAX + 1
    assert sum(len(one.rows) for one in found.findings) == limits.SCRUB_ROWS_NAMED_MAX


@drives("projections.BECAUSE_CHARS_MAX")
def the_reason_of_a_certificate() -> None:
    assert issued(because="x" * limits.BECAUSE_CHARS_MAX).is_signed()
    with pytest.raises(InvalidCertificateError, match=f"at most {limits.BECAUSE_CHARS_MAX}"):
        issued(because="x" * (limits.BECAUSE_CHARS_MAX + 1))


@drives("projections.REPAIR_ROWS_FREE")
@drives("projections.REPAIR_SHARE_MAX")
async def the_share_of_a_repair() -> None:
    parser = ArgumentParser()
    REPAIR.arguments(parser)
    stated = [default(each, "share_max") for each in (repair, Service.repair)] + [parser.get_default("share_max")]
    assert stated == [limits.REPAIR_SHARE_MAX] * 3

    free = limits.REPAIR_ROWS_FREE
    many = round(free / limits.REPAIR_SHARE_MAX)
    for rows, wrong, share, is_refused in (
        (2 * free, free, limits.REPAIR_SHARE_MAX, False),
        (2 * free, free + 1, limits.REPAIR_SHARE_MAX, True),
        (many + 10, free + 1, limits.REPAIR_SHARE_MAX, False),
        (many + 10, free + 2, limits.REPAIR_SHARE_MAX, True),
        (2 * free, free + 1, 1.0, False),
    ):
        replica = MeteredReplica()
        log, registry = await damaged(replica, wrong, of=rows)
        if is_refused:
            with pytest.raises(RepairRefusedError, match=f"{wrong} of {rows} rows differ"):
                await repair(copied, replica, log, registry, share_max=share)
        else:
            assert len((await repair(copied, replica, log, registry, share_max=share)).planned) == wrong


@drives("projections.EXPLAINED_KEYS_MAX")
async def the_keys_that_are_explained() -> None:
    replica = MeteredReplica()
    log, registry = await damaged(replica, limits.EXPLAINED_KEYS_MAX + 1, of=limits.EXPLAINED_KEYS_MAX + 1)
    found = (await check(copied, replica, log, registry, wait_s=0)).differences
    assert len(found) == limits.EXPLAINED_KEYS_MAX + 1
    assert sum(one.explanation is not None for one in found) == limits.EXPLAINED_KEYS_MAX


@drives("projections.SCRUB_AGE_MAX_S")
def the_age_of_a_scrub() -> None:
    at_ms = int(limits.SCRUB_AGE_MAX_S * 1000)
    assert [quickly_stored(0, now_ms).verdict for now_ms in (at_ms, at_ms + 1)] == [Verdict.EQUAL, Verdict.UNPROVEN]


@drives("projections.PEER_WAIT_S")
async def a_comparison_that_waits_for_a_common_mark(clock: Clock) -> None:
    assert default(compare, "wait_s") == limits.PEER_WAIT_S
    clock.rule(peers)
    log, registry = await history(deposited("k"))
    replica, peer = MeteredReplica(lambda: clock.now_s), MeteredReplica()
    await applied_from(replica, log, registry)
    await peer.install(copied, partitions=1, incarnation=str((await log.describe(TOPIC)).incarnation))

    found = await compare(copied, replica, peer)
    assert found.verdict is Verdict.UNPROVEN
    assert clock.now_s == limits.PEER_WAIT_S
    assert steps(replica.looks[-5:]) == {limits.CHECK_POLL_S}


@drives("projections.MARKS_LOOKED_MAX")
async def the_marks_in_which_a_common_one_is_looked_for() -> None:
    log, registry = await history(deposited("k"))
    replica = MeteredReplica()
    await applied_from(replica, log, registry)
    async with replica.snapshot() as snapshot:
        state = (await snapshot.states(copied.id))[0]
    fences = await replica.renew(copied, "!", (), lease_s=1.0, seize=True)
    marks = [checkpoint_at(0, state.position + at) for at in range(limits.MARKS_LOOKED_MAX + 1)]
    await replica.apply(copied, [PartitionPlan(fence=fences[0], was=state, state=state, checkpoints=marks)])

    seen = await glance(copied, replica, log, topic=TOPIC, wait_s=0)
    assert list(seen.found.checkpoints) == marks[1:]
    assert list((await side_of(copied, replica)).checkpoints) == marks[1:]
