"""One pass of a relay over an entity, up to the log: read pages of the outbox, decide, append."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from truecopy_bus import outbox
from truecopy_bus.fold import Head
from truecopy_bus.limits import APPEND_RECORDS_MAX, RELAY_BYTES_MAX, RELAY_ROWS_MAX
from truecopy_bus.log import Log
from truecopy_bus.outbox import Filled
from truecopy_bus.record import Incarnation, Outgoing
from truecopy_bus.relay_plan import OutboxRow, RelayPlan, plan
from truecopy_bus.relay_schemas import SchemaClaims
from truecopy_bus.sql.port import Database
from truecopy_schemas.framing import frame

__all__ = ["Decided", "append", "decide"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """By partition: what it held before, what is to be done, and where the next page starts."""

    before: Mapping[int, Filled]
    plans: Mapping[int, RelayPlan]
    after: Mapping[int, int]


async def decide(
    database: Database, claims: SchemaClaims, entity: str, incarnation: Incarnation, after: Mapping[int, int]
) -> Decided:
    """Read a page of each partition of `after` (partition -> last id of the page before, 0 for the first), and plan it.

    Raises DatabaseUnavailableError, LogUnavailableError.
    """
    rows_max = max(1, RELAY_ROWS_MAX // len(after))
    async with database.snapshot() as read:
        known = await outbox.filled(read, entity)
        pages = {part: await outbox.page(read, entity, part, after=at, rows_max=rows_max) for part, at in after.items()}
        ledger = await outbox.ledger(read, entity, {row.key for page in pages.values() for row in page})
    before = {part: known.get(part, Filled(incarnation, 0, 0, 0)) for part in after}
    plans, following = {}, {}
    for part, page in pages.items():
        planned = await _planned(claims, page, ledger, before[part])
        full = len(page) == rows_max or sum(len(row.body) for row in page) >= RELAY_BYTES_MAX
        if full and planned.waiting and (missing := await _missing(database, entity, planned)):
            planned = await _planned(claims, [*page, *missing], ledger, before[part])
        plans[part] = planned
        following[part] = page[-1].id if full and 2 * len(planned.send) < len(page) else 0
    return Decided(before=before, plans=plans, after=following)


async def append(log: Log, topic: str, plans: Mapping[int, RelayPlan], ids: Mapping[bytes, int]) -> None:
    """Put what is to be sent on the log, each partition in order. Raises the first error after all have come to an end."""
    ends = await asyncio.gather(
        *(_append(log, topic, part, each.send, ids) for part, each in plans.items() if each.send),
        return_exceptions=True,
    )
    for end in ends:
        if end is not None:
            raise end


async def _planned(claims: SchemaClaims, rows: Sequence[OutboxRow], ledger: Mapping[str, Head], was: Filled) -> RelayPlan:
    await claims.claim({row.fingerprint for row in rows})
    return plan(rows, ledger, count=was.events, digest=was.digest, refused=claims.refused)


async def _missing(database: Database, entity: str, planned: RelayPlan) -> list[OutboxRow]:
    """Rows behind the page that rows of the page wait for, so that a page full of gaps can't stand still."""
    async with database.snapshot() as read:
        return await outbox.predecessors(read, entity, islice(_gaps(planned), RELAY_ROWS_MAX))


def _gaps(planned: RelayPlan) -> Iterator[tuple[str, int]]:
    there = {(row.key, row.version) for row in (*planned.waiting, *planned.refused)}
    highest: dict[str, int] = {}
    for row in planned.waiting:
        highest[row.key] = max(row.version, highest.get(row.key, 0))
    for key, first in planned.awaited.items():
        for version in range(first, highest[key]):
            if (key, version) not in there:
                yield key, version


async def _append(log: Log, topic: str, part: int, rows: Sequence[OutboxRow], ids: Mapping[bytes, int]) -> None:
    for start in range(0, len(rows), APPEND_RECORDS_MAX):
        chunk = rows[start : start + APPEND_RECORDS_MAX]
        records = [Outgoing(row.key.encode(), frame(ids[row.fingerprint], row.body), row.at_ms) for row in chunk]
        await log.append(topic, part, records)
