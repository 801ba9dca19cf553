"""Drives of the bounds that the quarantine keeps: how many rulings, how long a line, how much at a time, when to warn."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from tests.limits.drives import BRIEF_S, drives
from tests.projections.bank import Deposited, balance
from tests.projections.town import Town, opened

from truecopy_bus.fold import element
from truecopy_projections import limits
from truecopy_projections.amending import amending
from truecopy_projections.errors import AmendmentRefusedError
from truecopy_projections.state import PartitionState
from truecopy_projections.testing.replica_amending import amendment_of
from truecopy_projections.testing.replica_plans import LINES, moved_on, taken, waiting_at
from truecopy_projections.waiting_alarm import WaitingAlarm
from truecopy_services.errors import UsageError
from truecopy_services.quarantine import Quarantine
from truecopy_services.quarantine_files import imported

STATE = PartitionState(partition=0, incarnation="1")


async def parked(town: Town) -> None:
    await town.publish(("a", Deposited(amount=666)))
    await town.settle(balance)


async def rule_before(town: Town, times: int) -> None:
    fences, states = await taken(town.replica, balance)
    many = [replace(amendment_of("b", 1), event=element(b"", "b", at, b"", b"")) for at in range(1, times + 1)]
    await town.replica.apply(balance, [replace(moved_on(fences[0], states[0]), amendments=many)])


@drives("projections.AMENDMENTS_MAX")
async def the_rulings_of_a_projection() -> None:
    for times, refused in ((limits.AMENDMENTS_MAX - 1, False), (limits.AMENDMENTS_MAX, True)):
        async with opened("memory:") as town:
            await parked(town)
            await rule_before(town, times)
            async with amending(balance, town.replica, town.registry, by="a test") as at:
                _, [held] = await at.look("a")
                if refused:
                    with pytest.raises(AmendmentRefusedError, match=f"has {times} amendments, the limit is {times}"):
                        at.ruling(held, "one too many")
                else:
                    assert at.ruling(held, "the last one") is not None


@drives("projections.QUARANTINE_RECORDS")
async def the_records_that_are_read_at_a_time() -> None:
    async with opened("memory:") as town:
        fences, states = await taken(town.replica, LINES)
        many = limits.QUARANTINE_RECORDS + 1
        waits = [waiting_at(0, at, f"k{at}") for at in range(many)]
        await town.replica.apply(LINES, [moved_on(fences[0], states[0], waits=waits)])
        async with town.replica.snapshot() as snapshot:
            sizes = [len(batch) async for batch in snapshot.quarantine(LINES.id)]
    assert sizes == [limits.QUARANTINE_RECORDS, 1]


@drives("projections.QUARANTINE_LINE_BYTES_MAX")
async def a_line_of_an_imported_file(tmp_path: Path) -> None:
    async with opened("memory:") as town:
        await parked(town)
        quarantine = Quarantine(balance, town.replica, town.log, town.registry, topic="rulings", by="a test")
        line = {"type": "", "fields": None, "as_exported": ["", None], "skip": False, "blank": ""}
        line["blank"] = " " * (limits.QUARANTINE_LINE_BYTES_MAX - len(json.dumps(line)))
        path = tmp_path / "waiting.jsonl"
        path.write_text(json.dumps(line))
        assert (await imported(quarantine, path)).lines == 0
        path.write_text(json.dumps(line) + " ")
        with pytest.raises(UsageError, match=f"line 1 is longer than {limits.QUARANTINE_LINE_BYTES_MAX:,} bytes"):
            await imported(quarantine, path)


@drives("projections.WAITING_SHARE_MAX")
def how_much_waits_before_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    few = int(limits.KEYS_PARKED_MAX * limits.WAITING_SHARE_MAX)
    size = int(limits.WAITING_BYTES_MAX * limits.WAITING_SHARE_MAX) + 1
    for state, said in (
        ({"parked": few - 1}, 0),
        ({"parked": few}, 1),
        ({"waiting_bytes": size - 1}, 0),
        ({"waiting_bytes": size}, 1),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "truecopy.worker"):
            WaitingAlarm("balance@1").look([replace(STATE, **state)])
        assert len(caplog.records) == said, state


@drives("projections.WAITING_REPEAT_S")
def how_often_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    clock = iter((0.0, limits.WAITING_REPEAT_S - BRIEF_S, limits.WAITING_REPEAT_S))
    alarm = WaitingAlarm("balance@1", clock=lambda: next(clock))
    with caplog.at_level(logging.WARNING, "truecopy.worker"):
        for said in (1, 1, 2):
            alarm.look([replace(STATE, parked=limits.KEYS_PARKED_MAX)])
            assert len(caplog.records) == said
