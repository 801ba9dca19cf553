"""What an operator sees of a record, whoever wrote it, and where a look into a log begins."""

import json
from typing import Any

import pytest

from truecopy_bus.genesis import genesis
from truecopy_bus.record import Record, TopicSpec
from truecopy_schemas import avro_schema, encode, frame, subject
from truecopy_schemas.control import CONTROL_HEADER, CONTROL_KEY, MARK, Mark
from truecopy_schemas.control import encode as encode_control
from truecopy_schemas.event import Event
from truecopy_schemas.registry import RegistryState
from truecopy_services.errors import UsageError
from truecopy_services.operating.beginnings import Beginning, Since, beginning
from truecopy_services.operating.lines import Lines, Wanted, as_json, as_text, escaped

AT_MS = 1_700_000_000_123
BOUNDS = {0: (10, 100), 1: (0, 5)}


class Weighed(Event, entity="lines.parcel"):
    grams: float
    label: bytes


def lines() -> Lines:
    registry = RegistryState()
    schema = avro_schema(Weighed)
    claim = registry.claim(subject(schema), schema)
    assert isinstance(claim, bytes)
    registry.apply(subject(schema).encode(), claim)
    endless = {
        "type": "record",
        "name": "Endless",
        "namespace": "lines",
        "truecopy.entity": "lines.parcel",
        "fields": [
            {"name": "_version", "type": "long"},
            {"name": "_tx", "type": ["null", "string"]},
            {"name": "nothings", "type": {"type": "array", "items": "null"}},
        ],
    }
    claim = registry.claim(subject(endless), endless)
    assert isinstance(claim, bytes)
    registry.apply(subject(endless).encode(), claim)
    return Lines("lines.parcel", registry)


BODY = encode(Weighed(grams=1.5, label=b"\x00\xff"), version=3)
GOOD = frame(16, BODY)


def record(key: bytes | None = b"p1", value: bytes | None = GOOD, **more: Any) -> Record:
    return Record(0, 7, key, value, more.pop("at_ms", AT_MS), tuple(more.pop("headers", ())))


ODD = [
    pytest.param(record(value=None), "the value is null", id="a tombstone"),
    pytest.param(record(value=b""), "the value has 0 bytes", id="empty"),
    pytest.param(record(value=b'{"grams": 1}'), "a frame starts with 0x00", id="JSON"),
    pytest.param(record(value=frame(99, BODY)), "schema id 99 is not in the registry", id="an id that nobody claimed"),
    pytest.param(record(value=frame(17, BODY)), "the schema behind id 17 can't be used", id="a schema that is refused"),
    pytest.param(record(value=GOOD + b"!"), "1 bytes are left over", id="a byte too many"),
    pytest.param(record(value=GOOD[:-1]), "undecodable", id="a byte too few"),
    pytest.param(record(value=frame(16, b"\x01")), "below 1", id="a version below 1"),
    pytest.param(record(key=None), "its key is null", id="no key"),
    pytest.param(record(key=CONTROL_KEY), "control records are genesis or mark", id="a control key and no header"),
    pytest.param(
        record(key=CONTROL_KEY, value=frame(2, b"\x7e"), headers=[(CONTROL_HEADER, MARK)]), "format 63", id="a mark from later"
    ),
]
SHOWN = [
    pytest.param(Wanted(), True, False, id="all"),
    pytest.param(Wanted(control=True), True, True, id="and control"),
    pytest.param(Wanted(key="p1"), True, False, id="the key"),
    pytest.param(Wanted(key="p2"), False, False, id="another key"),
    pytest.param(Wanted(type="Weighed"), True, False, id="the type"),
    pytest.param(Wanted(type="lines.parcel.Weighed", control=True), True, True, id="the type in full"),
    pytest.param(Wanted(type="parcel.Weighed"), False, False, id="a part of a name"),
]
BEGINNINGS = [
    pytest.param("beginning", {0: 10, 1: 0}, id="beginning"),
    pytest.param("end", {0: 100, 1: 5}, id="end"),
    pytest.param("0", {0: 10, 1: 0}, id="before what is stored"),
    pytest.param("50", {0: 50, 1: 5}, id="beyond one end"),
    pytest.param("15m", {0: 10, 1: 0}, id="a time ago"),
]


def test_an_event_is_decoded_by_the_schema_that_claimed_its_id() -> None:
    line = lines().read(record())

    found = json.loads(as_json(line))
    assert found.pop("time") == "2023-11-14T22:13:20.123Z"
    assert found == {
        "topic": "lines.parcel",
        "partition": 0,
        "offset": 7,
        "at_ms": AT_MS,
        "key": "p1",
        "control": False,
        "schema_id": 16,
        "type": "lines.parcel.Weighed",
        "version": 3,
        "data": {"grams": 1.5, "label": "00ff"},
        "why": "",
        "value": None,
    }
    assert as_text(line) == (
        '2023-11-14T22:13:20.123Z lines.parcel[0]@7 "p1" v3 lines.parcel.Weighed {"grams": 1.5, "label": "00ff"}'
    )


@pytest.mark.parametrize(("odd", "why"), ODD)
def test_what_can_not_be_decoded_is_shown_with_its_reason_and_its_bytes(odd: Record, why: str) -> None:
    line = lines().read(odd)

    assert why in line.why
    assert line.value == odd.value
    assert why in as_text(line)
    assert why in json.loads(as_json(line))["why"]


def test_what_is_readable_of_an_undecodable_record_is_still_told() -> None:
    unknown, left_over = lines().read(record(value=frame(99, BODY))), lines().read(record(value=GOOD + b"!"))

    assert (unknown.version, unknown.schema_id, unknown.type) == (3, 99, "")
    assert (left_over.version, left_over.schema_id, left_over.type) == (3, 16, "lines.parcel.Weighed")


def test_control_records_are_told_by_their_kind() -> None:
    first = genesis(TopicSpec(name="lines.parcel", partitions=1), 0, "0" * 32)
    mark = Mark(incarnation="0" * 32, epoch=1, number=2, count=3, digest=b"\xab" * 32, digest_algorithm=1, at_ms=5)

    told = lines().read(record(key=first.key, value=first.value, headers=first.headers))
    marked = lines().read(record(key=CONTROL_KEY, value=encode_control(mark), headers=[(CONTROL_HEADER, MARK)]))

    assert (told.control, told.type, told.data and told.data["partitions"]) == (True, "genesis", 1)
    assert json.loads(as_json(marked))["data"]["digest"] == "ab" * 32
    assert " control mark {" in as_text(marked)


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b31m", "\u202eevil", "a\r\nb", "\x00", "\u2028", "\ud800", "\x7f"])
def test_no_text_of_a_record_reaches_the_terminal_as_it_is(text: str) -> None:
    key = text.encode(errors="surrogatepass")
    shown = as_text(lines().read(record(key=key, value=key)))

    assert shown.isprintable()
    assert as_json(lines().read(record(key=key))).isprintable()
    assert escaped(text).isprintable()


def test_a_huge_foreign_value_does_not_fill_the_screen_and_an_odd_time_does_no_harm() -> None:
    shown = as_text(lines().read(record(value=b"\xff" * 1_000_000, at_ms=2**62)))

    assert len(shown) < 500
    assert "and 999936 bytes more" in shown
    assert shown.startswith(f"{2**62} ms ")


@pytest.mark.parametrize(("wanted", "event", "control"), SHOWN)
def test_which_lines_are_shown(wanted: Wanted, event: bool, control: bool) -> None:
    first = genesis(TopicSpec(name="lines.parcel", partitions=1), 0, "0" * 32)

    assert wanted(lines().read(record())) is event
    assert wanted(lines().read(record(key=first.key, value=first.value, headers=first.headers))) is control


def test_unknown_ids_are_those_that_the_registry_does_not_hold() -> None:
    some = [record(), record(value=frame(99, b"")), record(value=b"JSON!"), record(value=None), record(value=frame(17, b""))]

    assert lines().unknown(some) == {99}


@pytest.mark.parametrize(("text", "positions"), BEGINNINGS)
def test_where_a_look_begins(text: str, positions: dict[int, int]) -> None:
    assert beginning(text).positions(BOUNDS) == positions


@pytest.mark.parametrize(("text", "ago_ms"), [("250ms", 250), ("90s", 90_000), ("1.5h", 5_400_000), ("2d", 172_800_000)])
def test_a_time_ago(text: str, ago_ms: int) -> None:
    assert beginning(text) == Beginning(ago_ms=ago_ms)


@pytest.mark.parametrize("text", ["", "soon", "-5", "1.5", "5 m", "5w", "٣", "1e3s", "begin"])
def test_a_beginning_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--from"):
        beginning(text)


def test_a_log_without_an_index_of_times_shows_all_from_the_first_record_of_the_time_on() -> None:
    since = Since(100)
    times = [90, 100, 95, 101]

    assert [since(record(at_ms=at_ms)) for at_ms in times] == [False, True, True, True]
