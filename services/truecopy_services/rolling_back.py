"""Rolling back many keys of an entity at once: each to the version that it had at a time, or to one that is named.

Keys are taken in chunks, each in one transaction: heads held, states folded, restoring events and the journal written together.
A rollback that was killed goes on by its id, from its journal; two of one id at once restore no key twice. What was published
after it began is newer than the decision to roll back: such a key is left as it is, and both changes are told.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truecopy_bus.histories import changed_since, head_of, version_at
from truecopy_bus.points import Point, reached
from truecopy_bus.rollbacks import Outcome, RollbackEntry, Rolled, begin, came_by, end, entries, note
from truecopy_bus.sql import Connection
from truecopy_bus.store import Transaction
from truecopy_projections.entity_states import load_state
from truecopy_projections.errors import RollbackRefusedError, StateUnknownError
from truecopy_projections.limits import ROLLBACK_KEYS
from truecopy_services.entities import Entity, Rollback
from truecopy_services.errors import UsageError
from truecopy_services.operating.conditions import Where, where

__all__ = ["Step", "find_rollback", "open_rollback", "rollback_many"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What became of one key, or would: `why` tells of a conflict or a refusal, or how its state was changed."""

    key: str
    outcome: Outcome
    was: int
    to: int
    now: int
    why: str

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"key": self.key, "outcome": self.outcome.name, "was": self.was, "to": self.to, "now": self.now, "why": self.why}


async def open_rollback(
    entity: Entity, *, since_ms: int | None = None, conditions: Sequence[str] = (), why: str = "", keys: int = 0
) -> RollbackEntry:
    """Enter a rollback of many keys in the journal; `rollback_many` carries it out.

    `since_ms`: of each key what was published later, if its state now meets `conditions`; else of keys that are named with
    their versions, `keys` of them. Raises UsageError for what is no condition.
    """
    where(conditions)
    wanted = {"since_ms": since_ms, "where": list(conditions), "keys": keys}
    async with entity.store.transaction() as tx:
        return await begin(tx.connection, entity.fold.entity, wanted, by=entity.by, why=why)


async def find_rollback(entity: Entity, id: str) -> RollbackEntry:
    """The rollback of an id. Raises UsageError, which names those that did not end."""
    async with entity.store.database.snapshot() as read:
        found = await entries(read, entity.fold.entity)
    for one in found:
        if one.id == id:
            return one
    left = ", ".join(one.id for one in found if one.ended_ms is None) or "none"
    raise UsageError(f"{entity.fold.entity} has no rollback {id!r}; those that did not end: {left}")


async def rollback_many(
    entity: Entity,
    rollback: RollbackEntry | None = None,
    *,
    to: Mapping[str, int] | None = None,
    since_ms: int | None = None,
    conditions: Sequence[str] = (),
) -> AsyncIterator[Step]:
    """Bring the keys of a `rollback` that was opened back, and tell of each; without one, tell what would be done.

    `to` names keys and versions, where the rollback is of such. Keys that the journal has are passed over.
    """
    since_ms = since_ms if rollback is None else rollback.wanted["since_ms"]
    meets = where(conditions if rollback is None else rollback.wanted["where"])
    if (to is None) is (since_ms is None):
        raise UsageError("a rollback of many keys is of keys with their versions, or of what was published since a time")
    chunks = _named(to) if to is not None else _changed(entity, since_ms or 0)
    done = 0
    async for keys in chunks:
        async with entity.store.transaction() as tx:
            steps = await _chunk(entity, tx, rollback, keys, to, since_ms, meets)
            if rollback is None:
                done += len(steps)
            else:
                await note(tx.connection, rollback.id, [_rolled(one) for one in steps])
                done += len(steps)
                await reached(Point.ROLLBACK_WRITTEN, done)
        if rollback is not None:
            await reached(Point.ROLLBACK_COMMITTED, done)
        for step in steps:
            yield step
    if rollback is not None:
        async with entity.store.transaction() as tx:
            await end(tx.connection, rollback.id)


async def _named(to: Mapping[str, int]) -> AsyncIterator[list[str]]:
    keys = sorted(to)
    for at in range(0, len(keys), ROLLBACK_KEYS):
        yield keys[at : at + ROLLBACK_KEYS]


async def _changed(entity: Entity, since_ms: int) -> AsyncIterator[list[str]]:
    after = ""
    while True:
        async with entity.store.database.snapshot() as read:
            keys = await changed_since(read, entity.fold.entity, since_ms, after=after, keys_max=ROLLBACK_KEYS)
        if not keys:
            return
        yield keys
        after = keys[-1]


async def _chunk(
    entity: Entity,
    tx: Transaction,
    rollback: RollbackEntry | None,
    keys: Sequence[str],
    to: Mapping[str, int] | None,
    since_ms: int | None,
    meets: Where,
) -> list[Step]:
    read = tx.connection
    # Heads in one order, as everybody locks them; and only then the journal: who came first has written it by now.
    heads = {key: await head_of(read, entity.fold.entity, key, held=True) for key in sorted(keys)}
    past = await came_by(read, rollback.id, keys) if rollback is not None else frozenset()
    steps = []
    for key, head in heads.items():
        if key in past:
            continue
        wanted = to[key] if to is not None else await version_at(read, entity.fold.entity, key, since_ms or 0)
        steps.append(await _one(entity, tx, rollback, key, head, wanted, meets))
    return steps


async def _one(
    entity: Entity, tx: Transaction, rollback: RollbackEntry | None, key: str, head: int, to: int, meets: Where
) -> Step:
    read = tx.connection

    def step(outcome: Outcome, why: str = "", now: int = head) -> Step:
        return Step(key=key, outcome=outcome, was=head, to=to, now=now, why=why)

    try:
        if rollback is not None:
            began_at = await version_at(read, entity.fold.entity, key, rollback.began_ms)
            if began_at < head:
                return step(Outcome.CONFLICT, str(await entity.conflict(read, key, to, began_at, head)))
        if not await _meets(entity, read, key, meets):
            return step(Outcome.LEFT)
        done: Rollback = await entity.restore(tx, key, to, publish=rollback is not None)
    except (RollbackRefusedError, StateUnknownError) as fault:
        return step(Outcome.REFUSED, str(fault))
    if not done.delta.rows:
        return step(Outcome.SAME)
    return step(Outcome.RESTORED, str(done.delta), head + len(done.tokens))


async def _meets(entity: Entity, read: Connection, key: str, meets: Where) -> bool:
    """Whether a row of the key as it is now meets the conditions; of a key without rows, whether no fields do."""
    state = (await load_state(read, entity.fold, key)).state
    return any(meets(entity.fold.fields(values)) for values in state.rows.values()) if state.rows else meets({})


def _rolled(step: Step) -> Rolled:
    return Rolled(key=step.key, outcome=step.outcome, was=step.was, to=step.to, now=step.now)
