"""A plan by columns is the plan by records, digest for digest, or it is none."""

import random
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from tests.schemas.test_blocks import Flat, Grade, flat

from truecopy_bus.fold import UNKNOWN, Head, Verdict, fold, follow
from truecopy_bus.leases import Fence
from truecopy_bus.record import Record
from truecopy_projections.arrival import Reading
from truecopy_projections.columnar import Columnar
from truecopy_projections.columnar_plan import Latest, plan_columns
from truecopy_projections.columns import encode as canonical
from truecopy_projections.columns import encoded, encoded_times
from truecopy_projections.digest import row_hash, row_hashes
from truecopy_projections.plan import plan
from truecopy_projections.projection import Projection
from truecopy_projections.state import KeyState, Known, PartitionPlan, PartitionState, StoredRow
from truecopy_schemas import Event
from truecopy_schemas.avro_schema import avro_schema, fingerprint
from truecopy_schemas.codec import encode
from truecopy_schemas.control import CONTROL_HEADER, CONTROL_KEY, MARK, Mark
from truecopy_schemas.control import encode as encode_control

INCARNATION = "0" * 31 + "1"
FENCES = {p: Fence(partition=p, epoch=1, claim=b"c" * 16) for p in (0, 1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Flat's fields with `key` before them, in another order, the money wider, and one that Flat says nothing of."""

    key: str
    grade: Grade
    text: str | None
    number: int
    real: float
    yes: bool
    raw: bytes
    money: Annotated[Decimal, Field(max_digits=20, decimal_places=2)]
    wide: Annotated[Decimal, Field(max_digits=38, decimal_places=9)]
    day: date
    at: datetime
    id: UUID
    text_or: str | None
    number_or: int | None
    real_or: float | None
    yes_or: bool | None
    raw_or: bytes | None
    money_or: Annotated[Decimal, Field(max_digits=12, decimal_places=2)] | None
    day_or: date | None
    at_or: datetime | None
    id_or: UUID | None
    grade_or: Grade | None


class Gone(Event, entity="blocks.flat", deletes=True):
    """Ends its key."""


class Noted(Event, entity="blocks.flat"):
    """Nothing that the projection handles."""

    note: str


copied = Projection("copied", entity="blocks.flat", row=Row)
copied.copies(Flat, key="key")
CLASSES: dict[int, type[Event]] = {1: Flat, 2: Gone, 3: Noted}


def reading() -> Reading:
    found = Reading(copied)
    for schema_id, cls in CLASSES.items():
        found.learn(schema_id, fingerprint=fingerprint(avro_schema(cls)), schema=avro_schema(cls))
    return found


def framed(schema_id: int, body: bytes) -> bytes:
    return b"\0" + schema_id.to_bytes(4) + body


class World:
    """A replica as two dicts, and a log that is written with it."""

    def __init__(self, seed: int, *, kinds: str) -> None:
        self.dice = random.Random(seed)
        self.kinds = kinds
        self.keys: dict[str, KeyState] = {}
        self.rows: dict[str, StoredRow] = {}
        self.states = {p: PartitionState(partition=p, incarnation=INCARNATION) for p in FENCES}
        self.versions: dict[str, int] = {}
        self.offsets = dict.fromkeys(FENCES, 0)

    def record(self, partition: int, key: bytes | None, value: bytes | None, **more: Any) -> Record:
        offset = self.offsets[partition]
        self.offsets[partition] += 1
        return Record(partition, offset, key, value, 0, more.get("headers", ()))

    def event(self) -> Record:
        number = self.dice.randrange(12)
        key = f"ké{number}"
        version = self.versions[key] = self.versions.get(key, 0) + 1
        event = flat(self.dice)
        event = event.model_copy(update={"text": event.text.replace("\0", "0"), "text_or": event.text_or and "t"})
        kind = self.dice.choice(self.kinds)
        schema_id, said = {"f": (1, event), "g": (2, Gone()), "n": (3, Noted(note="n"))}[kind]
        return self.record(number % 2, key.encode(), framed(schema_id, encode(said, version=version)))

    def mark(self) -> Record:
        partition = self.dice.randrange(2)
        count = self.dice.randrange(40)
        mark = Mark(
            incarnation=INCARNATION,
            epoch=self.dice.randrange(3),
            number=1,
            count=count,
            digest=b"d" * 32,
            digest_algorithm=1,
            at_ms=0,
        )
        headers = ((CONTROL_HEADER, MARK),)
        return self.record(partition, CONTROL_KEY, encode_control(mark), headers=headers)

    def batch(self, size: int) -> list[Record]:
        return [self.mark() if self.dice.random() < 0.1 else self.event() for _ in range(size)]

    def known(self) -> Known:
        rows = {(key, ()): row for key, row in self.rows.items()}
        return Known(keys=self.keys, rows=rows, hashes={key: row.hash for key, row in self.rows.items()})

    def latest(self) -> dict[str, Latest]:
        found = {key: (0, b"", row.hash) for key, row in self.rows.items()}
        for key, state in self.keys.items():
            found[key] = (state.head.version, state.head.element, found[key][2] if key in found else b"")
        return found

    def by_records(self, records: list[Record]) -> list[PartitionPlan]:
        return plan(copied, self.states, FENCES, reading().items(records), self.known())

    def by_columns(self, records: list[Record]) -> list[PartitionPlan] | None:
        batch = Columnar(copied, reading()).read(records)
        planned = batch and plan_columns(copied, self.states, FENCES, batch, self.latest())
        if not planned:
            return None
        after = {key: state for one in planned.plans for key, state in one.expanded().keys.items()}
        assert {key: (s.head.version, s.head.element) for key, s in after.items()} == {
            key: latest[:2] for key, latest in planned.latest.items()
        }
        return [one.expanded() for one in planned.plans]

    def apply(self, plans: list[PartitionPlan]) -> None:
        for one in plans:
            self.states[one.was.partition] = one.state
            self.keys |= one.keys
            for key, _ in one.drops:
                del self.rows[key]
            self.rows |= {key: row for (key, _), row in one.puts.items()}


@pytest.mark.parametrize("kinds", ["f", "g", "n", "ffffg", "ffffn", "fgn"])
@pytest.mark.parametrize("seed", range(4))
def test_both_ways_make_the_same_plans_batch_after_batch(seed: int, kinds: str) -> None:
    world = World(seed, kinds=kinds)
    for size in (1, 7, 60, 2, 40):
        records = world.batch(size)
        plans = world.by_records(records)
        assert world.by_columns(records) == plans
        world.apply(plans)
    assert not any(state.parked for state in world.states.values())


def twisted(world: World, how: str) -> list[Record]:
    """A batch in which something is out of the ordinary."""
    first, second = world.event(), world.event()
    if how == "a duplicate":
        return [first, second, world.record(first.partition, first.key, first.value)]
    if how == "a gap":
        world.versions = {key: version + 1 for key, version in world.versions.items()}
        return [first, second, *(world.event() for _ in range(40))]
    if how == "a null value":
        return [first, world.record(0, b"k", None)]
    if how == "a null key":
        return [first, world.record(0, None, first.value)]
    if how == "a key with U+0000":
        return [first, world.record(0, b"a\0b", framed(1, encode(flat(random.Random(1)), version=1)))]
    if how == "a key that is no text":
        return [first, world.record(0, b"\xff", framed(1, encode(flat(random.Random(1)), version=1)))]
    if how == "no frame":
        return [first, world.record(0, b"k", b"\1")]
    if how == "an unknown schema":
        return [first, world.record(0, b"k", framed(9, encode(Gone(), version=1)))]
    if how == "a body that does not decode":
        return [first, world.record(0, b"k", framed(1, encode(flat(random.Random(1)), version=1)[:-1]))]
    if how == "a text that no column takes":
        # No publisher of ours lets one through; another writer may.
        event = flat(random.Random(1)).model_copy(update={"text": "a!b"})
        return [first, world.record(0, b"k", framed(1, encode(event, version=1).replace(b"a!b", b"a\0b")))]
    if how == "a mark of another life":
        mark = Mark(incarnation="f" * 32, epoch=1, number=1, count=1, digest=b"d" * 32, digest_algorithm=1, at_ms=0)
        return [first, world.record(first.partition, CONTROL_KEY, encode_control(mark), headers=((CONTROL_HEADER, MARK),))]
    if how == "a control record that can't be read":
        return [first, world.record(0, CONTROL_KEY, b"x", headers=((CONTROL_HEADER, MARK),))]
    assert how == "a key in two partitions"
    later = encode(flat(random.Random(1)), version=2)
    return [first, world.record(1 - first.partition, first.key, framed(1, later))]


@pytest.mark.parametrize(
    "how",
    [
        "a duplicate",
        "a gap",
        "a null value",
        "a null key",
        "a key with U+0000",
        "a key that is no text",
        "no frame",
        "an unknown schema",
        "a body that does not decode",
        "a text that no column takes",
        "a mark of another life",
        "a control record that can't be read",
        "a key in two partitions",
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_the_plan_by_records(how: str) -> None:
    world = World(5, kinds="f")
    assert world.by_columns(twisted(world, how)) is None


class Wider(Event, entity="blocks.flat"):
    text: str
    number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrow:
    text: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    text: str
    number: float | None


@pytest.mark.parametrize("row", [Narrow, Other])
def test_a_field_whose_type_is_not_the_row_s_own_is_left_to_the_plan_by_records(row: type[Any]) -> None:
    projection = Projection("narrow", entity="blocks.flat", row=row)
    projection.copies(Wider)
    assert read_alone(projection, avro_schema(Wider), Wider(text="a", number=1)) is None


def test_a_reducer_is_left_to_the_plan_by_records() -> None:
    projection = Projection("own", entity="blocks.flat", row=Narrow)

    @projection.on(Wider)
    def _same(row: Narrow | None, _: Wider, __: object) -> Narrow | None:
        return row

    assert read_alone(projection, avro_schema(Wider), Wider(text="a", number=1)) is None


def read_alone(projection: Projection[Any], schema: Any, event: Event) -> Any:
    mine = Reading(projection)
    mine.learn(1, fingerprint=b"f" * 32, schema=schema)
    return Columnar(projection, mine).read([Record(0, 0, b"k", framed(1, encode(event, version=1)), 0, ())])


def test_a_field_that_the_writer_did_not_know_has_its_default() -> None:
    schema = dict(avro_schema(Wider))
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "number"]
    newer = Projection("newer", entity="blocks.flat", row=Other2)
    newer.copies(Wider)
    mine = Reading(newer)
    mine.learn(1, fingerprint=b"f" * 32, schema=schema)
    body = encode(Wider(text="a"), version=1)[:-1]  # without the branch of `number`
    records = [Record(0, 0, b"k", framed(1, body), 0, ())]
    states = {0: PartitionState(partition=0, incarnation=INCARNATION)}

    batch = Columnar(newer, mine).read(records)

    assert batch is not None
    planned = plan_columns(newer, states, FENCES, batch, {})
    assert planned is not None
    assert [one.expanded() for one in planned.plans] == plan(newer, states, FENCES, mine.items(records), Known())


@dataclass(frozen=True, slots=True, kw_only=True)
class Other2:
    text: str
    number: int | None


@pytest.mark.parametrize("seed", range(5))
def test_follow_is_fold(seed: int) -> None:
    dice = random.Random(seed)
    names = [f"k{dice.randrange(9)}".encode() for _ in range(200)]
    versions: list[int] = []
    count: dict[bytes, int] = {}
    for name in names:
        count[name] = count.get(name, 0) + 1
        versions.append(count[name])
    prints, bodies = [dice.randbytes(32) for _ in names], [dice.randbytes(dice.randrange(90)) for _ in names]
    heads = dict.fromkeys(names, tuple(UNKNOWN))

    assert follow(heads, names, versions, prints, bodies)

    expected = dict.fromkeys(names, UNKNOWN)
    for name, version, printed, body in zip(names, versions, prints, bodies, strict=True):
        verdict, expected[name] = fold(expected[name], name.decode(), version, printed, body)
        assert verdict is Verdict.APPLY
    assert {name: Head(*head) for name, head in heads.items()} == expected
    assert not follow(heads, [names[0]], [heads[names[0]][0]], [prints[0]], [bodies[0]])


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ELIGIBLE = {
    "text": st.text(max_size=40),
    "integer": st.integers(-(2**63), 2**63 - 1),
    "real": st.floats(),
    "boolean": st.booleans(),
    "bytes": st.binary(max_size=40),
    "timestamp": st.datetimes(timezones=st.just(UTC)),
    "date": st.dates(),
    "uuid": st.uuids(),
    "decimal": st.decimals(places=2, allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12),
}
"""Values of every type that a block decodes to."""


@pytest.mark.parametrize("kind", ELIGIBLE)
@given(st.data())
def test_canonical_form_and_hash_by_columns_are_those_by_rows(kind: str, data: st.DataObject) -> None:
    one = ELIGIBLE[kind]
    values = data.draw(st.lists(one, max_size=20) | st.lists(one | st.none(), max_size=20))
    other = data.draw(st.lists(st.sampled_from([None, True, 1, "x"]), min_size=len(values), max_size=len(values)))
    keys = data.draw(st.lists(st.text(max_size=10), min_size=len(values), max_size=len(values)))

    assert encoded(values) == [canonical(value) for value in values]
    if kind == "timestamp":
        micros = [None if value is None else (value - EPOCH) // timedelta(microseconds=1) for value in values]
        assert encoded_times(micros) == encoded(values)
    assert row_hashes("t@1", keys, [encoded(values), encoded(other)]) == [
        row_hash("t@1", key, row) for key, *row in zip(keys, values, other, strict=True)
    ]
