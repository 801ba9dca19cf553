"""The tables of an event store, in its owner's database, and the statements that differ between databases.

`truecopy_events` is the history and the outbox in one: a row is on the log when `published` is 1. Its `id` ascends within
a transaction; between transactions ids become visible out of order, and nothing here reads by a highest id seen.
`truecopy_heads` holds the latest version of each key, and the row lock on it is what orders the writers of a key.
`truecopy_ledger` and `truecopy_relays` are the relay's: what it has put on the log, by key and by partition; and
`truecopy_halts` is what it says of itself. `truecopy_snapshots` spares a long history from being folded from its start,
`truecopy_rollbacks` and `truecopy_rolled_back` are the journal of rollbacks and of the keys that each came by.
"""

from truecopy_bus.leases import LEASES, MEMBERS
from truecopy_bus.sql.port import Dialect, Kind, Shape, columns

__all__ = [
    "ENTITIES",
    "EVENTS",
    "HALTS",
    "HEADS",
    "LEDGER",
    "RELAYS",
    "ROLLBACKS",
    "ROLLED_BACK",
    "SCHEMAS",
    "SNAPSHOTS",
    "STORE_SHAPES",
    "mark_published",
    "next_ids",
    "store_statements",
    "take_versions",
]

ENTITIES = Shape(
    name="truecopy_entities",
    columns=columns(entity=Kind.TEXT, partitions=Kind.INTEGER),
    key=("entity",),
)
HEADS = Shape(
    name="truecopy_heads",
    columns=columns(entity=Kind.TEXT, key=Kind.TEXT, version=Kind.INTEGER),
    key=("entity", "key"),
)
EVENTS = Shape(
    name="truecopy_events",
    columns=columns(
        id=Kind.INTEGER,
        entity=Kind.TEXT,
        key=Kind.TEXT,
        version=Kind.INTEGER,
        part=Kind.INTEGER,
        fingerprint=Kind.BYTES,
        body=Kind.BYTES,
        tx=(Kind.TEXT, None),
        at_ms=Kind.INTEGER,
        published=Kind.INTEGER,
    ),
    key=("id",),
)
SCHEMAS = Shape(
    name="truecopy_schemas",
    columns=columns(fingerprint=Kind.BYTES, subject=Kind.TEXT, schema=Kind.JSON),
    key=("fingerprint",),
)
LEDGER = Shape(
    name="truecopy_ledger",
    columns=columns(entity=Kind.TEXT, key=Kind.TEXT, version=Kind.INTEGER, element=Kind.BYTES, previous=Kind.BYTES),
    key=("entity", "key"),
)
RELAYS = Shape(
    name="truecopy_relays",
    columns=columns(
        entity=Kind.TEXT, part=Kind.INTEGER, incarnation=Kind.TEXT, count=Kind.INTEGER, digest=Kind.BYTES, marks=Kind.INTEGER
    ),
    key=("entity", "part"),
)
HALTS = Shape(
    name="truecopy_halts",
    columns=columns(holder=Kind.TEXT, about=Kind.TEXT, why=Kind.TEXT),
    key=("holder", "about"),
)
SNAPSHOTS = Shape(
    name="truecopy_snapshots",
    columns=columns(
        entity=Kind.TEXT,
        key=Kind.TEXT,
        fold=Kind.TEXT,
        stride=Kind.INTEGER,
        version=Kind.INTEGER,
        element=Kind.BYTES,
        rows=Kind.TEXT,
        hash=Kind.BYTES,
    ),
    key=("entity", "key", "fold", "stride"),
)
ROLLBACKS = Shape(
    name="truecopy_rollbacks",
    columns=columns(
        id=Kind.TEXT,
        entity=Kind.TEXT,
        wanted=Kind.JSON,
        by=Kind.TEXT,
        why=Kind.TEXT,
        began_ms=Kind.INTEGER,
        ended_ms=(Kind.INTEGER, None),
    ),
    key=("id",),
)
ROLLED_BACK = Shape(
    name="truecopy_rolled_back",
    columns=columns(
        rollback=Kind.TEXT,
        key=Kind.TEXT,
        outcome=Kind.TEXT,
        was=Kind.INTEGER,
        to=Kind.INTEGER,
        now=Kind.INTEGER,
        at_ms=Kind.INTEGER,
    ),
    key=("rollback", "key"),
)
STORE_SHAPES = (ENTITIES, HEADS, EVENTS, SCHEMAS, LEDGER, RELAYS, HALTS, LEASES, MEMBERS, SNAPSHOTS, ROLLBACKS, ROLLED_BACK)


def store_statements(dialect: Dialect) -> tuple[str, ...]:
    """What shapes can't say: an event once for each version, the outbox as an index, and where ids come from."""
    return (
        "CREATE UNIQUE INDEX IF NOT EXISTS truecopy_events_by_version ON truecopy_events (entity, key, version)",
        "CREATE INDEX IF NOT EXISTS truecopy_outbox ON truecopy_events (entity, part, id) WHERE published = 0",
        *(("CREATE SEQUENCE IF NOT EXISTS truecopy_event_ids",) if dialect.name == "postgres" else ()),
    )


# A whole batch goes in as one JSON text: one statement whatever the length, and one plan for all lengths.
_TAKING = {
    "sqlite": "SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($1) WHERE true",
    "postgres": "SELECT v ->> 0, v ->> 1, (v ->> 2)::bigint FROM json_array_elements($1::text::json) AS v",
}
_NEXT_IDS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) "
    "SELECT (SELECT COALESCE(MAX(id), 0) FROM truecopy_events) + i, {now} FROM n",
    "postgres": "SELECT nextval('truecopy_event_ids'), {now} FROM generate_series(1, $1::bigint)",
}
_PUBLISHED = {
    "sqlite": "SELECT value FROM json_each($1)",
    "postgres": "SELECT value::bigint FROM json_array_elements_text($1::text::json)",
}


def take_versions(dialect: Dialect) -> str:
    """$1: JSON [[entity, key, how many], ...] in the order in which the heads are to be locked. Returns the new heads."""
    return (
        f"INSERT INTO truecopy_heads (entity, key, version) {_TAKING[dialect.name]} "
        "ON CONFLICT (entity, key) DO UPDATE SET version = truecopy_heads.version + excluded.version "
        "RETURNING entity, key, version"
    )


def next_ids(dialect: Dialect) -> str:
    """$1: how many. Returns (id, the database's time in ms) for each. On SQLite the caller has the write lock by now."""
    return _NEXT_IDS[dialect.name].format(now=dialect.now_ms)


def mark_published(dialect: Dialect) -> str:
    """$1: JSON [id, ...]."""
    return f"UPDATE truecopy_events SET published = 1 WHERE id IN ({_PUBLISHED[dialect.name]})"
