"""What the SQLite log keeps, as functions over an apsw connection: they run in its thread.

A row of `chunk` holds a run of records in one blob (see chunk.py), not a record. Rows would be plainer, and as fast alone,
but apsw gives up the interpreter's lock at every row, and while another thread computes, getting it back takes up to 5 ms
(`sys.getswitchinterval`): a read of 5,000 rows took 6 ms alone and 6 s beside one busy thread, 5 and 11 ms by chunks. For
the same reason a read fetches many small chunks as one value. `octets` of a partition is the number of bytes ever put
into it, and each chunk knows the figure before it, so that one range of an index bounds what a read brings into memory.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import apsw

from truecopy_bus.errors import LogUnavailableError, TopicMismatchError, TopicMissingError
from truecopy_bus.genesis import genesis, new_incarnation
from truecopy_bus.limits import LOG_WAL_BYTES_KEPT, LOG_WAL_PAGES, READ_BYTES_MAX
from truecopy_bus.logs.chunk import framed, pack, unpack
from truecopy_bus.logs.positions import refuse_lost, rotated
from truecopy_bus.record import Appended, Incarnation, Record, TopicSpec, TopicState

__all__ = ["Packed", "append", "create", "delete", "describe", "prepare", "read", "settings", "trim", "version"]

Packed = Sequence[tuple[int, bytes]]
FILE_FORMAT = 1

_TABLES = """
CREATE TABLE topic(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    partitions INTEGER NOT NULL,
    incarnation TEXT NOT NULL,
    settings TEXT NOT NULL
) STRICT;
CREATE TABLE partition(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic INTEGER NOT NULL,
    number INTEGER NOT NULL,
    first INTEGER NOT NULL DEFAULT 0,
    next INTEGER NOT NULL DEFAULT 0,
    octets INTEGER NOT NULL DEFAULT 0,
    UNIQUE(topic, number)
) STRICT;
CREATE TABLE chunk(
    id INTEGER PRIMARY KEY,
    partition INTEGER NOT NULL,
    first INTEGER NOT NULL,
    next INTEGER NOT NULL,
    octets_before INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX chunk_place ON chunk(partition, first, octets_before);
"""
# One row, so one step. An ordered aggregate keeps the chunks in order; they pass through text only in name.
_READ = """
SELECT CAST(group_concat(body, '' ORDER BY first) AS BLOB) FROM chunk
WHERE partition = ?1 AND first < ?3
  AND first >= (SELECT max(first) FROM chunk WHERE partition = ?1 AND first <= ?2)
  AND octets_before < ?4 +
      (SELECT octets_before FROM chunk WHERE partition = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1)
"""
_STATE = """
SELECT partitions, incarnation,
    (SELECT json_group_array(json_array(number, id, first, next)) FROM partition WHERE topic = topic.id)
FROM topic WHERE name = ?
"""


class Stored(NamedTuple):
    """A topic's row with those of its partitions: `bounds` and `ids` by partition number."""

    partitions: int
    incarnation: Incarnation
    bounds: Mapping[int, tuple[int, int]]
    ids: Mapping[int, int]


def prepare(connection: apsw.Connection, *, name: str) -> None:
    """Make the tables, or find them made. Raises LogUnavailableError if a newer release did."""
    connection.wal_autocheckpoint(LOG_WAL_PAGES)
    connection.pragma("journal_size_limit", LOG_WAL_BYTES_KEPT)
    if _file_format(connection, name) == 0:
        with writing(connection):
            if _file_format(connection, name) == 0:
                connection.execute(_TABLES)
                connection.pragma("user_version", FILE_FORMAT)


def _file_format(connection: apsw.Connection, name: str) -> int:
    seen = int(connection.pragma("user_version"))
    if seen > FILE_FORMAT:
        raise LogUnavailableError(log=name, seen=f"a file of format {seen}, this version knows {FILE_FORMAT}: upgrade")
    return seen


@contextmanager
def writing(connection: apsw.Connection) -> Iterator[None]:
    """A write transaction that holds the lock from its beginning: it can't fail for a stale snapshot later."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def version(connection: apsw.Connection) -> int:
    """A number that changes when another connection, of any process, has committed."""
    return int(connection.pragma("data_version"))


def stored(connection: apsw.Connection, name: str, topic: str) -> Stored:
    row = connection.execute(_STATE, (topic,)).fetchone()
    if row is None:
        raise TopicMissingError(log=name, topic=topic)
    partitions, incarnation, places = row
    held = json.loads(places)
    return Stored(
        partitions,
        incarnation,
        {number: (first, end) for number, _, first, end in held},
        {number: place for number, place, _, _ in held},
    )


def describe(connection: apsw.Connection, name: str, topic: str) -> TopicState:
    seen = stored(connection, name, topic)
    return TopicState(name=topic, partitions=seen.partitions, incarnation=seen.incarnation, bounds=seen.bounds)


def settings(connection: apsw.Connection, name: str, topic: str) -> Mapping[str, str]:
    row = connection.execute("SELECT settings FROM topic WHERE name = ?", (topic,)).fetchone()
    if row is None:
        raise TopicMissingError(log=name, topic=topic)
    return dict(json.loads(str(row[0])))


def create(connection: apsw.Connection, name: str, topic: TopicSpec) -> TopicState:
    with writing(connection):
        if not connection.execute("SELECT 1 FROM topic WHERE name = ?", (topic.name,)).fetchone():
            _insert(connection, name, topic)
        seen = describe(connection, name, topic.name)
    if seen.partitions != topic.partitions:
        raise TopicMismatchError(topic=topic.name, seen=f"{seen.partitions} partitions", expected=f"{topic.partitions}")
    return seen


def _insert(connection: apsw.Connection, name: str, topic: TopicSpec) -> None:
    incarnation = new_incarnation()
    connection.execute(
        "INSERT INTO topic(name, partitions, incarnation, settings) VALUES(?, ?, ?, ?)",
        (topic.name, topic.partitions, incarnation, json.dumps(dict(topic.settings))),
    )
    topic_id = connection.last_insert_rowid()
    for number in range(topic.partitions):
        connection.execute("INSERT INTO partition(topic, number) VALUES(?, ?)", (topic_id, number))
        _place(connection, name, topic.name, number, [pack([genesis(topic, number, incarnation)])])


def append(connection: apsw.Connection, name: str, topic: str, partition: int, packed: Packed) -> Appended:
    with writing(connection):
        return _place(connection, name, topic, partition, packed)


def _place(connection: apsw.Connection, name: str, topic: str, partition: int, packed: Packed) -> Appended:
    row = connection.execute(
        "SELECT p.id, p.next, p.octets FROM partition p JOIN topic t ON t.id = p.topic WHERE t.name = ? AND p.number = ?",
        (topic, partition),
    ).fetchone()
    if row is None:
        seen = stored(connection, name, topic).partitions
        raise TopicMismatchError(topic=topic, seen=f"{seen} partitions", expected=f"partition {partition}")
    place, first, octets = row
    at = first
    row_values: list[int | bytes] = []
    for count, columns in packed:
        body = framed(at, count, columns)
        row_values += (place, at, at + count, octets, body)
        at, octets = at + count, octets + len(body)
    marks = ", ".join(["(?, ?, ?, ?, ?)"] * len(packed))
    connection.execute(f"INSERT INTO chunk(partition, first, next, octets_before, body) VALUES {marks}", row_values)
    connection.execute("UPDATE partition SET next = ?, octets = ? WHERE id = ?", (at, octets, place))
    return Appended(first, at - first)


def read(
    connection: apsw.Connection, name: str, topic: str, positions: Mapping[int, int], turn: int, records_max: int
) -> list[Record]:
    seen = stored(connection, name, topic)
    refuse_lost(topic, positions, seen.bounds)
    records: list[Record] = []
    bytes_left = READ_BYTES_MAX
    for partition, position in rotated(positions, turn):
        if len(records) >= records_max or bytes_left <= 0:
            break
        if position == seen.bounds[partition][1]:
            continue
        records_left = records_max - len(records)
        bounds = (seen.ids[partition], position, position + records_left, bytes_left)
        blob: Any = connection.execute(_READ, bounds).get
        # Nothing, although there was something a moment ago: it was trimmed or deleted, and the next read says so.
        part, size = unpack(blob or b"", partition=partition, start=position, records_max=records_left, bytes_max=bytes_left)
        records += part
        bytes_left -= size
    return records


def delete(connection: apsw.Connection, name: str, topic: str) -> None:
    with writing(connection):
        for place in stored(connection, name, topic).ids.values():
            connection.execute("DELETE FROM chunk WHERE partition = ?", (place,))
            connection.execute("DELETE FROM partition WHERE id = ?", (place,))
        connection.execute("DELETE FROM topic WHERE name = ?", (topic,))


def trim(connection: apsw.Connection, name: str, topic: str, partition: int, before_offset: int) -> None:
    with writing(connection):
        seen = stored(connection, name, topic)
        start, end = seen.bounds[partition]
        first = max(start, min(before_offset, end))
        place = seen.ids[partition]
        connection.execute("DELETE FROM chunk WHERE partition = ? AND next <= ?", (place, first))
        connection.execute("UPDATE partition SET first = ? WHERE id = ?", (first, place))
