"""The plan of a batch: verdicts, parking and its end, digests at marks, independence of where batches end."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.projections.bank import Balance, Closed, Deposited, balance, entries, reading, record

from truecopy_bus.leases import Fence
from truecopy_bus.record import Record
from truecopy_projections.arrival import Arrival
from truecopy_projections.digest import row_hash, total
from truecopy_projections.limits import KEYS_PARKED_MAX
from truecopy_projections.plan import plan, wanted
from truecopy_projections.projection import Address, Projection
from truecopy_projections.state import (
    KeyState,
    Known,
    MarkVerdict,
    PartitionPlan,
    PartitionState,
    Reason,
    StoredRow,
    Waiting,
)
from truecopy_schemas.control import CONTROL_HEADER, CONTROL_KEY, MARK, Mark
from truecopy_schemas.control import encode as encode_control

INCARNATION = "0" * 31 + "1"
FENCE = Fence(partition=0, epoch=1, claim=b"c" * 16)


class Replica:
    """What a replica does with plans, in twenty lines of dicts: an oracle for the adapters too."""

    def __init__(self, projection: Projection[Any]) -> None:
        self.projection, self.reading = projection, reading(projection)
        self.state = PartitionState(partition=0, incarnation=INCARNATION)
        self.keys: dict[str, KeyState] = {}
        self.rows: dict[Address, StoredRow] = {}
        self.waiting: dict[int, Waiting] = {}
        self.plans: list[PartitionPlan] = []

    def take(self, *records: Record, retry: Sequence[str] = (), refused: dict[str, str] | None = None) -> PartitionPlan:
        items = self.reading.items(records)
        asked = wanted(items)
        keys = {key: self.keys[key] for key in {*asked.keys, *retry} if key in self.keys}
        waiting = {k: [w for w in self.waiting.values() if w.key == k] for k, s in keys.items() if s.parked}
        revived = {k: [i for i in self._again(some) if type(i) is Arrival] for k, some in waiting.items()}
        known = Known(keys=keys, rows=self.rows, waiting=waiting)
        (made,) = plan(
            self.projection, {0: self.state}, {0: FENCE}, items, known, revived=revived, retry=retry, refused=refused
        )
        assert made.was == self.state
        self.state = made.state
        self.keys |= made.keys
        self.rows |= made.puts
        for address in made.drops:
            del self.rows[address]
        self.waiting |= {w.offset: w for w in made.waits}
        for offset in made.freed:
            del self.waiting[offset]
        self.plans.append(made)
        self.verify()
        return made

    def verify(self) -> None:
        """Pair assertion: the digests kept by moves equal those of all rows hashed anew; tallies equal what waits."""
        hashes = [row_hash(self.projection.id, key, row.values) for (key, _), row in self.rows.items()]
        assert hashes == [row.hash for row in self.rows.values()]
        assert self.state.row_digest == sum(map(int.from_bytes, hashes)) % (1 << 256) == total(self.state.rows)
        assert self.state.parked == sum(state.parked is not None for state in self.keys.values())
        assert self.state.waiting_bytes == sum(w.size for w in self.waiting.values())

    def _again(self, waiting: Sequence[Waiting]) -> list[Any]:
        return self.reading.items(
            [Record(w.partition, w.offset, w.record_key, w.record_value, w.timestamp_ms, w.headers) for w in waiting]
        )

    def values(self, key: str) -> list[tuple[Any, ...]]:
        return [row.values for (k, _), row in sorted(self.rows.items()) if k == key]


def mark(offset: int, count: int, digest: int, *, epoch: int = 1, incarnation: str = INCARNATION) -> Record:
    said = Mark(
        incarnation=incarnation,
        epoch=epoch,
        number=offset,
        count=count,
        digest=digest.to_bytes(32),
        digest_algorithm=1,
        at_ms=0,
    )
    return Record(0, offset, CONTROL_KEY, encode_control(said), 0, ((CONTROL_HEADER, MARK),))


def deposits(key: str, *amounts: int, offset: int = 0, version: int = 1) -> list[Record]:
    return [record(offset + i, key, version + i, Deposited(amount=a)) for i, a in enumerate(amounts)]


def test_events_of_a_key_apply_in_order() -> None:
    replica = Replica(balance)

    made = replica.take(*deposits("a", 5, 7))

    assert made.applied == 2
    assert replica.state.position == 2
    assert replica.values("a")[0][1] == 12


def test_a_duplicate_is_counted_and_changes_nothing() -> None:
    replica = Replica(balance)
    replica.take(*deposits("a", 5, 7))

    made = replica.take(*deposits("a", 5, 7, offset=2))

    assert (made.applied, replica.state.duplicates, replica.state.count) == (0, 2, 2)
    assert not made.puts


def test_the_latest_version_with_other_content_is_a_conflict_that_parks_its_key() -> None:
    replica = Replica(balance)
    replica.take(*deposits("a", 5))

    replica.take(record(1, "a", 1, Deposited(amount=6)), *deposits("b", 1, offset=2), *deposits("a", 9, offset=3, version=2))

    assert replica.keys["a"].parked is Reason.CONFLICT
    assert (replica.values("a")[0][1], replica.values("b")[0][1]) == (5, 1)
    assert [w.reason for w in replica.waiting.values()] == [Reason.CONFLICT, Reason.BEHIND]
    assert replica.state.count == 3


@pytest.mark.parametrize("batches", [[[0, 1, 2]], [[0], [1], [2]], [[0, 1], [2]]], ids=["one batch", "three", "two"])
def test_a_gap_parks_the_key_until_the_missing_version_comes(batches: list[list[int]]) -> None:
    replica = Replica(balance)
    late = [
        record(0, "a", 3, Deposited(amount=3)),
        record(1, "a", 2, Deposited(amount=2)),
        record(2, "a", 1, Deposited(amount=1)),
    ]

    for batch in batches:
        replica.take(*(late[i] for i in batch))

    assert replica.keys["a"].parked is None
    assert replica.values("a")[0][1] == 6
    assert (replica.state.count, replica.state.uncounted, replica.state.waiting_bytes) == (3, 0, 0)
    assert not replica.waiting


def test_a_second_gap_closes_in_the_batch_that_closes_the_first() -> None:
    replica = Replica(balance)
    replica.take(*(record(at, "a", version, Deposited(amount=version)) for at, version in enumerate((1, 3, 5))))

    replica.take(*(record(at, "a", version, Deposited(amount=version)) for at, version in ((3, 2), (4, 4))))

    assert (replica.keys["a"].applied, replica.keys["a"].parked) == (5, None)
    assert not replica.waiting


def test_a_retry_leaves_a_partition_standing_that_stands_still_for_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = Replica(balance)
    replica.take(*deposits("a", 5, 666, 7))
    replica.state = replace(replica.state, halted="incarnation: another")
    monkeypatch.setattr("tests.projections.bank.refused", set())

    made = replica.take(retry=["a"])

    assert (made.applied, made.state.halted) == (2, "incarnation: another")


def test_a_gap_that_stays_makes_the_mark_say_that_something_is_missing() -> None:
    replica = Replica(balance)
    whole = Replica(balance)
    whole.take(*deposits("a", 1, 2, 3))

    made = replica.take(deposits("a", 1)[0], record(1, "a", 3, Deposited(amount=3)), mark(2, 3, whole.state.input_digest))

    assert made.checkpoints[0].verdict is MarkVerdict.DIVERGED


def test_poison_parks_its_key_counts_and_flows_on() -> None:
    replica, whole = Replica(balance), Replica(balance)
    events = [*deposits("a", 1, 666, 2), *deposits("b", 4, offset=3)]
    whole.take(*deposits("b", 4), *deposits("a", 1, 666, 2, offset=1))

    replica.take(*events)

    assert replica.keys["a"] == whole.keys["a"]
    assert (replica.keys["a"].applied, replica.keys["a"].head.version) == (1, 3)
    assert replica.values("b")[0][1] == 4
    assert [w.reason for w in replica.waiting.values()] == [Reason.REJECTED, Reason.BEHIND]
    assert "no such luck" in replica.waiting[1].detail
    assert (replica.state.count, replica.state.uncounted) == (4, 0)
    assert replica.state.input_digest == whole.state.input_digest


def test_an_undecodable_body_is_delivered_and_parks_its_key() -> None:
    replica = Replica(balance)
    good = deposits("a", 1, 2)
    broken = good[1]._replace(value=(good[1].value or b"") + b"\x01")

    replica.take(good[0], broken)

    assert replica.keys["a"].parked is Reason.UNDECODABLE
    assert replica.state.count == 2


def test_an_unknown_schema_waits_and_goes_on_when_the_schema_is_learnt() -> None:
    replica = Replica(balance)
    known = replica.reading
    replica.reading = type(known)(balance)

    replica.take(*deposits("a", 1, 2))

    assert replica.keys["a"].parked is Reason.SCHEMA
    assert (replica.state.count, replica.state.uncounted) == (0, 2)
    replica.reading = known
    replica.take(retry=["a"])
    assert replica.values("a")[0][1] == 3
    assert (replica.state.count, replica.state.uncounted, replica.state.parked) == (2, 0, 0)


def test_a_copy_of_what_waits_for_its_schema_is_a_second_one_and_counted_once() -> None:
    replica = Replica(balance)
    known = replica.reading
    replica.reading = type(known)(balance)
    replica.take(*deposits("a", 1, 2))

    replica.reading = known
    replica.take(*deposits("a", 1, 2, offset=2))

    assert (replica.state.count, replica.state.uncounted, replica.state.duplicates) == (2, 0, 2)
    replica.take(retry=["a"])
    assert replica.values("a")[0][1] == 3
    assert (replica.state.count, replica.state.uncounted, replica.state.parked, replica.waiting) == (2, 0, 0, {})


def test_what_only_waits_for_its_schema_makes_a_mark_say_parked_not_diverged() -> None:
    replica, whole = Replica(balance), Replica(balance)
    whole.take(*deposits("a", 1, 2))
    replica.reading = type(replica.reading)(balance)

    made = replica.take(*deposits("a", 1, 2), mark(2, 2, whole.state.input_digest))

    assert made.checkpoints[0].verdict is MarkVerdict.PARKED


def test_a_refused_key_waits_whole_and_the_rest_of_the_batch_applies() -> None:
    replica = Replica(balance)

    replica.take(*deposits("a", 1, 2), *deposits("b", 4, offset=2), refused={"a": "check violated"})

    assert replica.keys["a"].parked is Reason.REFUSED
    assert replica.values("a") == []
    assert replica.values("b")[0][1] == 4
    replica.take(retry=["a"])
    assert replica.values("a")[0][1] == 3
    assert not replica.waiting


def test_a_rotten_row_is_not_used_and_parks_its_key() -> None:
    replica = Replica(balance)
    replica.take(*deposits("a", 1))
    (address, row), *_ = replica.rows.items()
    replica.rows[address] = StoredRow(("a", 2, *row.values[2:]), row.hash)

    items = replica.reading.items(deposits("a", 5, offset=1, version=2))
    (made,) = plan(balance, {0: replica.state}, {0: FENCE}, items, Known(keys=replica.keys, rows=replica.rows))

    assert made.keys["a"].parked is Reason.ROTTEN
    assert not made.puts


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, b"x"),
        (b"a", None),
        (b"a", b""),
        (b"a", b"\xff\xfe not framed"),
        (b"\xff", b"\0\0\0\0\x10\x02"),
        (b"a\0b", b"\0\0\0\0\x10\x02"),
        (b"k" * 5_000, b"\0\0\0\0\x10\x02"),
        (b"a", b"\0\0\0\0\x10"),
    ],
    ids=["null key", "null value", "empty value", "no frame", "key is not UTF-8", "U+0000 in the key", "a huge key", "no body"],
)
def test_a_foreign_record_is_quarantined_and_parks_nobody(key: bytes | None, value: bytes | None) -> None:
    replica = Replica(balance)

    replica.take(*deposits("a", 1), Record(0, 1, key, value, 0, (("h", b"v"),)), *deposits("a", 2, offset=2, version=2))

    assert replica.values("a")[0][1] == 3
    assert (replica.state.foreign, replica.state.parked) == (1, 0)
    waiting = replica.waiting[1]
    assert (waiting.record_key, waiting.record_value, waiting.headers) == (key, value, (("h", b"v"),))
    assert waiting.reason is Reason.FOREIGN


MARKS = [
    pytest.param(2, 0, 1, MarkVerdict.EQUAL, id="same count and digest"),
    pytest.param(2, 1, 1, MarkVerdict.DIVERGED, id="same count, other digest"),
    pytest.param(3, 0, 1, MarkVerdict.DIVERGED, id="the owner has more"),
    pytest.param(1, 1, 1, MarkVerdict.LATE, id="the owner had less"),
    pytest.param(2, 1, 0, MarkVerdict.SUPERSEDED, id="an older relay"),
]


@pytest.mark.parametrize(("count", "off", "epoch", "verdict"), MARKS)
def test_a_mark_is_judged_by_its_count(count: int, off: int, epoch: int, verdict: MarkVerdict) -> None:
    replica, whole = Replica(balance), Replica(balance)
    whole.take(*deposits("a", 1, 2))
    digest = whole.state.input_digest
    replica.take(mark(0, 0, 0))

    made = replica.take(*deposits("a", 1, 2, offset=1), mark(3, count, digest + off, epoch=epoch))

    assert made.checkpoints[0].verdict is verdict


def test_every_mark_in_a_batch_has_the_row_digest_of_its_own_place() -> None:
    one, all_at_once = Replica(balance), Replica(balance)
    records = [deposits("a", 1)[0], mark(1, 1, 0), *deposits("a", 2, offset=2, version=2), mark(3, 2, 0)]

    made = all_at_once.take(*records)
    singly = [one.take(record) for record in records]

    assert [c.row_digest for c in made.checkpoints] == [c.row_digest for p in singly for c in p.checkpoints]
    assert len({c.row_digest for c in made.checkpoints}) == 2


def test_a_mark_of_another_incarnation_halts_and_applies_nothing_of_the_batch() -> None:
    replica = Replica(balance)

    made = replica.take(*deposits("a", 1), mark(1, 1, 0, incarnation="f" * 32))

    assert made.state == replace(made.was, halted=made.state.halted)
    assert "f" * 32 in made.state.halted
    assert not made.puts


def test_too_many_parked_keys_halt_the_partition() -> None:
    replica = Replica(balance)

    made = replica.take(*(record(i, f"k{i}", 1, Deposited(amount=666)) for i in range(KEYS_PARKED_MAX + 1)))

    assert made.state.halted.startswith("parked")


def test_a_delete_removes_the_rows_and_the_versions_go_on() -> None:
    for projection in (balance, entries):
        replica = Replica(projection)
        replica.take(*deposits("a", 1, 2), record(2, "a", 3, Closed()))

        assert replica.values("a") == []
        assert replica.state.row_digest == 0
        replica.take(*deposits("a", 9, offset=3, version=4))
        assert len(replica.values("a")) == 1


def test_a_key_may_have_several_rows() -> None:
    replica = Replica(entries)

    replica.take(*deposits("a", 5, 6), *deposits("b", 7, offset=2))

    assert replica.values("a") == [("a", 1, 5), ("a", 2, 6)]
    assert replica.values("b") == [("b", 1, 7)]


KEYS = ("a", "b", "c")
STEPS = st.lists(
    st.tuples(st.sampled_from(KEYS), st.one_of(st.integers(-50, 50), st.just(666), st.none())), min_size=1, max_size=25
)


@given(steps=STEPS, data=st.data())
def test_rows_and_digests_do_not_depend_on_where_batches_end(steps: list[tuple[str, int | None]], data: st.DataObject) -> None:
    versions = dict.fromkeys(KEYS, 0)
    records: list[Record] = []
    for key, amount in steps:
        versions[key] += 1
        event = Closed() if amount is None else Deposited(amount=amount)
        records.append(record(len(records), key, versions[key], event))
        if data.draw(st.booleans(), label="redelivered"):
            again = data.draw(st.sampled_from(records), label="which")
            records.append(again._replace(offset=len(records)))
    for projection in (balance, entries):
        whole, parts = Replica(projection), Replica(projection)
        whole.take(*records)
        left = records
        while left:
            size = data.draw(st.integers(1, len(left)), label="batch")
            parts.take(*left[:size])
            left = left[size:]

        assert (parts.state, parts.keys, parts.rows, parts.waiting) == (whole.state, whole.keys, whole.rows, whole.waiting)


@given(order=st.permutations(range(6)))
def test_any_order_of_delivery_ends_in_the_same_replica(order: list[int]) -> None:
    in_order = [*deposits("a", 1, 2, 3), *deposits("b", 4, 5, 6, offset=3)]
    whole, shuffled = Replica(balance), Replica(balance)
    whole.take(*in_order)

    for offset, index in enumerate(order):
        shuffled.take(in_order[index]._replace(offset=offset))

    assert {k: s.head for k, s in shuffled.keys.items()} == {k: s.head for k, s in whole.keys.items()}
    assert shuffled.rows == whole.rows
    assert (shuffled.state.input_digest, shuffled.state.count) == (whole.state.input_digest, 6)
    assert (shuffled.state.uncounted, shuffled.state.parked) == (0, 0)


@pytest.mark.parametrize("raised", [SystemExit(3), asyncio.CancelledError()], ids=["exit", "cancelled"])
def test_a_reducer_may_not_end_the_worker(raised: BaseException) -> None:
    hostile: Projection[Any] = Projection("balance", entity="bank.account", row=Balance)

    @hostile.on(Deposited)
    def reduce(row: Balance | None, event: Deposited, _: Any) -> Balance | None:
        if event.amount == 1:
            raise raised
        return row

    replica = Replica(hostile)
    replica.take(*deposits("a", 1), *deposits("b", 2, offset=1))

    assert replica.keys["a"].parked is Reason.REJECTED
    assert replica.keys["b"].parked is None
