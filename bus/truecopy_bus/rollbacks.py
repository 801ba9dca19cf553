"""The journal of rollbacks, in the owner's store: what was asked for, by whom and why, and what became of each key.

What a key came to is written in the transaction of the events that restore it. So a rollback of many keys that was killed goes
on where it was, and two at once restore no key twice.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from truecopy_bus.sql.port import Connection
from truecopy_bus.store_tables import ROLLBACKS, ROLLED_BACK

__all__ = ["Outcome", "RollbackEntry", "Rolled", "begin", "came_by", "end", "entries", "keys_of", "note"]


class Outcome(Enum):
    """What a rollback did with a key."""

    RESTORED = "restored by new events"
    SAME = "its state was the same"
    LEFT = "it does not meet the conditions"
    CONFLICT = "it changed after the rollback began"
    REFUSED = "nothing is known that restores it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rolled:
    """One key of a rollback: the version it was at, whose state was wanted, and the version it is at by now."""

    key: str
    outcome: Outcome
    was: int
    to: int
    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackEntry:
    """A rollback: what was `wanted`, when it began, and when it ended (None: it did not)."""

    id: str
    entity: str
    wanted: Mapping[str, Any]
    by: str
    why: str
    began_ms: int
    ended_ms: int | None


async def begin(tx: Connection, entity: str, wanted: Mapping[str, Any], *, by: str, why: str) -> RollbackEntry:
    """Enter a rollback."""
    [[now_ms]] = await tx.fetch(f"SELECT {tx.dialect.now_ms}")
    entry = RollbackEntry(
        id=secrets.token_hex(6), entity=entity, wanted=wanted, by=by, why=why, began_ms=int(now_ms), ended_ms=None
    )
    await tx.put(ROLLBACKS, [(entry.id, entity, orjson.dumps(wanted).decode(), by, why, entry.began_ms, None)])
    return entry


async def end(tx: Connection, rollback: str) -> None:
    """Note that all keys were come by."""
    await tx.fetch(f"UPDATE truecopy_rollbacks SET ended_ms = {tx.dialect.now_ms} WHERE id = $1", rollback)


async def note(tx: Connection, rollback: str, keys: Sequence[Rolled]) -> None:
    """Enter what became of these keys."""
    [[now_ms]] = await tx.fetch(f"SELECT {tx.dialect.now_ms}")
    await tx.put(ROLLED_BACK, [(rollback, one.key, one.outcome.name, one.was, one.to, one.now, now_ms) for one in keys])


async def came_by(read: Connection, rollback: str, keys: Collection[str]) -> frozenset[str]:
    """Those of the keys that a rollback has dealt with."""
    return frozenset(row[1] for row in await read.pick(ROLLED_BACK, ("rollback", "key"), [(rollback, key) for key in keys]))


async def entries(read: Connection, entity: str, *, id: str | None = None) -> list[RollbackEntry]:
    """The rollbacks of an entity, or the one of an id, oldest first."""
    rows = await read.fetch(
        "SELECT id, entity, wanted, by, why, began_ms, ended_ms FROM truecopy_rollbacks WHERE entity = $1 "
        "ORDER BY began_ms, id",
        entity,
    )
    return [
        RollbackEntry(id=one, entity=of, wanted=orjson.loads(wanted), by=by, why=why, began_ms=began, ended_ms=ended)
        for one, of, wanted, by, why, began, ended in rows
        if id in (None, one)
    ]


async def keys_of(read: Connection, rollback: str) -> list[Rolled]:
    """What became of the keys of a rollback, in their order."""
    rows = await read.fetch(
        'SELECT key, outcome, was, "to", "now" FROM truecopy_rolled_back WHERE rollback = $1 ORDER BY key', rollback
    )
    return [Rolled(key=key, outcome=Outcome[outcome], was=was, to=to, now=now) for key, outcome, was, to, now in rows]
