"""`get --as-of` and `restore`, as a person or a pipeline calls them: on files, and on a real Kafka and a real PostgreSQL."""

import pytest
from tests.services.test_cli_operating import Bank, bank, embedded, here, served

__all__ = ["bank", "embedded", "here", "served"]


def test_a_key_is_read_as_it_was_and_a_replica_goes_back_and_forward(bank: Bank) -> None:
    bank.run(5, 7)
    bank.run(9)
    amounts = [bank("get", "bank", "balance", "a1", "--as-of", f"version:{version}") for version in (1, 2, 3)]
    assert [(told.object["rows"], told.object["version"]) for told in amounts] == [
        ([{"amount": 5}], 1),
        ([{"amount": 12}], 2),
        ([{"amount": 21}], 3),
    ]
    assert bank("get", "bank", "balance", "a1", "--as-of", "version:4").code == 2
    assert bank("get", "bank", "balance", "a1", "--as-of", "mark:latest").object["version"] == 3
    assert bank("get", "bank", "balance", "a1", "--as-of", "time:1h").object["version"] == 0

    latest = bank("restore", "bank", "balance", "--to", "mark:latest").object["marks"]
    [home] = [mark for mark in latest if mark["count"] == 3]
    to = f"mark:{home['partition']}={home['number'] - 1}"
    planned = bank("restore", "bank", "balance", "--to", to)
    assert (planned.code, planned.object["rows_put"], planned.object["applied"]) == (1, 1, False)
    assert bank("get", "bank", "balance", "a1").object["rows"] == [{"amount": 21}]

    done = bank("restore", "bank", "balance", "--to", to, "--apply", "--why", "to look")

    assert (done.code, done.object["applied"]) == (0, True)
    assert bank("get", "bank", "balance", "a1").object["rows"] == [{"amount": 12}]
    assert "is halted: restored: stands at mark" in bank.plain("status", "bank")
    assert bank("check", "bank").object["reports"][0]["verdict"] == "BEHIND"
    bank.run()
    assert bank("get", "bank", "balance", "a1").object["rows"] == [{"amount": 12}]
    assert bank("restore", "bank", "balance", "--forward").object["released"] == [home["partition"]]
    bank.run()
    assert bank("get", "bank", "balance", "a1").object["rows"] == [{"amount": 21}]
    passed = bank("restore", "bank", "balance", "--forward")
    assert (passed.code, passed.object["retraced"]["differing"], passed.object["retraced"]["ahead"]) == (0, [], 0)
    assert passed.object["retraced"]["equal"] > 0


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["restore", "bank", "balance"], id="neither to nor forward"),
        pytest.param(["restore", "bank", "balance", "--to", "end"], id="no mark"),
        pytest.param(["restore", "bank", "balance", "--to", "mark:0"], id="no mark of a partition"),
        pytest.param(["restore", "bank", "balance", "--forward", "--apply"], id="forward and apply"),
        pytest.param(["get", "bank", "balance", "a1", "--as-of", "version:0"], id="no version"),
        pytest.param(["get", "bank", "balance", "a1", "--as-of", "2100-01-01T00:00:00Z"], id="no point"),
        pytest.param(["get", "bank", "balance", "a1", "--as-of", "time:2100-01-01T00:00:00Z"], id="still to come"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_2(embedded: Bank, words: list[str]) -> None:
    assert embedded(*words).code == 2
