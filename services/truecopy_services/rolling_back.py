"""Rolling back many keys of an entity at once: each to the version that it had at a time, or to one that is named.

What is to be done is planned first, in one transaction: each key, and the version on which it was decided. Then keys are taken
in chunks, each in one transaction: heads held, states folded, restoring events and the journal written together. A rollback
that was killed goes on by its id, from its journal; two of one id at once restore no key twice. A key that has left the version
of its plan was changed by somebody else: it stays as it is, and both changes are told.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truecopy_bus.histories import changed_since, head_of
from truecopy_bus.points import Point, reached
from truecopy_bus.publish import Prepared
from truecopy_bus.rollbacks import (
    Outcome,
    RollbackEntry,
    Rolled,
    begin,
    end,
    entries,
    note,
    plan_changed,
    plan_named,
    planned,
    still_planned,
)
from truecopy_bus.sql import Connection
from truecopy_bus.store import Transaction
from truecopy_projections.entity_states import load_state
from truecopy_projections.errors import RollbackRefusedError, StateUnknownError, UnknownVersionError
from truecopy_projections.limits import ROLLBACK_KEYS
from truecopy_services.entities import Entity
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
    entity: Entity,
    *,
    since_ms: int | None = None,
    to: Mapping[str, int] | None = None,
    conditions: Sequence[str] = (),
    why: str = "",
) -> RollbackEntry:
    """Enter a rollback of many keys in the journal, with its plan; `rollback_many` carries it out.

    `since_ms`: of each key what was published later; `to`: these keys, to these versions. Of either those alone whose state now
    meets `conditions`. Raises UsageError for what is no condition, and for both or neither of the two.
    """
    where(conditions)
    _one_of(since_ms, to)
    wanted = {"since_ms": since_ms, "where": list(conditions), "keys": None if to is None else len(to)}
    async with entity.store.transaction() as tx:
        entry = await begin(tx.connection, entity.fold.entity, wanted, by=entity.by, why=why)
        if to is None:
            await plan_changed(tx.connection, entry, since_ms or 0)
        else:
            await plan_named(tx.connection, entry, to)
    return entry


async def find_rollback(entity: Entity, id: str) -> RollbackEntry:
    """The rollback of an id. Raises UsageError, which names those that did not end; so does asking for no id."""
    async with entity.store.database.snapshot() as read:
        found = await entries(read, entity.fold.entity)
    for one in found:
        if one.id == id:
            return one
    left = ", ".join(one.id for one in found if one.ended_ms is None) or "none"
    seen = f"has no rollback {id!r}" if id else "can go on with a rollback if its id is given"
    raise UsageError(f"{entity.fold.entity} {seen}; those that did not end: {left}")


async def rollback_many(
    entity: Entity,
    rollback: RollbackEntry | None = None,
    *,
    to: Mapping[str, int] | None = None,
    since_ms: int | None = None,
    conditions: Sequence[str] = (),
) -> AsyncIterator[Step]:
    """Bring the keys of a `rollback` that was opened back, and tell of each; those that it came by are passed over.

    Without one, tell what would be done by one of `to` or `since_ms` and `conditions`, and do nothing.
    """
    meets = where(conditions if rollback is None else rollback.wanted["where"])
    if rollback is None:
        _one_of(since_ms, to)
    done = 0
    async for wanted in _chunks(entity, rollback, to, since_ms or 0):
        async with entity.store.transaction() as tx:
            steps = await _chunk(entity, tx, rollback, wanted, meets)
            done += len(steps)
            if rollback is not None:
                await note(tx.connection, rollback.id, [_rolled(one) for one in steps])
                await reached(Point.ROLLBACK_WRITTEN, done)
        if rollback is not None:
            await reached(Point.ROLLBACK_COMMITTED, done)
        for step in steps:
            yield step
    if rollback is not None:
        async with entity.store.transaction() as tx:
            await end(tx.connection, rollback.id)


def _one_of(since_ms: int | None, to: Mapping[str, int] | None) -> None:
    if (to is None) is (since_ms is None):
        raise UsageError("a rollback of many keys is of keys with their versions, or of what was published since a time")


async def _chunks(
    entity: Entity, rollback: RollbackEntry | None, to: Mapping[str, int] | None, since_ms: int
) -> AsyncIterator[dict[str, int]]:
    """Versions whose states are wanted, by key and in the order of keys."""
    if rollback is None and to is not None:
        named = sorted(to.items())
        for at in range(0, len(named), ROLLBACK_KEYS):
            yield dict(named[at : at + ROLLBACK_KEYS])
        return
    after = ""
    while True:
        async with entity.store.database.snapshot() as read:
            if rollback is not None:
                found = await planned(read, rollback.id, after=after, keys_max=ROLLBACK_KEYS)
            else:
                found = await changed_since(read, entity.fold.entity, since_ms, after=after, keys_max=ROLLBACK_KEYS)
        if not found:
            return
        yield dict(found)
        after = found[-1][0]


async def _chunk(
    entity: Entity, tx: Transaction, rollback: RollbackEntry | None, wanted: Mapping[str, int], meets: Where
) -> list[Step]:
    read = tx.connection
    # Heads in one order, as everybody locks them; and only then the journal: who came first has written it by now.
    heads = {key: await head_of(read, entity.fold.entity, key, held=True) for key in sorted(wanted)}
    expected = heads if rollback is None else await still_planned(read, rollback.id, wanted)
    steps, prepared = list[Step](), list[Prepared]()
    for key, head in heads.items():
        if key in expected:
            step, events = await _one(entity, read, key, head, expected[key], wanted[key], meets)
            steps.append(step)
            prepared += events
    if rollback is not None:
        await tx.publish_prepared(prepared)
    return steps


async def _one(
    entity: Entity, read: Connection, key: str, head: int, expected: int, to: int, meets: Where
) -> tuple[Step, list[Prepared]]:
    """What becomes of a key, and the events that do it."""

    def step(outcome: Outcome, why: str = "", now: int = head) -> Step:
        return Step(key=key, outcome=outcome, was=head, to=to, now=now, why=why)

    try:
        if expected != head:
            return step(Outcome.CONFLICT, str(await entity.conflict(read, key, to, expected, head))), []
        state = (await load_state(read, entity.fold, key)).state
        # Of a key without rows, whether no fields meet them.
        fields = [entity.fold.fields(values) for values in state.rows.values()] or [{}]
        if not any(map(meets, fields)):
            return step(Outcome.LEFT), []
        changes, prepared = await entity.restore(read, state, to)
    except (RollbackRefusedError, StateUnknownError, UnknownVersionError) as fault:
        return step(Outcome.REFUSED, str(fault)), []
    if not prepared:
        return step(Outcome.SAME), []
    return step(Outcome.RESTORED, str(changes), head + len(prepared)), prepared


def _rolled(step: Step) -> Rolled:
    return Rolled(key=step.key, outcome=step.outcome, was=step.was, to=step.to, now=step.now)
