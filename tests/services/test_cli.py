"""Every verb as a process: what it prints, its last line as JSON, its exit code."""

import asyncio
import json
import shutil
import signal
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.services.conftest import ended, said_address

from truecopy_services.cli import VERBS, main

Running = Callable[..., Awaitable[asyncio.subprocess.Process]]

DEPOSIT = ("publish", "bank", "Deposited", "a1", '{"amount": 5}')
USAGE = [
    pytest.param(["frob"], id="no such verb"),
    pytest.param([], id="no verb"),
    pytest.param(["get", "bank", "balance", "a1", "--frob"], id="no such option"),
    pytest.param(["get", "nowhere", "balance", "a1"], id="no such module"),
    pytest.param(["get", "bank:nothing", "balance", "a1"], id="no such attribute"),
    pytest.param(["get", "json", "balance", "a1"], id="a module without an app"),
    pytest.param(["get", "bank", "balances", "a1"], id="no such projection"),
    pytest.param(["get", "bank", "balance", "a1", "--at-least", "soon"], id="no token"),
    pytest.param(["publish", "bank", "Deposited", "a1"], id="an event is missing"),
    pytest.param(["publish", "bank", "Unheard", "a1", "{}"], id="no such event"),
    pytest.param(["publish", "bank", "Deposited", "a1", "{"], id="no JSON"),
    pytest.param(["publish", "bank", "Deposited", "a1", '{"amount": 1.5}'], id="a float for an int"),
    pytest.param(["publish", "bank", "Deposited", "a1", '{"amont": 5}'], id="a misspelt field"),
    pytest.param(["publish", "bank", "Deposited", "", '{"amount": 5}'], id="an empty key"),
    pytest.param(["run", "bank", "--only", "everything"], id="only what is not there"),
    pytest.param(["bootstrap", "bank", "balance"], id="no peer"),
    pytest.param(["bootstrap", "bank", "balance", "--from", "sqlite:x", "--bytes-per-second", "0"], id="no rate"),
]
AWAY = [
    pytest.param({"TRUECOPY_REPLICA": "postgresql://u:hidden@127.0.0.1:1/x"}, ["get", "bank", "balance", "a1"], id="replica"),
    pytest.param({"TRUECOPY_STORE": "postgresql://u:hidden@127.0.0.1:1/x"}, DEPOSIT, id="store"),
    pytest.param({"TRUECOPY_LOG": "kafka://127.0.0.1:1"}, ["check", "bank"], id="log of a check"),
    pytest.param({"TRUECOPY_LOG": "kafka://127.0.0.1:1"}, ["status", "bank"], id="log of a status"),
    pytest.param({}, ["check", "bank"], id="no topic yet"),
    pytest.param({}, ["get", "bank", "balance", "a1"], id="no worker yet"),
]
SETTINGS = [
    pytest.param({"TRUECOPY_LEASE_S": "soon"}, "TRUECOPY_LEASE_S", id="no number"),
    pytest.param({"TRUECOPY_LOG": "carrier:pigeon"}, "TRUECOPY_LOG", id="no log"),
    pytest.param({"TRUECOPY_REPLICA": "mysql://u:hidden@h/x"}, "TRUECOPY_REPLICA", id="no database"),
    pytest.param({"TRUECOPY_LOG": "kafka://u:hidden@h:1"}, "TRUECOPY_LOG", id="credentials in the log's address"),
    pytest.param({"TRUECOPY_NAMESPACE": "a b"}, "TRUECOPY_NAMESPACE", id="no namespace"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, as the command line, in the folder of the app."""
    shutil.copy(Path(__file__).with_name("bank.py"), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("words", USAGE)
@pytest.mark.usefixtures("here")
def test_usage_is_exit_code_2_and_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = main([*words, "--json"])

    said = capsys.readouterr()
    assert code == 2, said
    assert json.loads(said.out.splitlines()[-1])["exit"] == 2
    assert said.err.startswith("truecopy: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(("settings", "words"), AWAY)
async def test_what_is_away_is_exit_code_3_and_no_password(truecopy: Any, settings: dict[str, str], words: list[str]) -> None:
    truecopy.settings |= settings | {"TRUECOPY_AT_LEAST_S": "0.2", "TRUECOPY_CHECK_WAIT_S": "0.2"}

    done = await truecopy(*words, "--json")

    assert done.code == 3, done
    assert isinstance(done.object, dict)
    assert "hidden" not in done.out + done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("settings", "name"), SETTINGS)
@pytest.mark.usefixtures("here")
def test_a_bad_setting_is_named(
    settings: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)

    code = main(["status", "bank", "--json"])

    said = capsys.readouterr()
    assert code == 2, said
    assert name in json.loads(said.out.splitlines()[-1])["error"]
    assert "hidden" not in said.out + said.err


async def test_publish_run_get_status_check(truecopy: Any, running: Running) -> None:
    """The whole way: what is published is read back at its token, and proven."""
    process = await running("--json")
    published = await truecopy(*DEPOSIT, "--json")
    assert (published.code, published.object["version"]) == (0, 1)

    got = await truecopy("get", "bank", "balance", "a1", "--at-least", published.object["token"], "--json")
    assert (got.code, got.object["rows"]) == (0, [{"amount": 5}])

    checked = await truecopy("check", "bank", "--certify", "--json")
    assert checked.code == 0, checked
    assert checked.object["equal"] is True
    assert checked.object["reports"][0]["count"] == 1
    assert len(checked.object["certificates"]) == 1

    status = await truecopy("status", "bank", "--json")
    assert status.code == 0, status
    [projection] = status.object["projections"]
    assert [one["lag"] for one in projection["partitions"]] == [0, 0]
    assert [one["oldest_unapplied_s"] for one in projection["partitions"]] == [0, 0]
    assert [one["verified_through"] for one in projection["partitions"]] == [0, 1]
    assert all(0 <= one["verified_s"] < 60 for one in projection["partitions"])
    assert sum(one["count"] for one in projection["partitions"]) == 1
    assert all(one["holder"] for one in projection["partitions"])
    assert status.object["entities"][0]["pending"] == 0

    process.send_signal(signal.SIGTERM)
    stopped = await process.communicate()
    assert process.returncode == 0
    assert json.loads(stopped[0].splitlines()[-1])["stopped"] is True


async def test_sigterm_gives_the_leases_back(truecopy: Any, running: Running) -> None:
    process = await running()
    published = await truecopy(*DEPOSIT, "--json")
    await truecopy("get", "bank", "balance", "a1", "--at-least", published.object["token"])

    process.send_signal(signal.SIGTERM)
    await process.communicate()

    assert process.returncode == 0
    status = await truecopy("status", "bank", "--json")
    assert {one["holder"] for one in status.object["projections"][0]["partitions"]} == {None}
    assert set(status.object["entities"][0]["holders"].values()) == {None}


async def test_a_second_signal_ends_it_at_once(truecopy: Any, running: Running) -> None:
    """Held in the middle of a batch it can't end in order; the second signal needs no order."""
    truecopy.settings["TRUECOPY_HOLD"] = "worker.applying@1"
    process = await running("--only", "workers")
    del truecopy.settings["TRUECOPY_HOLD"]
    await truecopy(*DEPOSIT)
    relay = await running("--only", "relay")
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while not (await process.stderr.readline()).startswith(b"truecopy: held at"):
            pass

    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b"stopping after the batch at hand")
    assert process.returncode is None
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(5):
        await process.communicate()

    assert process.returncode == -signal.SIGTERM
    relay.send_signal(signal.SIGINT)
    await relay.communicate()
    assert relay.returncode == 0


async def test_lines_are_published_in_batches(truecopy: Any) -> None:
    lines = "".join(json.dumps({"key": f"a{n % 10}", "type": "Deposited", "data": {"amount": n}}) + "\n" for n in range(2_500))

    done = await truecopy("publish", "bank", "--json", lines=lines)

    assert (done.code, done.object["published"]) == (0, 2_500)


async def test_a_bad_line_is_named_and_what_was_published_is_said(truecopy: Any) -> None:
    good = json.dumps({"key": "a1", "type": "bank.account", "data": {"amount": 1}, "expect": None}) + "\n"

    done = await truecopy("publish", "bank", "--json", lines=good * 1_500 + '{"key": "a1"}\n')

    assert done.code == 2
    assert "line 1501" in done.object["error"]
    assert "the 1000 events" in done.object["error"]
    status = await truecopy("status", "bank", "--json")
    assert status.object["entities"][0]["pending"] == 1_000


async def test_a_stale_expectation_is_a_conflict(truecopy: Any) -> None:
    await truecopy(*DEPOSIT)

    done = await truecopy(*DEPOSIT, "--expect", "0", "--json")

    assert done.code == 1
    assert "expected version 0, it is at 1" in done.object["error"]


async def test_the_app_may_come_from_the_environment(truecopy: Any) -> None:
    truecopy.settings["TRUECOPY_APP"] = "bank:app"

    done = await truecopy("publish", "Deposited", "a1", '{"amount": 5}', "--json")

    assert (done.code, done.object["version"]) == (0, 1)


async def test_damage_fails_the_check_and_repair_mends_it(truecopy: Any, running: Running, tmp_path: Path) -> None:
    import apsw

    await running()
    published = await truecopy(*DEPOSIT, "--json")
    await truecopy("get", "bank", "balance", "a1", "--at-least", published.object["token"])
    connection = apsw.Connection(str(tmp_path / ".truecopy/bank.replica.db"))
    connection.set_busy_timeout(5_000)
    connection.execute("UPDATE balance__v1 SET amount = 500")
    connection.close()

    checked = await truecopy("check", "bank", "balance", "--json")
    assert checked.code == 1
    [difference] = checked.object["reports"][0]["differences"]
    assert difference["fields"] == {"amount": {"stored": 500, "expected": 5}}

    dry = await truecopy("repair", "bank", "balance", "--json")
    assert (dry.code, dry.object["applied"], len(dry.object["planned"])) == (1, False, 1)
    assert (await truecopy("repair", "bank", "balance", "--apply")).code == 0
    assert (await truecopy("check", "bank")).code == 0


async def test_a_parked_key_is_named_by_status_and_read(truecopy: Any, running: Running) -> None:
    await running()
    refused = await truecopy("publish", "bank", "Deposited", "a1", '{"amount": -1}', "--json")

    got = await truecopy("get", "bank", "balance", "a1", "--at-least", refused.object["token"], "--json")

    assert got.code == 3
    assert "parked" in got.object["error"]
    status = await truecopy("status", "bank", "--json")
    assert sum(one["parked"] for one in status.object["projections"][0]["partitions"]) == 1
    assert (await truecopy("check", "bank")).code == 1


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"TRUECOPY_LOG": "kafka://127.0.0.1:1"}, id="log"),
        pytest.param({"TRUECOPY_STORE": "postgresql://u:hidden@127.0.0.1:1/x"}, id="store"),
        pytest.param({"TRUECOPY_REPLICA": "postgresql://u:hidden@127.0.0.1:1/x"}, id="replica"),
    ],
)
async def test_run_waits_for_what_is_away_and_stops_in_order(truecopy: Any, running: Running, settings: dict[str, str]) -> None:
    # The topic is there, so that a worker comes as far as its replica.
    relay = await running("--only", "relay")
    await truecopy(*DEPOSIT)
    relay.send_signal(signal.SIGTERM)
    await relay.communicate()
    truecopy.settings |= settings
    process = await running()
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while b"trying again" not in (line := await process.stderr.readline()) and b"wait in the outbox" not in line:
            assert line

    process.send_signal(signal.SIGTERM)
    out, err = await process.communicate()

    assert process.returncode == 0, err
    assert b"hidden" not in line + out + err


async def test_dev_points_an_app_at_given_servers(truecopy: Any, kafka_url: str, postgres_url: str) -> None:
    namespace = f"t{uuid.uuid4().hex[:8]}"
    truecopy.settings |= {"TRUECOPY_KAFKA": kafka_url, "TRUECOPY_POSTGRES": postgres_url, "TRUECOPY_NAMESPACE": namespace}
    process = await truecopy.start("dev", "bank", "--kafka", "--postgres", "--json")
    truecopy.settings |= {"TRUECOPY_LOG": kafka_url, "TRUECOPY_STORE": postgres_url, "TRUECOPY_REPLICA": postgres_url}
    truecopy.settings["TRUECOPY_AT_LEAST_S"] = "30"
    published = await truecopy(*DEPOSIT, "--json")

    got = await truecopy("get", "bank", "balance", "a1", "--at-least", published.object["token"], "--json")
    checked = await truecopy("check", "bank", "--json")
    process.send_signal(signal.SIGTERM)
    out, err = await process.communicate()

    assert got.object["rows"] == [{"amount": 5}], got
    assert checked.code == 0, checked
    assert process.returncode == 0
    assert (urlsplit(postgres_url).password or "").encode() not in out + err


async def test_dev_runs_an_app(truecopy: Any) -> None:
    process = await truecopy.start("dev", "bank", "--json")
    published = await truecopy(*DEPOSIT, "--json")

    got = await truecopy("get", "bank", "balance", "a1", "--at-least", published.object["token"], "--json")
    process.send_signal(signal.SIGTERM)
    out, _ = await process.communicate()

    assert got.object["rows"] == [{"amount": 5}]
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["stopped"] is True


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        with pytest.raises(SystemExit) as ended:
            main([verb.name, "--help"])
        assert ended.value.code == 0
        assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("from truecopy_services import Truecopy\napp = Truecopy('np')\n", "declares no projection"),
        ("raise RuntimeError('boom')\n", "RuntimeError: boom"),
        ("import nothing_of_that_name\n", "nothing_of_that_name"),
        ("def (\n", "SyntaxError"),
    ],
    ids=["no projection", "raises", "import missing", "no Python"],
)
async def test_an_app_that_can_not_be_checked_is_usage_and_never_equal(
    truecopy: Any, tmp_path: Path, source: str, said: str
) -> None:
    (tmp_path / "odd.py").write_text(source)

    done = await truecopy("check", "odd", "--json")

    assert done.code == 2
    assert said in done.object["error"]
    assert "Traceback" not in done.err


async def test_confluents_clients_are_answered_by_a_process(truecopy: Any, running: Running) -> None:
    published = await truecopy("publish", "bank", "Deposited", "a1", '{"amount": 5}', "--json")
    await running()
    await truecopy("get", "bank", "balance", "a1", "--at-least", published.object["token"])
    process = await truecopy.start("schema", "serve", "bank", "--http", "0")
    site = await said_address(process.stdout)

    assert "bank.account-" in await site.until("/subjects", 200)
    assert "40401" in await site.until("/subjects/nothing/versions", 404)
    process.send_signal(signal.SIGTERM)
    assert (await ended(process)).code == 0


async def test_the_bench_tells_what_it_measured_and_leaves_nothing(truecopy: Any) -> None:
    before = set(truecopy.folder.iterdir())
    done = await truecopy("bench", "--events", "500", "--json")

    assert done.code == 0, done.err
    assert done.object["events_per_second"].keys() == {"publish", "relay", "catch_up_copied", "catch_up_reduced"}
    assert 0 < done.object["latency"]["p50_ms"] <= done.object["latency"]["p99_ms"]
    assert set(truecopy.folder.iterdir()) == before
