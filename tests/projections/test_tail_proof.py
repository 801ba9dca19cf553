"""What was applied since a proof is proven by folding the tail alone, and whatever is not as the fold has it is found."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.services.numbers import both, payments, refused, second
from tests.services.test_versions import begun

from truecopy_projections.bounded import BoundedWorker
from truecopy_projections.tail_proof import Proven, proven_at, wrong_since
from truecopy_services import Service, Settings
from truecopy_services.rebuilding import rebuild


class Held(NamedTuple):
    """A number that was proven, with a tail on the log that it has not applied."""

    service: Service
    tail: Proven
    upto: dict[int, int]
    worker: BoundedWorker

    async def wrong(self, harm: str = "") -> str:
        """What is wrong after the tail was applied, and `harm` done to the database."""
        service = self.service
        await self.worker.arrive(within_s=20)
        if harm:
            assert service.replica_database is not None
            async with service.replica_database.transaction() as tx:
                await tx.fetch(harm)
        about = (second, service.replica_adapter, service.log, service.registry, self.tail)
        return await wrong_since(*about, topic=service.topic(second), upto=self.upto)


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    given: dict[str, Any] = {
        "home": tmp_path,
        "mark_writing_s": 0.05,
        "read_wait_s": 0.05,
        "lease_s": 1.0,
        "check_wait_s": 20.0,
    }
    if request.param == "postgres":
        given["replica"] = request.getfixturevalue("postgres_url")
    return Settings(**given)


@pytest.fixture
async def held(settings: Settings) -> AsyncIterator[Held]:
    await begun(settings)
    async with both.at(settings).open() as service:
        assert (await rebuild(service, second)).follows
        relay, topic = service.relay(), service.topic(second)
        await service.publish_many([*payments(3, 2), *payments(6, 1)])
        await relay.drain()
        await relay.mark()
        await relay.leave()
        upto = {p: end for p, (_, end) in (await service.log.describe(topic)).bounds.items()}
        tail = await proven_at(second, service.replica_adapter, service.log, service.registry, topic=topic, upto=upto)
        worker = BoundedWorker(
            second,
            service.replica_adapter,
            service.log,
            service.registry,
            upto=upto,
            topic=topic,
            holder="a test",
            wait_s=0.05,
            records_max=100,
        )
        yield Held(service, tail, upto, worker)
        await worker.leave()


async def test_a_tail_that_was_applied_as_the_fold_has_it_is_right(held: Held) -> None:
    assert set(held.tail.keys) == {f"a{at}" for at in range(6)}
    assert await held.wrong() == ""


STATE, OURS = "UPDATE truecopy_partitions SET", "WHERE projection = 'tally@2'"
HARMS = [
    pytest.param("UPDATE tally__v2 SET amount = amount + 1 WHERE _key = 'a1'", "of key 'a1'", id="a row"),
    pytest.param("DELETE FROM tally__v2 WHERE _key = 'a5'", "key 'a5'", id="a row that is gone"),
    pytest.param("UPDATE tally__v2 SET _version = 9 WHERE _key = 'a2'", "of key 'a2'", id="a version"),
    pytest.param("UPDATE tally__v2 SET _element = _previous WHERE _key = 'a2'", "of key 'a2'", id="a link of the history"),
    pytest.param(
        "UPDATE truecopy_partitions SET count = count + 1 WHERE projection = 'tally@2'", "count or digests", id="a count"
    ),
    pytest.param(
        "UPDATE truecopy_partitions SET row_digest = input_digest WHERE projection = 'tally@2'",
        "count or digests",
        id="a digest",
    ),
]


@pytest.mark.parametrize(("harm", "told"), HARMS)
async def test_whatever_is_not_as_the_fold_has_it_is_found(held: Held, harm: str, told: str) -> None:
    assert told in await held.wrong(harm)


async def test_a_key_that_parked_since_is_found(held: Held) -> None:
    refused.add(1)
    try:
        assert "waits" in await held.wrong()
    finally:
        refused.clear()
