"""The genesis: how a topic gets an identity that outlives its name, and how it is read back.

Every partition begins with a control record that names the topic's incarnation, 128 random bits. The record at offset 0
of partition 0 decides, so that owners who race on a log without transactions agree: each that finds partition 0 empty
appends a candidate, all read offset 0 back and adopt what lies there, and then fill the partitions that are empty still.
A genesis anywhere else lost that race and means nothing. Once retention has eaten offset 0, the first mark tells.

These functions only decide. An adapter writes what `absent` names, looks again, and is done when it names nothing.
"""

import time
import uuid
from collections.abc import Iterable

from truecopy_bus.errors import TopicMismatchError
from truecopy_bus.record import Incarnation, Outgoing, Record, TopicSpec, TopicState
from truecopy_schemas.control import (
    CONTROL_HEADER,
    CONTROL_KEY,
    GENESIS,
    ControlRecord,
    Genesis,
    Mark,
    decode,
    encode,
)
from truecopy_schemas.errors import ForeignRecordError, UndecodableError

__all__ = ["absent", "control_of", "genesis", "incarnation_in", "new_incarnation"]


def new_incarnation() -> Incarnation:
    """A name for a topic's life: 32 hexadecimal digits, never met before."""
    return uuid.uuid4().hex


def genesis(topic: TopicSpec, partition: int, incarnation: Incarnation) -> Outgoing:
    """The first record of a partition."""
    now_ms = time.time_ns() // 1_000_000
    said = Genesis(
        incarnation=incarnation,
        topic=topic.name,
        partition=partition,
        partitions=topic.partitions,
        created_at_ms=now_ms,
    )
    return Outgoing(CONTROL_KEY, encode(said), now_ms, ((CONTROL_HEADER, GENESIS),))


def absent(topic: TopicSpec, state: TopicState, *, candidate: Incarnation) -> list[tuple[int, Outgoing]]:
    """What must still be appended, and to which partition, until the topic is whole.

    While the topic has no incarnation that is `candidate`'s genesis for partition 0 alone, because another may win there.
    Raises TopicMismatchError for another number of partitions, or if partition 0 holds records but no identity.
    """
    if state.partitions != topic.partitions:
        raise TopicMismatchError(topic=topic.name, seen=f"{state.partitions} partitions", expected=f"{topic.partitions}")
    if state.incarnation is None:
        if state.bounds[0] != (0, 0):
            raise TopicMismatchError(
                topic=topic.name, seen="records without a genesis or a mark", expected="a genesis at offset 0"
            )
        return [(0, genesis(topic, 0, candidate))]
    return [
        (partition, genesis(topic, partition, state.incarnation))
        for partition, (_, end) in sorted(state.bounds.items())
        if end == 0
    ]


def control_of(record: Record) -> ControlRecord | None:
    """The genesis or mark that a record holds; None for an entity's record.

    Raises ForeignRecordError, UndecodableError or NewerFormatError for one under the control key that can't be read.
    """
    if record.key != CONTROL_KEY:
        return None
    return decode(dict(record.headers).get(CONTROL_HEADER, b""), record.value)


def incarnation_in(records: Iterable[Record]) -> Incarnation | None:
    """The incarnation that the first of `records` to name it names: a genesis at offset 0, or any mark.

    Give it the records of partition 0 from the start of what is stored; it looks no further than it must. Raises
    NewerFormatError; a control record that is damaged or foreign names nothing.
    """
    for record in records:
        try:
            said = control_of(record)
        except (ForeignRecordError, UndecodableError):
            continue
        if isinstance(said, Mark) or (said is not None and record.offset == 0):
            return said.incarnation
    return None
