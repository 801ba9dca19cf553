"""Who decides a topic's incarnation, and how it is read back."""

import pytest

from truecopy_bus.errors import TopicMismatchError
from truecopy_bus.genesis import absent, control_of, genesis, incarnation_in, new_incarnation
from truecopy_bus.record import Outgoing, Record, TopicSpec, TopicState
from truecopy_schemas.control import CONTROL_HEADER, CONTROL_KEY, MARK, Genesis, Mark, encode
from truecopy_schemas.errors import ForeignRecordError

TOPIC = TopicSpec(name="shop.cart", partitions=3)
OURS, THEIRS = new_incarnation(), new_incarnation()


def lying(outgoing: Outgoing, offset: int) -> Record:
    return Record(0, offset, outgoing.key, outgoing.value, outgoing.timestamp_ms, outgoing.headers)


def mark(incarnation: str) -> Outgoing:
    said = Mark(incarnation=incarnation, epoch=1, number=1, count=1, digest=bytes(32), digest_algorithm=1, at_ms=5)
    return Outgoing(CONTROL_KEY, encode(said), 5, ((CONTROL_HEADER, MARK),))


def state(incarnation: str | None, *ends: int) -> TopicState:
    return TopicState(
        name=TOPIC.name, partitions=len(ends), incarnation=incarnation, bounds={p: (0, end) for p, end in enumerate(ends)}
    )


EVENT = Outgoing(b"key", b"value", 5)
DAMAGED = Outgoing(CONTROL_KEY, b"\x00\x00", 5, ((CONTROL_HEADER, MARK),))
HEADLESS = Outgoing(CONTROL_KEY, b"\x00\x00", 5)

CASES = [
    pytest.param([lying(genesis(TOPIC, 0, OURS), 0)], OURS, id="a genesis at offset 0"),
    pytest.param([lying(genesis(TOPIC, 0, OURS), 0), lying(genesis(TOPIC, 0, THEIRS), 1)], OURS, id="the loser of a race"),
    pytest.param([lying(genesis(TOPIC, 0, THEIRS), 1), lying(mark(OURS), 2)], OURS, id="a loser after retention"),
    pytest.param([lying(EVENT, 7), lying(EVENT, 8), lying(mark(OURS), 9)], OURS, id="the first mark after retention"),
    pytest.param([lying(DAMAGED, 7), lying(HEADLESS, 8), lying(mark(OURS), 9)], OURS, id="behind damaged ones"),
    pytest.param([lying(EVENT, 0), lying(genesis(TOPIC, 0, OURS), 1)], None, id="a genesis that came late"),
    pytest.param([], None, id="an empty partition"),
]


@pytest.mark.parametrize(("records", "incarnation"), CASES)
def test_the_incarnation_in(records: list[Record], incarnation: str | None) -> None:
    assert incarnation_in(records) == incarnation


def test_no_more_is_read_than_it_takes() -> None:
    records = iter([lying(genesis(TOPIC, 0, OURS), 0), lying(EVENT, 1)])

    assert incarnation_in(records) == OURS
    assert next(records).offset == 1


def test_an_empty_topic_lacks_a_candidate_in_partition_0_alone() -> None:
    [(partition, candidate)] = absent(TOPIC, state(None, 0, 0, 0), candidate=OURS)

    assert partition == 0
    assert incarnation_in([lying(candidate, 0)]) == OURS


def test_whoever_lost_adopts_what_won_for_every_empty_partition() -> None:
    missing = absent(TOPIC, state(THEIRS, 2, 0, 0), candidate=OURS)

    assert [partition for partition, _ in missing] == [1, 2]
    for partition, record in missing:
        said = control_of(lying(record, 0))
        assert isinstance(said, Genesis)
        assert (said.incarnation, said.topic, said.partition, said.partitions) == (THEIRS, TOPIC.name, partition, 3)


def test_a_whole_topic_lacks_nothing() -> None:
    assert absent(TOPIC, state(THEIRS, 1, 5, 1), candidate=OURS) == []


def test_records_without_an_identity_are_refused() -> None:
    with pytest.raises(TopicMismatchError, match="without a genesis"):
        absent(TOPIC, state(None, 3, 0, 0), candidate=OURS)


def test_another_number_of_partitions_is_refused() -> None:
    with pytest.raises(TopicMismatchError, match="2 partitions"):
        absent(TOPIC, state(THEIRS, 1, 1), candidate=OURS)


def test_an_entity_record_is_no_control_record_and_a_strange_one_is_named() -> None:
    assert control_of(lying(EVENT, 0)) is None
    with pytest.raises(ForeignRecordError):
        control_of(lying(HEADLESS, 0))
