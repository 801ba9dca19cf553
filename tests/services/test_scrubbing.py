"""The scrubber: oldest buckets first, times kept as it goes, findings said when they are made, an end when it is told to."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.services.bank import Deposited, app, balances
from tests.services.conftest import ended, said_address
from tests.services.test_checking import DEPOSIT, damage, told

from truecopy_projections.digest import bucket_of
from truecopy_projections.limits import BUCKETS, SCRUB_AGE_MAX_S
from truecopy_projections.verdicts import Verdict
from truecopy_services import Service, Settings
from truecopy_services.cli import main
from truecopy_services.cli.scrub import duration
from truecopy_services.scrubbing import CYCLE_S, NOTED_BUCKETS, TURN_S, Pace, Scrubbed, Told, scrub_rounds

WITHIN_S = 60
USAGE = [
    pytest.param(["--once", "--cycle", "1h"], "--once is one cycle", id="once, and for ever"),
    pytest.param(["--cycle", "0h"], "no time above 0", id="no time"),
    pytest.param(["--cycle", "soon"], "as 90s, 15m, 24h or 7d are", id="no number"),
    pytest.param(["nothing"], "nothing", id="no such projection"),
]


class Noting:
    """A replica that notes which buckets are read, and what is kept of them. `until` is set when so many were."""

    def __init__(self, replica: Any, stop: asyncio.Event, stop_after: int) -> None:
        self._replica, self._stop, self._stop_after = replica, stop, stop_after
        self.read: list[int] = []
        self.kept: list[Mapping[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replica, name)

    async def scrubbed(self, projection: Any, at_ms: Mapping[int, int]) -> None:
        self.kept.append(dict(at_ms))
        await self._replica.scrubbed(projection, at_ms)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        async with self._replica.snapshot() as snapshot:
            rows = snapshot.rows

            def noted(projection: Any, *, buckets: Any, indexed: bool) -> Any:
                self.read += buckets
                if len(self.read) >= self._stop_after:
                    self._stop.set()
                return rows(projection, buckets=buckets, indexed=indexed)

            snapshot.rows = noted
            yield snapshot


async def scrubbed(
    service: Service, *, stop_after: int = 10 * BUCKETS, cycle_s: float | None = None
) -> tuple[Noting, Scrubbed, list[Told]]:
    """Scrub `balances` until so many buckets were read, or once."""
    stop, said, seen = asyncio.Event(), list[Told](), Scrubbed()
    noting = Noting(service.replica_adapter, stop, stop_after)
    pace = Pace(cycle_s=cycle_s, projections=1) if cycle_s else None
    async with asyncio.timeout(WITHIN_S):
        await scrub_rounds(
            replace(service, replica_adapter=noting),
            [balances],
            stop,
            pace=pace,
            scrubbed={balances.id: seen},
            tell=said.append,
            outages={},
        )
    return noting, seen, said


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """Some balances, in memory, applied."""
    settings = Settings(log="memory:", mark_writing_s=0.05)
    async with app.at(settings).running() as running:
        token = await running.publish("a1", Deposited(amount=5))
        await running.replica(balances).get("a1", at_least=token)
        yield running


async def test_one_cycle_reads_every_bucket_and_keeps_its_time(service: Service) -> None:
    noting, seen, said = await scrubbed(service)

    assert sorted(noting.read) == list(range(BUCKETS))
    assert (seen.rows, seen.buckets, seen.clean, said) == (1, BUCKETS, True, [])
    async with service.replica_adapter.snapshot() as snapshot:
        times = await snapshot.scrubs(balances.id)
    assert (times.never, times.oldest_age_s is not None) == (0, True)


async def test_who_is_stopped_goes_on_where_it_was_with_few_writes(service: Service) -> None:
    first, _, _ = await scrubbed(service, stop_after=150, cycle_s=1.0)
    second, _, _ = await scrubbed(service, stop_after=BUCKETS, cycle_s=1.0)

    done = len(first.read)
    assert first.read == list(range(done))
    assert second.read[: BUCKETS - done] == list(range(done, BUCKETS))
    assert len(second.kept) <= BUCKETS / NOTED_BUCKETS + 1
    assert set().union(*first.kept) == set(first.read)


async def test_what_is_wrong_is_said_once_and_said_again_when_it_is_mended(service: Service) -> None:
    replica: Any = service.replica_adapter
    contents = replica._contents[balances.id]
    partition, row = contents.rows["a1"][()]
    contents.rows["a1"][()] = partition, row._replace(values=(1_000,))
    stop, said, seen = asyncio.Event(), list[Told](), Scrubbed()
    wrong, mended = asyncio.Event(), asyncio.Event()

    def tell(told: Told) -> None:
        said.append(told)
        {"finding": wrong, "mended": mended}[told.what].set()

    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as tasks:
        pace = Pace(cycle_s=1.0, projections=1)
        going: Any = {"pace": pace, "scrubbed": {balances.id: seen}, "tell": tell, "outages": {}}
        tasks.create_task(scrub_rounds(service, [balances], stop, **going))
        await wrong.wait()
        assert not seen.clean
        replica._changeable(balances).rows["a1"][()] = partition, row
        await mended.wait()
        stop.set()

    assert [told.what for told in said] == ["finding", "mended"]
    assert said[0].as_json()["rows"] == [{"key": "a1", "row": [], "why": "it differs from the hash beside it"}]
    assert (seen.clean, seen.delivered is Verdict.DIVERGED) == (True, False)


def test_the_pace_is_that_of_a_cycle_or_slower_by_bytes() -> None:
    assert CYCLE_S * (1 + NOTED_BUCKETS / BUCKETS) < SCRUB_AGE_MAX_S
    day = Pace(cycle_s=CYCLE_S, projections=2)
    quick = Pace(cycle_s=2.0, projections=1)
    thrifty = Pace(cycle_s=CYCLE_S, projections=1, bytes_per_s=1_000.0)

    assert (day.buckets, day.turn_s(10**9)) == (1, CYCLE_S / 2 / BUCKETS)
    assert quick.buckets > 1
    assert TURN_S <= quick.turn_s(0) < 2 * TURN_S
    assert (thrifty.turn_s(0), thrifty.turn_s(10**6)) == (CYCLE_S / BUCKETS, 1_000.0)
    assert [duration(text) for text in ("90", "1.5m", "20h", "7d")] == [90, 90, CYCLE_S, 604_800]


@pytest.mark.parametrize(("words", "said"), USAGE)
def test_what_does_not_go_together_is_usage(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scrub", "tests.services.bank", *words]) == 2

    assert said in capsys.readouterr().err


async def test_a_scrubber_says_what_it_finds_and_ends_when_it_is_told_to(truecopy: Any, running: Any, tmp_path: Path) -> None:
    await running()
    scrubber = await truecopy.start("scrub", "bank", "balance", "--cycle", "5s", "--json", "--http", "0")
    site = await said_address(scrubber.stderr)
    await truecopy(*DEPOSIT)
    await site.until("/metrics", 200, 'truecopy_delivered_events_total{partition="1",projection="balance@1"} 1.0')
    sound = await site.until("/metrics", 200, 'truecopy_oldest_scrub_age_seconds{projection="balance@1"}')
    damage(tmp_path)
    finding = await told(scrubber, lambda found: found.get("said") == "finding")
    await site.until("/metrics", 200, 'truecopy_bad_buckets{projection="balance@1"} 1.0')
    wrong = await site.until("/metrics", 200, 'truecopy_unscrubbed_buckets{projection="balance@1"} 1.0')
    failed = await truecopy("scrub", "bank", "--once")
    assert (await truecopy("repair", "bank", "balance", "--apply")).code == 0
    await told(scrubber, lambda found: found.get("said") == "mended")
    scrubber.terminate()
    done = await ended(scrubber)
    (after,) = (await truecopy("status", "bank", "--json")).object["projections"]

    assert 'truecopy_unscrubbed_buckets{projection="balance@1"} 0.0' in sound
    assert "truecopy_oldest_scrub_age_seconds{" not in wrong
    assert (finding["bucket"], finding["rows"][0]["key"]) == (bucket_of("a1"), "a1")
    assert failed.code == 1
    assert f"bucket {bucket_of('a1')}: the rows were altered" in failed.out
    last = json.loads(done.out.splitlines()[-1])
    assert (done.code, last["clean"]) == (0, True)
    assert after["unscrubbed_buckets"] == 0
    assert after["oldest_scrub_age_s"] >= 0


VERBS = (("check", "bank"), ("scrub", "bank", "--once"), ("check", "bank", "--every", "9", "--fail-fast"))


async def test_a_corrupt_file_fails_and_is_not_called_unavailable(truecopy: Any, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / ".truecopy", mark_writing_s=0.05)
    async with app.at(settings).running() as running:
        token = await running.publish("a1", Deposited(amount=5))
        await running.replica(balances).get("a1", at_least=token)
    path = tmp_path / ".truecopy/bank.replica.db"
    with closing(apsw.Connection(str(path))) as connection:
        [(root,)] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'balance__v1'")
        [(size,)] = connection.execute("PRAGMA page_size")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(bytes(size))

    for done in await asyncio.gather(*(truecopy(*verb) for verb in VERBS)):
        assert done.code == 1
        assert "is corrupt" in done.out + done.err
        assert "REINDEX" in done.out + done.err
        assert "is unavailable" not in done.out + done.err
