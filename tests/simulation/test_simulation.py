"""The simulator: the system as it is under all faults, that a seed is a run, and that what is broken is seen and cut down."""

import os
import subprocess
import sys
from random import Random

import pytest
from tests.projections.bank import Balance, Deposited, balance, entries
from tests.simulation.histories import balances, drawn

from truecopy_projections.projection import Change, Projection
from truecopy_projections.testing.simulation import (
    ALL_FAULTS,
    HARMLESS,
    Fault,
    SimulationFailedError,
    Strike,
    run,
    simulate,
)
from truecopy_projections.testing.simulation.faults import drawn as drawn_script

SEEDS_EACH = 10


@pytest.mark.parametrize("first", range(1, 61, SEEDS_EACH))
def test_the_system_keeps_its_promises_under_all_faults(first: int) -> None:
    tally = simulate(balance, events=drawn, seeds=range(first, first + SEEDS_EACH), expected=balances)

    assert tally.seeds == SEEDS_EACH
    assert tally.faults.total() > SEEDS_EACH
    assert tally.marks > SEEDS_EACH
    assert "\n0 failures" in tally.table()


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
def test_every_fault_strikes_and_what_comes_of_it_is_as_it_must_be(fault: Fault) -> None:
    for seed in (13, 4, 1):
        outcome = run(seed, [balance], drawn, faults={fault}, script=[Strike(60, fault, seed)], expected=balances)
        assert outcome.wrong == ()
        if outcome.struck[fault]:
            break

    assert outcome.struck[fault]
    assert sum(outcome.verdicts.values()) == outcome.checks > 0


def test_projections_with_several_rows_for_a_key_keep_them_too() -> None:
    simulate(balance, entries, events=drawn, seeds=range(9000, 9008))


TRACE = """
from tests.projections.bank import balance
from tests.simulation.histories import drawn
from truecopy_projections.testing.simulation import ALL_FAULTS, run
print([run(seed, [balance], drawn, faults=ALL_FAULTS).trace for seed in (5, 8)])
"""


def test_a_seed_is_the_same_run_every_time_and_in_every_process() -> None:
    here = [run(seed, [balance], drawn, faults=ALL_FAULTS).trace for seed in (5, 8)]
    again = [run(seed, [balance], drawn, faults=ALL_FAULTS).trace for seed in (5, 8)]
    there = [
        subprocess.run(
            [sys.executable, "-c", TRACE],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            check=True,
            timeout=90,
        ).stdout.strip()
        for hashes in ("1", "2")
    ]

    assert here == again
    assert here[0] != here[1]
    assert there == [str(here)] * 2


class Forgetful:
    """A reducer that remembers what it reduced, also for a batch that nobody committed."""

    def __init__(self) -> None:
        self.projection = Projection("forgetful", entity="bank.account", row=Balance)
        self.seen: dict[tuple[str, int], int] = {}
        self.projection.on(Deposited)(self.reduce)

    def reduce(self, row: Balance | None, event: Deposited, change: Change) -> Balance:
        times = self.seen[change.key, change.version] = self.seen.get((change.key, change.version), 0) + 1
        return Balance(change.key, event.amount * times, (row.mean if row else 0) * 0 + 1, 1)  # type: ignore[arg-type]


def test_a_reducer_that_depends_on_more_than_row_and_event_is_told_with_its_seed() -> None:
    with pytest.raises(SimulationFailedError, match="seed 1: ") as told:
        simulate(Forgetful().projection, events=drawn, seeds=range(1, 20), faults=HARMLESS)

    assert told.value.outcome.wrong
    assert "seeds=[1]" in str(told.value)


def test_a_failing_script_is_cut_down_to_the_faults_that_it_takes() -> None:
    wrong = Projection("wrong", entity="bank.account", row=Balance)
    struck: list[str] = []

    @wrong.on(Deposited)
    def _(row: Balance | None, event: Deposited, change: Change) -> Balance:
        struck.append(change.key)
        return Balance(change.key, event.amount, row.mean if row else 1, 1)  # type: ignore[arg-type]

    with pytest.raises(SimulationFailedError) as told:
        simulate(wrong, events=drawn, seeds=[3], expected=balances)

    assert told.value.outcome.script == ()
    assert "none at all" in str(told.value)


def test_scripts_are_data_drawn_from_the_seed_and_do_damage_once_at_the_most() -> None:
    scripts = [drawn_script(Random(seed), ALL_FAULTS, operations=100, strikes_max=9, damage=0.5) for seed in range(200)]

    assert scripts[0] == drawn_script(Random(0), ALL_FAULTS, operations=100, strikes_max=9, damage=0.5)
    assert all(sum(strike.fault not in HARMLESS for strike in script) <= 1 for script in scripts)
    assert {strike.fault for script in scripts for strike in script} == set(Fault)
