"""Projections: pure reducers from a key's change events to rows, with a name and a number.

A reducer gets a row as it is (or None), the event, and which change it is, and returns the row as it shall be (or None for
none). It must depend on nothing else: the proof that a replica is right folds the log again and expects the same rows.

Without `key` a source key yields at most one row. With `key`, the name or names of fields, it yields any number, told apart by
those fields; `touches` then says, for an event, which of them the reducer is called for. Rows belong to their source key
alone: two keys can't meet in one row, so rows do not depend on the order in which keys are applied.

A projection of a ForeignTopic is told records instead of events: each as a dict, by the full name of its Avro schema.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeVar

from truecopy_bus.sql import Kind, Shape, columns
from truecopy_projections.effects import Effect
from truecopy_projections.errors import ProjectionError
from truecopy_projections.foreign import ForeignTopic
from truecopy_projections.gathered import Gathered
from truecopy_projections.row_type import RowType, SubKey
from truecopy_schemas import AvroSchema, Decoder, Event
from truecopy_schemas.upcasting import decoder_of

__all__ = ["EVERY_ROW", "Address", "Change", "ForeignRecord", "Projection", "Reducer", "Restorer", "SubKey"]

R = TypeVar("R")
E = TypeVar("E", bound=Event)
G = TypeVar("G")

Address = tuple[str, SubKey]
"""Where a row is: its source key, and the values of its `key` fields (none for one row per key)."""

EVERY_ROW: Final = None
"""What `touches` returns for an event that concerns all rows of its key."""


class Change(NamedTuple):
    """Which change an event is: its source key, its version there, and the row that the reducer is asked for."""

    key: str
    version: int
    row: SubKey


ForeignRecord = Mapping[str, Any]
"""The fields of a record that others wrote."""
ForeignReducer = Callable[[R | None, ForeignRecord, Change], R | None]
Touches = Callable[[Any, Change], Iterable[Any] | None]
Reducer = Callable[[Any, Any, Change], Any]
Effector = Callable[[Any, Any, Any, Change], Iterable[Effect]]
Restorer = Callable[[Any, Any, Change], Event | Iterable[Event]]


class Handler(NamedTuple):
    """What a projection does with one type of event.

    `event` is Event itself for what others write. `copies`: its fields become the row, whatever that was, and `key_field` of
    the row is the source key.
    """

    event: type[Event]
    reduce: Reducer
    touches: Touches | None
    copies: bool = False
    key_field: str = ""


class Projection(RowType[R]):
    """A declared projection of the entity `entity` (its topic) into rows of the dataclass `row`.

    `foreign` is the ForeignTopic where `entity` was one, and `entity` then its name. Raises ProjectionError when a field has no
    column, or `key` names none.
    """

    def __init__(
        self, name: str, *, entity: str | ForeignTopic, row: type[R], key: str | tuple[str, ...] = (), version: int = 1
    ) -> None:
        super().__init__(name, row=row, key=key, number=version)
        self.foreign = entity if isinstance(entity, ForeignTopic) else None
        self.entity: str = entity.name if isinstance(entity, ForeignTopic) else entity
        self.handlers: dict[str, Handler] = {}
        self.gathers: list[Gathered[Any]] = []
        self.restorer: Restorer | None = None
        self.effectors: dict[type[Event], Effector] = {}
        self.unrestored: frozenset[str] = frozenset()

    @cached_property
    def shape(self) -> Shape:
        """The table as it is stored: the row's own columns, then what Truecopy keeps of it.

        The bucket of its source key leads the primary key, so that the rows of a bucket are one range of its index. Where a key
        has one row, that holds the key's head as well: one write for both.
        """
        own = tuple(f.column for f in self.fields)
        kept = columns(_key=Kind.TEXT, _part=Kind.INTEGER, _hash=Kind.BYTES, _bucket=Kind.INTEGER)
        head = columns(_version=(Kind.INTEGER, None), _element=(Kind.BYTES, None), _previous=(Kind.BYTES, None))
        return Shape(
            name=self.table,
            columns=(*own, *kept, *(() if self.key else head)),
            key=("_bucket", "_key", *self.key),
            indexes=tuple(dict.fromkeys(gathered.key for gathered in self.gathers)),
        )

    def on(
        self, *events: type[E], touches: Callable[[E, Change], Iterable[Any] | None] | None = None
    ) -> Callable[[Callable[[R | None, E, Change], R | None]], Callable[[R | None, E, Change], R | None]]:
        """Register the reducer of these event types.

        `touches(event, change)` gives the sub keys that the reducer is called for, each a value or a tuple in the order of
        `key`, or EVERY_ROW for all that the key has. Leave it out where a key has one row.
        """

        def register(reduce: Callable[[R | None, E, Change], R | None]) -> Callable[[R | None, E, Change], R | None]:
            if not events:
                raise ProjectionError(f"{self.id}: on() needs the event types that {reduce.__name__} reduces")
            for event in events:
                if self.key and touches is None and not event.__deletes__:
                    raise ProjectionError(f"{self.id}: with several rows per key, {event.__name__} needs touches=")
                self._handle(Handler(event, reduce, touches))
            return reduce

        return register

    def on_record(
        self, *names: str, touches: Callable[[ForeignRecord, Change], Iterable[Any] | None] | None = None
    ) -> Callable[[ForeignReducer[R]], ForeignReducer[R]]:
        """Register the reducer of a foreign topic's records whose Avro schemas have these full names.

        A record is a dict by field name, as its writer's schema says: it may have fields more or less than yesterday's. A
        null value removes the rows of its key, without a reducer. `touches` is as in `on`.
        """
        if self.foreign is None:
            raise ProjectionError(f"{self.id}: on_record() is for a ForeignTopic; of an entity of ours, on() reduces events")

        def register(reduce: ForeignReducer[R]) -> ForeignReducer[R]:
            for name in names:
                if self.key and touches is None:
                    raise ProjectionError(f"{self.id}: with several rows per key, {name} needs touches=")
                self._hold(name, Handler(Event, reduce, touches))
            return reduce

        return register

    def copies(self, *events: type[Event], key: str = "") -> None:
        """Register event types whose fields are the row: it becomes what the event says, whatever it was before.

        Each field of the row is the event's field of that name; the field `key`, if given, takes the source key. The same
        could be written as a reducer. Said like this, a batch of events can stay columns from decoding to the database
        (extra `fast`), and rows are not read before they are replaced.
        """
        if self.key:
            raise ProjectionError(f"{self.id}: a copy is of one row for each key; write a reducer where there are several")
        names = [f.column.name for f in self.fields]
        if key and key not in names:
            raise ProjectionError(f"{self.id}: {key!r} is no field of {self.row.__name__}")
        for event in events:
            missing = [name for name in names if name != key and name not in event.model_fields]
            if missing or event.__deletes__:
                seen = f"lacks {', '.join(missing)}" if missing else "deletes, which needs no reducer"
                raise ProjectionError(f"{self.id}: {event.__name__} can't be copied into {self.row.__name__}: it {seen}")

        def copy(_: R | None, event: Any, change: Change) -> R:
            return self.row(**{name: change.key if name == key else getattr(event, name) for name in names})

        for event in events:
            self._handle(Handler(event, copy, None, copies=True, key_field=key))

    def gather(
        self,
        name: str,
        *,
        row: type[G],
        by: str | tuple[str, ...],
        each: Callable[[R], G],
        merge: Callable[[G, G], G],
        unmerge: Callable[[G, G], G] | None = None,
    ) -> Gathered[G]:
        """Declare rows that gather this projection's: one of the dataclass `row` for each group that shares the fields `by`.

        `each` makes a row of the group of one contribution, and `merge` makes one of two. Merge must be commutative and
        associative, and both depend on nothing else: the gathered row is the merge of all contributions of the group, in
        whatever order. They are kept in a table of their own, under this projection's number. Raises ProjectionError.

        Whenever a contribution changes, all of its group are merged again, GROUP_ROWS_MAX at the most. Where a merge can be
        undone, `unmerge` makes of a row and a part of it the row without that part: then a group may be of any size.
        """
        gathered = Gathered(name, of=self, row=row, by=by, each=each, merge=merge, unmerge=unmerge)
        if name in (self.name, *(other.name for other in self.gathers)):
            raise ProjectionError(f"{self.id}: {name!r} has a table already; give what is gathered another name")
        self.gathers.append(gathered)
        self.__dict__.pop("shape", None)  # it has an index for each
        return gathered

    def restores(self, *, leaving: Iterable[str] = ()) -> Callable[[Restorer], Restorer]:
        """Register what makes the event, or events, that bring a key back to a state that it had: for a rollback.

        It is called with the row as it is, the row as it was (None for none; where a key has several rows, lists of them in the
        order of `key`), and the change that the event will be. Fields `leaving` need not come back, such as a time of change.
        Without it, an event of kind "state" is stated again, and a delta can't be undone.
        """

        def register(restore: Restorer) -> Restorer:
            self.restorer, self.unrestored = restore, frozenset(leaving)
            if missing := self.unrestored - {f.column.name for f in self.fields}:
                raise ProjectionError(f"{self.id}: restores() names fields {sorted(missing)}, which its rows do not have")
            return restore

        return register

    def effects(self, *events: type[Event]) -> Callable[[Effector], Effector]:
        """Register what these event types ask the world to do: a function of row before, event, row after and change.

        It is as pure as a reducer, is called wherever the event is applied, and gives any number of Effects; they are fired
        once for each version of a key, under this projection's name, whatever is applied again. Where a key has several rows
        it is called for each that the event touches. Raises ProjectionError for a type without a reducer, or one with effects.
        """

        def register(function: Effector) -> Effector:
            for event in events:
                handler = self.handlers.get(event.__event_name__)
                if handler is None or handler.event is not event or event in self.effectors:
                    seen = "has effects already" if event in self.effectors else "has no reducer yet"
                    raise ProjectionError(f"{self.id}: {event.__name__} {seen}; declare its reducer first, and effects once")
                # Whoever copies reads no row before; and a batch with effects goes record by record.
                self.handlers[event.__event_name__] = handler._replace(copies=False)
                self.effectors[event] = function
            return function

        return register

    def _handle(self, handler: Handler) -> None:
        event = handler.event
        if self.foreign is not None:
            raise ProjectionError(f"{self.id}: {self.entity!r} is foreign: on_record() reduces its records, by their full name")
        if event.__entity__ != self.entity:
            raise ProjectionError(f"{self.id}: {event.__name__} is of {event.__entity__!r}, not {self.entity!r}")
        self._hold(event.__event_name__, handler)

    def _hold(self, name: str, handler: Handler) -> None:
        if name in self.handlers:
            raise ProjectionError(f"{self.id}: {name} has a reducer already")
        self.handlers[name] = handler

    def reads(self, schema: AvroSchema) -> tuple[Handler, Decoder[Event]] | None:
        """What reduces the events of a writer's schema, and what decodes them, upcast to a type that it reduces.

        None if it reduces none of them. Raises InvalidSchemaError when its class can't read that schema.
        """
        found = decoder_of(schema, [handler.event for handler in self.handlers.values()])
        return None if found is None else (self.handlers[found[0].__event_name__], found[1])

    def every(self) -> tuple[SubKey, ...] | None:
        """What an event that concerns all rows of its key touches, as `touched` says it."""
        return None if self.key else ((),)

    def touched(self, handler: Handler, event: Any, change: Change) -> tuple[SubKey, ...] | None:
        """The sub keys that an event touches; None for every row of the key."""
        if not self.key:
            return ((),)
        if handler.touches is None:
            return None
        found = handler.touches(event, change)
        if found is None:
            return None
        keys = tuple(one if isinstance(one, tuple) else (one,) for one in found)
        columns = [self.fields[at] for at in self._key_at]
        return tuple(dict.fromkeys(tuple(f.store(v) for f, v in zip(columns, one, strict=True)) for one in keys))

    def describe(self) -> Mapping[str, Any]:
        """What the replica remembers of the declaration, to notice when it changed under the same number."""
        told: dict[str, Any] = {
            "entity": self.entity if self.foreign is None else f"{self.entity} (foreign, by ordinal)",
            "key": list(self.key),
            "columns": self.described(),
        }
        if self.gathers:
            told["gathered"] = {one.name: [list(one.key), one.described()] for one in self.gathers}
        return told
