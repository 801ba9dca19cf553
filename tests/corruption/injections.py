"""The kinds of corruption, each with its record of what must be named: rows, source keys, partitions, bookkeeping records.

The record is made from what the injector did, never from what Truecopy says.
"""

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from tests.corruption.behind import Behind, BehindPostgres, BehindSqlite

from truecopy_projections.digest import bucket_of, row_hash
from truecopy_projections.limits import BUCKETS
from truecopy_projections.projection import Address, Projection

HASH_BYTES = 32
OLDER = "older_rows"
"""The table in which the injector keeps an older copy of the rows."""
SHIFT_MAX = 30
"""Records by which a position is moved at the most."""
OLDER_KEYS = 5
"""Neighbouring keys whose older values are put back at once."""
BLOCK_BYTES = 8192


@dataclass(slots=True, kw_only=True)
class Injection:
    """What was altered. `rows`, `keys`, `partitions` and `records` (partition, offset) must be named.

    `moving`: the flow goes on writing there, so that it may be cured by a newer version before anybody looks.
    """

    kind: str
    way: str
    projection: str
    rows: frozenset[Address] = frozenset()
    keys: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    records: frozenset[tuple[int, int]] = frozenset()
    moving: bool = False
    unreachable: frozenset[str] = frozenset()
    at_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A row to alter, or a partition."""

    behind: Behind
    projection: Projection[Any]
    key: str
    sub: tuple[Any, ...]
    partition: int
    partitions: int
    moving: bool
    draw: random.Random
    aside: bool
    """Whether the key's state is kept in the projection's table of keys, which holds where its row says something else."""

    @property
    def table(self) -> str:
        return self.projection.table

    @property
    def where(self) -> str:
        named = ("_bucket", "_key", *self.projection.key)
        return " AND ".join(f"{name} = ${at}" for at, name in enumerate(named, start=1))

    @property
    def args(self) -> tuple[Any, ...]:
        return (bucket_of(self.key), self.key, *self.sub)

    @property
    def row(self) -> frozenset[Address]:
        return frozenset({(self.key, self.sub)})

    @property
    def head(self) -> frozenset[str]:
        """The key, if its row holds its state."""
        return frozenset() if self.aside else frozenset({self.key})

    def made_up(self, key: str) -> frozenset[str]:
        """A key that a row makes up by holding a state."""
        return frozenset() if self.projection.key else frozenset({key})

    def told(self, kind: str, way: str, **named: Any) -> Injection:
        return Injection(kind=kind, way=way, projection=self.projection.id, moving=self.moving, **named)

    async def update(self, assignment: str, *more: Any) -> None:
        """`assignment` may use the parameters after those of `where`: $n + 1 and so on, written {0}, {1}."""
        places = [f"${len(self.args) + at}" for at in range(1, len(more) + 1)]
        await self.behind.fetch(f"UPDATE {self.table} SET {assignment.format(*places)} WHERE {self.where}", *self.args, *more)

    async def update_key(self, in_row: str, aside: str, *more: Any) -> None:
        """Alter a key's state where it is kept."""
        if not self.aside:
            await self.update(in_row, *more)
            return
        places = [f"${at + 3}" for at in range(len(more))]
        await self.behind.fetch(
            f"UPDATE {self.table}_keys SET {aside.format(*places)} WHERE bucket = $1 AND key = $2",
            bucket_of(self.key),
            self.key,
            *more,
        )

    async def update_partition(self, assignment: str, *more: Any) -> None:
        places = [f"${at + 3}" for at in range(len(more))]
        await self.behind.fetch(
            f"UPDATE truecopy_partitions SET {assignment.format(*places)} WHERE projection = $1 AND part = $2",
            self.projection.id,
            self.partition,
            *more,
        )

    async def all_aside(self) -> frozenset[str]:
        """The keys whose state is kept in the table of keys."""
        return frozenset(key for (key,) in await self.behind.fetch(f"SELECT key FROM {self.table}_keys"))

    async def figure(self, name: str) -> Any:
        [(found,)] = await self.behind.fetch(
            f'SELECT "{name}" FROM truecopy_partitions WHERE projection = $1 AND part = $2', self.projection.id, self.partition
        )
        return found


async def value_changed(on: Target) -> Injection:
    await on.update("amount = amount + {0}", on.draw.choice((-7, 1, 1_000)))
    return on.told("value changed", "amount", rows=on.row)


async def version_changed(on: Target) -> Injection:
    by = on.draw.choice((-1, 1, 5))
    await on.update_key("_version = _version + {0}", "version = version + {0}, applied = applied + {0}", by)
    return on.told("version changed", f"{by:+}", keys=frozenset({on.key}))


async def hash_changed(on: Target) -> Injection:
    await on.update("_hash = {0}", on.draw.randbytes(HASH_BYTES))
    return on.told("hash changed", "", rows=on.row)


async def row_deleted(on: Target) -> Injection:
    await on.behind.fetch(f"DELETE FROM {on.table} WHERE {on.where}", *on.args)
    return on.told("row deleted", "", rows=on.row, keys=on.head)


async def ghost_inserted(on: Target) -> Injection:
    """A copy of the row under another key, or, where a key has several rows, under another number."""
    names = [column.name for column in on.projection.shape.columns]
    if on.projection.key:
        sub: tuple[Any, ...] = (on.draw.randrange(10**6, 10**9),)
        key, changed = on.key, {"number": sub[0]}
    else:
        key, sub = f"ghost{on.draw.randrange(10**9)}", ()
        changed = {"_bucket": bucket_of(key), "_key": key, "account": key}
    args = (*on.args, *changed.values())
    places = {name: f"${at}" for at, name in enumerate(changed, start=len(on.args) + 1)}
    if isinstance(on.behind, BehindPostgres):
        places = {name: f"{place}::{'bigint' if name in ('number', '_bucket') else 'text'}" for name, place in places.items()}
    picked = ", ".join(places.get(name, f'"{name}"') for name in names)
    listed = ", ".join(f'"{name}"' for name in names)
    await on.behind.fetch(f"INSERT INTO {on.table} ({listed}) SELECT {picked} FROM {on.table} WHERE {on.where}", *args)
    return on.told("ghost row inserted", "", rows=frozenset({(key, sub)}), keys=on.made_up(key))


async def row_moved(on: Target) -> Injection:
    """To another partition, to another bucket, or to another key, whose bucket it does or does not lie in."""
    way = on.draw.choice(("partition", "bucket", "key", "key and bucket"))
    if way == "partition":
        await on.update("_part = (_part + {0}) % {1}", on.draw.randrange(1, on.partitions), on.partitions)
        return on.told("row moved", way, rows=on.row, keys=on.head)
    if way == "bucket":
        await on.update("_bucket = {0}", (bucket_of(on.key) + on.draw.randrange(1, BUCKETS)) % BUCKETS)
        return on.told("row moved", way, rows=on.row)
    key = f"{on.key}~{on.draw.randrange(10**6)}"
    rows = on.row | {(key, on.sub)}
    if way == "key":  # no look-up finds it, so it makes up no key either
        await on.update("_key = {0}", key)
        return on.told("row moved", way, rows=rows, keys=on.head)
    await on.update("_key = {0}, _bucket = {1}", key, bucket_of(key))
    return on.told("row moved", way, rows=rows, keys=on.made_up(key) | on.head)


async def value_forged(on: Target) -> Injection:
    """Another value, and the hash that goes with it."""
    names = [one.column.name for one in on.projection.fields]
    found = await on.behind.fetch(f"SELECT {', '.join(names)} FROM {on.table} WHERE {on.where}", *on.args)
    values = dict(zip(names, found[0], strict=True))
    values["amount"] += on.draw.randrange(1, 1_000)
    if "mean" in values:
        values["mean"] = Decimal(values["mean"])
    told = row_hash(on.projection.id, on.key, values.values())
    await on.update("amount = {0}, _hash = {1}", values["amount"], told)
    return on.told("value forged with its hash", "", rows=on.row)


async def element_altered(on: Target) -> Injection:
    await on.update_key("_element = {0}", "element = {0}", on.draw.randbytes(HASH_BYTES))
    return on.told("element altered", "", keys=frozenset({on.key}))


async def digest_altered(on: Target) -> Injection:
    name = on.draw.choice(("rows", "row_digest", "input_digest"))
    sums = bytearray(await on.figure(name))
    at = on.draw.randrange(len(sums))
    sums[at] ^= 1 << on.draw.randrange(8)
    await on.update_partition(f'"{name}" = {{0}}', bytes(sums))
    return on.told("digest altered", name, partitions=frozenset({on.partition}))


async def position_altered(on: Target) -> Injection:
    way, assignment, by = on.draw.choice(
        (
            ("ahead", '"position" = "position" + {0}', on.draw.randrange(5, SHIFT_MAX)),
            ("behind", '"position" = "position" - {0}', on.draw.randrange(5, SHIFT_MAX)),
            ("count", '"count" = "count" + {0}', on.draw.choice((-3, -1, 1, 40))),
        )
    )
    await on.update_partition(assignment, by)
    told = on.told("position altered", way, partitions=frozenset({on.partition}))
    told.moving = way == "behind"  # the worker reads on from there, meets what it has already, and is right again
    return told


async def index_damaged(on: Target) -> Injection:
    await on.behind.unindex(on.table, on.key)
    return on.told("index damaged", "entries removed", unreachable=frozenset({on.key}))


async def index_overwritten(on: Target) -> Injection:
    """A page of the index; wants that nobody has the database open."""
    assert isinstance(on.behind, BehindPostgres)
    await on.behind.overwrite_index(on.table, on.draw.randbytes(BLOCK_BYTES))
    return on.told("index damaged", "page overwritten")


async def quarantine_altered(on: Target) -> Injection | None:
    waits = await on.behind.fetch(
        "SELECT part, log_offset, record_value FROM truecopy_waiting WHERE projection = $1 AND reason = 'FOREIGN' "
        "ORDER BY part, log_offset",
        on.projection.id,
    )
    if not waits:
        return None
    part, offset, value = on.draw.choice(list(waits))
    where = "projection = $1 AND part = $2 AND log_offset = $3"
    which = (on.projection.id, part, offset)
    if on.draw.random() < 0.5:
        await on.behind.fetch(f"DELETE FROM truecopy_waiting WHERE {where}", *which)
        way = "removed"
    else:
        altered = bytearray(value)
        altered[on.draw.randrange(len(altered))] ^= 1
        await on.behind.fetch(f"UPDATE truecopy_waiting SET record_value = $4 WHERE {where}", *which, bytes(altered))
        way = "altered"
    return on.told("quarantine record altered", way, records=frozenset({(part, offset)}))


async def checkpoint_altered(on: Target) -> Injection | None:
    found = await on.behind.fetch(
        "SELECT log_offset FROM truecopy_checkpoints WHERE projection = $1 AND part = $2 AND verdict = 'EQUAL'",
        on.projection.id,
        on.partition,
    )
    if not found:
        return None
    (offset,) = on.draw.choice(list(found))
    where = "projection = $1 AND part = $2 AND log_offset = $3"
    which = (on.projection.id, on.partition, offset)
    way, assignment, more = on.draw.choice(
        (
            ("mark's digest", "mark_digest = $4", (on.draw.randbytes(HASH_BYTES),)),
            ("input digest", "input_digest = $4", (on.draw.randbytes(HASH_BYTES),)),
            ("count", '"count" = "count" + $4', (on.draw.choice((-1, 1)),)),
            ("mark's count", "mark_count = mark_count + $4", (on.draw.choice((-1, 1)),)),
            ("verdict", "verdict = $4", (on.draw.choice(("DIVERGED", "LATE", "PARKED")),)),
        )
    )
    await on.behind.fetch(f"UPDATE truecopy_checkpoints SET {assignment} WHERE {where}", *which, *more)
    return on.told("checkpoint altered", way, records=frozenset({(on.partition, offset)}))


async def older_rows(on: Target) -> Injection:
    """The values of a range of rows as they were before."""
    names = [column.name for column in on.projection.shape.columns]
    listed = ", ".join(f'"{name}"' for name in names if name != "_key")
    span = "_key >= $1 AND _key < $2"
    until = f"q{int(on.key[1:]) + OLDER_KEYS:05d}"
    rows = await on.behind.fetch(f"SELECT _key FROM {OLDER} WHERE {span}", on.key, until)
    for (key,) in rows:
        await on.behind.fetch(
            f"UPDATE {on.table} SET ({listed}) = (SELECT {listed} FROM {OLDER} AS o WHERE o._key = $1) WHERE _key = $1",
            key,
        )
    keys = frozenset(key for (key,) in rows)
    heads = keys - await on.all_aside()
    return on.told("older copy put back", "range of rows", rows=frozenset((key, ()) for key in keys), keys=heads)


async def older_page(on: Target) -> Injection | None:
    """A page of the rows' table from an older copy of the file; wants that nobody has it open."""
    assert isinstance(on.behind, BehindSqlite)
    select = f"SELECT _key, _version FROM {on.table}"
    before = dict(await on.behind.fetch(select))
    if not await on.behind.restore_page(on.table, on.draw.randrange(1_000)):
        return None
    after = dict(await on.behind.fetch(select))
    keys = frozenset(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if not keys:
        return None
    heads = keys - await on.all_aside()
    return on.told("older copy put back", "page", rows=frozenset((key, ()) for key in keys), keys=heads)


Inject = Callable[[Target], Awaitable[Injection | None]]

OF_ROWS: tuple[Inject, ...] = (
    value_changed,
    version_changed,
    hash_changed,
    row_deleted,
    ghost_inserted,
    row_moved,
    value_forged,
    element_altered,
)
"""May be done while workers are at work, also to rows that move."""
OF_FIGURES: tuple[Inject, ...] = (digest_altered, position_altered)
"""Of a partition; done while no worker runs, or the next batch would write over it."""
OF_RECORDS: tuple[Inject, ...] = (quarantine_altered, checkpoint_altered)
AT_REST: tuple[Inject, ...] = (older_rows, index_damaged)
"""Of rows, while no worker runs."""
