"""The events that bring a key back to a state that it had: made, and proven by folding, before anything is published. Pure.

V(t+1) = V(t) + dV: the log is never rewritten. What undoes is a new event like any other, and undone as any other.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from truecopy_bus.histories import StoredEvent
from truecopy_bus.publish import Declared, Prepared, prepare, versioned
from truecopy_projections.entity_fold import EntityFold, ProjectionFold, State, delta, folded
from truecopy_projections.errors import RollbackRefusedError, StateUnknownError
from truecopy_projections.projection import Change, Projection
from truecopy_projections.reference import Rows
from truecopy_schemas import Event
from truecopy_schemas.avro_schema import AvroSchema
from truecopy_schemas.codec import Decoder
from truecopy_schemas.errors import TruecopyError

__all__ = ["restoring"]


def restoring(
    fold: EntityFold,
    now: State,
    then: State,
    event: StoredEvent | None,
    schema: tuple[str, AvroSchema] | None,
    *,
    deletes: type[Event] | None = None,
) -> list[Prepared]:
    """What to publish so that a key is `then` again; nothing where it already is.

    `event` is the one of that version, with its schema by subject; None for version 0. `deletes` is a class whose event ends a
    key. Raises RollbackRefusedError where nothing is known that would do, or what is known does not.
    """
    if _restored(fold, now.rows, then.rows):
        return []
    prepared = _made(fold, now, then, event, schema, deletes)
    after = _after(fold, now, prepared, then.version)
    if not _restored(fold, after.rows, then.rows):
        left = delta(fold, after, then)
        raise _refused(
            fold,
            now.key,
            then.version,
            seen=f"the events that should restore it leave {left}",
            remedy="correct what the projection declares by restores(), or name by leaving= the fields that need not come back",
        )
    return prepared


def _made(
    fold: EntityFold,
    now: State,
    then: State,
    event: StoredEvent | None,
    schema: tuple[str, AvroSchema] | None,
    deletes: type[Event] | None,
) -> list[Prepared]:
    projection = fold.projection if isinstance(fold, ProjectionFold) else None
    key, to = now.key, then.version
    if projection is not None and projection.restorer is not None:
        given = _as_rows(projection, now.rows), _as_rows(projection, then.rows)
        try:
            made = projection.restorer(*given, Change(key, now.version + 1, ()))
            return prepare([(key, one) for one in ([made] if isinstance(made, Event) else made)], None)
        except Exception as fault:  # the user's function, whatever it raises
            seen = f"restores() raised {type(fault).__name__}: {fault}"
            raise _refused(fold, key, to, seen=seen, remedy="correct it") from fault
    if event is not None and schema is not None and (schema[1].get("truecopy.kind") == "state" or not then.rows):
        subject, written = schema
        if written.get("truecopy.deletes") or then.rows:
            declared = Declared(fold.entity, event.fingerprint, subject, orjson.dumps(written).decode())
            return [Prepared(declared, key, None, Decoder(written).restated(event.body))]
    if then.rows:
        seen = f"version {to} was made by a delta event, and nothing is declared that brings its state back"
        raise _refused(fold, key, to, seen=seen, remedy="declare by restores() which events undo changes")
    ending = deletes or (None if projection is None else _ending(h.event for h in projection.handlers.values()))
    if ending is None:
        seen = "it had no state then, and no event class is known that ends a key without further fields"
        raise _refused(fold, key, to, seen=seen, remedy="name one by deletes=, or declare restores()")
    try:
        return prepare([(key, ending())], None)
    except (TruecopyError, ValueError) as fault:
        raise _refused(
            fold, key, to, seen=f"{ending.__name__}() can't be made: {fault}", remedy="declare restores()"
        ) from fault


def _ending(events: Iterable[type[Event]]) -> type[Event] | None:
    return next(
        (one for one in events if one.__deletes__ and not any(f.is_required() for f in one.model_fields.values())), None
    )


def _after(fold: EntityFold, now: State, prepared: Sequence[Prepared], to: int) -> State:
    """The state that these events would leave. Raises RollbackRefusedError where the fold does not take them."""
    rows = []
    for at, one in enumerate(prepared, start=now.version + 1):
        if not fold.knows(one.declared.fingerprint):
            fold.learn(one.declared.fingerprint, orjson.loads(one.declared.schema))
        rows.append(StoredEvent(at, one.declared.fingerprint, versioned(one.body, at), None, now.at_ms, False))
    try:
        return folded(fold, now, rows)
    except StateUnknownError as fault:
        raise _refused(fold, now.key, to, seen=str(fault), remedy="correct restores() or the reducer") from fault


def _restored(fold: EntityFold, rows: Rows, then: Rows) -> bool:
    left = fold.projection.unrestored if isinstance(fold, ProjectionFold) else frozenset()
    if not left:
        return rows == then
    return rows.keys() == then.keys() and all(
        {name: v for name, v in fold.fields(rows[sub]).items() if name not in left}
        == {name: v for name, v in fold.fields(then[sub]).items() if name not in left}
        for sub in rows
    )


def _as_rows(projection: Projection[Any], rows: Rows) -> Any:
    found = [projection.restored(rows[sub]) for sub in sorted(rows)]
    return found if projection.key else next(iter(found), None)


def _refused(fold: EntityFold, key: str, to: int, *, seen: str, remedy: str) -> RollbackRefusedError:
    return RollbackRefusedError(entity=fold.entity, key=key, to=to, seen=seen, remedy=remedy)
