"""Drives of the bounds of versions: leases of whoever works alone, the time to arrive, the tries of a swap."""

from pathlib import Path
from typing import Any

import pytest
from tests.limits.drives import default, drives
from tests.services.numbers import both, first, second
from tests.services.test_versions import begun, stages

from truecopy_bus.errors import DatabaseUnavailableError
from truecopy_projections import limits
from truecopy_projections.bounded import BoundedWorker
from truecopy_projections.errors import NotCaughtUpError
from truecopy_projections.stages import Stage
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
