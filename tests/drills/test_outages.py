"""Servers that are away at the start, killed in the middle, or gone for longer than every timeout: waited for, without help."""

import asyncio
from urllib.parse import urlsplit

import pytest
from tests.drills.conftest import Setting
from tests.drills.processes import AWAY, BACK

from truecopy_services.servers import Server


async def test_a_broker_that_is_killed_in_the_middle_is_waited_for(
    stage: Setting, private_kafka: Server, postgres_url: str
) -> None:
    log = f"{private_kafka.url}?append_timeout_s=3"
    addresses = {"TRUECOPY_LOG": log, "TRUECOPY_STORE": postgres_url, "TRUECOPY_REPLICA": postgres_url}
    async with stage(addresses) as at:
        await at.service.store.open()
        relay, workers = await at.cast.start("relay"), await at.cast.start("workers")
        await at.journal.publish(at.service, 200)
        await at.proven()
        publishing = asyncio.create_task(at.journal.publish(at.service, 300))
        await asyncio.to_thread(private_kafka.kill)
        await relay.hears(AWAY)
        await workers.hears(AWAY, times=3)
        await publishing
        await asyncio.to_thread(private_kafka.restart)

        await at.proven()
        assert (await relay.end(), await workers.end()) == (0, 0)
        # Each says so once, a relay and three workers; and once more where the broker was briefly away again while it came up.
        assert 1 <= len(relay.said(AWAY)) <= 2
        assert 3 <= len(workers.said(AWAY)) <= 6
        # And each that was away came back.
        assert len(relay.said(BACK)) == len(relay.said(AWAY))
        assert len(workers.said(BACK)) == len(workers.said(AWAY))


async def test_a_database_that_is_killed_in_the_middle_is_waited_for(stage: Setting, private_postgres: Server) -> None:
    url = private_postgres.url
    async with stage({"TRUECOPY_STORE": url, "TRUECOPY_REPLICA": url}) as at:
        await at.service.store.open()
        relay, workers = await at.cast.start("relay"), await at.cast.start("workers")
        await at.journal.publish(at.service, 200)
        publishing = asyncio.create_task(at.journal.publish(at.service, 300))
        await asyncio.to_thread(private_postgres.kill)
        await relay.hears(AWAY)
        await workers.hears(AWAY, times=3)
        await asyncio.to_thread(private_postgres.restart)
        await publishing

        await at.proven()
        assert (await relay.end(), await workers.end()) == (0, 0)


@pytest.mark.parametrize("away", ["kafka", "postgresql"])
async def test_what_is_away_at_the_start_is_waited_for(
    stage: Setting, private_kafka: Server, private_postgres: Server, away: str
) -> None:
    server = private_kafka if away == "kafka" else private_postgres
    url = private_postgres.url
    async with stage({"TRUECOPY_LOG": private_kafka.url, "TRUECOPY_STORE": url, "TRUECOPY_REPLICA": url}) as at:
        await asyncio.to_thread(server.kill)
        relay, workers = await at.cast.start("relay"), await at.cast.start("workers")
        await workers.hears(AWAY, times=3)
        if away == "postgresql":
            await relay.hears(AWAY)
        await asyncio.to_thread(server.restart)
        await at.service.store.open()
        await at.journal.publish(at.service, 100)

        await at.proven()
        assert (await relay.end(), await workers.end()) == (0, 0)


async def test_wrong_credentials_are_told_without_telling_them(stage: Setting, private_postgres: Server) -> None:
    parts = urlsplit(private_postgres.url)
    assert parts.password, "the server asks for a password"
    wrong = parts._replace(netloc=f"{parts.username}:not-the-secret@{parts.hostname}:{parts.port}").geturl()
    async with stage({"TRUECOPY_STORE": wrong, "TRUECOPY_REPLICA": wrong}) as at:
        relay = await at.cast.start("relay")
        await relay.hears("password authentication failed")

        assert not relay.said("not-the-secret")
        assert await relay.end() == 0
