"""`truecopy history` and `truecopy rollback`, as a person calls them."""

import json
from pathlib import Path
from typing import Any

import pytest

from truecopy_services.cli import main

APP = """
from truecopy_services import Change, Event, Truecopy
from dataclasses import dataclass

class Deposited(Event, entity="bank.account", kind="delta"):
    amount: int

class Named(Event, entity="bank.owner", kind="state"):
    name: str

@dataclass
class Balance:
    amount: int

app = Truecopy("bank")
balances = app.projection("balance", entity="bank.account", row=Balance)

@balances.on(Deposited)
def deposit(row, event, change):
    return Balance((row.amount if row else 0) + event.amount)

class Closed(Event, entity="bank.account", deletes=True):
    pass

@balances.restores()
def undo(now, then, change):
    return Deposited(amount=then.amount - now.amount) if then else Closed()
"""


class Shell:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, Any, str]:
        """Exit code, object, and what a person reads."""
        self._capsys.readouterr()
        code = main([*words, "--json"])
        told = json.loads(self._capsys.readouterr().out.splitlines()[-1])
        return code, told, str(told.get("error", ""))


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    (tmp_path / "bank_of_history.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Shell(capsys)


def published(shell: Shell, *amounts: int, key: str = "a1") -> None:
    for amount in amounts:
        code, _, why = shell("publish", "bank_of_history", "Deposited", key, json.dumps({"amount": amount}))
        assert (code, why) == (0, "")


def test_a_key_is_told_of_compared_and_brought_back(shell: Shell) -> None:
    published(shell, 5, 7)
    about = ("bank_of_history", "balance", "a1")

    _, told, _ = shell("history", *about)
    assert [(one["version"], one["fields"]) for one in told["versions"]] == [(1, {"amount": 5}), (2, {"amount": 7})]
    assert shell("history", *about, "--at", "1")[1]["rows"] == [{"amount": 5}]
    assert shell("history", *about, "--at", "0s")[1]["version"] == 2
    [row] = shell("history", *about, "--diff", "1", "2")[1]["rows"]
    assert row == {"row": [], "before": {"amount": 5}, "after": {"amount": 12}}
    assert shell("history", *about, "--verify")[1]["verified"] == 2

    assert shell("rollback", *about, "--to", "1", "--dry-run")[1]["tokens"] == []
    code, _, why = shell("rollback", *about, "--to", "1", "--expected-version", "1")
    assert code == 1
    assert "it is at 2" in why
    assert len(shell("rollback", *about, "--to", "1", "--why", "booked twice")[1]["tokens"]) == 1
    assert shell("history", *about, "--at", "3")[1]["rows"] == [{"amount": 5}]


def test_what_changed_since_a_time_is_brought_back(shell: Shell) -> None:
    published(shell, 5, key="a1")
    published(shell, 500, key="a2")
    about = ("bank_of_history", "balance", "--since", "1h", "--where", "amount>100")

    code, told, _ = shell("rollback", *about, "--dry-run")
    assert (code, told["rollback"], [one["key"] for one in told["keys"]]) == (0, None, ["a2"])
    code, told, _ = shell("rollback", *about)
    assert (code, told["outcomes"]["RESTORED"], told["outcomes"]["LEFT"]) == (0, 1, 1)
    assert shell("history", "bank_of_history", "balance", "a2", "--at", "2")[1]["rows"] == []


def test_an_entity_of_state_events_is_named_by_itself(shell: Shell) -> None:
    for name in ("Ada", "Eve"):
        assert shell("publish", "bank_of_history", "Named", "o1", json.dumps({"name": name}))[0] == 0

    assert shell("rollback", "bank_of_history", "bank.owner", "o1", "--to", "1")[0] == 0
    [row] = shell("history", "bank_of_history", "bank.owner", "o1", "--at", "3")[1]["rows"]
    assert row["name"] == "Ada"


WRONG = [
    pytest.param(("history", "balance", "nobody"), 2, "nothing was ever published", id="an unknown key"),
    pytest.param(("history", "balance", "a1", "--at", "9"), 2, "its versions are 1 to 1", id="an unknown version"),
    pytest.param(("history", "balance", "a1", "--at", "2999-01-01T00:00:00Z"), 2, "still to come", id="a time to come"),
    pytest.param(("history", "nothing", "a1"), 2, "declares no projection", id="an unknown projection"),
    pytest.param(("history", "bank.account", "a1", "--at", "1"), 1, "of kind delta", id="deltas without a reducer"),
    pytest.param(("history", "balance", "a1", "--at", "1", "--verify"), 2, "one of", id="two questions"),
    pytest.param(("rollback", "balance", "a1"), 2, "to a version", id="no version"),
    pytest.param(("rollback", "balance", "--since", "1h", "--to", "1"), 2, "--since a time", id="a version of many"),
    pytest.param(("rollback", "balance", "a1", "--to", "9"), 2, "its versions are 1 to 1", id="back to an unknown version"),
    pytest.param(("rollback", "balance", "a1", "--to", "1", "--where", "a=1"), 2, "among many", id="a condition on one"),
    pytest.param(("rollback", "balance", "--since", "1h", "--where", "amount"), 2, "FIELD=VALUE", id="no condition"),
    pytest.param(("rollback", "balance", "--resume", "beef"), 2, "has no rollback", id="an unknown rollback"),
    pytest.param(("rollback", "balance", "--resume"), 2, "those that did not end: none", id="no rollback to go on with"),
]


@pytest.mark.parametrize(("words", "code", "told"), WRONG)
def test_wrong_input_is_refused_by_name(shell: Shell, words: tuple[str, ...], code: int, told: str) -> None:
    published(shell, 5)
    verb, *rest = words
    done, _, why = shell(verb, "bank_of_history", *rest)
    assert (done, told in why) == (code, True), why
