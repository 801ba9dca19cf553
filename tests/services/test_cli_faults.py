"""What the command line says of what nobody planned: odd addresses, altered tables, errors of no class of ours."""

import asyncio
import io
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_services.cli import main
from truecopy_services.cli.status import STATUS

DEPOSIT = ("publish", "bank", "Deposited", "a1", '{"amount": 5}')
ADDRESSES = [
    pytest.param("postgresql://u:hid/den@h:5432/x", "percent-encoded", id="a slash in the password"),
    pytest.param("postgresql://u:12?hidden@h:5432/x", "percent-encoded", id="a question mark in the password"),
    pytest.param("postgresql://u:hidden@h:port/x", "percent-encoded", id="a port of letters"),
    pytest.param("postgresql://u:hidden@127.0.0.1:99999/x", "percent-encoded", id="a port beyond the last"),
    pytest.param("postgresql://u:hidden@[::1/x", "IPv6", id="half a bracket"),
    pytest.param("postgresql://u:hidden@127.0.0.1:1/x?sslmode=frob", "sslmode", id="an option's value"),
    pytest.param("postgresql://u:hidden@127.0.0.1:1/x?target_session_attrs=frob", "target_session_attrs", id="a session"),
]
NEGATIVE = [
    pytest.param([*DEPOSIT, "--expect=-1"], id="--expect"),
    pytest.param(["repair", "bank", "balance", "--rows-max", "-1"], id="--rows-max"),
]

TWO_WAYS = [
    pytest.param('{"amount": 5, "amount": 6}', "'amount' is said twice", id="a name said twice"),
    pytest.param('{"amount": NaN}', "not JSON", id="a NaN"),
    pytest.param('{"amount": "\\ud800"}', "not JSON", id="half a character"),
    pytest.param("[" * 100_000, "not JSON", id="too deep"),
]

Command = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in this process, with --json: its exit code, its object, and all that it said."""
    shutil.copy(Path(__file__).with_name("bank.py"), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*words: str) -> tuple[int, Any, str]:
        code = main([*words, "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out.splitlines()[-1]), said.out + said.err

    return run


@pytest.mark.parametrize(("address", "seen"), ADDRESSES)
def test_an_address_that_can_not_be_used_is_usage_and_shows_no_password(
    command: Command, monkeypatch: pytest.MonkeyPatch, address: str, seen: str
) -> None:
    monkeypatch.setenv("TRUECOPY_REPLICA", address)

    code, found, said = command("get", "bank", "balance", "a1")

    assert code == 2, said
    assert seen in found["error"]
    assert "hid" not in said
    assert "Traceback" not in said


def test_an_option_that_the_server_refuses_is_usage(
    command: Command, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    monkeypatch.setenv("TRUECOPY_REPLICA", f"{postgres_url}?frob=1")

    code, found, _ = command("get", "bank", "balance", "a1")

    assert code == 2, found
    assert '"frob"' in found["error"]


def test_an_altered_table_of_the_store_is_named(command: Command, tmp_path: Path) -> None:
    command(*DEPOSIT)
    spoil(tmp_path / ".truecopy/bank.store.db", "ALTER TABLE truecopy_heads RENAME COLUMN version TO versions")

    code, found, said = command(*DEPOSIT)

    assert (code, found["kind"]) == (1, "TableAlteredError"), said
    assert "version" in found["error"]
    assert "Traceback" not in said


def test_a_log_whose_tables_are_gone_is_named(command: Command, tmp_path: Path) -> None:
    command("status", "bank")
    spoil(tmp_path / ".truecopy/log.db", "DROP TABLE topic")

    code, found, said = command("status", "bank")

    assert (code, found["kind"]) == (1, "TableAlteredError"), said
    assert "no such table: topic" in found["error"]


@pytest.mark.parametrize("words", NEGATIVE)
def test_a_number_below_0_is_usage(command: Command, words: list[str]) -> None:
    code, found, _ = command(*words)

    assert (code, found["kind"]) == (2, "UsageError")
    assert "-1" in found["error"]


@pytest.mark.parametrize(("text", "seen"), TWO_WAYS)
@pytest.mark.parametrize("how", ["argument", "line"])
def test_json_that_may_be_read_in_two_ways_is_usage(
    command: Command, monkeypatch: pytest.MonkeyPatch, how: str, text: str, seen: str
) -> None:
    words = ["Deposited", "a1", text] if how == "argument" else []
    line = f'{{"key": "a1", "type": "Deposited", "data": {text}}}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line.encode())))

    code, found, _ = command("publish", "bank", *words)

    assert (code, found["kind"]) == (2, "UsageError")
    assert seen in found["error"]


def test_a_negative_expectation_in_a_line_is_usage(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    line = b'{"key": "a1", "type": "Deposited", "data": {"amount": 1}, "expect": -1}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line)))

    code, found, _ = command("publish", "bank")

    assert (code, found["kind"]) == (2, "UsageError")
    assert "'expect' is -1" in found["error"]


@pytest.mark.parametrize("debug", [False, True], ids=["short", "with its traceback"])
def test_what_nobody_planned_is_an_object_without_secrets_and_a_code_of_its_own(
    command: Command, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("postgresql://u:hidden@h/x")

    monkeypatch.setattr("truecopy_services.cli.status.status", broken)
    if debug:
        monkeypatch.setenv("TRUECOPY_DEBUG", "1")

    code, found, said = command(STATUS.name, "bank")

    assert (code, found["exit"], found["kind"]) == (4, 4, "unexpected")
    assert "ZeroDivisionError" in found["error"]
    assert "TRUECOPY_DEBUG=1" in found["error"]
    assert ("Traceback" in said) is debug
    assert debug or "hidden" not in said


async def test_a_check_waits_for_the_topic_of_the_first_publish(truecopy: Any) -> None:
    check = await truecopy.start("check", "bank", "--json")
    await truecopy(*DEPOSIT)
    worker = await truecopy.start("run", "bank")

    async with asyncio.timeout(30):
        out, _ = await check.communicate()

    assert json.loads(out.splitlines()[-1]).get("equal") is True, out
    worker.terminate()


async def test_status_shows_what_a_relay_halts_at_with_its_remedy(
    truecopy: Any, running: Callable[..., Any], tmp_path: Path
) -> None:
    process = await running()
    token = (await truecopy(*DEPOSIT, "--json")).object["token"]
    await truecopy("get", "bank", "balance", "a1", "--at-least", token)
    log = SQLiteLog(tmp_path / ".truecopy/log.db")
    await log.delete("bank.account")
    await log.close()
    async with asyncio.timeout(30):
        while b"is halted" not in await process.stderr.readline():
            pass

    found, shown = await truecopy("status", "bank", "--json"), await truecopy("status", "bank")

    for said in (found.object["entities"][0]["halted"], " ".join(shown.out.split())):
        assert "it was deleted from the log, after 1 events" in said
        assert "restore it with its records" in said
    assert "start the owner's relay" not in found.out + shown.out


def spoil(file: Path, statement: str) -> None:
    with closing(apsw.Connection(str(file))) as connection:
        connection.execute(statement)
