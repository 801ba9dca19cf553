"""What the command line says of what waits, what it does about it, and what it refuses."""

import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.services.test_cli import here  # noqa: F401  # a fixture

from truecopy_bus.record import Outgoing
from truecopy_projections.errors import AmendmentRefusedError
from truecopy_services.cli import main

Command = Callable[..., tuple[int, Any, str]]
USAGE = [
    pytest.param(["retry"], id="retry of nothing"),
    pytest.param(["retry", "a1", "--all"], id="retry of one and all"),
    pytest.param(["skip", "a1"], id="skip without a reason"),
    pytest.param(["skip", "a1", "--why", "  "], id="skip with a blank reason"),
    pytest.param(["skip", "a1", "--why", "x", "--offset", "0:1"], id="skip of a key and an offset"),
    pytest.param(["skip", "--why", "x", "--offset", "one"], id="skip of no offset"),
    pytest.param(["edit", "a1", "--why", "x"], id="edit of nothing"),
    pytest.param(["edit", "a1", "--why", "x", "--set", "amount=1", "--body", "{}"], id="edit twice over"),
    pytest.param(["edit", "a1", "--why", "x", "--set", "sum=1"], id="edit of a field that is not there"),
    pytest.param(["edit", "a1", "--why", "x", "--set", "amount"], id="edit without a value"),
    pytest.param(["edit", "a1", "--why", "x", "--set", "amount=much"], id="edit to a value of another type"),
    pytest.param(["edit", "a1", "--why", "x", "--body", "[]"], id="a body that is no object"),
    pytest.param(["edit", "a1", "--why", "x", "--body", '{"amount": 1, "amount": 2}'], id="a body that says a field twice"),
    pytest.param(["edit", "a1", "--why", "x", "--set", "amount=1", "--type", "Withdrawn"], id="a type that nobody handles"),
    pytest.param(["show"], id="show of nothing"),
    pytest.param(["list", "--dry-run"], id="a dry run of a list"),
    pytest.param(["list", "--reason", "BEHIND"], id="a reason that parks nothing"),
    pytest.param(["import", "nowhere.jsonl"], id="import of no file"),
    pytest.param(["export", "bank.py"], id="export over a file"),
]
REFUSED = [
    pytest.param(["show", "a2"], id="show"),
    pytest.param(["retry", "a2"], id="retry"),
    pytest.param(["skip", "a2", "--why", "x"], id="skip"),
    pytest.param(["skip", "nobody", "--why", "x"], id="skip of a key that is not there"),
    pytest.param(["edit", "a2", "--why", "x", "--set", "amount=1"], id="edit"),
    pytest.param(["edit", "a1", "--why", "x", "--set", "amount=-7"], id="edit to what is rejected too"),
    pytest.param(["skip", "--offset", "0:0", "--why", "x"], id="skip of a record that is not foreign"),
]


@pytest.fixture(scope="module")
def parked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of an app of which a key is parked: 5, -1 (rejected), 7 and 9 of `a1`, and 3 of `a2`."""
    folder = tmp_path_factory.mktemp("parked")
    shutil.copy(Path(__file__).with_name("bank.py"), folder)

    async def filled() -> None:
        import bank

        async with bank.app.running() as service:
            events = [("a1", 5), ("a1", -1), ("a1", 7), ("a1", 9), ("a2", 3)]
            tokens = await service.publish_many([(key, bank.Deposited(amount=amount)) for key, amount in events])
            await service.replica(bank.balances).get("a2", at_least=tokens[-1])
            while (await service.check(bank.balances))[0].count < len(events):
                pass

    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.syspath_prepend(str(folder))
        sys.modules.pop("bank", None)
        asyncio.run(filled())
        sys.modules.pop("bank", None)
    return folder


@pytest.fixture
def command(here: None, parked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:  # noqa: ARG001, F811
    """The command line on a copy of that app."""
    shutil.copytree(parked, tmp_path, dirs_exist_ok=True)
    sys.modules.pop("bank", None)

    def run(*words: str) -> tuple[int, Any, str]:
        code = main([*words, "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out.splitlines()[-1]), said.err

    yield run
    sys.modules.pop("bank", None)


def quarantine(command: Command, what: str, *words: str) -> tuple[int, Any, str]:
    return command("quarantine", what, "bank", "balance", *words)


def balance(command: Command, key: str = "a1") -> int:
    code, found, _ = command("get", "bank", "balance", key)
    assert code == 0
    return int(found["rows"][0]["amount"])


def certified(command: Command) -> Any:
    """Apply and mark what there is, then certify."""

    async def settled() -> None:
        import bank

        async with bank.app.running() as service:
            token = await service.publish("a2", bank.Deposited(amount=1))
            await service.replica(bank.balances).get("a2", at_least=token)
            while (await service.check(bank.balances))[0].verdict.name != "EQUAL":
                pass

    asyncio.run(settled())
    code, found, _ = command("certify", "bank", "balance")
    assert code == 0, found
    return found


def test_what_waits_is_listed_by_reason_and_shown_whole(command: Command) -> None:
    code, found, said = quarantine(command, "list")
    assert code == 0
    [one] = found["keys"]
    assert (one["key"], one["reason"], one["applied"], one["version"], one["behind"]) == ("a1", "REJECTED", 1, 2, 2)
    assert (found["records"], found["counts"]) == (3, {"REJECTED": 1})
    assert "ValueError: negative" in said
    status = command("status", "bank")[1]["projections"][0]
    assert {(one["reason"], one["records"], one["keys"]) for one in status["waiting"]} == {("REJECTED", 1, 1), ("BEHIND", 2, 1)}
    assert 0 < status["waiting_share"] < 1
    assert quarantine(command, "list", "--reason", "GAP")[1]["keys"] == []
    assert quarantine(command, "list", "--limit", "0")[1]["more"] == 1

    code, found, said = quarantine(command, "show", "a1")
    assert code == 0
    assert (found["type"], found["fields"]) == ("bank.account.Deposited", {"amount": -1})
    assert [one["version"] for one in found["waiting"]] == [2, 3, 4]
    assert "mend reducer" in said


@pytest.mark.parametrize("words", USAGE)
def test_what_can_not_be_meant_is_refused(command: Command, words: list[str]) -> None:
    assert quarantine(command, words[0], *words[1:])[0] == 2
    assert quarantine(command, "list")[1]["records"] == 3


@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_wait_or_would_wait_again_is_refused(command: Command, words: list[str]) -> None:
    code, found, _ = quarantine(command, words[0], *words[1:])

    assert (code, found["kind"]) == (1, AmendmentRefusedError.__name__)
    assert quarantine(command, "list")[1]["records"] == 3


def test_an_edit_is_shown_first_then_made_and_stands_in_the_certificate(command: Command) -> None:
    edit = ("a1", "--set", "amount=2", "--why", "the sign was wrong", "--by", "ops")

    code, would, _ = quarantine(command, "edit", *edit, "--dry-run")
    assert (code, would["rows_before"], would["rows_after"]) == (0, [{"amount": 5}], [{"amount": 23}])
    assert balance(command) == 5
    code, done, _ = quarantine(command, "edit", *edit)

    assert (code, done["applied"], done["parked"], done["after"]["fields"]) == (0, 4, "", {"amount": 2})
    assert balance(command) == 23
    certificate = certified(command)
    [stated] = certificate["certificates"][0]["amendments"]
    assert (stated["key"], stated["ruling"], stated["by"], stated["why"]) == ("a1", "REPLACED", "ops", "the sign was wrong")
    code, found, said = command("check", "bank")
    assert (code, [one["key"] for one in found["reports"][0]["amendments"]]) == (0, ["a1"])
    assert "'a1' version 2" in said
    code, found, _ = command("verify", certificate["ids"][0], "--app", "bank")
    assert code == 0
    assert {one["about"]: one["standing"] for one in found["findings"]}["amendments"] == "VALID"


def test_a_skip_and_a_retry(command: Command) -> None:
    assert quarantine(command, "retry", "a1")[0] == 1
    assert quarantine(command, "skip", "a1", "--why", "a test")[0] == 0

    assert balance(command) == 21
    assert quarantine(command, "list")[1]["records"] == 0
    assert quarantine(command, "retry", "--all")[0] == 0


def test_a_foreign_record_is_skipped_by_its_offset(command: Command) -> None:
    async def spoil() -> None:
        import bank

        async with bank.app.running() as service:
            await service.log.append("bank.account", 1, [Outgoing(None, b"nobody's", 0)])
            while not (await service.quarantine(bank.balances).listing()).foreign:
                pass

    asyncio.run(spoil())
    [one] = quarantine(command, "list", "--reason", "FOREIGN")[1]["foreign"]

    place = f"{one['partition']}:{one['offset']}"
    assert quarantine(command, "skip", "--offset", place, "--why", "a test")[0] == 0

    assert quarantine(command, "list", "--reason", "FOREIGN")[1]["foreign"] == []
    assert quarantine(command, "skip", "--offset", place, "--why", "a test")[0] == 1


def test_a_file_is_exported_edited_and_imported_twice_with_one_effect(command: Command) -> None:
    assert quarantine(command, "export", "waiting.jsonl")[1]["exported"] == 3
    assert quarantine(command, "import", "waiting.jsonl")[1]["lines"] == 0
    lines = [json.loads(line) for line in Path("waiting.jsonl").read_text().splitlines()]
    lines[0]["fields"]["amount"] = 2
    lines[1]["skip"] = True
    Path("ruled.jsonl").write_text("\n".join(map(json.dumps, lines)))

    assert quarantine(command, "import", "ruled.jsonl")[0] == 2  # no reason
    code, would, _ = quarantine(command, "import", "ruled.jsonl", "--why", "a test", "--dry-run")
    assert (code, would["made"], balance(command)) == (0, 2, 5)
    code, done, _ = quarantine(command, "import", "ruled.jsonl", "--why", "a test")
    assert (code, done["made"], done["held"], done["parked"]) == (0, 2, 0, 0)
    assert balance(command) == 16
    code, again, _ = quarantine(command, "import", "ruled.jsonl", "--why", "a test")
    assert (code, again["made"], again["held"]) == (0, 0, 2)
    lines[0]["fields"]["amount"] = 3
    Path("other.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, refused, _ = quarantine(command, "import", "other.jsonl", "--why", "a test")
    assert (code, refused["kind"]) == (1, AmendmentRefusedError.__name__)
    assert "line 1" in refused["error"]
    assert "ruled otherwise" in refused["error"]


BAD_LINES = [
    pytest.param(lambda _: "{", 2, id="no JSON"),
    pytest.param(lambda line: json.dumps({**line, "event": "00" * 32, "skip": True}), 1, id="another event"),
    pytest.param(lambda line: json.dumps({**line, "key": "a2", "skip": True}), 1, id="another key"),
    pytest.param(lambda line: json.dumps({**line, "fields": {"amount": "much"}}), 2, id="another type of value"),
    pytest.param(lambda line: json.dumps({**line, "fields": None, "type": ""}), 2, id="no fields"),
    pytest.param(lambda _: json.dumps({"skip": True}), 2, id="half a line"),
]


@pytest.mark.parametrize(("spoilt", "code"), BAD_LINES)
def test_a_line_that_is_wrong_is_refused_before_any_is_applied(
    command: Command, spoilt: Callable[[Any], str], code: int
) -> None:
    quarantine(command, "export", "waiting.jsonl")
    lines = [json.loads(line) for line in Path("waiting.jsonl").read_text().splitlines()]
    lines[0]["skip"] = True
    Path("ruled.jsonl").write_text("\n".join([json.dumps(lines[0]), spoilt(lines[1])]))

    assert quarantine(command, "import", "ruled.jsonl", "--why", "a test")[0] == code

    assert (balance(command), quarantine(command, "list")[1]["records"]) == (5, 3)
