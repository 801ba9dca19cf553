"""What an app's topics should be, what they are, and what may be done about the difference.

A topic that is missing is created, and a setting that differs is mended, if the topic is the app's own or was named. Nothing
is ever deleted, and no number of partitions changed: it is part of a topic's identity, and with another one keys live
elsewhere. Who else may own a topic can't be told from here: an app that projects an entity and never published it may be no
more than its reader, and would make the topic with a number of partitions that is its owner's to choose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from truecopy_bus.log import without_beginning
from truecopy_bus.record import TopicSpec, TopicState

__all__ = ["Act", "Difference", "Need", "Seen", "differences"]

AT_LEAST = frozenset({"max.message.bytes", "min.insync.replicas"})
"""Settings of which more does no harm."""


class Act(Enum):
    """What `topics apply` does about a difference."""

    CREATE = "create the topic"
    COMPLETE = "write the genesis records that are missing"
    MEND = "change the setting"
    REFUSE = "leave it, and say why"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A topic that an app needs. `ours` if it may be created and changed; `partitions_known` if their number is the store's."""

    spec: TopicSpec
    ours: bool
    partitions_known: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A topic as it is, `state` None if it is missing. `settings` and `copies` are None where the log has no such thing."""

    state: TopicState | None
    settings: Mapping[str, str] | None = None
    copies: Mapping[int, tuple[int, int]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing of one topic that is not as needed. `remedy` says what is done, or what somebody has to do."""

    topic: str
    what: str
    seen: str
    expected: str
    act: Act
    remedy: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.what} is {self.seen}, expected {self.expected}: {self.remedy}"


def differences(need: Need, seen: Seen, *, command: str) -> tuple[Difference, ...]:
    """Everything in which a topic is not as needed. `command` is how to name it, so that it is taken for the app's own."""
    if seen.state is None:
        return (_missing(need, command),)
    return (
        *_life(need, seen.state),
        *_partitions(need, seen.state),
        *_settings(need, seen.settings or {}, command),
        *_copies(need, seen.copies or {}),
    )


def _missing(need: Need, command: str) -> Difference:
    parts = need.spec.partitions
    expected = f"a topic of {parts} partition{'s' if parts > 1 else ''}"
    if need.ours:
        act, remedy = Act.CREATE, "`topics apply` creates it, and so does the first relay"
    else:
        act, remedy = Act.REFUSE, f"its owner creates it; if that is this app, name it: {command}"
    return Difference(topic=need.spec.name, what="the topic", seen="missing", expected=expected, act=act, remedy=remedy)


def _life(need: Need, state: TopicState) -> Sequence[Difference]:
    """A topic without identity, or with partitions that have none."""
    empty = [partition for partition, (_, end) in sorted(state.bounds.items()) if end == 0]
    if state.incarnation is None and len(empty) < state.partitions:
        remedy = "records lie there that no genesis precedes: move them away and delete the topic, or use another entity"
        told = without_beginning(state)
        return [_refused(need, "its beginning", told, "a genesis at offset 0", remedy)]
    if not empty:
        return []
    partitions = ", ".join(map(str, empty))
    seen, expected = f"missing in partition {partitions}", "a genesis in each"
    if not need.ours:
        return [_refused(need, "the genesis", seen, expected, "its owner's relay completes it")]
    remedy = "`topics apply` completes it, and so does the next relay"
    return [Difference(topic=need.spec.name, what="the genesis", seen=seen, expected=expected, act=Act.COMPLETE, remedy=remedy)]


def _partitions(need: Need, state: TopicState) -> Sequence[Difference]:
    if state.partitions == need.spec.partitions or not need.partitions_known:
        return []
    remedy = "never changed: keys would live elsewhere. Publish under another entity, or bring back the topic as it was"
    return [_refused(need, "the number of partitions", str(state.partitions), str(need.spec.partitions), remedy)]


def _settings(need: Need, settings: Mapping[str, str], command: str) -> Sequence[Difference]:
    found = []
    for name, expected in sorted(need.spec.settings.items()):
        seen = settings.get(name)
        if not settings or seen == expected or (name in AT_LEAST and _at_least(seen, expected)):
            continue
        act, remedy = Act.MEND, "`topics apply` changes it"
        if not need.ours:
            act, remedy = Act.REFUSE, f"its owner changes it; if that is this app, name it: {command}"
        told = "not known to the broker (Kafka 3.6 or later is needed)" if seen is None else seen or "empty"
        if seen is None:
            act, remedy = Act.REFUSE, "upgrade the broker"
        found.append(Difference(topic=need.spec.name, what=name, seen=told, expected=expected, act=act, remedy=remedy))
    return found


def _at_least(seen: str | None, expected: str) -> bool:
    return seen is not None and seen.isdecimal() and int(seen) >= int(expected)


def _copies(need: Need, copies: Mapping[int, tuple[int, int]]) -> Sequence[Difference]:
    found = []
    few = {partition: held for partition, (held, _) in sorted(copies.items()) if held < need.spec.replication}
    if few:
        seen = ", ".join(f"{held} in partition {partition}" for partition, held in few.items())
        remedy = "not changed from here: use kafka-reassign-partitions.sh"
        found.append(_refused(need, "the number of copies", seen, str(need.spec.replication), remedy))
    behind = {partition: (held, same) for partition, (held, same) in sorted(copies.items()) if same < held}
    if behind:
        seen = ", ".join(f"{same} of {held} in partition {partition}" for partition, (held, same) in behind.items())
        found.append(_refused(need, "copies in step", seen, "all", "look for the broker that is away or behind"))
    return found


def _refused(need: Need, what: str, seen: str, expected: str, remedy: str) -> Difference:
    return Difference(topic=need.spec.name, what=what, seen=seen, expected=expected, act=Act.REFUSE, remedy=remedy)
