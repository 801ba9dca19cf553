"""The relay's statements: reading pages of the outbox, and recording under the fences what is on the log."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import orjson

from truecopy_bus import leases
from truecopy_bus.fold import Head
from truecopy_bus.leases import Fence
from truecopy_bus.limits import RELAY_BYTES_MAX
from truecopy_bus.record import Incarnation
from truecopy_bus.relay_plan import OutboxRow, RelayPlan
from truecopy_bus.sql.port import Connection
from truecopy_bus.store_tables import EVENTS, LEDGER, RELAYS, mark_published

__all__ = ["Filled", "filled", "ledger", "page", "predecessors", "record", "reserve_marks", "scope_of", "unsent"]


class Filled(NamedTuple):
    """What a partition of an incarnation holds of us, by the relay's own record: figures, and the marks numbered so far."""

    incarnation: Incarnation
    events: int
    digest: int
    marks: int


def scope_of(entity: str) -> str:
    """The lease scope of an entity's relays."""
    return f"relay:{entity}"


async def unsent(read: Connection, held: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Those of the (entity, partition) pairs that have anything in the outbox."""
    if not held:
        return []
    pairs = ", ".join(f"(CAST(${2 * i + 1} AS TEXT), CAST(${2 * i + 2} AS BIGINT))" for i in range(len(held)))
    return [
        (str(entity), int(part))
        for entity, part in await read.fetch(
            f"WITH held (entity, part) AS (VALUES {pairs}) SELECT entity, part FROM held WHERE EXISTS ("
            "SELECT 1 FROM truecopy_events AS e "
            "WHERE e.entity = held.entity AND e.part = held.part AND e.published = 0)",
            *(value for pair in held for value in pair),
        )
    ]


async def page(read: Connection, entity: str, part: int, *, after: int, rows_max: int) -> list[OutboxRow]:
    """The next unpublished rows in id order: `rows_max` and RELAY_BYTES_MAX at most, but always one if there is one."""
    rows = await read.fetch(
        "SELECT id, key, version, fingerprint, body, at_ms FROM (SELECT p.*, SUM(length(body)) OVER (ORDER BY id) AS upto "
        "FROM (SELECT id, key, version, fingerprint, body, at_ms FROM truecopy_events "
        "WHERE entity = $1 AND part = $2 AND published = 0 AND id > $3 ORDER BY id LIMIT $4) AS p) AS sized "
        "WHERE upto - length(body) < $5 ORDER BY id",
        entity,
        part,
        after,
        rows_max,
        RELAY_BYTES_MAX,
    )
    return [OutboxRow._make(row) for row in rows]


async def predecessors(read: Connection, entity: str, wanted: Iterable[tuple[str, int]]) -> list[OutboxRow]:
    """The unpublished rows of these (key, version) pairs, as far as they are committed."""
    found = await read.pick(EVENTS, ("entity", "key", "version"), [(entity, key, version) for key, version in wanted])
    return sorted(
        OutboxRow(row_id, key, version, fingerprint, body, at_ms)
        for row_id, _, key, version, _, fingerprint, body, _, at_ms, published in found
        if not published
    )


async def ledger(read: Connection, entity: str, keys: Collection[str]) -> dict[str, Head]:
    """The heads of keys as they are on the log; a key that never was there is left out."""
    found = await read.pick(LEDGER, ("entity", "key"), [(entity, key) for key in keys])
    return {key: Head(version, element, previous) for _, key, version, element, previous in found}


async def filled(read: Connection, entity: str) -> dict[int, Filled]:
    """What each partition holds; one that was never written is left out."""
    rows = await read.fetch("SELECT part, incarnation, count, digest, marks FROM truecopy_relays WHERE entity = $1", entity)
    return {part: Filled(life, count, int.from_bytes(digest), marks) for part, life, count, digest, marks in rows}


async def record(
    tx: Connection,
    entity: str,
    fences: Mapping[int, Fence],
    plans: Mapping[int, RelayPlan],
    before: Mapping[int, Filled],
) -> frozenset[int]:
    """Write down what was appended: ledger, figures, rows published. Returns the partitions whose fence still held.

    Of any other partition nothing is written: its new holder sends those rows again, and readers tell duplicates.
    """
    held = await leases.hold(tx, scope_of(entity), [fences[part] for part in plans])
    kept = {part: plans[part] for part in sorted(held)}
    heads = [(entity, key, *head) for each in kept.values() for key, head in each.heads.items()]
    done = sorted(row.id for each in kept.values() for row in (*each.send, *each.known))
    if heads:
        await tx.put(LEDGER, heads)
        figures = {part: before[part]._replace(events=each.count, digest=each.digest) for part, each in kept.items()}
        await _put_filled(tx, entity, figures)
    if done:
        await tx.fetch(mark_published(tx.dialect), orjson.dumps(done).decode())
    return held


async def reserve_marks(tx: Connection, entity: str, fences: Collection[Fence], incarnation: Incarnation) -> dict[int, Filled]:
    """Number one mark of each partition whose fence still holds, before it is appended: a number is never used twice."""
    held = await leases.hold(tx, scope_of(entity), fences)
    known = await filled(tx, entity)
    marked = {
        part: was._replace(marks=was.marks + 1)
        for part in sorted(held)
        if (was := known.get(part, Filled(incarnation, 0, 0, 0))).incarnation == incarnation
    }
    if marked:
        await _put_filled(tx, entity, marked)
    return marked


async def _put_filled(tx: Connection, entity: str, figures: Mapping[int, Filled]) -> None:
    rows = [
        (entity, part, was.incarnation, was.events, was.digest.to_bytes(32), was.marks) for part, was in sorted(figures.items())
    ]
    await tx.put(RELAYS, rows)
