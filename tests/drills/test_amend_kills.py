"""SIGKILL as somebody rules: within the transaction, and between it and the topic. Once more, and all is there once."""

import pytest
from tests.drills.conftest import Setting
from tests.drills.elsewhere import AMENDING
from tests.projections.bank import balance

from truecopy_bus.points import Point
from truecopy_projections.amendment import Amendment
from truecopy_projections.amendments_topic import AMENDMENTS_TOPIC
from truecopy_projections.state import Reason
from truecopy_projections.statements import read_back
from truecopy_services import Service, Verdict
from truecopy_services.cli.screen import Exit

KILLING = {"TRUECOPY_LEASE_S": "0.5", "TRUECOPY_MARK_WRITING_S": "0.1"}


@pytest.fixture(params=["embedded", "kafka and postgresql"])
def addresses(request: pytest.FixtureRequest) -> dict[str, str]:
    if request.param == "embedded":
        return {}
    postgres = str(request.getfixturevalue("postgres_url"))
    log = str(request.getfixturevalue("kafka_url"))
    return {"TRUECOPY_LOG": log, "TRUECOPY_STORE": postgres, "TRUECOPY_REPLICA": postgres}


async def published(service: Service) -> list[Amendment]:
    found: list[Amendment] = []
    topic = service.settings.topic_prefix + AMENDMENTS_TOPIC
    await read_back(service.log, lambda record: found.append(Amendment.read(record.value or b"")), topic=topic)
    return found


async def kept(service: Service) -> list[Amendment]:
    async with service.replica_adapter.snapshot() as snapshot:
        return list((await snapshot.amendments(balance.id)).all)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", [Point.WORKER_WRITING, *AMENDING], ids=lambda point: point.value)
async def test_a_ruling_whose_maker_is_killed_is_whole_or_not_there_and_published_once(
    stage: Setting, addresses: dict[str, str], point: Point
) -> None:
    async with stage(KILLING | addresses) as at:
        await at.service.store.open()
        for key in ("k0", "k1"):
            for amount in (1, 666, 2):
                await at.journal.publish_one(at.service, key, amount)
        async with at.at_work(relay=True, projections=[balance]):
            await at.judged(balance, verdict=Verdict.PARKED)
        words = ("quarantine", "skip", "tests.drills.ledger", "balance")
        replica = addresses.get("TRUECOPY_REPLICA") or at.service.replica_adapter.name
        victim = await at.cast.verb(*words, "k0", "--why", "the first", hold=point.value, replica=replica)
        await victim.held(point)
        await victim.kill()

        ruled = point is not Point.WORKER_WRITING
        assert len(await kept(at.service)) == ruled
        assert await published(at.service) == []
        async with at.service.replica_adapter.snapshot() as snapshot:
            state, _ = await snapshot.get(balance, "k0")
        assert state is not None
        assert (state.applied, state.parked) == ((3, None) if ruled else (1, Reason.REJECTED))
        again = await at.cast.verb(*words, "k1" if ruled else "k0", "--why", "once more", hold="", replica=replica)
        assert await again.over() == Exit.GOOD
        last = await at.cast.verb(*words, "k0" if ruled else "k1", "--why", "the last", hold="", replica=replica)
        assert await last.over() == (Exit.FAILED if ruled else Exit.GOOD)

        async with at.at_work(relay=True, projections=[balance]):
            await at.journal.publish(at.service, 10)
            await at.judged(balance)
        mine = await kept(at.service)
        assert sorted(one.key or "" for one in mine) == ["k0", "k1"]
        assert {one.id for one in await published(at.service)} == {one.id for one in mine}
        assert len(await published(at.service)) == 2
