"""`get --as-of` and `restore`, as a person or a pipeline calls them: on files, and on a real Kafka and a real PostgreSQL."""

import pytest
from tests.services.test_cli_operating import Bank, bank, embedded, here, served

from truecopy_services.service import Service

__all__ = ["bank", "embedded", "here", "served"]


def follow(bank: Bank) -> None:
    """Let a worker apply all that is on the log."""

    async def work(service: Service) -> None:
        worker = service.worker(bank.app.find("balance"))
        while await worker.step():
            pass
        await worker.leave()

    bank.do(work)


def test_a_key_is_read_as_it_was_and_a_replica_goes_back_and_forward(bank: Bank) -> None:
    bank.relay(5, 7)
    bank.relay(9)
    follow(bank)
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
    number = home["number"]
    while True:
        to = f"mark:{home['partition']}={number}"
        planned = bank("restore", "bank", "balance", "--to", to)
        if planned.object["marks"][0]["count"] == 2:
            break
        number -= 1
    assert (planned.code, planned.object["rows_put"], planned.object["applied"]) == (1, 1, False)
    assert bank("get", "bank", "balance", "a1").object["rows"] == [{"amount": 21}]

    done = bank("restore", "bank", "balance", "--to", to, "--apply", "--why", "to look")

    assert (done.code, done.object["applied"]) == (0, True)
    assert bank("get", "bank", "balance", "a1").object["rows"] == [{"amount": 12}]
    assert "is halted: restored: stands at mark" in bank.plain("status", "bank")
    assert bank("check", "bank").object["reports"][0]["verdict"] == "BEHIND"
    follow(bank)
    assert bank("get", "bank", "balance", "a1").object["rows"] == [{"amount": 12}]
    assert bank("restore", "bank", "balance", "--forward").object["released"] == [home["partition"]]
    follow(bank)
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
