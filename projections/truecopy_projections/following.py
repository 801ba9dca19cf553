"""The topic that a replica follows, as the log has it now, and whether it is still the one that its positions are about.

One that was followed and is gone is not one that never was.
"""

from collections.abc import Mapping
from typing import Any

from truecopy_bus.errors import PositionLostError, TopicLostError, TopicMissingError
from truecopy_bus.log import Log, identified
from truecopy_bus.record import TopicState
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.state import PartitionState

__all__ = ["followed", "halt_kind", "standstill", "still_there"]


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


def halt_kind(halt: str) -> str:
    """What a halt is, without the figures that change while it lasts."""
    return halt.partition(":")[0]


def standstill(state: PartitionState, topic: TopicState, name: str) -> str:
    """Why a partition must not go on with this topic; "" when it may."""
    if topic.incarnation != state.incarnation:
        return (
            f"incarnation: knows {state.incarnation}, the log has {topic.incarnation}; the topic was re-created: "
            "rebuild the replica, or restore the topic"
        )
    start, end = topic.bounds.get(state.partition, (0, 0))
    if not start <= state.position <= end:
        lost = PositionLostError(topic=name, partition=state.partition, position=state.position, start=start, end=end)
        return f"position lost: {lost}"
    return ""
