"""`truecopy bootstrap` as a process: a service's replica filled from another's, and what it says when it is not."""

from typing import Any


async def test_a_replica_is_filled_from_a_peer_and_read(truecopy: Any, running: Any) -> None:
    process = await running()
    await truecopy("publish", "bank", "Deposited", "a1", '{"amount": 5}')
    certified = await truecopy("check", "bank", "--certify", "--json")
    assert certified.code == 0, certified
    process.terminate()
    await process.wait()
    home = truecopy.settings | {"TRUECOPY_REPLICA": "sqlite:new.db"}
    peer = "sqlite:.truecopy/bank.replica.db"

    truecopy.settings = home | {"TRUECOPY_HOME": "elsewhere", "TRUECOPY_LOG": "sqlite:.truecopy/log.db"}
    refused = await truecopy("bootstrap", "bank", "balance", "--from", peer, "--json")
    assert refused.code == 1, refused
    assert refused.object["kind"] == "BootstrapRefusedError"
    key = refused.err.split("--public-key ")[1].split()[0]
    filled = await truecopy("bootstrap", "bank", "balance", "--from", peer, "--public-key", key, "--json")
    assert filled.code == 0, filled
    assert (filled.object["rows"], filled.object["count"], filled.object["applied"]) == (1, 1, True)

    truecopy.settings = home
    got = await truecopy("get", "bank", "balance", "a1", "--json")
    assert got.object["rows"] == [{"amount": 5}]
    away = ("--from", "postgresql://u:hidden@127.0.0.1:1/x", "--replace")
    done = await truecopy("bootstrap", "bank", "balance", *away, "--json")
    assert done.code == 3, done
    assert "hidden" not in done.out + done.err
