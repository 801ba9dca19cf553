"""Records and topics: the values that pass through the log port."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Appended", "Headers", "Incarnation", "Outgoing", "Record", "TopicSpec", "TopicState"]

Headers = tuple[tuple[str, bytes], ...]
Incarnation = str


class Outgoing(NamedTuple):
    """A record on its way to a log. `timestamp_ms` is the owner's commit time, for people only."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: Headers = ()


class Record(NamedTuple):
    """A record as it lies on a log. A tuple, because a batch holds thousands."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: Headers


class Appended(NamedTuple):
    """Where a batch of `records` records landed: from offset `first` of one partition on."""

    first: int
    records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpec:
    """What a topic is created with. The number of partitions is part of its identity.

    `settings` are Kafka's topic settings by their Kafka names; the embedded logs keep them and ignore them.
    """

    name: str
    partitions: int
    replication: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """A topic as it is: `bounds[p] = (start, end)`, the first stored and the next offset of partition p.

    `incarnation` is None while no partition holds a genesis: the topic is not ours, or still being made.
    """

    name: str
    partitions: int
    incarnation: Incarnation | None
    bounds: Mapping[int, tuple[int, int]]
