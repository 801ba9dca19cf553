"""The topic that a replica follows, as the log has it now: one that was followed and is gone is not one that never was."""

from collections.abc import Mapping
from typing import Any

from truecopy_bus.errors import TopicLostError, TopicMissingError
from truecopy_bus.log import Log, identified
from truecopy_bus.record import TopicState
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.state import PartitionState

__all__ = ["followed", "still_there"]


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
            raise _judged(fault, topic, projection, await snapshot.states(projection.id)) from fault


async def still_there(log: Log, topic: str, projection: Projection[Any], states: Mapping[int, PartitionState]) -> TopicState:
    """`followed`, for whoever has read the replica's states already."""
    try:
        return await identified(log, topic, foreign=projection.foreign is not None)
    except TopicLostError:
        raise
    except TopicMissingError as fault:
        raise _judged(fault, topic, projection, states) from fault


def _judged(
    fault: TopicMissingError, topic: str, projection: Projection[Any], states: Mapping[int, PartitionState]
) -> TopicMissingError:
    if not states:
        return fault
    count = sum(state.count for state in states.values())
    return TopicLostError(topic=topic, seen=f"it was deleted from the log, and {projection.id} holds {count} events of it")
