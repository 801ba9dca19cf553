"""What the command line says of proofs: quick checks, peers, marks that are asked for, explanations, repairs, their limits."""

import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.services.test_cli import here  # noqa: F401  # a fixture

from truecopy_services.cli import main

Command = Callable[..., tuple[int, Any, str]]
REPLICA = Path(".truecopy/bank.replica.db")
USAGE = [
    pytest.param(["check", "bank", "--quick", "--deep"], id="quick and deep"),
    pytest.param(["check", "bank", "--quick", "--certify"], id="quick and certified"),
    pytest.param(["check", "bank", "--mark", "--every", "1"], id="a mark of many checks"),
    pytest.param(["check", "bank", "--quick", "--peer", "secret"], id="a peer without a scheme"),
    pytest.param(["check", "bank", "--quick", "--peer", "sqlite:nowhere.db"], id="a peer that is not there"),
    pytest.param(["check", "bank", "--quick", "--peer", "mysql://u:secret@h/x"], id="a peer of another kind"),
    pytest.param(["repair", "bank", "balance", "--certify"], id="certified without being applied"),
    pytest.param(["repair", "bank", "balance", "--share-max", "1.5"], id="no share"),
]


@pytest.fixture
def command(here: None, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:  # noqa: ARG001, F811
    """The command line in this process, on files of an app that has published, applied and marked; exit code, object, text."""
    sys.modules.pop("bank", None)

    async def filled() -> None:
        import bank

        async with bank.app.running() as service:
            for key in ("a1", "a2", "a1"):
                token = await service.publish(key, bank.Deposited(amount=5))
                await service.replica(bank.balances).get(key, at_least=token)
            assert (await service.check(bank.balances))[0].verdict.name == "EQUAL"

    asyncio.run(filled())

    def run(*words: str) -> tuple[int, Any, str]:
        code = main([*words, "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out.splitlines()[-1]), said.err

    yield run
    sys.modules.pop("bank", None)


def execute(sql: str) -> None:
    connection = apsw.Connection(str(REPLICA))
    connection.execute(sql)
    connection.close()


@pytest.mark.parametrize("words", USAGE)
@pytest.mark.usefixtures("here")
def test_what_can_not_be_meant_is_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = main([*words, "--json"])

    said = capsys.readouterr()
    assert (code, json.loads(said.out.splitlines()[-1])["exit"]) == (2, 2)
    assert "secret" not in said.out + said.err


def test_a_quick_check_tells_what_still_holds_and_a_peer_agrees(command: Command) -> None:
    shutil.copy(REPLICA, "peer.db")

    code, found, _ = command("check", "bank", "--quick", "--peer", "sqlite:peer.db")

    (report,) = found["reports"]
    assert (code, found["equal"], report["quick"]) == (0, True, True)
    assert "nothing has changed since the fold" in report["computed"]["why"]
    assert [peer["verdict"] for peer in report["peers"]] == ["EQUAL"]


def test_a_peer_that_differs_is_exit_code_1_though_this_replica_is_right(command: Command) -> None:
    shutil.copy(REPLICA, "peer.db")
    peer = apsw.Connection("peer.db")
    peer.execute("UPDATE truecopy_partitions SET rows = zeroblob(32768)")
    peer.close()

    code, found, _ = command("check", "bank", "--peer", "sqlite:peer.db")

    (report,) = found["reports"]
    assert (code, found["equal"], report["verdict"]) == (1, False, "EQUAL")
    assert [one["verdict"] for one in report["peers"]] == ["DIVERGED"]


def test_a_differing_row_is_explained_and_mended_within_the_limits(command: Command) -> None:
    execute("UPDATE balance__v1 SET amount = 5 WHERE _key = 'a1'")

    checked, found, said = command("check", "bank")
    none_free = command("repair", "bank", "balance", "--apply", "--rows-max", "0")
    no_truth = command("repair", "bank", "balance", "--apply", "--from-peer", f"sqlite:{REPLICA}")
    mended, done, _ = command("repair", "bank", "balance", "--apply")
    again, _, _ = command("check", "bank")

    (row,) = found["reports"][0]["differences"]
    assert checked == 1
    assert "as after version 1: the effect of version 2 (bank.account.Deposited, offset" in row["explanation"]["why"]
    assert row["explanation"]["log"] == {"before": [5], "after": [10]}
    assert row["explanation"]["why"] in said
    assert none_free[0] != 0
    assert "--rows-max" in none_free[1]["error"]
    assert no_truth[0] != 0
    assert "nothing to repair from" in no_truth[1]["error"] or "no valid certificate" in no_truth[1]["error"]
    assert (mended, done["source"], len(done["planned"])) == (0, "log", 1)
    assert again == 0


@pytest.mark.usefixtures("command")
async def test_a_mark_that_is_asked_for_is_waited_for_and_what_was_repaired_is_certified(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import bank

    monkeypatch.setenv("TRUECOPY_MARK_IDLE_S", "1000")
    monkeypatch.setenv("TRUECOPY_TIMEOUT_S", "30")
    async with bank.app.running() as service:
        before = (await service.check(bank.balances))[0].marks_compared
        asked = await asyncio.to_thread(main, ["check", "bank", "--mark"])
        after = (await service.check(bank.balances))[0].marks_compared
        execute("UPDATE balance__v1 SET amount = 99 WHERE _key = 'a1'")
        capsys.readouterr()
        repaired = await asyncio.to_thread(main, ["repair", "bank", "balance", "--apply", "--certify", "--json"])
        found = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert (asked, repaired) == (0, 0)
    assert after > before
    assert len(found["planned"]) == 1
    assert found["certificate"]["projection"] == "balance@1"


def test_a_mark_that_nobody_gives_is_exit_code_3(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUECOPY_TIMEOUT_S", "0.5")

    code, found, _ = command("check", "bank", "--mark")

    assert code == 3
    assert "asked for a mark" in found["error"]
