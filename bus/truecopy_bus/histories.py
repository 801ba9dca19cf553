"""The history of a key in its owner's store: its events by version, and snapshots that spare folding a long one from its start.

A snapshot is what somebody's fold made of the first `version` events of a key, with the hash chain of these events. It is a
cache: whoever reads one knows his own fold, and leaves alone what another made. Of each SNAPSHOT_STRIDE versions the last
snapshot is kept, so that old states are near one too, and whoever looks at an old state takes none from who reads the latest.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import orjson

from truecopy_bus.limits import SNAPSHOT_STRIDE
from truecopy_bus.sql.port import Connection
from truecopy_bus.store_tables import SCHEMAS
from truecopy_schemas.avro_schema import AvroSchema

__all__ = [
    "Snapshot",
    "StoredEvent",
    "changed_since",
    "events",
    "head_of",
    "keep",
    "kept_snapshots",
    "newest_snapshot",
    "schemas_of",
    "version_at",
]

_LABEL = b"truecopy/snapshot/1"
# One that claims more events than there are was altered, and must not hide those that are right.
_OF_THE_FOLD = (
    "FROM truecopy_snapshots WHERE entity = $1 AND key = $2 AND fold = $3 "
    "AND version <= (SELECT version FROM truecopy_heads WHERE entity = $1 AND key = $2)"
)
_KEEPING = (
    "INSERT INTO truecopy_snapshots AS s (entity, key, fold, stride, version, element, rows, hash) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (entity, key, fold, stride) DO UPDATE SET "
    "version = excluded.version, element = excluded.element, rows = excluded.rows, hash = excluded.hash "
    "WHERE s.version <= excluded.version "
    "OR s.version > (SELECT version FROM truecopy_heads WHERE entity = excluded.entity AND key = excluded.key)"
)


class StoredEvent(NamedTuple):
    """One event of a key as its owner keeps it; `at_ms` is when it was written, by the store's clock."""

    version: int
    fingerprint: bytes
    body: bytes
    tx: str | None
    at_ms: int
    published: bool


class Snapshot(NamedTuple):
    """What `fold` made of the first `version` events, as a text of its own, and the hash chain of these events."""

    version: int
    element: bytes
    rows: str


async def head_of(read: Connection, entity: str, key: str, *, held: bool = False) -> int:
    """The latest version, 0 if there is none. `held`: nobody takes another until the transaction ends."""
    sql = "SELECT version FROM truecopy_heads WHERE entity = $1 AND key = $2"
    rows = await read.fetch(f"{sql} {read.dialect.for_update}" if held else sql, entity, key)
    return int(rows[0][0]) if rows else 0


async def newest_snapshot(
    read: Connection, entity: str, key: str, fold: str, *, upto: int | None
) -> tuple[int, Snapshot | None]:
    """The latest version of a key, and the newest right snapshot of a fold at or below `upto` (None: that), by one query."""
    limit = "" if upto is None else "AND version <= $4"
    found = await read.fetch(
        "SELECT h.version, s.version, s.element, s.rows, s.hash FROM truecopy_heads AS h LEFT JOIN ("
        f"SELECT version, element, rows, hash {_OF_THE_FOLD} "
        f"{limit} ORDER BY stride DESC LIMIT 1) AS s ON true WHERE h.entity = $1 AND h.key = $2",
        *(entity, key, fold),
        *(() if upto is None else (upto,)),
    )
    if not found:
        return 0, None
    [(head, version, element, rows, kept)] = found
    if version is None or kept != _hash(entity, key, fold, Snapshot(version, element, rows)):
        return head, None  # one that was altered is as good as none
    return head, Snapshot(version, element, rows)


async def kept_snapshots(read: Connection, entity: str, key: str, fold: str) -> list[Snapshot]:
    """All right snapshots of a fold by version: one for each SNAPSHOT_STRIDE versions."""
    rows = await read.fetch(f"SELECT version, element, rows, hash {_OF_THE_FOLD} ORDER BY version", entity, key, fold)
    found = [(Snapshot(version, element, text), kept) for version, element, text, kept in rows]
    return [one for one, kept in found if kept == _hash(entity, key, fold, one)]


async def events(read: Connection, entity: str, key: str, *, after: int, upto: int, rows_max: int) -> Sequence[StoredEvent]:
    """The events of the versions behind `after` to `upto`, the first `rows_max` of them."""
    rows = await read.fetch(
        "SELECT version, fingerprint, body, tx, at_ms, published FROM truecopy_events "
        "WHERE entity = $1 AND key = $2 AND version > $3 AND version <= $4 ORDER BY version LIMIT $5",
        *(entity, key, after, upto, rows_max),
    )
    return [
        StoredEvent(version, fingerprint, body, tx, at_ms, bool(sent)) for version, fingerprint, body, tx, at_ms, sent in rows
    ]


async def version_at(read: Connection, entity: str, key: str, at_ms: int) -> int:
    """The version that a key had at a time: the last before the first that is later. Clocks may go back, versions don't."""
    [[later]] = await read.fetch(
        "SELECT MIN(version) FROM truecopy_events WHERE entity = $1 AND key = $2 AND at_ms > $3", entity, key, at_ms
    )
    return await head_of(read, entity, key) if later is None else int(later) - 1


async def changed_since(read: Connection, entity: str, at_ms: int, *, after: str, keys_max: int) -> list[tuple[str, int]]:
    """The next keys behind `after`, in their order, with an event later than a time, and the versions that they had then."""
    rows = await read.fetch(
        "SELECT key, MIN(version) - 1 FROM truecopy_events WHERE entity = $1 AND at_ms > $2 AND key > $3 "
        "GROUP BY key ORDER BY key LIMIT $4",
        *(entity, at_ms, after, keys_max),
    )
    return [(key, version) for key, version in rows]


async def schemas_of(read: Connection, fingerprints: Iterable[bytes]) -> dict[bytes, tuple[str, AvroSchema]]:
    """Subject and schema by fingerprint."""
    found = await read.pick(SCHEMAS, ("fingerprint",), [(one,) for one in sorted(fingerprints)])
    return {fingerprint: (subject, orjson.loads(schema)) for fingerprint, subject, schema in found}


async def keep(tx: Connection, entity: str, key: str, fold: str, snapshots: Sequence[Snapshot]) -> None:
    """Keep these in place of earlier ones of the same stride; where a later one is kept, that stays instead."""
    last = {one.version // SNAPSHOT_STRIDE: one for one in sorted(snapshots)}
    for stride, one in last.items():  # in one order, so that readers who keep at once do not block each other for good
        await tx.fetch(_KEEPING, entity, key, fold, stride, *one, _hash(entity, key, fold, one))


def _hash(entity: str, key: str, fold: str, snapshot: Snapshot) -> bytes:
    told = orjson.dumps([entity, key, fold, snapshot.version, snapshot.element.hex(), snapshot.rows])
    return blake2b(told, digest_size=32, key=_LABEL).digest()
