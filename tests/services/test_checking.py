"""A checker that goes on: it waits for what is away, says every verdict, and ends when it is told to, or fails fast."""

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.services.conftest import ended, said_address

from truecopy_services.cli import main

DEPOSIT = ("publish", "bank", "Deposited", "a1", '{"amount": 5}')
USAGE = [
    pytest.param(["--every", "0"], "above 0", id="no time"),
    pytest.param(["--every", "inf"], "above 0", id="for ever"),
    pytest.param(["--every", "1", "--certify"], "--certify", id="certificates without end"),
    pytest.param(["--fail-fast"], "--every", id="fail fast, once"),
    pytest.param(["--http", "0"], "--every", id="http, once"),
]


async def told(process: asyncio.subprocess.Process, wanted: Callable[[Any], bool]) -> Any:
    """The next object on standard output that is wanted."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        async for line in process.stdout:
            if wanted(found := json.loads(line)):
                return found
    raise AssertionError("it ended before it said so")


def damage(folder: Path) -> None:
    with closing(apsw.Connection(str(folder / ".truecopy/bank.replica.db"))) as connection:
        connection.setbusytimeout(5_000)
        connection.execute("UPDATE balance__v1 SET amount = 1000")


async def test_a_checker_waits_says_every_verdict_and_goes_on_unless_it_fails_fast(
    truecopy: Any, running: Any, tmp_path: Path
) -> None:
    truecopy.settings |= {"TRUECOPY_CHECK_WAIT_S": "0.2"}
    checker = await truecopy.start("check", "bank", "--every", "0.3", "--json", "--http", "0")
    site = await said_address(checker.stderr)
    nothing = await told(checker, lambda found: found["round"])
    await running()
    await truecopy(*DEPOSIT)
    equal = await told(checker, lambda found: found["equal"])
    metrics = (await site.get("/metrics"))[1]
    truecopy.settings |= {"TRUECOPY_CHECK_WAIT_S": "10"}
    fast = await truecopy.start("check", "bank", "--every", "0.3", "--fail-fast", "--json")
    await told(fast, lambda found: found["equal"])
    damage(tmp_path)
    failed = await ended(fast)
    for _ in range(2):
        diverged = await told(checker, lambda found: [one["verdict"] for one in found["reports"]] == ["DIVERGED"])
    await site.until("/metrics", 200, 'truecopy_check_verdict{projection="balance@1",verdict="DIVERGED"} 1.0')
    assert (await truecopy("repair", "bank", "balance", "--apply")).code == 0
    await told(checker, lambda found: found["equal"])
    checker.terminate()
    out, err = await checker.communicate()

    assert (nothing["round"], nothing["equal"], nothing["reports"]) == (1, False, [])
    assert "has no topic 'bank.account'" in nothing["unreachable"][0]
    assert equal["reports"][0]["verdict"] == "EQUAL"
    assert equal["round"] > 2, "it was tried again until it was there"
    assert 'truecopy_check_rounds_total{projection="balance@1",verdict="UNREACHABLE"}' in metrics
    assert 'truecopy_check_verdict{projection="balance@1",verdict="EQUAL"} 1.0' in metrics
    assert diverged["reports"][0]["differences"][0]["key"] == "a1"
    assert (failed.code, failed.object["equal"], failed.object["stopped"]) == (1, False, False)
    last = json.loads(out.splitlines()[-1])
    assert (last["stopped"], checker.returncode) == (True, 0)
    assert last["rounds"]["balance@1"]["DIVERGED"] >= 2
    assert err.count(b"trying again until it answers") == 1
    assert b"INFO truecopy.check: balance@1 is EQUAL: 1 events" in err
    assert b"WARNING truecopy.check: balance@1 is DIVERGED" in err


@pytest.mark.parametrize(("words", "said"), USAGE)
def test_what_does_not_go_together_is_usage(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "tests.services.bank", *words]) == 2

    assert said in capsys.readouterr().err
