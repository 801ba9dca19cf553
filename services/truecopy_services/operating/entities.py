"""Which entities an app has to do with, and which of them are its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from truecopy_schemas.event import Event
from truecopy_services.app import Truecopy
from truecopy_services.errors import UsageError
from truecopy_services.loading import event_types

__all__ = ["Owned", "declared_entities", "declared_events", "named_among"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """An entity of an app: its number of partitions as the store has it, None if nothing was published here.

    `projected` if the app has a projection of it, and so may be no more than its reader.
    """

    entity: str
    partitions: int | None
    projected: bool

    @property
    def ours(self) -> bool:
        """Whether the app is its owner for all that can be told: it has published it, or has no other use for it."""
        return self.partitions is not None or not self.projected


def declared_events(app: Truecopy) -> dict[str, type[Event]]:
    """Event types by full name: those that the app's modules declare; where one is declared twice, what a projection reads."""
    handled = {name: handler.event for projection in app.projections.values() for name, handler in projection.handlers.items()}
    return dict(sorted((event_types() | handled).items()))


def declared_entities(app: Truecopy) -> list[str]:
    """The entities of the app's events and projections, sorted."""
    projected = {projection.entity for projection in app.projections.values()}
    return sorted(projected | {cls.__entity__ for cls in declared_events(app).values()})


def named_among(known: Sequence[str], names: Sequence[str]) -> list[str]:
    """`names`, or all that is known if there is none. Raises UsageError for one that is not known."""
    for name in names:
        if name not in known:
            raise UsageError(f"the app has no entity {name!r}; it has {', '.join(known) or 'none'}")
    return list(dict.fromkeys(names)) or list(known)
