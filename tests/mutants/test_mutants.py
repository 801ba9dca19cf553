"""Apply loops and proofs that are broken on purpose: each is caught, and the unbroken code passes what catches it."""

import asyncio

import pytest
from tests.mutants.mutants import MUTANTS, Mutant
from tests.mutants.mutation import mutated
from tests.projections.bank import balance
from tests.simulation.histories import balances, drawn

from truecopy_projections.replicas import SqlReplica
from truecopy_projections.testing import ReplicaSuite
from truecopy_projections.testing.simulation import ALL_FAULTS, run
from truecopy_projections.testing.simulation.database import Disk, SimulatedDatabase
from truecopy_projections.testing.simulation.faults import Side

SEEDS_AFTER = range(1, 16)
"""Where else to look: a seed that showed a mutant once may show it no more when the code around it has changed."""


def wrong(mutant: Mutant, seed: int) -> str:
    """What the catcher of a mutant says of the code as it is now, "" if nothing is wrong."""
    if mutant.suite:
        return asyncio.run(in_suite(mutant.suite))
    return "".join(run(seed, [balance], drawn, faults=ALL_FAULTS, script=mutant.script, expected=balances).wrong)


async def in_suite(test: str) -> str:
    disk = Disk()
    try:
        await getattr(ReplicaSuite(), test)(SqlReplica(SimulatedDatabase(disk, Side.REPLICA)))
    except AssertionError as fault:
        return str(fault) or test
    finally:
        disk.close()
    return ""


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught_and_the_code_as_it_is_passes(name: str) -> None:
    mutant = MUTANTS[name]
    seeds = [mutant.seed, *(seed for seed in SEEDS_AFTER if not mutant.suite and seed != mutant.seed)]

    with mutated(*mutant.edits):
        caught = next((seed for seed in seeds if wrong(mutant, seed)), None)

    assert caught is not None, "nobody noticed"
    assert wrong(mutant, caught) == ""
