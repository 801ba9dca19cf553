"""What a process tells of itself: figures that are gathered, answers that are judged, metrics without what is unknown."""

import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.services.bank import Deposited, app, balances

from truecopy_bus.errors import LogUnavailableError, TopicLostError, TopicMissingError
from truecopy_bus.log import Reader
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.record import Outgoing, Record, TopicSpec
from truecopy_projections.limits import KEYS_PARKED_MAX
from truecopy_projections.verdicts import Verdict
from truecopy_projections.worker import Worker
from truecopy_schemas.control import CONTROL_KEY
from truecopy_services import Service, Settings, Truecopy
from truecopy_services.checking import Checked
from truecopy_services.cli import main
from truecopy_services.observing.answers import FIGURES_OLD_S, Answer, LoopSeen, alive, ready
from truecopy_services.observing.gathering import Figures, Gatherer
from truecopy_services.observing.metrics import ProcessMetrics
from truecopy_services.unapplied import Unapplied
from truecopy_services.working import Loops

AWAY = LogUnavailableError(log="kafka", seen="gone")
WELL = LoopSeen(begun=True, idle_s=0.1, fault=None)
LOOPS = [
    pytest.param(WELL, True, id="comes round"),
    pytest.param(replace(WELL, idle_s=11.0), False, id="stuck in something"),
    pytest.param(replace(WELL, fault=AWAY), True, id="waits for a server"),
    pytest.param(LoopSeen(begun=False, idle_s=9.0, fault=None), True, id="has just begun"),
    pytest.param(LoopSeen(begun=False, idle_s=11.0, fault=None), False, id="never came round"),
]
MISSING = TopicMissingError(log="kafka", topic="t")
UNREADY = [
    pytest.param({"loops": {"b@1": replace(WELL, fault=AWAY)}}, "b@1 waits", id="a loop waits for a server"),
    pytest.param({"loops": {"b@1": replace(WELL, fault=TopicLostError(topic="t", seen="gone"))}}, "b@1 waits", id="lost topic"),
    pytest.param({"loops": {"b@1": LoopSeen(begun=False, idle_s=1.0, fault=None)}}, "not come round yet", id="just begun"),
    pytest.param({"loops": {"b@1": replace(WELL, idle_s=11.0)}}, "stuck", id="stuck"),
    pytest.param({"figures": None}, "nothing was learned", id="no figures yet"),
    pytest.param({"now_s": 100.0 + FIGURES_OLD_S + 1}, "nothing was learned", id="old figures"),
    pytest.param({"needed": ("log", "store")}, "store did not answer", id="a store that was not asked"),
    pytest.param({"stopping": True}, "stopping", id="stopping"),
]


AT: dict[str, Any] = {"now_s": 100.0, "stuck_s": 10.0, "stopping": False}


class Process:
    """A relay and a worker that are stepped by hand, and what is told of them."""

    def __init__(self, service: Service) -> None:
        self.service, self.relay, self.worker = service, service.relay(), service.worker(balances)
        self.loops = Loops(relay=self.relay, workers={balances.id: self.worker})
        self.gatherer = Gatherer(service, self.loops, relays=True)

    async def publish(self, *amounts: int) -> None:
        """Events of one key, in partition 1, in one transaction each."""
        await self.service.store.open()
        for amount in amounts:
            await self.service.publish("a1", Deposited(amount=amount))

    async def settle(self) -> None:
        """Everything on the log, marked and applied."""
        await self.relay.drain()
        await self.relay.mark()
        await apply(self.worker)

    async def samples(self) -> dict[str, float]:
        """The metrics of a new round, by name and partition or other label."""
        found = await self.gatherer.gather()
        return samples(found)

    async def ready(self, **settings: Any) -> Sequence[str]:
        return (await self.answer(**settings)).reasons

    async def answer(self, **settings: Any) -> Answer:
        given: dict[str, Any] = {"now_s": time.monotonic(), "stuck_s": 10.0, "lag_max_s": None, "stopping": False}
        found = await self.gatherer.gather()
        return ready({}, found, ("log", "store", "replica"), **given | settings)


async def apply(worker: Worker) -> None:
    while await worker.step():
        pass


def samples(figures: Figures | None, loops: Mapping[str, LoopSeen] | None = None, **checks: Checked) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(ProcessMetrics(lambda: figures, lambda: loops or {}, checks, {}))
    found = {}
    for family in registry.collect():
        for sample in family.samples:
            about = [value for name, value in sample.labels.items() if name != "projection"]
            found[" ".join([sample.name.removeprefix("truecopy_"), *about])] = sample.value
    return found


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Process]:
    async with app.at(settings).open(store=False) as service:
        process = Process(service)
        try:
            yield process
        finally:
            await process.worker.leave()


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    async with opened(Settings(home=tmp_path, read_wait_s=0.01)) as found:
        yield found


@pytest.fixture(params=["embedded", "kafka and postgresql"])
def addresses(request: pytest.FixtureRequest) -> dict[str, str]:
    if request.param == "embedded":
        return {}
    database = str(request.getfixturevalue("postgres_url"))
    return {"log": str(request.getfixturevalue("kafka_url")), "store": database, "replica": database}


async def test_lag_is_the_age_of_the_oldest_event_that_is_not_applied(
    addresses: dict[str, str], topic_namespace: str, tmp_path: Path
) -> None:
    async with opened(Settings(home=tmp_path, read_wait_s=0.2, namespace=topic_namespace, **addresses)) as process:
        await process.publish(5)
        await process.settle()
        applied = await process.samples()
        await process.publish(1, 2)
        pending = await process.samples()
        await process.relay.drain()
        behind, later = await process.samples(), await process.samples()
        await process.settle()
        again = await process.samples()

    assert (applied["lag_records 1"], applied["oldest_unapplied_seconds 1"], applied["applied_events_total"]) == (0, 0, 1)
    assert (pending["outbox_pending_events bank.account"], pending["oldest_unapplied_seconds 1"]) == (2, 0)
    assert 0 < pending["outbox_oldest_seconds bank.account"] < 60
    assert (behind["lag_records 1"], behind["delivered_events_total 1"], behind["verified_through 1"]) == (2, 1, 1)
    assert 0 < behind["oldest_unapplied_seconds 1"] < later["oldest_unapplied_seconds 1"] < 60
    assert (again["lag_records 1"], again["oldest_unapplied_seconds 1"], again["applied_events_total"]) == (0, 0, 3)
    assert (again["verified_through 1"], again["relay_sent_events_total"]) == (3, 3)
    assert [again[f"up {part}"] for part in ("log", "store", "replica")] == [1, 1, 1]


async def test_the_newest_certificate_is_told_beside_the_lag(process: Process) -> None:
    await process.publish(5)
    await process.settle()
    before = await process.samples()
    (report,) = await process.service.check()
    await process.service.certify(report)
    await process.publish(1)
    await process.settle()
    after = await process.samples()

    assert not [name for name in before if name.startswith("certified")]
    assert [after[f"certified_through {p}"] for p in (0, 1)] == [0, 1]
    assert after["verified_through 1"] == 2
    assert 0 <= after["certified_age_seconds 1"] < 60


async def test_a_reducer_that_raises_parks_a_key_and_shows(process: Process) -> None:
    await process.publish(-1)
    await process.settle()

    found = await process.samples()

    assert (found["parked_keys 1"], found["parked_keys 0"], found["halted 1"]) == (1, 0, 0)
    assert found["waiting_bytes 1"] > 0
    assert (found["quarantine_records 1 REJECTED"], found["quarantine_keys 1 REJECTED"]) == (1, 1)
    assert found["quarantine_bytes 1 REJECTED"] == found["waiting_bytes 1"]
    assert 0 <= found["quarantine_oldest_seconds 1 REJECTED"] < 60
    assert (found["quarantine_share"], found["amendments"]) == (1 / KEYS_PARKED_MAX, 0)
    told = await process.answer()
    assert told.reasons == (), "its partition flows"
    assert told.facts["waiting"]["balance@1"]["records"] == 1
    await process.service.quarantine(balances).skip("a1", why="a test")
    found = await process.samples()
    assert (found["amendments"], found["quarantine_share"]) == (1, 0)
    assert not [name for name in found if name.startswith("quarantine_records")]


async def test_a_halted_partition_shows_and_makes_unready_and_its_lag_is_unknown(process: Process) -> None:
    await process.publish(5)
    await process.settle()
    log = SQLiteLog(process.service.settings.home / "log.db")
    await log.delete("bank.account")
    await log.create(TopicSpec(name="bank.account", partitions=2))
    await log.close()
    while not all(process.worker.held().values()):
        await process.worker.step()

    found, reasons = await process.samples(), await process.ready()

    assert (found["halted 0"], found["halted 1"]) == (1, 1)
    assert not {"lag_records 0", "oldest_unapplied_seconds 0", "oldest_unapplied_seconds 1"} & found.keys()
    assert len(reasons) == 2
    assert all("stands still: position lost" in why for why in reasons)


async def test_a_replica_that_is_away_leaves_its_figures_out_and_nothing_is_zero(tmp_path: Path) -> None:
    away = "postgresql://u:hidden@127.0.0.1:1/x"
    async with opened(Settings(home=tmp_path, replica=away, timeout_s=1.0)) as process:
        await process.publish(5)
        await process.relay.drain()

        found, reasons = await process.samples(), await process.ready()

    assert [found[f"up {part}"] for part in ("log", "store", "replica")] == [1, 1, 0]
    assert found["outbox_pending_events bank.account"] == 0
    assert not [name for name in found if name.startswith(("lag", "oldest_unapplied", "parked", "verified", "delivered"))]
    assert reasons == ("replica did not answer",)


async def test_lag_above_a_bound_makes_unready_and_so_does_one_that_is_unknown(process: Process) -> None:
    await process.publish(5)
    await process.settle()
    within = await process.ready(lag_max_s=1e-6)
    await process.publish(1)
    await process.relay.drain()
    beyond = await process.ready(lag_max_s=1e-6)
    found = await process.gatherer.gather()
    assert found.status is not None
    (known,) = found.status.projections
    unknown = replace(known, partitions=tuple(replace(one, oldest_unapplied_s=None) for one in known.partitions))
    unlearned = replace(found, status=replace(found.status, projections=(unknown,)))

    assert within == ()
    assert [why.partition(":")[0] for why in beyond] == ["balance@1[1]"]
    assert len(ready({}, unlearned, (), lag_max_s=9.0, **AT | {"now_s": found.gathered_s}).reasons) == 2
    assert ready({}, unlearned, (), lag_max_s=None, **AT | {"now_s": found.gathered_s}).good


async def test_what_another_process_holds_is_no_reason(process: Process) -> None:
    await process.publish(5)
    await process.settle()
    await process.publish(1)
    await process.relay.drain()
    await process.worker.leave()

    assert await process.ready(lag_max_s=1e-6) == ()


async def test_a_log_that_has_no_such_topic_has_answered(process: Process) -> None:
    found = await process.samples()

    assert found["up log"] == 1
    assert not [name for name in found if name.startswith("lag")]


async def test_an_owner_without_projections_asks_the_log_too(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, log="kafka://127.0.0.1:1", timeout_s=0.5)
    async with Truecopy("shop", settings=settings).open() as service:
        found = samples(await Gatherer(service, Loops(), relays=True).gather())

    assert (found["up log"], found["up store"]) == (0, 1)
    assert "up replica" not in found


@pytest.mark.parametrize(("seen", "good"), LOOPS)
def test_a_loop_lives_while_it_comes_round(seen: LoopSeen, good: bool) -> None:
    assert alive({"b@1": seen}, stuck_s=10.0).good is good


@pytest.mark.parametrize(("given", "why"), UNREADY)
async def test_what_makes_unready_is_said(process: Process, given: dict[str, Any], why: str) -> None:
    found = replace(await process.gatherer.gather(), gathered_s=100.0)
    assert found.status is not None
    figures = replace(found, status=replace(found.status, answered={"log": True}))
    said = {"loops": {}, "figures": figures, "needed": ("log",), "lag_max_s": None, **AT, **given}

    answer = ready(said.pop("loops"), said.pop("figures"), said.pop("needed"), **said)

    assert ready({"b@1": replace(WELL, fault=MISSING)}, figures, ("log",), lag_max_s=None, **AT).good, "it is yet to come"
    assert any(why in reason for reason in answer.reasons), answer
    assert not answer.good


async def test_figures_that_are_old_are_no_figures(process: Process) -> None:
    found = await process.gatherer.gather()

    old = samples(replace(found, gathered_s=found.gathered_s - FIGURES_OLD_S - 1))

    assert old["figures_age_seconds"] > FIGURES_OLD_S
    assert not [name for name in old if name.startswith(("up", "lag", "held", "outbox"))]


def test_the_last_verdict_of_a_check_is_one_of_all_and_none_while_it_is_unknown() -> None:
    checked = Checked(verdict=Verdict.PARKED, at_s=7.0)
    checked.rounds.update(EQUAL=2, PARKED=1)
    found = samples(None, balance=checked)
    checked.verdict = None
    unknown = samples(None, balance=checked)

    assert [name for name, value in found.items() if name.startswith("check_verdict") and value] == ["check_verdict PARKED"]
    assert (found["check_rounds_total EQUAL"], found["check_rounds_total PARKED"]) == (2, 1)
    assert not [name for name in unknown if name.startswith("check_verdict")]


class CountingLog(MemoryLog):
    """A log that counts what is read of it."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def reader(self, topic: str) -> Any:
        return _CountingReader(self, super().reader(topic))


class _CountingReader:
    def __init__(self, log: CountingLog, inner: Reader) -> None:
        self._log, self._inner = log, inner

    async def read(self, positions: Mapping[int, int], **bounds: Any) -> Sequence[Record]:
        self._log.reads += 1
        return await self._inner.read(positions, **bounds)

    async def close(self) -> None:
        await self._inner.close()


async def test_the_log_is_looked_at_once_for_each_position_and_marks_are_no_events() -> None:
    log = CountingLog()
    await log.create(TopicSpec(name="t", partitions=2))  # a genesis each, at offset 0
    unapplied = Unapplied(log)
    marks = await unapplied.ages_s(await log.describe("t"), {0: 0, 1: 0})
    seen = log.reads
    hour_ms = time.time_ns() // 1_000_000 - 3_600_000
    await log.append("t", 0, [Outgoing(CONTROL_KEY, b"mark", 0), Outgoing(b"k", b"v", hour_ms), Outgoing(b"k", b"w", 0)])
    topic = await log.describe("t")
    for position in (0, 1, 2):
        ages = await unapplied.ages_s(topic, {0: position, 1: 1})
        assert 3_600 <= ages[0] < 3_660
        assert (ages[1], log.reads) == (0.0, seen + 1)
    moved = await unapplied.ages_s(topic, {0: 3, 1: 1})

    assert marks == {0: 0.0, 1: 0.0}
    assert (moved[0] > 3_660, log.reads) == (True, seen + 2)
    await log.delete("t")
    assert await unapplied.ages_s(topic, {0: 4, 1: 1}) == {0: 0.0, 1: 0.0}, "nothing is read where nothing can be"
    assert await Unapplied(log).ages_s(topic, {0: 3, 1: 1}) == {}, "what can't be read is unknown"


def test_the_extra_is_named_when_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "truecopy_services.observing.serving", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)

    code = main(["run", "tests.services.bank", "--http", "0"])

    assert code == 2
    assert "pip install 'truecopy[control]'" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["nowhere", ":9", "h:99999", "1.2.3.4.5.6:80", "http://h:1", "[::1:9"])
def test_an_address_that_can_not_be_listened_on_is_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRUECOPY_HTTP", address)

    code = main(["run", "tests.services.bank"])

    assert code == 2
    assert "TRUECOPY_HTTP" in capsys.readouterr().err
