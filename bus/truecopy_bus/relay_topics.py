"""Whether a topic is still the one that a relay fills: looked at once a second, and whenever partitions were taken."""

from truecopy_bus import outbox
from truecopy_bus.errors import (
    IncarnationError,
    StoreBehindError,
    TopicLostError,
    TopicMismatchError,
    TopicMissingError,
)
from truecopy_bus.log import Log, without_beginning
from truecopy_bus.points import Point, reached
from truecopy_bus.record import TopicSpec, TopicState
from truecopy_bus.relay_status import RelayedEntity
from truecopy_bus.relay_tail import stated
from truecopy_bus.sql.port import Database

__all__ = ["check_topic"]


async def check_topic(database: Database, log: Log, entity: RelayedEntity) -> None:
    """Make the topic of an entity that was never relayed, and note its incarnation.

    Raises TopicLostError, TopicMismatchError, IncarnationError or StoreBehindError unless the topic is the one that was
    filled so far, PositionLostError, and what is unavailable.
    """
    async with database.snapshot() as read:
        filled = (await outbox.filled(read, entity.name)).values()
    known = {was.incarnation for was in filled}
    if known:
        state = await _filled_topic(log, entity, sum(was.events for was in filled))
    else:
        state = await log.create(TopicSpec(name=entity.topic, partitions=entity.partitions))
        await reached(Point.RELAY_TOPIC, state.partitions)
    if state.partitions != entity.partitions or state.incarnation is None:
        seen = f"{state.partitions} partitions and incarnation {state.incarnation}"
        raise TopicMismatchError(topic=entity.topic, seen=seen, expected=f"{entity.partitions} and a genesis")
    if others := known - {state.incarnation}:
        raise IncarnationError(topic=entity.topic, known=min(others), seen=state.incarnation)
    entity.incarnation = state.incarnation
    await _check_tail(database, log, entity, state)


async def _filled_topic(log: Log, entity: RelayedEntity, events: int) -> TopicState:
    """The topic that we put so many events into: what was filled once is never made anew. Raises TopicLostError."""
    try:
        state = await log.describe(entity.topic)
    except TopicMissingError as error:
        seen = f"it was deleted from the log, after {events} events had been put into it"
        raise TopicLostError(topic=entity.topic, seen=seen) from error
    if state.incarnation is None:
        raise TopicLostError(topic=entity.topic, seen=without_beginning(state))
    return state


async def _check_tail(database: Database, log: Log, entity: RelayedEntity, state: TopicState) -> None:
    """Raises StoreBehindError where the log was filled by a newer store than ours, or by another owner."""
    for part, held in entity.held.items():
        if held.stated is None:
            held.stated = await stated(log, entity.topic, part, state.bounds[part])
    # Read after the marks: what they state was recorded before they were appended.
    async with database.snapshot() as read:
        recorded = await outbox.filled(read, entity.name)
    for part, held in entity.held.items():
        events = recorded[part].events if part in recorded else 0
        if (held.stated or 0) > events:
            raise StoreBehindError(topic=entity.topic, partition=part, recorded=events, stated=held.stated or 0)
