"""`make simulate`: thousands of seeds over all processors, and a table of what they came to."""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.projections.bank import balance, entries
from tests.simulation.histories import balances, drawn

from truecopy_projections.testing.simulation import ALL_FAULTS, Outcome, Tally, run


def one(seed: int) -> Outcome:
    """A seed: two of three with one row for each key, the third with several."""
    if seed % 3:
        return run(seed, [balance], drawn, faults=ALL_FAULTS, expected=balances)
    return run(seed, [entries], drawn, faults=ALL_FAULTS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--table", type=Path, help="a file that the table is written to as well")
    asked = parser.parse_args()
    tally, began = Tally(), time.monotonic()

    def table() -> str:
        last, took_s = asked.first + tally.seeds - 1, time.monotonic() - began
        return f"{tally.table()}\nseeds {asked.first} to {last}, {os.cpu_count()} processors, {took_s:.0f} s"

    with ProcessPoolExecutor() as pool:
        for outcome in pool.map(one, range(asked.first, asked.first + asked.seeds), chunksize=20):
            tally.add(outcome)
            if outcome.wrong:
                print(f"seed {outcome.seed}:", *outcome.wrong, sep="\n  ", flush=True)
            elif tally.seeds % 500 == 0:
                print(f"{tally.seeds} seeds, {len(tally.failures)} failures, {time.monotonic() - began:.0f} s", flush=True)
            if asked.table and (tally.seeds % 500 == 0 or tally.seeds == asked.seeds):  # so that a run that is stopped has one
                asked.table.write_text(table() + "\n")
    print(table())
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
