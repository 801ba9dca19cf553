"""The tables of a replica in SQL, and the ways between their rows and the values of the port.

Truecopy's own tables serve all projections of a database; each projection adds one for its rows and one for its source keys.
Numbers of 256 bits are stored as 32 bytes, big-endian; what a quarantined record carried is stored as it came.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from truecopy_bus.fold import Head
from truecopy_bus.leases import LEASES, MEMBERS
from truecopy_bus.record import Headers
from truecopy_bus.sql import Dialect, Kind, Shape, columns
from truecopy_bus.sql.statements import listed, quoted
from truecopy_projections.digest import bucket_of, buckets_of
from truecopy_projections.errors import ProjectionError
from truecopy_projections.limits import BUCKETS
from truecopy_projections.projection import Address, Projection
from truecopy_projections.row_type import RowType
from truecopy_projections.state import (
    Checkpoint,
    KeyState,
    MarkVerdict,
    PartitionState,
    Reason,
    StoredRow,
    Waiting,
)

__all__ = [
    "AMENDMENTS",
    "CHECKPOINTS",
    "META",
    "PARTITIONS",
    "SCRUBS",
    "SHARED",
    "STAGES",
    "WAITING",
    "address_of",
    "all_stored",
    "checkpoint_of",
    "checkpoint_row",
    "declaration",
    "journal_statement",
    "key_of",
    "key_row",
    "keys_shape",
    "meta_statement",
    "places",
    "rows_query",
    "state_of",
    "state_row",
    "stored_of",
    "view_statement",
    "waiting_of",
    "waiting_row",
    "within",
]

Row = tuple[Any, ...]

_DIGEST_BYTES = 32
_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**63 - 1
_NAME_BYTES_MAX = 63
"""PostgreSQL cuts longer names without a word, so that two tables would meet under one."""


META = Shape(name="truecopy_meta", columns=columns(name=Kind.TEXT, value=Kind.TEXT), key=("name",))
PARTITIONS = Shape(
    name="truecopy_partitions",
    columns=columns(
        projection=Kind.TEXT,
        part=Kind.INTEGER,
        incarnation=Kind.TEXT,
        position=Kind.INTEGER,
        count=Kind.INTEGER,
        input_digest=Kind.BYTES,
        rows=Kind.BYTES,
        row_digest=Kind.BYTES,
        relay_epoch=Kind.INTEGER,
        parked=Kind.INTEGER,
        uncounted=Kind.INTEGER,
        waiting_bytes=Kind.INTEGER,
        duplicates=Kind.INTEGER,
        foreign=Kind.INTEGER,
        halted=Kind.TEXT,
    ),
    key=("projection", "part"),
)
WAITING = Shape(
    name="truecopy_waiting",
    columns=columns(
        projection=Kind.TEXT,
        part=Kind.INTEGER,
        log_offset=Kind.INTEGER,
        key=(Kind.TEXT, None),
        version=(Kind.INTEGER, None),
        reason=Kind.TEXT,
        detail=Kind.TEXT,
        record_key=(Kind.BYTES, None),
        record_value=(Kind.BYTES, None),
        headers=Kind.JSON,
        timestamp_ms=Kind.INTEGER,
    ),
    key=("projection", "part", "log_offset"),
    indexes=(("projection", "key"),),
)
CHECKPOINTS = Shape(
    name="truecopy_checkpoints",
    columns=columns(
        projection=Kind.TEXT,
        part=Kind.INTEGER,
        log_offset=Kind.INTEGER,
        epoch=Kind.INTEGER,
        number=Kind.INTEGER,
        count=Kind.INTEGER,
        mark_count=Kind.INTEGER,
        input_digest=Kind.BYTES,
        mark_digest=Kind.BYTES,
        row_digest=Kind.BYTES,
        verdict=Kind.TEXT,
        at_ms=Kind.INTEGER,
    ),
    key=("projection", "part", "log_offset"),
)
SCRUBS = Shape(name="truecopy_scrubs", columns=columns(projection=Kind.TEXT, times=Kind.BYTES), key=("projection",))
AMENDMENTS = Shape(
    name="truecopy_amendments",
    columns=columns(projection=Kind.TEXT, event=Kind.BYTES, entry=Kind.TEXT),
    key=("projection", "event"),
)
STAGES = Shape(
    name="truecopy_stages",
    columns=columns(
        name=Kind.TEXT,
        number=Kind.INTEGER,
        stage=Kind.TEXT,
        since_ms=Kind.INTEGER,
        until_ms=(Kind.INTEGER, None),
        actor=Kind.TEXT,
    ),
    key=("name", "number"),
)
SHARED = (META, LEASES, MEMBERS, STAGES, PARTITIONS, WAITING, CHECKPOINTS, SCRUBS, AMENDMENTS)
"""Truecopy's own tables, without the journal, whose ids are the database's: see journal_statement."""


def keys_shape(projection: Projection[Any]) -> Shape:
    """The table of the projection's source keys. Raises ProjectionError when its name would be cut."""
    name = f"{projection.table}_keys"
    if len(name.encode()) > _NAME_BYTES_MAX:
        raise ProjectionError(
            f"{projection.id}: its table {name!r} has a name of {len(name.encode())} bytes, databases take "
            f"{_NAME_BYTES_MAX}; give the projection a shorter name"
        )
    own = columns(
        key=Kind.TEXT,
        part=Kind.INTEGER,
        version=Kind.INTEGER,
        applied=Kind.INTEGER,
        element=Kind.BYTES,
        previous=Kind.BYTES,
        parked=Kind.TEXT,
        bucket=Kind.INTEGER,
    )
    return Shape(name=name, columns=own, key=("bucket", "key"))


def journal_statement(dialect: Dialect) -> str:
    return (
        f"CREATE TABLE IF NOT EXISTS truecopy_journal (id {dialect.serial}, kind TEXT NOT NULL, "
        "at_ms BIGINT NOT NULL, entry TEXT NOT NULL)"
    )


def view_statement(projection: RowType[Any], dialect: Dialect, *, replace: bool = False) -> str:
    """The view by which readers know these rows, over their own columns; one that is there stays what it is.

    With `replace`, which PostgreSQL alone has, it becomes this one, if its columns are the same.
    """
    name = quoted(projection.name)
    own = listed(tuple(field.column.name for field in projection.fields))
    select = f"AS SELECT {own} FROM {quoted(projection.table)}"
    if replace:
        return f"CREATE OR REPLACE VIEW {name} {select}"
    if dialect.name == "sqlite":
        return f"CREATE VIEW IF NOT EXISTS {name} {select}"
    # PostgreSQL has no IF NOT EXISTS for views. A projection's name is an identifier, so it can't end the literal.
    return f"DO $do$ BEGIN IF to_regclass('{name}') IS NULL THEN CREATE VIEW {name} {select}; END IF; END $do$"


def meta_statement(dialect: Dialect) -> str:
    """A query that has a row if the database holds a replica at all."""
    if dialect.name == "sqlite":
        return f"SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '{META.name}'"
    return f"SELECT 1 WHERE to_regclass('{META.name}') IS NOT NULL"


def declaration(projection: Projection[Any]) -> str:
    """The declaration as it is remembered; equal texts are equal declarations."""
    return json.dumps(projection.describe(), sort_keys=True)


def state_row(projection: str, state: PartitionState) -> Row:
    return (
        projection,
        state.partition,
        state.incarnation,
        state.position,
        state.count,
        state.input_digest.to_bytes(_DIGEST_BYTES),
        state.rows,
        state.row_digest.to_bytes(_DIGEST_BYTES),
        state.relay_epoch,
        state.parked,
        state.uncounted,
        state.waiting_bytes,
        state.duplicates,
        state.foreign,
        state.halted,
    )


def state_of(row: Row) -> PartitionState:
    return PartitionState(
        partition=row[1],
        incarnation=row[2],
        position=row[3],
        count=row[4],
        input_digest=int.from_bytes(row[5]),
        rows=row[6],
        row_digest=int.from_bytes(row[7]),
        relay_epoch=row[8],
        parked=row[9],
        uncounted=row[10],
        waiting_bytes=row[11],
        duplicates=row[12],
        foreign=row[13],
        halted=row[14],
    )


def key_row(key: str, partition: int, state: KeyState) -> Row:
    head, applied, parked = state
    name = parked.name if parked else ""
    return key, partition, head.version, applied, head.element, head.previous, name, bucket_of(key)


def key_of(row: Row) -> tuple[str, int, KeyState]:
    key, partition, version, applied, element, previous, parked, _ = row
    return key, partition, KeyState(Head(version, element, previous), applied, Reason[parked] if parked else None)


def stored_of(projection: Projection[Any], row: Row) -> tuple[str, int, StoredRow]:
    """Source key, partition and row as the port knows it, of one in the projection's shape."""
    (found,) = all_stored(projection, [row])
    return found


def all_stored(projection: Projection[Any], rows: Sequence[Row]) -> list[tuple[str, int, StoredRow]]:
    """`stored_of` many rows."""
    own = len(projection.fields)
    at, to = own + 1, own + 2
    homes = buckets_of(row[own] for row in rows)
    return [
        (row[own], row[at], StoredRow(row[:own], row[to], None if row[own + 3] == home else row[own + 3]))
        for row, home in zip(rows, homes, strict=True)
    ]


def address_of(projection: Projection[Any], row: Row) -> Address:
    return row[len(projection.fields)], projection.sub_key(row)


def within(column: str, buckets: Collection[int] | None) -> tuple[str, list[int]]:
    """A condition that `column` is one of these buckets (None: of all), and its arguments, two for each run of buckets.

    The ends are open, so that whatever else somebody wrote there is met with the first bucket or the last.
    """
    if buckets is None:
        return "true", []
    asked = set(buckets)
    firsts = [_INTEGER_MIN if bucket == 0 else bucket for bucket in sorted(asked) if bucket - 1 not in asked]
    lasts = [_INTEGER_MAX if bucket == BUCKETS - 1 else bucket for bucket in sorted(asked) if bucket + 1 not in asked]
    limits = [limit for run in zip(firsts, lasts, strict=True) for limit in run]
    runs = [f"{column} BETWEEN ${at} AND ${at + 1}" for at in range(1, len(limits), 2)]
    return f"({' OR '.join(runs) or 'false'})", limits


def rows_query(
    projection: Projection[Any], dialect: Dialect, buckets: Collection[int] | None, *, indexed: bool
) -> tuple[str, list[int]]:
    """A query for the rows of these buckets, and its arguments; see Snapshot.rows.

    SQLite takes a column that its index holds from there, and would never see what the table says. So the row is looked up by
    its id, and a last column tells whether the two agree. PostgreSQL takes nothing from an index but where the row is.
    """
    shape, table = projection.shape, quoted(projection.table)
    if buckets is not None and indexed and dialect.name == "sqlite":
        where, limits = within("i._bucket", buckets)
        own = ", ".join(f"t.{quoted(column.name)}" for column in shape.columns)
        same = " AND ".join(f"i.{quoted(name)} IS t.{quoted(name)}" for name in shape.key)
        return f"SELECT {own}, {same} FROM {table} AS i JOIN {table} AS t ON t.rowid = i.rowid WHERE {where}", limits
    where, limits = within("_bucket" if indexed else "_bucket + 0", buckets)
    return f"SELECT {listed(tuple(column.name for column in shape.columns))} FROM {table} WHERE {where}", limits


def places(keys: Iterable[str]) -> list[Row]:
    """Where these source keys are in an index that their bucket leads."""
    return [(bucket_of(key), key) for key in keys]


def waiting_row(projection: str, waiting: Waiting) -> Row:
    # A detail quotes what was bad. No database may refuse it: the quarantine is where refused data goes.
    detail = waiting.detail.encode(errors="backslashreplace").decode().replace("\0", "\\0")
    return (
        projection,
        waiting.partition,
        waiting.offset,
        waiting.key,
        waiting.version,
        waiting.reason.name,
        detail,
        waiting.record_key,
        waiting.record_value,
        json.dumps([(name, b64encode(value).decode()) for name, value in waiting.headers]),
        waiting.timestamp_ms,
    )


def waiting_of(row: Row) -> Waiting:
    headers: Headers = tuple((name, b64decode(value)) for name, value in json.loads(row[9]))
    return Waiting(
        partition=row[1],
        offset=row[2],
        key=row[3],
        version=row[4],
        reason=Reason[row[5]],
        detail=row[6],
        record_key=row[7],
        record_value=row[8],
        headers=headers,
        timestamp_ms=row[10],
    )


def checkpoint_row(projection: str, checkpoint: Checkpoint) -> Row:
    return (
        projection,
        checkpoint.partition,
        checkpoint.offset,
        checkpoint.epoch,
        checkpoint.number,
        checkpoint.count,
        checkpoint.mark_count,
        checkpoint.input_digest.to_bytes(_DIGEST_BYTES),
        checkpoint.mark_digest.to_bytes(_DIGEST_BYTES),
        checkpoint.row_digest.to_bytes(_DIGEST_BYTES),
        checkpoint.verdict.name,
        checkpoint.at_ms,
    )


def checkpoint_of(row: Row) -> Checkpoint:
    return Checkpoint(
        partition=row[1],
        offset=row[2],
        epoch=row[3],
        number=row[4],
        count=row[5],
        mark_count=row[6],
        input_digest=int.from_bytes(row[7]),
        mark_digest=int.from_bytes(row[8]),
        row_digest=int.from_bytes(row[9]),
        verdict=MarkVerdict[row[10]],
        at_ms=row[11],
    )
