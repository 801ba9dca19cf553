"""Drives of the bounds of versions: leases of whoever works alone, the time to arrive, the tries of a swap."""

from pathlib import Path
from typing import Any

import pytest
from tests.limits.drives import default, drives
from tests.services.numbers import both, first, payments, second
from tests.services.test_versions import begun, stages

from truecopy_bus.errors import DatabaseUnavailableError
from truecopy_projections import limits
from truecopy_projections.bounded import BoundedWorker
from truecopy_projections.errors import NotCaughtUpError
from truecopy_projections.stages import Stage
from truecopy_projections.tail_proof import Proven, proven_at
from truecopy_services import Settings
from truecopy_services.rebuilding import rebuild
from truecopy_services.swapping import swap


def quick(folder: Path) -> Settings:
    return Settings(home=folder, mark_writing_s=0.05, read_wait_s=0.05, lease_s=1.0, check_wait_s=20.0)


@drives("projections.ALONE_LEASE_S")
def how_long_nobody_else_has_what_one_works_on_alone() -> None:
    assert default(BoundedWorker.__init__, "lease_s") == limits.ALONE_LEASE_S


@drives("projections.SWAP_ARRIVE_S")
async def how_long_both_numbers_have_to_come_to_one_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    async def arrive(self: BoundedWorker, *, within_s: float) -> None:
        asked.append(within_s)
        raise NotCaughtUpError(projection=self.projection.id, left=1, why="it is a test")

    await begun(quick(tmp_path))
    async with both.at(quick(tmp_path)).open() as service:
        assert (await rebuild(service, second)).follows
        await begun(quick(tmp_path))
        monkeypatch.setattr(BoundedWorker, "arrive", arrive)
        impatient = service.settings.model_copy(update={"check_wait_s": 0.0})
        object.__setattr__(service, "settings", impatient)
        with pytest.raises(Exception, match=r"it is a test|BEHIND"):
            await swap(service, second, accept="any")
        assert asked == [limits.SWAP_ARRIVE_S]


@drives("projections.SWAP_TRIES")
async def how_often_a_swap_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await begun(quick(tmp_path))
    async with both.at(quick(tmp_path)).open() as service:
        assert (await rebuild(service, second)).follows
        sound, left = service.replica_adapter.swap, [limits.SWAP_TRIES]

        async def refused(*given: Any, **how: Any) -> None:
            left[0] -= 1
            if left[0] >= 0:
                raise DatabaseUnavailableError(database="r", seen="somebody reads the view")
            await sound(*given, **how)

        monkeypatch.setattr(service.replica_adapter, "swap", refused)
        with pytest.raises(DatabaseUnavailableError):
            await swap(service, second)
        assert await stages(service) == {1: Stage.LIVE, 2: Stage.FOLLOWING}
        left[0] = limits.SWAP_TRIES - 1
        assert (await swap(service, second)).done
        assert (await swap(service, first)).done


@drives("projections.TAIL_EVENTS_MAX")
async def events_since_a_proof_that_are_folded_while_all_is_held(tmp_path: Path) -> None:
    await begun(quick(tmp_path))
    async with both.at(quick(tmp_path)).open() as service:
        assert (await rebuild(service, second)).follows
        relay = service.relay()
        topic = service.topic(second)

        async def tail(events: int) -> Proven:
            await service.publish_many(payments(10, events // 10 + 1)[:events])
            await relay.drain()
            upto = {p: end for p, (_, end) in (await service.log.describe(topic)).bounds.items()}
            return await proven_at(second, service.replica_adapter, service.log, service.registry, topic=topic, upto=upto)

        assert len((await tail(limits.TAIL_EVENTS_MAX)).keys) == 10
        with pytest.raises(NotCaughtUpError, match=f"has {limits.TAIL_EVENTS_MAX + 1} events"):
            await tail(1)
        await relay.leave()
