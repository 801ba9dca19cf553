"""A simulator of the whole way of a change: relays, workers and proofs as they are, under seeded faults, on a virtual clock."""

from truecopy_projections.testing.simulation.faults import ALL_FAULTS, HARMLESS, Fault, Strike
from truecopy_projections.testing.simulation.playing import Outcome, run
from truecopy_projections.testing.simulation.simulating import SimulationFailedError, Tally, shrunk, simulate

__all__ = [
    "ALL_FAULTS",
    "HARMLESS",
    "Fault",
    "Outcome",
    "SimulationFailedError",
    "Strike",
    "Tally",
    "run",
    "shrunk",
    "simulate",
]
