"""The verbs for operators, as a person or a pipeline calls them: on files, and on a real Kafka and a real PostgreSQL."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apsw
import pytest

from truecopy_bus.errors import LogUnavailableError
from truecopy_bus.record import Outgoing, Record, TopicSpec
from truecopy_schemas import Compatibility, avro_schema
from truecopy_services.app import Truecopy
from truecopy_services.cli import main
from truecopy_services.loading import load_app
from truecopy_services.opening import open_log
from truecopy_services.service import Service

ACCOUNT = "bank.account"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A command that has ended: the objects on standard output, the last one apart, and all that it said."""

    code: int
    rows: list[Any]
    object: Any
    said: str


class Bank:
    """The app `bank` in a folder of its own, and the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *, prefix: str) -> None:
        self._capsys, self.topic = capsys, f"{prefix}{ACCOUNT}"
        self.app: Truecopy = load_app("bank:app")
        self.deposited: Any = self.app.projections["balance@1"].handlers["bank.account.Deposited"].event

    def __call__(self, *words: str) -> Told:
        self._capsys.readouterr()
        code = main([*words, "--json"])
        out, err = self._capsys.readouterr()
        *rows, last = map(json.loads, out.splitlines())
        return Told(code=code, rows=rows, object=last, said=out + err)

    def plain(self, *words: str) -> str:
        """What a person sees, as one line."""
        self._capsys.readouterr()
        main(list(words))
        return " ".join(self._capsys.readouterr().out.split())

    def do(self, work: Callable[[Service], Coroutine[Any, Any, None]]) -> None:
        """Something with the service open."""

        async def opened() -> None:
            async with self.app.open() as service:
                await work(service)

        asyncio.run(opened())

    def relay(self, *amounts: int, key: str = "a1") -> None:
        """Publish deposits, and put them on the log with a mark."""

        async def work(service: Service) -> None:
            await service.publish_many((key, self.deposited(amount=amount), None) for amount in amounts)
            relay = service.relay()
            await relay.drain()
            await relay.mark()
            await relay.leave()

        self.do(work)

    def run(self, *amounts: int) -> None:
        """Publish deposits, and let relay and worker bring them into the replica."""

        async def running() -> None:
            async with self.app.running() as service:
                for amount in amounts:
                    token = await service.publish("a1", self.deposited(amount=amount))
                await service.replica(self.app.find("balance")).get("a1", at_least=token, wait_s=30.0)

        asyncio.run(running())

    def append(self, *records: Outgoing, partition: int = 0) -> None:
        """What somebody else writes into the topic."""

        async def work(service: Service) -> None:
            await service.log.append(self.topic, partition, records)

        self.do(work)

    def on_log(self, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> None:
        """Something with the log alone."""

        async def logged(service: Service) -> None:
            await work(service.log)

        self.do(logged)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the app, where this process is."""
    shutil.copy(Path(__file__).with_name("bank.py"), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, value in {"LEASE_S": "1.5", "MARK_WRITING_S": "0.2", "TIMEOUT_S": "3"}.items():
        monkeypatch.setenv(f"TRUECOPY_{name}", value)
    return tmp_path


@pytest.fixture
def embedded(here: Path, capsys: pytest.CaptureFixture[str]) -> Bank:
    """On files."""
    assert here.exists()
    return Bank(capsys, prefix="")


@pytest.fixture
def served(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kafka_url: str,
    postgres_url: str,
    topic_namespace: str,
) -> Bank:
    """On a real Kafka and a real PostgreSQL."""
    assert here.exists()
    for name, value in {"LOG": kafka_url, "STORE": postgres_url, "REPLICA": postgres_url, "NAMESPACE": topic_namespace}.items():
        monkeypatch.setenv(f"TRUECOPY_{name}", value)
    return Bank(capsys, prefix=f"{topic_namespace}.")


@pytest.fixture(params=["embedded", "served"])
def bank(request: pytest.FixtureRequest) -> Bank:
    """On either."""
    found: Bank = request.getfixturevalue(request.param)
    return found


def foreign(value: bytes | None, *, key: bytes | None = b"a1", at_ms: int = 0) -> Outgoing:
    return Outgoing(key, value, at_ms or time.time_ns() // 1_000_000)


Meanwhile = Callable[[Any], Coroutine[Any, Any, None]]
Interrupting = Callable[[Meanwhile], None]


class _Interrupted:
    """A log to which something happens before the first record of the app's topic is read by anybody."""

    def __init__(self, log: Any, meanwhile: Meanwhile) -> None:
        self._log, self._meanwhile = log, meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def reader(self, topic: str) -> Any:
        reader = self._log.reader(topic)
        return _InterruptedReader(reader, self._log, self._meanwhile) if topic == ACCOUNT else reader


class _InterruptedReader:
    def __init__(self, reader: Any, log: Any, meanwhile: Meanwhile) -> None:
        self._reader, self._log = reader, log
        self._meanwhile: Meanwhile | None = meanwhile

    async def read(self, positions: Mapping[int, int], *, records_max: int, wait_s: float) -> Sequence[Record]:
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            await meanwhile(self._log)
        read: Sequence[Record] = await self._reader.read(positions, records_max=records_max, wait_s=wait_s)
        return read

    async def close(self) -> None:
        await self._reader.close()


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Interrupting:
    """From now on this happens to the log of each command."""

    def interrupting(meanwhile: Meanwhile) -> None:
        monkeypatch.setattr("truecopy_services.app.open_log", lambda settings: _Interrupted(open_log(settings), meanwhile))

    return interrupting


class TestTail:
    def test_shows_what_is_there_and_ends(self, bank: Bank) -> None:
        bank.relay(5, 7)
        bank.append(foreign(b"{}"), foreign(None), foreign(b"\0\0\0\0\x63\x02"), foreign(b"\x1b[2J", key=b"\x1b[2J\xff"))

        found = bank("tail", "bank", ACCOUNT, "--no-follow")

        assert found.code == 0, found
        deposits = [row for row in found.rows if not row["why"]]
        assert [(row["key"], row["version"], row["type"], row["data"]) for row in deposits] == [
            ("a1", 1, "bank.account.Deposited", {"amount": 5}),
            ("a1", 2, "bank.account.Deposited", {"amount": 7}),
        ]
        assert {row["topic"] for row in found.rows} == {bank.topic}
        assert [row["why"].split(";")[0] for row in found.rows if row["why"]] == [
            "foreign record: the value has 2 bytes, a frame has at least 5",
            "foreign record: the value is null",
            "foreign record: schema id 99 is not in the registry, where its writer should have claimed it",
            "foreign record: the value has 4 bytes, a frame has at least 5",
        ]
        assert (found.object["shown"], found.object["unreadable"]) == (6, 4)
        assert "\x1b" not in found.said

    def test_control_records_keys_types_and_limits(self, bank: Bank) -> None:
        bank.relay(1, 2, key="a1")
        bank.relay(3, key="a2")

        def shown(*words: str) -> list[tuple[str, str | None]]:
            found = bank("tail", "bank", ACCOUNT, "--no-follow", *words)
            assert found.code == 0, found
            return sorted((row["type"].rpartition(".")[2], None if row["control"] else row["key"]) for row in found.rows)

        every = shown("--control")
        assert [one for one in every if one[0] == "genesis"] == [("genesis", None)] * 2
        assert ("mark", None) in every
        assert shown("--key", "a2") == [("Deposited", "a2")]
        assert shown("--type", "Deposited", "--limit", "2") == [("Deposited", "a1")] * 2
        assert shown("--type", "Withdrawn") == []
        assert shown("--from", "end") == []
        assert len(shown("--from", "1h")) == 3
        assert shown("--limit", "0") == []

    def test_begins_some_time_ago(self, bank: Bank) -> None:
        bank.relay(1)
        now_ms = time.time_ns() // 1_000_000
        bank.append(foreign(b"old", at_ms=now_ms + 3_600_000), foreign(b"new", at_ms=now_ms + 7_200_000), partition=1)

        found = bank("tail", "bank", ACCOUNT, "--no-follow", "--from", "10s")

        assert len(found.rows) == 3
        assert bank("tail", "bank", ACCOUNT, "--no-follow", "--from", "1ms").object["shown"] == 2

    def test_a_topic_that_is_not_there_is_not_made(self, bank: Bank) -> None:
        found = bank("tail", "bank", ACCOUNT, "--no-follow")

        assert (found.code, found.object["kind"]) == (3, "TopicMissingError")
        assert bank("tail", "bank", ACCOUNT).code == 3

    def test_follows_until_a_signal(self, embedded: Bank) -> None:
        embedded.relay(1)
        words = [sys.executable, "-m", "truecopy_services", "tail", "bank", "--json", "--from", "beginning"]
        tails = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        try:
            first = [json.loads(tail.stdout.readline()) for tail in tails if tail.stdout]
            embedded.relay(2)
            second = [json.loads(tail.stdout.readline()) for tail in tails if tail.stdout]
            for tail, number in zip(tails, (signal.SIGINT, signal.SIGTERM), strict=True):
                tail.send_signal(number)
            ended = [tail.communicate() for tail in tails]
        finally:
            for tail in tails:
                tail.kill()

        assert [one["data"] for one in (*first, *second)] == [{"amount": 1}] * 2 + [{"amount": 2}] * 2
        assert [tail.returncode for tail in tails] == [0, 0], ended
        assert [json.loads(out.splitlines()[-1])["shown"] for out, _ in ended] == [2, 2]
        assert not any(b"Traceback" in err for _, err in ended)

    def test_what_goes_away_meanwhile_is_waited_for(self, embedded: Bank, interrupted: Interrupting) -> None:
        async def away(_: Any) -> None:
            raise LogUnavailableError(log="faltering", seen="nobody answers")

        embedded.relay(1, 2, 3)
        interrupted(away)

        followed = embedded("tail", "bank", ACCOUNT, "--from", "beginning", "--limit", "3")
        once = embedded("tail", "bank", ACCOUNT, "--no-follow")

        assert (followed.code, [row["version"] for row in followed.rows]) == (0, [1, 2, 3])
        assert (once.code, once.object["kind"]) == (3, "LogUnavailableError")

    def test_a_topic_that_was_made_anew_meanwhile_ends_it(self, embedded: Bank, interrupted: Interrupting) -> None:
        async def made_anew(log: Any) -> None:
            await log.delete(ACCOUNT)
            await log.create(TopicSpec(name=ACCOUNT, partitions=2))
            raise LogUnavailableError(log="faltering", seen="nobody answers")

        embedded.relay(1, 2, 3)
        interrupted(made_anew)

        found = embedded("tail", "bank", ACCOUNT, "--from", "beginning")

        assert (found.code, found.object["kind"]) == (1, "IncarnationError")

    def test_without_following_it_ends_where_the_log_stood_at_the_start(
        self, embedded: Bank, interrupted: Interrupting
    ) -> None:
        async def grown(log: Any) -> None:
            for partition in range(2):
                await log.append(ACCOUNT, partition, [foreign(b"later")])

        embedded.relay(1)
        interrupted(grown)

        found = embedded("tail", "bank", ACCOUNT, "--no-follow")

        assert (found.code, [row["version"] for row in found.rows]) == (0, [1])
        assert embedded("tail", "bank", ACCOUNT, "--no-follow").object["unreadable"] == 2


def told(found: Told) -> dict[str, str]:
    """What differs of the entity's topic: what it is, and what is done about it."""
    mine = (one for one in found.object["differences"] if one["topic"].endswith(ACCOUNT))
    return {one["what"]: one["act"] for one in mine}


class TestTopics:
    def test_a_plan_makes_nothing_and_apply_makes_what_is_missing(self, bank: Bank) -> None:
        for _ in range(2):
            planned = bank("topics", "plan", "bank", ACCOUNT)
            assert (planned.code, told(planned)) == (1, {"the topic": "create"})
            assert len(planned.object["differences"]) == 2

        applied = bank("topics", "apply", "bank", ACCOUNT)

        assert applied.code == 0, applied
        assert {one["topic"].rpartition(".")[2] for one in applied.object["done"]} == {"schemas", "account"}
        assert bank("topics", "plan", "bank", ACCOUNT).object["as_needed"] is True
        bank.relay(5)
        assert bank("topics", "plan", "bank", ACCOUNT).code == 0

    def test_settings_are_mended_and_the_rest_is_refused_with_a_reason(self, served: Bank) -> None:
        odd = {"retention.ms": "1000", "cleanup.policy": "compact", "max.message.bytes": "2000000", "flush.ms": "9000"}
        served.on_log(lambda log: log.create(TopicSpec(name=served.topic, partitions=3, settings=odd)))
        planned = served("topics", "plan", "bank", ACCOUNT)
        assert (planned.code, told(planned)) == (1, {"retention.ms": "mend", "cleanup.policy": "mend"})

        applied = served("topics", "apply", "bank", ACCOUNT)

        assert applied.code == 0, applied
        described = served("topics", "describe", "bank", ACCOUNT).object["topics"][1]
        assert described["settings"]["retention.ms"] == "-1"
        assert described["settings"]["max.message.bytes"] == "2000000"

        async def kept(log: Any) -> None:
            assert (await log.settings(served.topic))["flush.ms"] == "9000"

        served.on_log(kept)

    def test_the_number_of_partitions_is_never_changed(self, bank: Bank) -> None:
        bank.relay(5)

        async def made_anew(log: Any) -> None:
            await log.delete(bank.topic)
            await log.create(TopicSpec(name=bank.topic, partitions=3))

        bank.on_log(made_anew)

        applied = bank("topics", "apply", "bank", ACCOUNT)

        assert (applied.code, told(applied)) == (1, {"the number of partitions": "refuse"})
        assert bank("topics", "describe", "bank", ACCOUNT).object["topics"][1]["partitions"][2]["end"] == 1

    def test_a_topic_with_records_and_without_an_identity_is_named(self, served: Bank) -> None:
        async def bare(log: Any) -> None:
            await log._cluster.create(served.topic, 2, 1, {})
            await log.append(served.topic, 0, [foreign(b"not ours")])

        served.on_log(bare)

        found = served("topics", "apply", "bank", ACCOUNT)

        assert found.code == 1
        assert told(found)["its beginning"] == "refuse"
        assert "neither genesis nor mark is left in it" in found.said
        assert served("topics", "describe", "bank", ACCOUNT).code == 1

    def test_describe_shows_life_bounds_and_last_marks(self, bank: Bank) -> None:
        bank.relay(5, 6)

        found = bank("topics", "describe", "bank", ACCOUNT)

        assert found.code == 0, found
        schemas, account = found.object["topics"]
        assert schemas["topic"].endswith("_truecopy.schemas")
        assert len(account["incarnation"]) == 32
        counts = {one["partition"]: one["mark"] and one["mark"]["count"] for one in account["partitions"]}
        assert sum(counts.values()) == 2
        assert all(len(one["mark"]["digest"]) == 64 for one in account["partitions"])
        shown = bank.plain("topics", "describe", "bank", ACCOUNT)
        assert f"incarnation {account['incarnation']}, 2 partitions" in shown
        assert "last mark: 2 events, epoch 1" in shown

    def test_a_reader_does_not_make_its_owners_topic_unless_it_is_named(self, embedded: Bank) -> None:
        found = embedded("topics", "apply", "bank")

        assert (found.code, told(found)) == (1, {"the topic": "refuse"})
        [left] = [one for one in found.object["differences"] if one["topic"] == ACCOUNT]
        assert "truecopy topics apply bank bank.account" in left["remedy"]


SUBJECT = f"{ACCOUNT}-bank.account.Deposited"


CURRENCY = {"name": "currency", "type": "string"}


def register(bank: Bank, *fields: Any) -> None:
    """Claim an id for a Deposited of these fields, whatever was before."""

    async def work(service: Service) -> None:
        await service.registry.ensure()
        schema = avro_schema(bank.deposited)
        await service.registry.register(
            {**schema, "fields": [*schema["fields"][:2], *fields]}, compatibility=Compatibility.NONE
        )

    bank.do(work)


def mine(found: Told) -> Any:
    """What is said of the app's own event. Other tests of this process may declare events of the same entity."""
    [event] = [one for one in found.object["events"] if one["subject"] == SUBJECT]
    return event


class TestSchema:
    def test_list_and_show(self, bank: Bank) -> None:
        bank.relay(5)
        register(bank, {"name": "amount", "type": "long"}, CURRENCY | {"default": "EUR"})

        found = bank("schema", "list", "bank")

        [mine] = [one for one in found.object["subjects"] if one["subject"] == SUBJECT]
        assert mine["compatibility"] == "BACKWARD_TRANSITIVE"
        assert [(one["version"], one["id"]) for one in mine["versions"]] == [(1, 16), (2, 17)]
        shown = {name: bank("schema", "show", "bank", name).object for name in (SUBJECT, "17", "Deposited@2")}
        assert len({json.dumps(one) for one in shown.values()}) == 1
        assert shown["17"]["schema"]["fields"][-1] == {"name": "currency", "type": "string", "default": "EUR"}
        assert shown["17"]["fingerprint"] == mine["versions"][1]["fingerprint"]
        assert bank("schema", "show", "bank", "Deposited@1").object["id"] == 16

    def test_diff_names_fields_and_judges_both_directions(self, bank: Bank) -> None:
        bank.relay(5)
        register(bank, {"name": "amount", "type": "string"}, CURRENCY)

        found = bank("schema", "diff", "bank", "Deposited@1", "Deposited@2")

        assert found.code == 0, found
        assert [(one["path"], one["what"]) for one in found.object["changes"]] == [("amount", "type"), ("currency", "added")]
        assert [one["path"] for one in found.object["backward"]["clashes"]] == ["amount", "currency"]
        assert [one["path"] for one in found.object["forward"]["clashes"]] == ["amount"]
        assert "BACKWARD: id 17 can't read the events of id 16" in bank.plain("schema", "diff", "bank", "16", "17")
        assert bank("schema", "diff", "bank", "16", "16").object["same"] is True

    def test_check_is_for_a_pipeline(self, bank: Bank) -> None:
        nothing = bank("schema", "check", "bank", ACCOUNT)
        assert (nothing.code, nothing.object["kind"]) == (3, "TopicMissingError")
        bank("topics", "apply", "bank", ACCOUNT)
        for standing in ("new", "new"):  # it claims nothing
            found = bank("schema", "check", "bank", ACCOUNT)
            assert (found.code, mine(found)["standing"]) == (0, standing), found
        bank.relay(5)
        assert mine(bank("schema", "check", "bank", ACCOUNT))["id"] == 16

    def test_check_names_each_incompatibility(self, bank: Bank) -> None:
        register(bank, {"name": "amount", "type": "string"}, CURRENCY)

        found = bank("schema", "check", "bank", ACCOUNT)

        assert found.code == 1, found
        assert mine(found)["standing"] == "incompatible"
        assert [one["path"] for one in mine(found)["clashes"]] == ["amount"]
        assert "INCOMPATIBLE under BACKWARD_TRANSITIVE" in bank.plain("schema", "check", "bank", ACCOUNT)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["show", "bank", "99"], "no schema has id 99"),
            (["show", "bank", "Withdrawn"], "there is no subject 'Withdrawn'"),
            (["show", "bank", "Deposited@2"], "it has 1 to 1"),
            (["show", "bank"], "takes an app and one ID"),
            (["diff", "bank", "16"], "takes an app and two"),
            (["list", "bank", "16"], "takes an app and no name"),
            (["check", "bank", "shop.nothing"], "no entity 'shop.nothing'"),
            (["frob", "bank"], "invalid choice"),
        ],
    )
    def test_wrong_names_are_usage(self, embedded: Bank, words: list[str], said: str) -> None:
        embedded.relay(5)

        found = embedded("schema", *words)

        assert (found.code, found.object["kind"]) == (2, "UsageError"), found
        assert said in found.object["error"]

    def test_the_app_may_come_from_the_environment(self, embedded: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
        embedded.relay(5)
        monkeypatch.setenv("TRUECOPY_APP", "bank:app")

        assert embedded("schema", "show", "16").object["id"] == 16
        assert embedded("schema", "diff", "16", "16").object["same"] is True


class TestWrongInput:
    @pytest.mark.parametrize(
        "words",
        [["tail", "bank", "shop.nothing"], ["tail", "bank", "--from", "soon"], ["topics", "plan", "bank", "shop.nothing"]],
    )
    def test_is_usage(self, embedded: Bank, words: list[str]) -> None:
        found = embedded(*words)

        assert (found.code, found.object["kind"]) == (2, "UsageError"), found

    @pytest.mark.parametrize(
        "words",
        [
            ["tail", "bank", ACCOUNT],
            ["topics", "plan", "bank", ACCOUNT],
            ["topics", "apply", "bank", ACCOUNT],
            ["topics", "describe", "bank", ACCOUNT],
            ["schema", "list", "bank"],
            ["schema", "check", "bank", ACCOUNT],
            ["doctor", "bank"],
            ["doctor"],
        ],
        ids=lambda words: " ".join(words[:2]),
    )
    def test_a_log_that_is_away_is_exit_code_3_in_bounded_time(
        self, embedded: Bank, monkeypatch: pytest.MonkeyPatch, words: list[str]
    ) -> None:
        monkeypatch.setenv("TRUECOPY_LOG", "kafka://127.0.0.1:1")
        monkeypatch.setenv("TRUECOPY_TIMEOUT_S", "0.5")

        found = embedded(*words)

        assert found.code == 3, found
        assert "Traceback" not in found.said
        assert "kafka://127.0.0.1:1" in found.said


def checks(found: Told, level: str) -> dict[str, str]:
    """What was seen of the checks of a level that are about this app's own topic, or about no topic."""
    others = [one for one in found.object["checks"] if one["check"].startswith("topic ") and not one["check"].endswith(ACCOUNT)]
    return {one["check"]: one["seen"] for one in found.object["checks"] if one["level"] == level and one not in others}


class TestDoctor:
    def test_before_the_first_start_nothing_is_made(self, embedded: Bank, here: Path) -> None:
        found = embedded("doctor", "bank")

        assert found.code == 0, found
        assert checks(found, "failed") == {}
        assert sorted(path.name for path in here.iterdir() if path.name != "__pycache__") == ["bank.py"]

    def test_after_a_run_all_is_well_but_that_nobody_works(self, bank: Bank) -> None:
        bank.run(5, 6)
        bank.relay()

        found = bank("doctor", "bank")

        assert found.code == 0, found
        assert checks(found, "warning") == {
            f"relays of {ACCOUNT}": "nobody holds partition 0, 1 of 2",
            "workers of balance@1": "nobody holds partition 0, 1 of 2",
        }
        good = checks(found, "ok")
        assert good[f"outbox of {ACCOUNT}"] == "0 events wait"
        assert good[f"topic {bank.topic}"] == "as needed"
        assert good["declaration of balance@1"] == "as the replica holds it"
        assert good["partitions of balance@1"] == "2 flow"
        assert f"marks of {bank.topic}" in good

    def test_servers_are_looked_at_and_their_passwords_are_not_shown(
        self, served: Bank, monkeypatch: pytest.MonkeyPatch, postgres_url: str
    ) -> None:
        monkeypatch.setenv("TRUECOPY_STORE", postgres_url + "?application_name=hidden")

        found = served("doctor", "bank")

        good = checks(found, "ok")
        assert good["broker 1"].startswith("Kafka 3.6 or later")
        assert good["rights in the store"].endswith(": can be written")
        assert "this machine's" in good["clock of the replica"]
        assert good["TRUECOPY_NAMESPACE"].endswith("(environment variable)")
        assert good["TRUECOPY_LEASE_S"] == "1.5 (environment variable)"
        assert good["TRUECOPY_DURABLE"] == "True (default)"
        assert "hidden" not in found.said
        password = urlsplit(postgres_url).password
        assert not password or f":{password}@" not in found.said
        assert checks(found, "warning")[f"topic {served.topic}"].startswith("the topic is missing")

    def test_parked_keys_halts_and_other_declarations(self, embedded: Bank, here: Path) -> None:
        embedded.run(5)
        with closing(apsw.Connection(str(here / ".truecopy/bank.replica.db"))) as connection:
            connection.execute("UPDATE truecopy_partitions SET parked = 3, halted = 'by hand' WHERE part = 1")

        found = embedded("doctor", "bank")

        assert found.code == 1, found
        assert checks(found, "failed") == {"partitions of balance@1": "partition 1 is halted: by hand"}
        assert checks(found, "warning")["parked keys of balance@1"] == "3"

        with closing(apsw.Connection(str(here / ".truecopy/bank.replica.db"))) as connection:
            connection.execute(
                "UPDATE truecopy_meta SET value = replace(value, 'amount', 'sum') WHERE name LIKE 'projection:%'"
            )
        found = embedded("doctor", "bank")
        assert found.code == 1, found
        assert "column 'sum' was" in checks(found, "failed")["declaration of balance@1"]

        with closing(apsw.Connection(str(here / ".truecopy/bank.replica.db"))) as connection:
            connection.execute("UPDATE truecopy_meta SET value = 'till' WHERE name LIKE 'owner:%'")
        assert "'till'" in checks(embedded("doctor", "bank"), "failed")["declaration of balance@1"]

        with closing(apsw.Connection(str(here / ".truecopy/bank.replica.db"))) as connection:
            connection.execute("UPDATE truecopy_meta SET value = '99' WHERE name = 'format'")
        assert "format 99 was seen" in checks(embedded("doctor", "bank"), "failed")["declaration of balance@1"]

    @pytest.mark.parametrize("name", ["STORE", "REPLICA"])
    def test_a_database_that_is_away_hides_nothing_else(
        self, embedded: Bank, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        embedded.run(5)
        monkeypatch.setenv(f"TRUECOPY_{name}", "postgresql://u:hidden@127.0.0.1:1/x")

        found = embedded("doctor", "bank")

        assert found.code == 3, found
        assert list(checks(found, "failed")) == [f"{name.lower()} postgresql://127.0.0.1:1/x"]
        assert checks(found, "ok")["log sqlite:.truecopy/log.db"] == "answers"
        assert "hidden" not in found.said

    def test_bad_and_misspelt_settings_are_named(self, embedded: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRUECOPY_REPLCIA", "postgresql://u:hidden@h/x")
        found = embedded("doctor", "bank")
        assert found.code == 0, found
        assert checks(found, "warning")["TRUECOPY_REPLCIA"] == "no setting of that name"

        monkeypatch.setenv("TRUECOPY_LEASE_S", "soon")
        found = embedded("doctor", "bank")
        assert found.code == 1, found
        assert "TRUECOPY_LEASE_S" in checks(found, "failed")["settings"]
        assert "hidden" not in found.said
