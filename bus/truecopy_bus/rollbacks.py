"""The journal of rollbacks, in the owner's store: what was asked for, by whom and why, and what became of each key.

A rollback of many keys begins with its plan: each key, the version that it is at, and the one whose state is wanted. A key that
is at another by the time that its turn comes was changed by somebody who knew nothing of the decision: versions tell that, and
no clock does. What a key came to takes the place of its plan, in the transaction of the events that restore it. So a rollback
that was killed goes on where it was, and two at once restore no key twice.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from truecopy_bus.sql.port import Connection
from truecopy_bus.store_tables import HEADS, ROLLBACKS, ROLLED_BACK

__all__ = [
    "Outcome",
    "RollbackEntry",
    "Rolled",
    "begin",
    "end",
    "entries",
    "keys_of",
    "note",
    "plan_changed",
    "plan_named",
    "planned",
    "still_planned",
]


class Outcome(Enum):
    """What a rollback did with a key."""

    PLANNED = "its turn has not come"
    RESTORED = "restored by new events"
    SAME = "its state was the same"
    LEFT = "it does not meet the conditions"
    CONFLICT = "it changed after the rollback was planned"
    REFUSED = "nothing is known that restores it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rolled:
    """One key of a rollback: the version it was at, whose state was wanted, and the version it is at by now.

    Of a PLANNED one `was` is what the decision was made on.
    """

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


async def plan_changed(tx: Connection, rollback: RollbackEntry, since_ms: int) -> None:
    """Plan for each key with an event later than a time the version that it had then: within the database, however many."""
    await tx.fetch(
        'INSERT INTO truecopy_rolled_back (rollback, key, outcome, was, "to", "now", at_ms) '
        f"SELECT $1, e.key, '{Outcome.PLANNED.name}', h.version, MIN(e.version) - 1, h.version, $2 FROM truecopy_events AS e "
        "JOIN truecopy_heads AS h ON h.entity = e.entity AND h.key = e.key "
        "WHERE e.entity = $3 AND e.at_ms > $4 GROUP BY e.key, h.version",
        *(rollback.id, rollback.began_ms, rollback.entity, since_ms),
    )


async def plan_named(tx: Connection, rollback: RollbackEntry, to: Mapping[str, int]) -> None:
    """Plan these keys and versions. One that there is not is found out when its turn comes."""
    found = await tx.pick(HEADS, ("entity", "key"), [(rollback.entity, key) for key in sorted(to)])
    heads = {key: version for _, key, version in found}
    plan = [(key, heads.get(key, 0), version) for key, version in sorted(to.items())]
    await note(tx, rollback.id, [Rolled(key=key, outcome=Outcome.PLANNED, was=was, to=to, now=was) for key, was, to in plan])


async def planned(read: Connection, rollback: str, *, after: str, keys_max: int) -> list[tuple[str, int]]:
    """The next keys behind `after`, in their order, whose turn has not come, and the versions whose states are wanted."""
    rows = await read.fetch(
        'SELECT key, "to" FROM truecopy_rolled_back WHERE rollback = $1 AND outcome = $2 AND key > $3 ORDER BY key LIMIT $4',
        *(rollback, Outcome.PLANNED.name, after, keys_max),
    )
    return [(key, to) for key, to in rows]


async def still_planned(read: Connection, rollback: str, keys: Iterable[str]) -> dict[str, int]:
    """Those of the keys whose turn has not come, and the versions that the decision was made on."""
    rows = await read.pick(ROLLED_BACK, ("rollback", "key"), [(rollback, key) for key in keys])
    return {key: was for _, key, outcome, was, *_ in rows if outcome == Outcome.PLANNED.name}


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
