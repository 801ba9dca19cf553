"""Many seeds: what they came to as a table, and a failing one cut down to the faults that it takes."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from truecopy_projections.projection import Projection
from truecopy_projections.testing.simulation.faults import ALL_FAULTS, Fault, Strike
from truecopy_projections.testing.simulation.oracle import Expected
from truecopy_projections.testing.simulation.playing import Events, Outcome, run

__all__ = ["SimulationFailedError", "Tally", "shrunk", "simulate"]


class SimulationFailedError(AssertionError):
    """A seed showed what must never be. `outcome` is that of the fewest faults that still show it."""

    def __init__(self, outcome: Outcome, drawn: int) -> None:
        script = "".join(f"\n  {strike}" for strike in outcome.script) or "\n  none at all"
        super().__init__(
            f"seed {outcome.seed}: "
            + "\n".join(outcome.wrong)
            + f"\n{len(outcome.script)} of {drawn} faults are needed:{script}\n"
            f"it is repeated by simulate(..., seeds=[{outcome.seed}])"
        )
        self.outcome = outcome


@dataclass(slots=True, kw_only=True)
class Tally:
    """What some seeds came to."""

    seeds: int = 0
    events: int = 0
    operations: int = 0
    marks: int = 0
    checks: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    failures: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.events += outcome.events
        self.operations += outcome.operations
        self.marks += outcome.marks
        self.checks += outcome.checks
        self.verdicts += outcome.verdicts
        self.faults.update({fault.name: times for fault, times in outcome.struck.items()})
        if outcome.wrong:
            self.failures[outcome.seed] = outcome.wrong

    def table(self) -> str:
        """The figures, in lines for people."""
        lines = [
            f"{self.seeds:,} seeds, {self.events:,} events, {self.operations:,} operations of processes",
            f"{self.marks:,} marks judged, {self.checks:,} checks: "
            + ", ".join(f"{times:,} {name}" for name, times in self.verdicts.most_common()),
            f"{sum(self.faults.values()):,} faults:",
            *(f"  {self.faults[fault.name]:>8,}  {fault.value}" for fault in Fault),
            f"{len(self.failures)} failures" + "".join(f"\n  seed {seed}: {why[0]}" for seed, why in self.failures.items()),
        ]
        return "\n".join(lines)


def simulate(
    *projections: Projection[Any],
    events: Events,
    seeds: Iterable[int] = range(100),
    faults: Collection[Fault] = ALL_FAULTS,
    expected: Expected | None = None,
) -> Tally:
    """Run projections of one entity under all `faults`, once for each of `seeds`.

    `events(random)` draws a key and an event; whatever it draws the reducers must be able to take. `expected(key, history)`
    returns the rows that a key's whole history must come to; without it, the reducers say it, one event after the other.
    Raises SimulationFailedError at the first seed that shows what must never be.
    """
    tally = Tally()
    for seed in seeds:
        outcome = run(seed, projections, events, faults=faults, expected=expected)
        if outcome.wrong:

            def again(script: Sequence[Strike], seed: int = seed) -> Outcome:
                return run(seed, projections, events, faults=faults, expected=expected, script=script)

            raise SimulationFailedError(shrunk(outcome, again), len(outcome.script))
        tally.add(outcome)
    return tally


def shrunk(outcome: Outcome, again: Callable[[Sequence[Strike]], Outcome]) -> Outcome:
    """The outcome of a script from which no fault can be left out, if it is still to fail; by leaving out one at a time."""
    left = list(outcome.script)
    for strike in outcome.script:
        shorter = [one for one in left if one != strike]
        if (found := again(shorter)).wrong:
            left, outcome = shorter, found
    return outcome
