"""Numbers of a projection: built beside the live one, swapped in one transaction if proven, and back again."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.services.numbers import Paid, both, first, payments, refused, second, till

from truecopy_projections.errors import RebuildRefusedError, StoppedError, SwapRefusedError
from truecopy_projections.limits import READ_POLL_S
from truecopy_projections.stages import Stage
from truecopy_services import Service, Settings, Truecopy, UnavailableError, UnknownProjectionError, Verdict
from truecopy_services.errors import UsageError
from truecopy_services.rebuilding import drop, rebuild
from truecopy_services.swapping import swap
from truecopy_services.working import first_error, work

WITHIN_S = 30.0


@pytest.fixture(params=["file", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    given: dict[str, Any] = {
        "home": tmp_path,
        "mark_writing_s": 0.05,
        "read_wait_s": 0.05,
        "lease_s": 1.0,
        "check_wait_s": 20.0,
    }
    if request.param == "postgresql":
        given["replica"] = request.getfixturevalue("postgres_url")
    return Settings(**given)


@pytest.fixture
def in_a_file(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, mark_writing_s=0.05, read_wait_s=0.05, lease_s=1.0, check_wait_s=20.0)


@asynccontextmanager
async def running(app: Truecopy, settings: Settings) -> AsyncIterator[Service]:
    async with app.at(settings).running() as service:
        yield service


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            if await true():
                return
            await asyncio.sleep(READ_POLL_S)


async def stages(service: Service) -> dict[int, Stage]:
    async with service.replica_adapter.snapshot() as snapshot:
        return {one.number: one.stage for one in await snapshot.stages("tally")}


async def begun(settings: Settings, *, keys: int = 4, each: int = 3) -> None:
    """A history that the first number, declared alone, has applied."""
    async with running(till(first), settings) as service:
        tokens = await service.publish_many(payments(keys, each))
        for token in tokens[-keys:]:
            await service.replica(first).get(token.key, at_least=token)
    async with till(first).at(settings).open() as service:
        relay = service.relay()
        await relay.drain()
        await relay.mark()
        await relay.leave()


async def view(service: Service) -> list[tuple[Any, ...]]:
    database = service.replica_database
    assert database is not None
    while True:
        try:
            async with database.snapshot() as read:
                return sorted(tuple(row) for row in await read.fetch("SELECT * FROM tally"))
        except UnavailableError as fault:  # asyncpg knows the statement by the columns of before: once for each connection
            if "cached statement" not in str(fault):
                raise


async def test_a_number_is_rebuilt_swapped_in_and_swapped_back_and_forth_while_events_flow(settings: Settings) -> None:
    await begun(settings)
    async with running(both, settings) as service:
        await service.publish("a0", Paid(amount=100))
        assert await stages(service) == {1: Stage.LIVE}

        built = await rebuild(service, second)
        assert (built.report.verdict, built.follows) == (Verdict.EQUAL, True)
        assert await stages(service) == {1: Stage.LIVE, 2: Stage.FOLLOWING}
        token = await service.publish("a0", Paid(amount=1))
        assert (await service.replica(second).get("a0", at_least=token)).payments == 5  # type: ignore[union-attr]
        assert await service.replica("tally").get("a0", at_least=token) == await service.replica(first).get("a0")
        for new, old in ((second, first), (first, second), (second, first)):
            done = await swap(service, new)
            assert (done.done, done.verdict) == (True, Verdict.EQUAL)
            assert await stages(service) == {new.number: Stage.LIVE, old.number: Stage.FOLLOWING}
            token = await service.publish("a1", Paid(amount=7))
            row = await service.replica("tally").get("a1", at_least=token)
            assert row == await service.replica(new).get("a1")
            assert await service.replica(old).get("a1", at_least=token) is not None
            rows = await view(service)
            assert {len(row) for row in rows} == {len(new.fields)}
        assert [report.verdict for report in await service.check()] == [Verdict.EQUAL] * 2
        async with service.replica_adapter.snapshot() as snapshot:
            assert [entry["new"] for entry in await snapshot.journal("swap")] == ["tally@2", "tally@1", "tally@2"]


async def test_readers_of_view_and_sdk_see_either_number_and_never_a_mixture(settings: Settings) -> None:
    await begun(settings)
    seen: set[int] = set()
    async with both.at(settings).open() as service:
        await rebuild_alone(service)
        stop = asyncio.Event()

        async def by_sdk() -> None:
            while not stop.is_set():
                reader, rows = await service.replica("tally").read("a0")
                assert [type(row) for row in rows] == [reader.projection.row]
                seen.add(reader.projection.number)

        async def by_view() -> None:
            while not stop.is_set():
                rows = await view(service)
                assert len(rows) == 4
                assert {len(row) for row in rows} in ({2}, {3})
                seen.add(10 * len(rows[0]))

        with first_error():
            async with asyncio.TaskGroup() as tasks:
                for reader in (by_sdk, by_view, by_sdk):
                    tasks.create_task(reader())
                try:
                    for new in (second, first, second, first):
                        await swap(service, new)
                        await until(lambda number=new.number: _seen(seen, number))  # type: ignore[misc]
                        seen.clear()
                finally:
                    stop.set()


async def _seen(seen: set[int], number: int) -> bool:
    return {number, 10 * (number + 1)} <= seen


async def rebuild_alone(service: Service) -> None:
    built = await rebuild(service, second)
    assert built.follows, built.report.as_json()


async def test_a_rebuild_stops_where_the_live_number_flows_and_goes_on_when_it_is_mended(
    in_a_file: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begun(in_a_file)
    async with both.at(in_a_file).open() as service:
        monkeypatch.setattr("tests.services.numbers.refused", {6})
        with pytest.raises(StoppedError, match="no such amount") as stopped:
            await rebuild(service, second)
        assert (stopped.value.key, stopped.value.version) == ("a2", 2)
        assert await stages(service) == {1: Stage.LIVE, 2: Stage.BUILDING}
        with pytest.raises(SwapRefusedError, match="it is building"):
            await swap(service, second)

        monkeypatch.setattr("tests.services.numbers.refused", refused)
        await rebuild_alone(service)
        assert await stages(service) == {1: Stage.LIVE, 2: Stage.FOLLOWING}


async def test_the_live_number_one_beside_nothing_and_a_second_rebuild_are_refused(in_a_file: Settings) -> None:
    async with both.at(in_a_file).open() as service:
        with pytest.raises(RebuildRefusedError, match="no number of tally is live"):
            await rebuild(service, second)
    await begun(in_a_file)
    async with both.at(in_a_file).open() as service:
        with pytest.raises(RebuildRefusedError, match="it is live"):
            await rebuild(service, first)
        with pytest.raises(SwapRefusedError, match="it was never built"):
            await swap(service, second)
        with pytest.raises(SwapRefusedError, match="it is live already"):
            await swap(service, first)

        results = await asyncio.gather(rebuild(service, second), rebuild(service, second), return_exceptions=True)
        assert [type(one) for one in results].count(RebuildRefusedError) == 1, results
        assert await stages(service) == {1: Stage.LIVE, 2: Stage.FOLLOWING}


async def test_of_two_swaps_at_once_one_is_done(in_a_file: Settings) -> None:
    await begun(in_a_file)
    async with both.at(in_a_file).open() as service:
        await rebuild_alone(service)

        results = await asyncio.gather(swap(service, second), swap(service, second), return_exceptions=True)

        assert [type(one) for one in results].count(SwapRefusedError) == 1, results
        assert await stages(service) == {1: Stage.FOLLOWING, 2: Stage.LIVE}


async def test_a_number_that_is_behind_is_brought_on_by_the_swap(in_a_file: Settings) -> None:
    await begun(in_a_file)
    async with both.at(in_a_file).open() as service:
        await rebuild_alone(service)
        stop = asyncio.Event()
        with first_error():
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(work(service, stop, relay=True, projections=[first]))
                try:
                    token = (await service.publish_many(payments(4, 3)))[-1]
                    await service.replica(first).get(token.key, at_least=token)
                finally:
                    stop.set()

        done = await swap(service, second)
        assert done.verdict is Verdict.EQUAL
        assert await stages(service) == {1: Stage.FOLLOWING, 2: Stage.LIVE}
        amounts = [[(await service.replica(one).get(f"a{at}")).amount for at in range(4)] for one in (first, second)]  # type: ignore[union-attr]
        assert amounts[0] == amounts[1] == [24, 30, 36, 42]


async def test_a_damaged_row_refuses_a_swap_until_its_difference_is_accepted_by_name(settings: Settings) -> None:
    await begun(settings)
    async with both.at(settings).open() as service:
        await rebuild_alone(service)
        assert service.replica_database is not None
        async with service.replica_database.transaction() as tx:
            await tx.fetch(f"UPDATE {second.table} SET amount = amount + 1 WHERE account = 'a0'")

        with pytest.raises(SwapRefusedError, match="DIVERGED") as refusal:
            await swap(service, second)
        [name] = re.findall(r"--accept (\w+)", refusal.value.remedy)
        told = await swap(service, second, diff=True, dry_run=True)
        assert told.difference is not None
        assert (told.difference.name, told.difference.changed, told.difference.fresh) == (name, 1, ["payments"])
        with pytest.raises(SwapRefusedError, match="was accepted, and it is"):
            await swap(service, second, accept="0" * 12)
        assert await stages(service) == {1: Stage.LIVE, 2: Stage.FOLLOWING}

        assert (await swap(service, second, accept=name)).accepted
        assert await stages(service) == {1: Stage.FOLLOWING, 2: Stage.LIVE}


async def test_somebodys_view_on_the_view_is_named_in_the_refusal(postgres_url: str, in_a_file: Settings) -> None:
    settings = in_a_file.model_copy(update={"replica": postgres_url})
    await begun(settings)
    async with both.at(settings).open() as service:
        await rebuild_alone(service)
        connection = await asyncpg.connect(postgres_url)
        await connection.execute("CREATE VIEW rich AS SELECT * FROM tally WHERE amount > 10")

        with pytest.raises(SwapRefusedError, match="rich depends on the view tally"):
            await swap(service, second)

        assert await stages(service) == {1: Stage.LIVE, 2: Stage.FOLLOWING}
        await connection.execute("DROP VIEW rich")
        await connection.close()
        assert (await swap(service, second)).done


async def test_what_followed_for_its_time_is_retired_and_may_be_dropped_or_rebuilt(settings: Settings) -> None:
    await begun(settings)
    async with both.at(settings).open() as service:
        await rebuild_alone(service)
        await swap(service, second, follow_s=0.001)
        with pytest.raises(SwapRefusedError, match="it is retired"):
            await swap(service, first)
        with pytest.raises(SwapRefusedError, match="it is live"):
            await drop(service, second)

        assert (await rebuild(service, first)).follows
        assert (await swap(service, first)).done

        await drop(service, second)
        assert await stages(service) == {1: Stage.LIVE}
        with pytest.raises(UnknownProjectionError):
            await service.replica(second).get("a0")
        await rebuild_alone(service)


async def test_a_live_number_that_the_app_does_not_declare_is_said(in_a_file: Settings) -> None:
    await begun(in_a_file)
    async with both.at(in_a_file).open() as service:
        await rebuild_alone(service)
        await swap(service, second)
    async with till(first).at(in_a_file).open() as service:
        with pytest.raises(UnknownProjectionError, match=r"tally@2 is live, this app declares tally@1"):
            await service.replica("tally").get("a0")
        with pytest.raises(UsageError, match="declares no projection 'tallies'; it has tally"):
            service.replica("tallies")
        with pytest.raises(UsageError, match="this app does not declare it"):
            await swap(service, first)
