"""Chunks give back what was packed, from any record on, however they are cut; any bytes, also as SQLite joins them."""

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truecopy_bus.logs.chunk import DamagedError, framed, pack, unpack
from truecopy_bus.record import Outgoing, Record

fields = st.none() | st.binary(max_size=20)
times = st.integers(0, 2**62)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
headers = st.lists(st.tuples(names, st.binary(max_size=9)), max_size=3)
outgoing = st.builds(Outgoing, fields, fields, times, headers.map(tuple))
runs = st.lists(st.lists(outgoing, min_size=1, max_size=6), min_size=1, max_size=5)


def chunks(of: list[list[Outgoing]]) -> tuple[list[bytes], list[Record]]:
    blobs, records = list[bytes](), list[Record]()
    for run in of:
        blobs.append(framed(len(records), *pack(run)))
        records += [Record(4, len(records) + number, *fields) for number, fields in enumerate(run)]
    return blobs, records


@given(runs, st.data())
def test_any_cut_through_any_chunks(packed: list[list[Outgoing]], data: st.DataObject) -> None:
    blobs, records = chunks(packed)
    start = data.draw(st.integers(0, len(records)))
    records_max = data.draw(st.integers(1, len(records) + 1))
    bytes_max = data.draw(st.integers(1, 200))

    got, size = unpack(b"".join(blobs), partition=4, start=start, records_max=records_max, bytes_max=bytes_max)

    assert got == records[start : start + len(got)]
    assert len(got) <= records_max
    assert len(got) == min(records_max, len(records) - start) or size >= bytes_max
    if got:
        *_, last = got
        assert size - unpack(b"".join(blobs), partition=4, start=last.offset, records_max=1, bytes_max=1)[1] < bytes_max


@given(runs)
def test_sqlite_joins_blobs_byte_for_byte(packed: list[list[Outgoing]]) -> None:
    blobs, _ = chunks(packed)
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE piece(n INTEGER PRIMARY KEY, body BLOB)")
    connection.executemany("INSERT INTO piece VALUES(?, ?)", enumerate(blobs))

    joined = connection.execute("SELECT CAST(group_concat(body, '' ORDER BY n) AS BLOB) FROM piece").get

    assert joined == b"".join(blobs)
    connection.close()


def test_a_newer_format_is_refused_by_name() -> None:
    blob = b"\x02" + framed(0, *pack([Outgoing(b"key", b"value", 5)]))[1:]

    with pytest.raises(DamagedError, match="format 2"):
        unpack(blob, partition=0, start=0, records_max=1, bytes_max=1)
