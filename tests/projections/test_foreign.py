"""Topics that others write: numbered by key, applied once, parked and freed, checked as far as anything can be proven."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.projections.bank import Deposited
from tests.projections.crm import CUSTOMER, PING, TOPIC, VISIT, Crm, Customer, Visit, customer, customers, framed, visits

from truecopy_bus.errors import DatabaseUnavailableError
from truecopy_bus.fold import Head
from truecopy_bus.log import Reader
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.record import Outgoing, Record, TopicSpec, TopicState
from truecopy_bus.sql import connect
from truecopy_projections import ForeignTopic, MemoryReplica, Projection, ProjectionError, Replica, Report, Verdict
from truecopy_projections.bounded import BoundedWorker
from truecopy_projections.ordinals import ordinals
from truecopy_projections.repair import repair
from truecopy_projections.replicas import open_replica
from truecopy_projections.state import KeyState, Reason
from truecopy_schemas.control import CONTROL_HEADER, CONTROL_KEY, MARK, Mark, encode

PROVEN = (Verdict.UNPROVEN, Verdict.EQUAL, Verdict.EQUAL)
"""All that can be proven of a foreign topic."""


def claims(report: Report) -> tuple[Verdict, Verdict, Verdict]:
    return report.delivered.verdict, report.computed.verdict, report.stored.verdict


@pytest.fixture
async def crm(tmp_path: Path) -> Crm:
    found = Crm(tmp_path, MemoryReplica())
    await found.begin()
    return found


@pytest.fixture
async def stored(url: str, tmp_path: Path) -> AsyncIterator[Crm]:
    """The same with its replica in either database."""
    replica = await open_replica(url)
    found = Crm(tmp_path, replica)
    await found.begin()
    yield found
    await replica.close()


async def test_the_nth_record_of_a_key_is_its_version_n_and_all_but_the_delivery_is_proven(stored: Crm, url: str) -> None:
    for number in range(3):
        await stored.write(*((f"c{key}", customer(f"n{number}", key)) for key in range(9)), ("c1", framed(PING)))
    await stored.apply(records_max=5)
    await stored.write(("c1", customer("last", 10)))
    await stored.apply()

    assert await stored.rows("c1") == (7, [Customer("last", 13, 4)])
    assert await stored.rows("c8") == (3, [Customer("n2", 24, 3)])
    report = await stored.check()
    assert (claims(report), report.verdict) == (PROVEN, Verdict.UNPROVEN)
    assert "never came" in report.delivered.why
    assert report.count == 31

    behind = await connect(url)
    async with behind.transaction() as tx:
        await tx.fetch("UPDATE customers__v1 SET spent = 999 WHERE _key = 'c8'")
    await behind.close()
    report = await stored.check(deep=False)
    assert (report.stored.verdict, [one.key for one in report.differences]) == (Verdict.DIVERGED, ["c8"])
    await repair(customers, stored.replica, stored.log, stored.schemas(), apply=True)
    assert claims(await stored.check()) == PROVEN


async def test_a_projection_may_have_several_rows_for_a_key(stored: Crm) -> None:
    await stored.write(("c1", framed(VISIT, place="Rome")), ("c1", customer("Ada")), ("c1", framed(VISIT, place=None)))
    await stored.apply(visits)

    assert await stored.rows("c1", visits) == (3, [Visit(1, "Rome"), Visit(3, None)])
    await stored.write(("c1", None))
    await stored.apply(visits)
    assert await stored.rows("c1", visits) == (4, [])
    assert claims(await stored.check(visits)) == PROVEN


async def test_a_check_waits_for_the_replica_and_for_no_mark(crm: Crm) -> None:
    await crm.apply()
    await crm.write(("c1", customer("Ada")))
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        checking = tasks.create_task(crm.check(wait_s=60))
        await crm.apply()
    assert (claims(checking.result()), checking.result().count) == (PROVEN, 1)
    await crm.write(("c1", customer("Bob")))
    assert (await crm.check()).delivered.verdict is Verdict.BEHIND


def test_records_are_numbered_from_the_heads_on_and_once() -> None:
    heads = {"a": KeyState(Head(5, b"e", b"p"), 3, Reason.SCHEMA)}
    records = [Record(0, 7, b"a", b"", 0, ()), Record(0, 8, b"a", None, 0, ()), Record(0, 9, b"b", b"", 0, ())]
    records += [Record(0, 10, None, b"", 0, ()), Record(0, 11, b"a", b"", 0, ()), Record(1, 3, b"c", b"", 0, ())]

    assert ordinals(records, heads, {0: 0}) == {(0, 7): 6, (0, 8): 7, (0, 9): 1, (0, 11): 8, (1, 3): 1}
    assert ordinals(records, heads, {0: 9, 1: 4}) == {(0, 9): 1, (0, 11): 6}, "what lies below the position has its number"


class _Dying:
    """A replica whose database is lost at every second commit, by turns before it and after it."""

    def __init__(self, inner: Replica) -> None:
        self.inner, self.commits = inner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def apply(self, *planned: Any, **options: Any) -> frozenset[int]:
        self.commits += 1
        if self.commits % 4 == 2:
            raise DatabaseUnavailableError(database="dying", seen="lost before the commit")
        done: frozenset[int] = await self.inner.apply(*planned, **options)
        if self.commits % 4 == 0:
            raise DatabaseUnavailableError(database="dying", seen="lost after the commit")
        return done


async def test_a_record_is_numbered_once_however_often_its_worker_dies(crm: Crm) -> None:
    for number in range(20):
        await crm.write(*((f"c{key}", customer(f"n{number}")) for key in range(4)))
    dying = _Dying(crm.replica)
    mortal = Crm(crm.folder, dying, crm.log)  # type: ignore[arg-type]
    for _ in range(200):
        try:
            await mortal.apply(records_max=3)
            break
        except DatabaseUnavailableError:
            continue

    assert dying.commits > 20
    assert [await crm.rows(f"c{key}") for key in range(4)] == [(20, [Customer("n19", 20, 20)])] * 4
    assert claims(await crm.check()) == PROVEN


async def test_a_frozen_worker_numbers_nothing(crm: Crm) -> None:
    await crm.write(("c1", customer("Ada")))
    frozen = crm.worker()
    await frozen.step()
    await crm.replica.renew(customers, "other", (), lease_s=1.0, seize=True)
    await crm.write(("c1", customer("Bob")))
    await frozen.step()
    assert await crm.rows("c1") == (1, [Customer("Ada", 1, 1)])


async def test_a_schema_that_comes_late_parks_its_keys_until_it_is_there(tmp_path: Path) -> None:
    crm = Crm(tmp_path, MemoryReplica())
    await crm.begin(PING)
    await crm.write(("c1", framed(PING)), ("c1", customer("Ada")), ("c2", framed(PING)), ("c1", None), ("c1", customer("Bob")))
    await crm.apply()

    assert await crm.waiting() == [
        ("c1", 2, Reason.SCHEMA),
        ("c1", 3, Reason.BEHIND),
        ("c1", 4, Reason.BEHIND),
    ]
    assert ((await crm.rows("c1"))[0], (await crm.rows("c2"))[0]) == (1, 1)
    assert claims(await crm.check()) == (Verdict.PARKED, Verdict.EQUAL, Verdict.EQUAL)

    crm.tell(CUSTOMER)
    assert claims(await crm.check()) == (Verdict.PARKED, Verdict.EQUAL, Verdict.EQUAL), "known now, and not tried again yet"
    await crm.apply()
    assert (await crm.rows("c1"), await crm.waiting()) == ((4, [Customer("Bob", 1, 1)]), [])
    assert claims(await crm.check()) == PROVEN


async def test_a_null_value_removes_the_rows_of_its_key_which_may_come_back(crm: Crm) -> None:
    await crm.write(("c1", customer("Ada", 5)), ("c1", None), ("c2", None))
    await crm.apply()
    assert (await crm.rows("c1"), await crm.rows("c2")) == ((2, []), (1, []))

    await crm.write(("c1", customer("Ada", 1)))
    await crm.apply()
    assert await crm.rows("c1") == (3, [Customer("Ada", 1, 1)])
    assert claims(await crm.check()) == PROVEN


UNREADABLE = {
    "no frame": b"{}",
    "an empty value": b"",
    "a body too short": customer("Ada")[:-1],
    "a body too long": customer("Ada") + b"\0",
    "a schema that is none of a record": b"\0\0\0\0\x0a\x02",
    "a schema that refers to another": b"\0\0\0\0\x0b\x02",
    "a reducer that raises": customer("Eve"),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_what_cannot_be_read_or_reduced_parks_its_key_alone(crm: Crm, name: str) -> None:
    (crm.folder / "10.avsc").write_text('"string"')
    refers = {"type": "record", "name": "crm.A", "fields": [{"name": "b", "type": "crm.B"}]}
    (crm.folder / "11.avsc").write_text(str(refers).replace("'", '"'))
    await crm.write(("c1", customer("Ada")), ("c1", UNREADABLE[name]), ("c1", customer("Bob")), ("c2", customer("Cid")))
    await crm.apply()

    reason = Reason.REJECTED if "reducer" in name else Reason.UNDECODABLE
    assert await crm.waiting() == [("c1", 2, reason), ("c1", 3, Reason.BEHIND)]
    assert (await crm.rows("c1"), (await crm.rows("c2"))[0]) == ((1, [Customer("Ada", 1, 1)]), 1)
    assert claims(await crm.check()) == (Verdict.PARKED, Verdict.EQUAL, Verdict.EQUAL)


async def test_what_has_no_key_is_quarantined_and_counted(crm: Crm) -> None:
    await crm.write((None, customer("Ada")), ("a\0b", customer("Ada")), ("", customer("Ada")), (None, None))
    mark = Mark(incarnation="0" * 32, epoch=1, number=1, count=9, digest=bytes(32), digest_algorithm=1, at_ms=0)
    await crm.log.append(TOPIC, 0, [Outgoing(CONTROL_KEY, encode(mark), 0, ((CONTROL_HEADER, MARK),))])
    await crm.apply()

    assert await crm.waiting() == [(None, None, Reason.FOREIGN)] * 4
    assert sum(state.foreign for state in (await crm.states()).values()) == 4
    assert await crm.rows("") == (1, [Customer("Ada", 1, 1)])
    assert claims(await crm.check()) == PROVEN


async def test_a_replica_that_was_never_there_begins_where_the_topic_does(crm: Crm, caplog: pytest.LogCaptureFixture) -> None:
    await crm.write(*(("c1", customer(f"n{number}")) for number in range(5)))
    partition = sum(b"c1") % 2
    await crm.log.trim(TOPIC, partition, 3)
    with caplog.at_level(logging.WARNING):
        await crm.apply()

    assert await crm.rows("c1") == (3, [Customer("n4", 3, 3)])
    assert "begins at offset 3" in caplog.text
    report = await crm.check()
    assert claims(report) == (Verdict.UNPROVEN, Verdict.UNPROVEN, Verdict.EQUAL)
    assert "no longer begins" in report.computed.why


async def test_a_position_that_was_lost_halts_by_name(crm: Crm) -> None:
    await crm.write(("c1", customer("Ada")))
    await crm.apply()
    await crm.write(*(("c1", customer("Bob")) for _ in range(5)))
    partition = sum(b"c1") % 2
    await crm.log.trim(TOPIC, partition, 5)
    worker = crm.worker()
    await worker.step()
    await worker.leave()

    assert (await crm.states())[partition].halted.startswith("position lost")
    assert await crm.rows("c1") == (1, [Customer("Ada", 1, 1)])
    assert (await crm.check()).delivered.verdict is Verdict.INCOMPARABLE


async def test_a_topic_made_anew_halts_by_name(crm: Crm) -> None:
    await crm.write(("c1", customer("Ada")))
    await crm.apply()
    await crm.log.delete(TOPIC)
    await crm.log.create(TopicSpec(name=TOPIC, partitions=2))
    await crm.write(*(("c1", customer("Bob")) for _ in range(9)))
    worker = crm.worker()
    await worker.step()
    await worker.leave()

    assert {state.halted.partition(":")[0] for state in (await crm.states()).values()} == {"incarnation"}
    assert (await crm.check()).delivered.verdict is Verdict.INCOMPARABLE


class _Compacted:
    """A log that has lost some records of one partition, as compaction loses them."""

    def __init__(self, inner: MemoryLog, gone: Mapping[int, Sequence[int]]) -> None:
        self.inner, self.gone = inner, gone

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def reader(self, topic: str) -> Reader:
        inner, gone = self.inner.reader(topic), self.gone

        class Without:
            at: Mapping[int, int] = {}

            def passed(self) -> Mapping[int, int]:
                return self.at

            async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
                found = await inner.read(positions, records_max=records_max, wait_s=wait_s)
                self.at = {**positions, **{record.partition: record.offset + 1 for record in found}}
                return [record for record in found if record.offset not in gone.get(record.partition, ())]

            async def close(self) -> None:
                await inner.close()

        return Without()


async def test_a_topic_that_was_compacted_since_is_neither_proven_nor_accused(crm: Crm) -> None:
    partition = sum(b"c1") % 2
    await crm.write(*(("c1", customer(f"n{number}")) for number in range(5)))
    compacted = Crm(crm.folder, MemoryReplica(), _Compacted(crm.log, {partition: [1, 2]}))
    await compacted.apply()
    assert (await compacted.rows("c1"))[0] == 3
    assert claims(await compacted.check()) == PROVEN, "the holes were there when it was read"

    compacted.log = _Compacted(crm.log, {partition: [1, 2, 3]})
    report = await compacted.check()
    assert claims(report) == (Verdict.UNPROVEN, Verdict.UNPROVEN, Verdict.EQUAL)
    assert "compacted" in report.computed.why


async def test_offsets_without_a_record_at_the_end_leave_nobody_behind(crm: Crm) -> None:
    partition = sum(b"c1") % 2
    await crm.write(*(("c1", customer(f"n{number}")) for number in range(5)))
    crm.log = _Compacted(crm.log, {partition: [4, 5]})
    await crm.apply()

    assert (await crm.rows("c1"))[0] == 3
    assert ((await crm.states())[partition].position, claims(await crm.check())) == (6, PROVEN)


async def test_a_worker_up_to_a_point_does_not_pass_over_what_lies_beyond_it(crm: Crm) -> None:
    partition = sum(b"c1") % 2
    await crm.write(*(("c1", customer(f"n{number}")) for number in range(5)))
    crm.log = _Compacted(crm.log, {partition: [3]})
    worker = BoundedWorker(
        customers, crm.replica, crm.log, crm.schemas(), upto={partition: 4}, holder="w", wait_s=0.02, records_max=50_000
    )
    await worker.arrive(within_s=10.0)
    assert ((await crm.rows("c1"))[0], (await crm.states())[partition].position) == (2, 4)

    worker.upto[partition] = 6
    await worker.arrive(within_s=10.0)
    await worker.leave()
    assert (await crm.rows("c1"))[0] == 4


async def test_a_worker_that_tells_lag_tools_nothing_still_knows_topics_of_others(crm: Crm) -> None:
    class Holding:
        """A log that holds topics of others. MemoryLog makes a genesis in all."""

        def __getattr__(self, name: str) -> Any:
            return getattr(crm.log, name)

        async def foreign(self, topic: str) -> TopicState:
            return replace(await crm.log.describe(topic), incarnation="its own")

    given: dict[str, Any] = {"upto": {}, "holder": "w", "wait_s": 0.02, "records_max": 50_000}
    worker = BoundedWorker(customers, crm.replica, Holding(), crm.schemas(), **given)  # type: ignore[arg-type]
    await worker.step()
    await worker.leave()

    assert {state.incarnation for state in (await crm.states()).values()} == {"its own"}
    # From Python 3.12 on a protocol is not looked for behind __getattr__: what stands before the log must say it itself.
    assert "foreign" in type(worker._log).__dict__


async def test_a_key_in_two_partitions_is_not_proven(crm: Crm) -> None:
    await crm.write(("c1", customer("Ada")), partition=0)
    await crm.write(("c1", customer("Bob")), partition=1)
    await crm.apply()

    report = await crm.check()
    assert (report.computed.verdict, report.verdict is Verdict.EQUAL) == (Verdict.UNPROVEN, False)
    assert "'c1'" in report.computed.why


async def test_a_schema_that_was_forgotten_is_named_by_the_check(crm: Crm) -> None:
    await crm.write(("c1", customer("Ada")))
    await crm.apply()
    (crm.folder / "7.avsc").unlink()

    report = await crm.check()
    assert report.computed.verdict is Verdict.UNPROVEN
    assert "[7]" in report.computed.why


@pytest.mark.parametrize("altered", ["input_digest = row_digest", "count = count - 1", "count = count + 1"])
async def test_figures_that_are_not_the_logs_are_found(stored: Crm, url: str, altered: str) -> None:
    await stored.write(("c1", customer("Ada")), ("c1", customer("Bob")))
    await stored.apply()
    behind = await connect(url)
    async with behind.transaction() as tx:
        await tx.fetch(f"UPDATE truecopy_partitions SET {altered} WHERE count > 0")
    await behind.close()
    assert (await stored.check()).delivered.verdict is Verdict.DIVERGED


def test_a_projection_of_a_foreign_topic_reduces_records_and_no_events() -> None:
    foreign = Projection("customers", entity=ForeignTopic("crm"), row=Customer)
    ours = Projection("customers", entity="crm", row=Customer)
    with pytest.raises(ProjectionError, match="on_record"):
        foreign.on(Deposited)(lambda row, *_: row)
    with pytest.raises(ProjectionError, match="is for a ForeignTopic"):
        ours.on_record("crm.Customer")
    with pytest.raises(ProjectionError, match="needs touches"):
        Projection("visits", entity=ForeignTopic("crm"), row=Visit, key="number").on_record("crm.Visit")(lambda row, *_: row)
    with pytest.raises(ProjectionError, match="name"):
        ForeignTopic("")
    assert foreign.describe()["entity"] != ours.describe()["entity"]
