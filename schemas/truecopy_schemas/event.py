"""Event classes: what a service declares about its entity, and publishes.

    class PurchaseMade(Event, entity="shop.customer", kind="delta"):
        order: UUID
        amount: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]

A "state" event holds the whole state of its key, a "delta" event holds a change. Today a missing
version parks the key for either: topics are made to keep everything, so a gap is a loss. The kind is
in the schema, so that readers of a compacted log can be let leap over state events one day. A
subclass inherits entity, kind and deletes; a class without an entity is abstract.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from truecopy_schemas.avro_schema import avro_schema
from truecopy_schemas.errors import InvalidSchemaError
from truecopy_schemas.limits import ENTITY_CHARS_MAX
from truecopy_schemas.record import Record

__all__ = ["Event", "Kind"]

Kind: TypeAlias = Literal["delta", "state"]

# A topic name and an Avro namespace at once. A leading underscore is for the log's own topics.
_ENTITY = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*")


class Event(Record):
    """An immutable fact about one key of an entity.

    Declare with class arguments: entity ("<domain>.<entity>", which is also the topic), kind
    ("state" unless said), deletes (the key ends with this event, unless it comes back), and name
    (the Avro full name, `<entity>.<class>` unless said).

    Raises InvalidSchemaError at declaration when the class has no Avro schema, and pydantic's
    ValidationError at construction when a value is not what its field declares.
    """

    __outermost__: ClassVar[bool] = True
    __entity__: ClassVar[str] = ""
    __kind__: ClassVar[Kind] = "state"
    __deletes__: ClassVar[bool] = False
    __event_name__: ClassVar[str] = ""

    def __init_subclass__(
        cls,
        *,
        entity: str | None = None,
        kind: Kind | None = None,
        deletes: bool | None = None,
        name: str | None = None,
        **config: Any,
    ) -> None:
        super().__init_subclass__(**config)
        cls.__entity__ = _checked_entity(cls, entity) if entity is not None else cls.__entity__
        cls.__kind__ = kind if kind is not None else cls.__kind__
        cls.__deletes__ = deletes if deletes is not None else cls.__deletes__
        name = name or cls.__name__
        cls.__event_name__ = name if "." in name or not cls.__entity__ else f"{cls.__entity__}.{name}"
        if cls.__kind__ not in get_args(Kind):
            problem = f"kind {kind!r} is unknown"
            raise InvalidSchemaError(where=cls.__name__, problem=problem, remedy='write "state" or "delta"')
        if not _ENTITY.fullmatch(cls.__event_name__):
            problem = f"{cls.__event_name__!r} is no Avro name"
            raise InvalidSchemaError(where=cls.__name__, problem=problem, remedy="use dots, A-Z, a-z, 0-9 and _")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        # A class with a forward reference is complete, and judged, only at its first use.
        if cls.__entity__ and cls.__pydantic_complete__:
            avro_schema(cls)


def _checked_entity(cls: type[Event], entity: str) -> str:
    if not _ENTITY.fullmatch(entity) or len(entity) > ENTITY_CHARS_MAX:
        raise InvalidSchemaError(
            where=cls.__name__,
            problem=f"{entity!r} is no entity",
            remedy=f'write "<domain>.<entity>" with A-Z, a-z, 0-9 and _, at most {ENTITY_CHARS_MAX} characters',
        )
    return entity
