"""The topic that a replica follows, as the log has it now: one that was followed and is gone is not one that never was."""

from truecopy_bus.errors import TopicLostError, TopicMissingError
from truecopy_bus.log import Log, identified
from truecopy_bus.record import TopicState
from truecopy_projections.replica import Replica

__all__ = ["followed"]


async def followed(log: Log, topic: str, replica: Replica, projection: str) -> TopicState:
    """`identified`, with what the replica knows of the topic through `projection` (`name@version`).

    Raises TopicMissingError for a topic that nobody has made yet, TopicLostError (one of those) for one that is gone.
    """
    try:
        return await identified(log, topic)
    except TopicLostError:
        raise
    except TopicMissingError as fault:
        async with replica.snapshot() as snapshot:
            states = await snapshot.states(projection)
        if not states:
            raise
        count = sum(state.count for state in states.values())
        seen = f"it was deleted from the log, and {projection} holds {count} events of it"
        raise TopicLostError(topic=topic, seen=seen) from fault
