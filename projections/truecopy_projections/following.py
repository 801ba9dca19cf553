"""The topic that a replica follows, as the log has it now: one that was followed and is gone is not one that never was."""

from typing import Any

from truecopy_bus.errors import TopicLostError, TopicMissingError
from truecopy_bus.log import Log, identified
from truecopy_bus.record import TopicState
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica

__all__ = ["followed"]


async def followed(log: Log, topic: str, replica: Replica, projection: Projection[Any]) -> TopicState:
    """`identified`, with what the replica knows of the topic through `projection`.

    Raises TopicMissingError for a topic that nobody has made yet, TopicLostError (one of those) for one that is gone.
    """
    try:
        return await identified(log, topic, foreign=projection.foreign is not None)
    except TopicLostError:
        raise
    except TopicMissingError as fault:
        async with replica.snapshot() as snapshot:
            states = await snapshot.states(projection.id)
        if not states:
            raise
        count = sum(state.count for state in states.values())
        seen = f"it was deleted from the log, and {projection.id} holds {count} events of it"
        raise TopicLostError(topic=topic, seen=seen) from fault
