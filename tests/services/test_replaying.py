"""Replays into sandboxes: what they prove and tell, and that what is live stays as it was, byte by byte."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace as with_
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.services.numbers import first, payments, refused, second, till
from tests.services.test_versions import begun

from truecopy_bus.record import Outgoing
from truecopy_bus.sql import connect
from truecopy_projections.check import check
from truecopy_projections.cut import AtEnd, AtOffset
from truecopy_projections.errors import CutError, ReplayRefusedError, StoppedError
from truecopy_projections.replica import Replica
from truecopy_projections.stages import Stage, live_number
from truecopy_services import Service, Settings, Verdict, replay_reading
from truecopy_services.errors import UsageError
from truecopy_services.operating.cuts import cut_asked
from truecopy_services.replay_reading import compare_with_live, survey
from truecopy_services.replaying import JOURNALED, cut_of, replay
from truecopy_services.sandboxes import opened_sandbox
from truecopy_services.selecting import Selection, replay_selected

app = till(first)


def quick(folder: Path, **more: Any) -> Settings:
    return Settings(home=folder, read_wait_s=0.05, lease_s=0.5, mark_writing_s=0.05, **more)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    await begun(quick(tmp_path))
    async with app.at(quick(tmp_path)).open(store=False) as opened:
        yield opened


@pytest.fixture(params=["a file", "postgresql"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgresql" else f"sqlite:{tmp_path}/box.db"


def live_bytes(folder: Path) -> dict[str, str]:
    """What the files of log, store and replica hold, by their contents: a shared-memory file holds readers' locks."""
    files = [one for one in folder.iterdir() if "box" not in one.name and not one.name.endswith("-shm")]
    return {one.name: hashlib.blake2b(one.read_bytes()).hexdigest() for one in files if one.stat().st_size}


async def test_a_replay_proves_itself_at_marks_goes_on_and_leaves_what_is_live_as_it_was(
    service: Service, box: str, tmp_path: Path
) -> None:
    before = live_bytes(tmp_path)
    cut = await cut_of(service, first, cut_asked("end"))
    half = AtOffset({p: end // 2 for p, end in cut.offsets.items()})
    async with opened_sandbox(service, first, box) as sandbox:
        part = await replay(service, first, sandbox, to=half)
        assert part.positions == half.offsets
        less = await compare_with_live(service, first, sandbox)
        assert less.total
        assert set(less.rows.names) <= {"removed", "changed:amount"}
        samples = less.as_json()["samples"]
        assert all(one["events"] for one in samples)
        for one in samples:
            low, high = sorted(one["versions"].values())
            assert all(low < event["version"] <= high for event in one["events"])
    async with opened_sandbox(service, first, box) as sandbox:
        whole = await replay(service, first, sandbox, by="an operator")
        assert (whole.began, whole.applied + part.applied, whole.equal) == (part.positions, whole.count, True)
        assert whole.count == 12
        same = await compare_with_live(service, first, sandbox)
        assert (same.total, same.rows.compared) == (0, 4)
        [report] = await with_(service, replica_adapter=sandbox).check(first, deep=True)
        assert report.verdict is Verdict.EQUAL
        async with sandbox.snapshot() as snapshot:
            entries = await snapshot.journal(JOURNALED)
            assert live_number(await snapshot.stages(first.name)) is None
        assert [entry["what"] for entry in entries] == ["begun", "ended"] * 2
        assert entries[-1]["by"] == "an operator"
        with pytest.raises(ReplayRefusedError, match="beyond"):
            await replay(service, first, sandbox, to=half)
    async with opened_sandbox(service, first, box, anew=True) as sandbox:
        again = await replay(service, first, sandbox, to=half)
        assert (again.applied, again.positions) == (part.applied, part.positions)
    assert live_bytes(tmp_path) == before


async def test_an_event_that_cannot_be_applied_ends_a_replay_which_goes_on_when_that_is_mended(tmp_path: Path) -> None:
    await begun(quick(tmp_path))
    amounts = {event.amount for _, event in payments(4, 3)}
    refused.add(max(amounts))
    async with till(first, second).at(quick(tmp_path)).open(store=False) as service:
        async with opened_sandbox(service, second, f"sqlite:{tmp_path}/box.db") as sandbox:
            try:
                with pytest.raises(StoppedError, match="no such amount"):
                    await replay(service, second, sandbox)
                parked = await replay(service, second, sandbox, parks=True)
            finally:
                refused.clear()
            assert parked.parked > 0
        async with opened_sandbox(service, second, f"sqlite:{tmp_path}/box.db", anew=True) as sandbox:
            done = await replay(service, second, sandbox)
            assert (done.parked, done.count, done.equal) == (0, 12, True)
            async with sandbox.snapshot() as snapshot:
                said = [entry["what"].partition(":")[0] for entry in await snapshot.journal(JOURNALED)]
                assert [(one.number, one.stage) for one in await snapshot.stages("tally")] == [(2, Stage.BUILDING)]
            assert said == ["begun", "stopped", "begun", "ended", "begun", "ended"]


async def test_two_replays_of_one_sandbox_do_not_meet(service: Service, box: str) -> None:
    async with opened_sandbox(service, first, box) as one, opened_sandbox(service, first, box) as other:
        ended = await asyncio.gather(*(replay(service, first, each) for each in (one, other)), return_exceptions=True)
        done = [each for each in ended if not isinstance(each, BaseException)]
        assert done
        assert {type(each) for each in ended if isinstance(each, BaseException)} <= {ReplayRefusedError}
        assert (sum(each.applied for each in done), done[0].count) == (12, 12)
        [report] = await with_(service, replica_adapter=one).check(first, deep=True)
        assert report.verdict is Verdict.EQUAL
        assert len(await one.renew(first, "another replay", (), lease_s=30.0)) == 2
        with pytest.raises(ReplayRefusedError, match="another replay of tally@1 is at work"):
            await replay(service, first, other)
        with pytest.raises(ReplayRefusedError, match="a replay of tally@1 is at work"):
            async with opened_sandbox(service, first, box, anew=True):
                raise AssertionError


async def test_what_is_live_is_refused_by_whatever_spelling(service: Service, tmp_path: Path) -> None:
    before = live_bytes(tmp_path)
    os.symlink(tmp_path / "till.replica.db", tmp_path / "box-linked.db")
    os.link(tmp_path / "till.store.db", tmp_path / "box-hard.db")
    spelt = [f"sqlite:{tmp_path}/x/../till.replica.db", f"sqlite:{tmp_path}/box-linked.db", f"sqlite:{tmp_path}/box-hard.db"]
    for address in (*spelt, f"sqlite://{tmp_path}/log.db"):
        with pytest.raises(ReplayRefusedError, match="this service's live"):
            async with opened_sandbox(service, first, address):
                raise AssertionError
    assert live_bytes(tmp_path) == before


async def test_a_live_database_of_a_server_is_refused_by_another_spelling(postgres_url: str, tmp_path: Path) -> None:
    await begun(quick(tmp_path, replica=postgres_url))
    other = f"{postgres_url}{'&' if '?' in postgres_url else '?'}application_name=another"
    async with app.at(quick(tmp_path, replica=postgres_url)).open(store=False) as service:
        with pytest.raises(ReplayRefusedError, match="live replica"):
            async with opened_sandbox(service, first, other):
                raise AssertionError


async def test_a_schema_beside_the_live_one_is_a_sandbox_if_nothing_leads_from_it_to_that(
    postgres_url: str, tmp_path: Path
) -> None:
    await begun(quick(tmp_path, replica=postgres_url))
    admin = await asyncpg.connect(postgres_url)
    await admin.execute("CREATE SCHEMA box")
    path = f"{postgres_url}{'&' if '?' in postgres_url else '?'}options=-csearch_path%3Dbox"
    async with app.at(quick(tmp_path, replica=postgres_url)).open(store=False) as service:
        async with opened_sandbox(service, first, path) as sandbox:
            assert (await replay(service, first, sandbox)).equal
        for address in (f"{path},public", f"{path},public", f"{path}es"):
            with pytest.raises(ReplayRefusedError, match="let it name one schema"):
                async with opened_sandbox(service, first, address, anew=True) as sandbox:
                    await replay(service, first, sandbox)
        assert (await service.get(first, "a1")) is not None
    assert len(await admin.fetch("SELECT * FROM public.tally")) == 4
    await admin.close()


async def test_a_database_that_no_replay_made_is_refused_even_anew(service: Service, box: str) -> None:
    database = await connect(box)
    async with database.transaction() as tx:
        await tx.fetch("CREATE TABLE ours (n INTEGER)")
    await database.close()
    with pytest.raises(ReplayRefusedError, match=r"what no replay made \(ours\)"):
        async with opened_sandbox(service, first, box, anew=True):
            raise AssertionError


async def test_wrong_points_and_addresses_are_refused_by_name(service: Service, tmp_path: Path) -> None:
    ahead = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    with pytest.raises(UsageError, match="still to come"):
        cut_asked(f"time:{ahead}")
    with pytest.raises(CutError, match="no mark 99999"):
        await cut_of(service, first, cut_asked("mark:0=99999"))
    with pytest.raises(CutError, match=r"no point is named for partitions \[1\]"):
        await cut_of(service, first, cut_asked("offset:0=1"))
    for address, told in (("box.db", "no address"), (f"sqlite:{tmp_path}/no/box.db", "no folder")):
        with pytest.raises(UsageError, match=told):
            async with opened_sandbox(service, first, address):
                raise AssertionError


async def test_a_survey_counts_and_a_rate_holds_a_replay_back(service: Service, tmp_path: Path) -> None:
    found = await survey(service, first, cut := await cut_of(service, first, cut_asked("end")))
    assert dict(found.types) == {"till.account.Paid": 12}
    assert found.records == sum(cut.offsets.values())
    assert not (tmp_path / "box.db").exists()
    steps: list[int] = []
    async with opened_sandbox(service, first, f"sqlite:{tmp_path}/box.db") as sandbox:
        done = await replay(service, first, sandbox, rate=30, told=lambda progress: steps.append(progress.done))
    assert done.took_s >= (sum(cut.offsets.values()) - 30 * 0.5) / 30  # it may not be faster than that
    assert steps == sorted(steps)
    assert len(steps) > 1


async def test_a_survey_of_a_selection_counts_what_a_replay_of_it_would_apply(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, some = await cut_of(service, first, cut_asked("end")), Selection(conditions=("amount<2",))
    found = await survey(service, first, cut, some)
    assert (dict(found.selected), found.events, found.keys) == ({"till.account.Paid": 2}, 12, 2)
    assert found.as_json(rate=1)["least_s"] == found.records
    async with opened_sandbox(service, first, f"sqlite:{tmp_path}/box.db") as sandbox:
        assert (await replay_selected(service, first, sandbox, some)).applied == 2
    for p, (earliest, latest) in found.offsets.items():
        assert 0 < earliest <= latest < cut.offsets[p]
    nothing = await survey(service, first, cut, Selection(begin=AtEnd()))
    assert (nothing.records, nothing.keys, nothing.offsets, nothing.first_ms) == (0, 0, {}, None)
    monkeypatch.setattr(replay_reading, "KEYS_TOLD_MAX", 3)
    assert (await survey(service, first, cut)).keys is None
    monkeypatch.setattr(replay_reading, "KEYS_TOLD_MAX", 4)
    assert (await survey(service, first, cut)).keys == 4


async def test_an_event_that_cannot_be_read_is_not_left_out_of_a_selection_in_silence(service: Service, tmp_path: Path) -> None:
    topic = service.topic(first)
    ends = {p: end for p, (_, end) in (await service.log.describe(topic)).bounds.items()}
    reader = service.log.reader(topic)
    records = await reader.read(dict.fromkeys(ends, 0), records_max=100, wait_s=1.0)
    await reader.close()
    whole = next(record for record in records if record.key == b"a1" and record.value)
    value = (whole.value or b"")[:5] + bytes([2 * 4]) + (whole.value or b"")[6:-1]  # the fourth version, without its end
    await service.log.append(topic, whole.partition, [Outgoing(b"a1", value, 0)])
    async with opened_sandbox(service, first, f"sqlite:{tmp_path}/box.db") as sandbox:
        with pytest.raises(StoppedError, match=r"'a1' version 4.*UNDECODABLE"):
            await replay_selected(service, first, sandbox, Selection(conditions=("amount>=0",)))


async def test_a_replay_from_kafka_proves_itself(kafka_url: str, topic_namespace: str, tmp_path: Path) -> None:
    settings = quick(tmp_path, log=kafka_url, namespace=topic_namespace, store=f"sqlite:{tmp_path}/till.store.db")
    await begun(settings)
    async with app.at(settings).open(store=False) as service:
        async with opened_sandbox(service, first, f"sqlite:{tmp_path}/box.db") as sandbox:
            done = await replay(service, first, sandbox)
            assert (done.count, done.equal, (await compare_with_live(service, first, sandbox)).total) == (12, True, 0)
        async with opened_sandbox(service, first, f"sqlite:{tmp_path}/some.db") as sandbox:
            assert (await replay_selected(service, first, sandbox, Selection(keys=frozenset({"a1"})))).applied == 3


async def test_the_verb_says_what_it_did_or_why_not(truecopy: Any) -> None:
    await truecopy("publish", "bank", "Deposited", "a1", '{"amount": 5}')
    unread = await truecopy("replay", "bank", "balance", "--into", "sqlite:box.db")
    assert (unread.code, "has no topic" in unread.err) == (3, True), unread
    told = [
        (("nothing",), 2, "declares no projection"),
        (("balance",), 2, "--into"),
        (("balance", "--into", "sqlite:box.db", "--rate", "0"), 2, "--rate 0"),
        (("balance", "--into", "sqlite:box.db", "--to", "time:2999-01-01T00:00:00Z"), 2, "still to come"),
    ]
    for words, code, said in told:
        done = await truecopy("replay", "bank", *words, "--json")
        assert (done.code, said in done.object["error"]) == (code, True), done
    assert not (truecopy.folder / "box.db").exists()


SELECTED = [
    pytest.param(Selection(keys=frozenset({"a1"})), {"a1": 15}, id="a key"),
    pytest.param(Selection(conditions=("amount>=8",)), {"a0": 8, "a1": 9, "a2": 10, "a3": 11}, id="fields"),
    pytest.param(Selection(types=frozenset({"Paid"}), keys=frozenset({"a2"})), {"a2": 18}, id="a type and a key"),
    pytest.param(Selection(types=frozenset({"till.account.Nothing"})), {}, id="a type of which there are none"),
    pytest.param(Selection(begin=AtEnd()), {}, id="from the end on"),
]


async def amounts(sandbox: Replica) -> dict[str, int]:
    async with sandbox.snapshot() as snapshot:
        return {key: row.values[1] async for batch in snapshot.rows(first) for key, _, row in batch}


@pytest.mark.parametrize(("selection", "meant"), SELECTED)
async def test_some_events_are_replayed_alone_and_are_no_copy(
    service: Service, box: str, selection: Selection, meant: dict[str, int], tmp_path: Path
) -> None:
    before = live_bytes(tmp_path)
    async with opened_sandbox(service, first, box) as sandbox:
        done = await replay_selected(service, first, sandbox, selection)
        assert await amounts(sandbox) == meant
        again = await replay_selected(service, first, sandbox, selection)
        assert (again.applied, await amounts(sandbox)) == (0, meant)
        report = await check(first, sandbox, service.log, service.registry, wait_s=0)
        assert report.verdict is Verdict.INCOMPARABLE
        with pytest.raises(ReplayRefusedError, match="another selection"):
            await replay_selected(service, first, sandbox, Selection(keys=frozenset({"a0"})))
        found = await compare_with_live(service, first, sandbox)
    assert done.applied == again.count
    assert set(found.rows.names) <= {"removed", "changed:amount"}
    assert live_bytes(tmp_path) == before


async def test_a_selection_stops_at_what_cannot_be_applied_and_goes_on_from_there(tmp_path: Path) -> None:
    await begun(quick(tmp_path))
    refused.add(9)
    try:
        async with (
            till(first, second).at(quick(tmp_path)).open(store=False) as service,
            opened_sandbox(service, second, f"sqlite:{tmp_path}/box.db") as sandbox,
        ):
            with pytest.raises(StoppedError, match="'a1' version 3"):
                await replay_selected(service, second, sandbox, Selection(conditions=("amount>=5",)))
            refused.clear()
            await replay_selected(service, second, sandbox, Selection(conditions=("amount>=5",)))
            async with sandbox.snapshot() as snapshot:
                rows = [row.values async for batch in snapshot.rows(second) for _, _, row in batch]
        assert ("a1", 14, 2) in rows
    finally:
        refused.clear()


async def test_what_was_ruled_about_events_of_the_live_replica_holds_in_a_sandbox_too(tmp_path: Path, box: str) -> None:
    settings = quick(tmp_path)
    refused.add(5)
    try:
        async with till(second).at(settings).open() as service:
            await service.publish_many(payments(4, 3))
            relay, worker = service.relay(), service.worker(second)
            await relay.drain()
            while await worker.step():
                pass
            await worker.leave()
            await service.quarantine(second).skip("a1", why="it was a test")
            await relay.mark()
            await relay.leave()
            async with opened_sandbox(service, second, box) as sandbox:
                done = await replay(service, second, sandbox)
                assert (done.parked, done.count, done.equal) == (0, 12, True)
                async with sandbox.snapshot() as snapshot:
                    assert [(one.key, one.why) for one in (await snapshot.amendments(second.id)).all] == [
                        ("a1", "it was a test")
                    ]
                assert not (await compare_with_live(service, second, sandbox)).total
                [report] = await with_(service, replica_adapter=sandbox).check(second, deep=True)
                assert report.verdict is Verdict.EQUAL
            async with opened_sandbox(service, second, box, anew=True) as sandbox:
                await replay_selected(service, second, sandbox, Selection(keys=frozenset({"a1"})))
                async with sandbox.snapshot() as snapshot:
                    rows = [row.values async for batch in snapshot.rows(second) for _, _, row in batch]
                assert rows == [("a1", 1 + 9, 2)]
    finally:
        refused.clear()


async def test_a_selection_is_of_one_life_of_a_topic_and_its_journal_says_why_it_stopped(tmp_path: Path) -> None:
    assert Selection().incarnation("one") != Selection().incarnation("another")
    await begun(quick(tmp_path))
    refused.add(9)
    try:
        async with (
            till(first, second).at(quick(tmp_path)).open(store=False) as service,
            opened_sandbox(service, second, f"sqlite:{tmp_path}/box.db") as sandbox,
        ):
            with pytest.raises(StoppedError):
                await replay_selected(service, second, sandbox, Selection(conditions=("amount>=5",)))
            async with sandbox.snapshot() as snapshot:
                said = [entry["what"] for entry in await snapshot.journal(JOURNALED)]
    finally:
        refused.clear()
    assert [one.partition(":")[0] for one in said] == ["begun", "stopped"]
    assert "no such amount" in said[1]
