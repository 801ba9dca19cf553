"""Processes that are asked over HTTP while they work, while a server is away, and while they are stuck."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.services.conftest import said_address

from truecopy_services.servers import Server

DEPOSIT = ("publish", "bank", "Deposited", "a1", '{"amount": 5}')
BLOCKING = """

import time
from pathlib import Path


@balances.on(Deposited)
def blocked(row: Balance | None, event: Deposited, _: Change) -> Balance:
    while not Path("go on").exists():
        time.sleep(0.01)
    return Balance(event.amount)
"""


async def test_ready_turns_false_with_the_database_and_true_again_while_the_process_lives(
    truecopy: Any, private_postgres: Server
) -> None:
    url = private_postgres.url
    truecopy.settings |= {"TRUECOPY_STORE": url, "TRUECOPY_REPLICA": url}
    process = await truecopy.start("run", "bank", "--http", "0")
    site = await said_address(process.stdout)
    assert (await truecopy(*DEPOSIT)).code == 0
    await site.until("/ready", 200)
    metrics = await site.until("/metrics", 200, 'delivered_events_total{partition="1",projection="balance@1"} 1.0')
    assert 'truecopy_up{dependency="replica"} 1.0' in metrics

    await asyncio.to_thread(private_postgres.kill)
    reasons = await site.until("/ready", 503, "replica did not answer")
    assert "store did not answer" in reasons
    assert (await site.get("/health"))[0] == 200, "waiting for a server is living"
    metrics = await site.until("/metrics", 200, 'truecopy_up{dependency="replica"} 0.0')
    assert 'truecopy_up{dependency="log"} 1.0' in metrics
    assert "truecopy_delivered_events_total{" not in metrics
    assert "truecopy_outbox_pending_events{" not in metrics

    await asyncio.to_thread(private_postgres.restart)
    await site.until("/ready", 200)
    await site.until("/metrics", 200, 'delivered_events_total{partition="1",projection="balance@1"} 1.0')
    assert (await site.get("/nothing"))[0] == 404


async def test_a_worker_that_is_stuck_is_told_though_it_blocks_its_whole_process(truecopy: Any, tmp_path: Path) -> None:
    app = tmp_path / "bank.py"
    declared, _, _ = app.read_text().partition("@balances.on")
    app.write_text(declared + BLOCKING)
    truecopy.settings |= {"TRUECOPY_STUCK_S": "1", "TRUECOPY_READ_WAIT_S": "0.1", "TRUECOPY_HTTP": "0"}
    process = await truecopy.start("run", "bank")
    site = await said_address(process.stdout)
    await site.until("/ready", 200)
    await truecopy(*DEPOSIT)

    said = await site.until("/health", 503)
    assert "balance@1 did not come round" in said
    assert (await site.get("/ready"))[0] == 503
    assert (await site.get("/metrics"))[0] == 200

    (tmp_path / "go on").touch()
    await site.until("/health", 200)
    await site.until("/ready", 200)


async def test_all_that_a_process_says_is_one_object_a_line(truecopy: Any) -> None:
    truecopy.settings |= {"TRUECOPY_LOG_FORMAT": "json", "TRUECOPY_REPLICA": "postgresql://u:hidden@127.0.0.1:1/x"}
    process = await truecopy.start("run", "bank", "--http", "0")
    said = [json.loads(await process.stderr.readline()) for _ in range(3)]
    process.terminate()
    out, rest = await process.communicate()

    said += map(json.loads, rest.splitlines())
    assert (out, process.returncode) == (b"", 0)
    assert all({"time", "level", "logger", "message"} <= one.keys() for one in said)
    (away,) = [one for one in said if one["logger"] == "truecopy.worker" and one["level"] == "WARNING"][:1]
    assert (away["projection"], away["topic"], away["error"]) == ("balance@1", "bank.account", "DatabaseUnavailableError")
    assert away["holder"]
    assert "hidden" not in str(said)
