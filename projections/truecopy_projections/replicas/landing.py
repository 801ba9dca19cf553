"""Where the copy of a peer's projection lands before anybody can see it, and what its way there has in common.

A landing has room for rows and keys. It is filled, read back, and then either adopted, in one step, or gone. A process that
dies on the way leaves what no reader and no worker looks at; the next one clears it away.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from truecopy_bus import leases
from truecopy_bus.points import Point, reached
from truecopy_bus.sql import Connection, Shape
from truecopy_bus.sql.statements import listed, quoted
from truecopy_projections.gathered import GroupId
from truecopy_projections.inheritance import Inheritance, RowColumns
from truecopy_projections.limits import BUCKETS, SCAN_ROWS
from truecopy_projections.projection import Projection
from truecopy_projections.replica import FORMAT
from truecopy_projections.replicas.sql_gathered import Touched, refold
from truecopy_projections.replicas.sql_keys import all_keys
from truecopy_projections.replicas.sql_quarantine import amendment_rows
from truecopy_projections.replicas.sql_snapshot import FORMAT_NAME, declared_name, owner_names
from truecopy_projections.replicas.sql_stages import enter
from truecopy_projections.replicas.tables import (
    AMENDMENTS,
    CHECKPOINTS,
    META,
    PARTITIONS,
    SCRUBS,
    WAITING,
    checkpoint_row,
    declaration,
    keys_shape,
    state_row,
    view_statement,
    waiting_row,
)
from truecopy_projections.scrub_times import NEVER, packed
from truecopy_projections.stages import Stage

__all__ = ["Entry", "Landing", "Pace", "Room", "inherit", "own_room", "select"]

Entry = Mapping[str, Any]
"""What the new replica's journal says of where it comes from."""


@dataclass(frozen=True, slots=True)
class Room:
    """The two tables that hold a projection's rows and keys: its own, or others of the same columns."""

    projection: Projection[Any]
    rows: Shape
    keys: Shape

    def named(self, rows: str, keys: str) -> "Room":
        """The same columns under other names, without what indexes there are beside their keys."""
        return Room(self.projection, replace(self.rows, name=rows, indexes=()), replace(self.keys, name=keys))

    async def all_rows(self, connection: Connection) -> AsyncIterator[RowColumns]:
        """All rows, in batches."""
        own = len(self.projection.fields)
        async for batch in connection.stream(select(self.rows), rows_max=SCAN_ROWS):
            columns = list(zip(*batch, strict=True))
            keys, partitions, hashes, buckets = columns[own : own + 4]
            yield RowColumns(keys, partitions, hashes, buckets, columns[:own])

    async def all_keys(self, connection: Connection) -> AsyncIterator[list[tuple[Any, ...]]]:
        """All source keys in batches, in the columns of their table."""
        query, limits = all_keys(self.projection, None, rows=self.rows.name, keys=self.keys.name)
        async for batch in connection.stream(query, *limits, rows_max=SCAN_ROWS):
            yield batch


def own_room(projection: Projection[Any]) -> Room:
    """The projection's own tables."""
    return Room(projection, projection.shape, keys_shape(projection))


def select(shape: Shape) -> str:
    """A query for all of a table."""
    return f"SELECT {listed(tuple(column.name for column in shape.columns))} FROM {quoted(shape.name)}"


class Pace:
    """How far a copy is, and how fast it may go: `rate` bytes a second at the most, None for any. It begins when it is made.

    `told` hears of bytes so far and in all (about, and None where nobody knows).
    """

    def __init__(self, rate: int | None, told: Callable[[int, int | None], None]) -> None:
        self.rate, self._told = rate, told
        self.done_bytes, self._began_s = 0, time.monotonic()
        self.waits = False

    async def moved(self, size: int, total: int | None) -> None:
        """Note so many bytes more, and wait as long as the rate asks for."""
        self.done_bytes += size
        self._told(self.done_bytes, total)
        await reached(Point.BOOTSTRAP_COPYING, self.done_bytes)
        if self.rate:
            self.waits = True
            await asyncio.sleep(self._began_s + self.done_bytes / self.rate - time.monotonic())
            self.waits = False


class Landing(Protocol):
    """A place that is made for one copy, and gone when its block ends, adopted or not."""

    room: Room

    async def copy(self, source: Connection, pace: Pace) -> None:
        """Fill it from the projection's own tables in a snapshot of the peer."""
        ...

    def reading(self) -> AbstractAsyncContextManager[Connection]:
        """A snapshot in which `room` can be read."""
        ...

    async def adopt(self, found: Inheritance, entry: Entry) -> None:
        """Make the copy the replica's, with all that is inherited beside it: at once, or not at all."""
        ...


async def inherit(tx: Connection, projection: Projection[Any], service: str, found: Inheritance, entry: Entry) -> None:
    """Write what makes a projection exist, around rows and keys that are there. Nothing of it may be there yet.

    The tables of what gathers it are there; their rows are folded from the copied ones, and not copied.
    """
    own = projection.id
    said = {FORMAT_NAME: str(FORMAT), declared_name(own): declaration(projection)}
    if service:
        said |= dict.fromkeys(owner_names(projection), service)
    await tx.put(META, list(said.items()))
    await enter(tx, projection, beside=Stage.FOLLOWING)
    for rows in (projection, *projection.gathers):
        await tx.fetch(view_statement(rows, tx.dialect))
    await _gather(tx, projection)
    await leases.prepare(tx, own, len(found.states))
    await tx.put(PARTITIONS, [state_row(own, state) for state in found.states.values()])
    if found.checkpoints:
        await tx.put(CHECKPOINTS, [checkpoint_row(own, one) for one in found.checkpoints])
    if found.waiting:
        await tx.put(WAITING, [waiting_row(own, one) for one in found.waiting])
    if found.amendments:
        await tx.put(AMENDMENTS, amendment_rows(own, found.amendments.all))
    [[now_ms]] = await tx.fetch(f"SELECT {tx.dialect.now_ms}")
    scrubbed = packed(NEVER, dict.fromkeys(range(BUCKETS), int(now_ms)))  # it was read back and hashed again
    await tx.put(SCRUBS, [(own, scrubbed)])
    await tx.fetch(
        f"INSERT INTO truecopy_journal (kind, at_ms, entry) VALUES ($1, {tx.dialect.now_ms}, $2)",
        "bootstrap",
        json.dumps(entry),
    )
    await reached(Point.BOOTSTRAP_ADOPTING)


async def _gather(tx: Connection, projection: Projection[Any]) -> None:
    """Fold all gathered rows from the contributions that were proven: they are not copied."""
    groups: set[GroupId] = set()
    for gathered in projection.gathers:
        await tx.fetch(f"DELETE FROM {quoted(gathered.table)}")
        found = await tx.fetch(f"SELECT DISTINCT {listed(gathered.key)} FROM {quoted(projection.table)}")
        groups |= {(gathered.id, group) for group in found}
    await refold(tx, projection, Touched({}, frozenset(groups)))
