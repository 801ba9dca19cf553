"""The log port: ordered, durable records by topic and partition, with a reader that holds no opinion.

What every adapter promises:
- A partition reads back in append order, each record at one offset for ever; offsets grow, and may have holes.
- `append` returns only when the whole batch is durable. A batch is one partition's.
- `create` writes a genesis at offset 0 of every partition, with one incarnation for the topic; calling it again
  changes nothing, and a topic with other partitions is refused.
- Nothing but `create` makes a topic: touching a missing one raises TopicMissingError.
- A log or a reader that was closed raises LogUnavailableError.
- A read outside of what is stored raises PositionLostError; it never jumps.

What none of them promises: order between partitions; that an append which raised wrote nothing (the caller sends
again, readers tell duplicates by version); that records of two appenders do not interleave.

Retrying is not an adapter's job. It says LogUnavailableError within its time limit, and the one loop above decides.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from truecopy_bus.errors import TopicLostError, TopicMissingError
from truecopy_bus.record import Appended, Outgoing, Record, TopicSpec, TopicState

__all__ = ["ForeignTopics", "Log", "Passing", "Reader", "identified", "without_beginning"]


class Reader(Protocol):
    """Reads one topic. It keeps connections and buffers, but no position: the caller's replica does."""

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        """Records from `positions` (partition -> next offset) on, each partition in order.

        Waits up to `wait_s` seconds for a first record, then returns what is there, `records_max` at most, possibly
        nothing. Partitions that are not named are not read. No partition may starve another for ever.

        Raises PositionLostError when a position lies before the start or beyond the end of its partition,
        TopicMissingError, LogUnavailableError.
        """
        ...

    async def close(self) -> None: ...


class Log(Protocol):
    """See the module's text for the guarantees."""

    async def create(self, topic: TopicSpec) -> TopicState:
        """Make the topic and its genesis records, or find them made. Raises TopicMismatchError for other partitions."""
        ...

    async def describe(self, topic: str) -> TopicState:
        """The topic as it is now, read past every cache. Raises TopicMissingError, LogUnavailableError."""
        ...

    async def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        """Append one non-empty batch to one partition, durably, in order.

        Raises TopicMissingError, TopicMismatchError (no such partition) and OversizeRecordError, with nothing written, and
        LogUnavailableError (perhaps written).
        """
        ...

    def reader(self, topic: str) -> Reader:
        """A new reader. Opening it touches nothing; a missing topic is told by its first read."""
        ...

    async def report(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Tell lag tools how far `group` is. Advisory: nothing here ever reads it back, and faults are not raised."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class ForeignTopics(Protocol):
    """A log that holds topics of others, which have no genesis, and knows one life of such a topic from the next.

    Not part of the port: logs without it hold none.
    """

    async def foreign(self, topic: str) -> TopicState:
        """`describe`, with an incarnation that the log itself keeps, and that tells the number of partitions too.

        With another number the keys live elsewhere. Raises like `describe`.
        """
        ...


@runtime_checkable
class Passing(Protocol):
    """A reader of topics in which not every offset is a record's. Not part of the port."""

    def passed(self) -> Mapping[int, int]:
        """Partition -> offset below which the reads so far handed out every record that there is."""
        ...


async def identified(log: Log, topic: str, *, foreign: bool = False) -> TopicState:
    """`describe`, for whoever needs to know which life of the topic it is. `foreign`: the topic is another's.

    Raises TopicMissingError also for a topic that is still being made, and TopicLostError (one of those) for one that holds
    or held records but has no incarnation: its beginning was deleted, or it is not ours.
    """
    state = await (log.foreign(topic) if foreign and isinstance(log, ForeignTopics) else log.describe(topic))
    if state.incarnation is None:
        if any(end for _, end in state.bounds.values()):
            raise TopicLostError(topic=topic, seen=without_beginning(state))
        raise TopicMissingError(log="(as far as it is made)", topic=topic)
    return state


def without_beginning(state: TopicState) -> str:
    """What is seen of a topic that has records and no incarnation."""
    stored = ", ".join(f"{start} to {end}" for _, (start, end) in sorted(state.bounds.items()))
    return f"neither genesis nor mark is left in it: its beginning was deleted, or it was never Truecopy's (stored: {stored})"
