"""What is said of a topic that is not as an app needs it, and what may be done about it."""

import pytest

from truecopy_bus.record import TopicSpec, TopicState
from truecopy_services.operating.entities import Owned
from truecopy_services.operating.topic_care import Act, Need, Seen, differences

LIFE = "0" * 32
WANTED = {"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": "1000"}
COMMAND = "truecopy topics apply shop shop.customer"


def need(*, ours: bool = True, known: bool = True, replication: int = 1) -> Need:
    spec = TopicSpec(name="shop.customer", partitions=2, replication=replication, settings=WANTED)
    return Need(spec=spec, ours=ours, partitions_known=known)


def state(*ends: int, incarnation: str | None = LIFE, start: int = 0) -> TopicState:
    bounds = {partition: (min(start, end), end) for partition, end in enumerate(ends)}
    return TopicState(name="shop.customer", partitions=len(ends), incarnation=incarnation, bounds=bounds)


GOOD = Seen(state=state(5, 1), settings=WANTED | {"flush.ms": "1"}, copies={0: (1, 1), 1: (1, 1)})
CASES = [
    pytest.param(need(), GOOD, {}, id="as needed"),
    pytest.param(need(), Seen(state=state(5, 1)), {}, id="on a log without settings"),
    pytest.param(need(), Seen(state=None), {"the topic": Act.CREATE}, id="missing"),
    pytest.param(need(ours=False), Seen(state=None), {"the topic": Act.REFUSE}, id="missing and not ours"),
    pytest.param(need(), Seen(state=state(5, 0)), {"the genesis": Act.COMPLETE}, id="half made"),
    pytest.param(need(), Seen(state=state(0, 0, incarnation=None)), {"the genesis": Act.COMPLETE}, id="made by hand"),
    pytest.param(need(ours=False), Seen(state=state(0, 0, incarnation=None)), {"the genesis": Act.REFUSE}, id="by its owner"),
    pytest.param(need(), Seen(state=state(5, 1, incarnation=None)), {"its beginning": Act.REFUSE}, id="records, no identity"),
    pytest.param(need(), Seen(state=state(0, 4, incarnation=None)), {"its beginning": Act.REFUSE}, id="foreign before genesis"),
    pytest.param(need(), Seen(state=state(1, 1, 1)), {"the number of partitions": Act.REFUSE}, id="more partitions"),
    pytest.param(need(known=False), Seen(state=state(1, 1, 1)), {}, id="its owner's number of partitions"),
    pytest.param(
        need(),
        Seen(state=state(1, 1), settings=WANTED | {"retention.ms": "1", "cleanup.policy": "compact"}),
        {"cleanup.policy": Act.MEND, "retention.ms": Act.MEND},
        id="settings",
    ),
    pytest.param(
        need(ours=False),
        Seen(state=state(1, 1), settings=WANTED | {"retention.ms": "1"}),
        {"retention.ms": Act.REFUSE},
        id="not ours",
    ),
    pytest.param(need(), Seen(state=state(1, 1), settings=WANTED | {"max.message.bytes": "2000"}), {}, id="more than needed"),
    pytest.param(
        need(),
        Seen(state=state(1, 1), settings=WANTED | {"max.message.bytes": "999"}),
        {"max.message.bytes": Act.MEND},
        id="less",
    ),
    pytest.param(
        need(),
        Seen(state=state(1, 1), settings={"cleanup.policy": "delete", "retention.ms": "-1"}),
        {"max.message.bytes": Act.REFUSE},
        id="a broker that does not know it",
    ),
    pytest.param(
        need(replication=3),
        Seen(state=state(1, 1), settings=WANTED, copies={0: (3, 3), 1: (2, 1)}),
        {"the number of copies": Act.REFUSE, "copies in step": Act.REFUSE},
        id="copies",
    ),
]


@pytest.mark.parametrize(("wanted", "seen", "acts"), CASES)
def test_what_differs_and_what_is_done_about_it(wanted: Need, seen: Seen, acts: dict[str, Act]) -> None:
    found = differences(wanted, seen, command=COMMAND)

    assert {one.what: one.act for one in found} == acts
    for one in found:
        assert str(one).startswith("shop.customer: ")
        assert one.remedy


def test_what_is_not_ours_says_how_to_make_it_so() -> None:
    [missing] = differences(need(ours=False), Seen(state=None), command=COMMAND)

    assert COMMAND in missing.remedy


@pytest.mark.parametrize(
    ("partitions", "projected", "ours"),
    [
        pytest.param(2, True, True, id="published here, and projected"),
        pytest.param(None, False, True, id="declared, and not projected"),
        pytest.param(None, True, False, id="projected, and never published here"),
    ],
)
def test_whose_entity_it_is(partitions: int | None, projected: bool, ours: bool) -> None:
    assert Owned(entity="shop.customer", partitions=partitions, projected=projected).ours is ours
