"""The app of the drills: three projections of one entity, run as processes; one can go by columns, one is gathered."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.projections import bank
from tests.projections.bank import Deposited, Entry, balance

from truecopy_projections.projection import Change, Projection
from truecopy_services import Truecopy

MENDED = "DRILL_MENDED"
"""The variable of processes whose reducer of `balance` is mended: it refuses no amount any more."""
USER = "DRILL_USER"
"""The variable that holds the uid for a process, which root's takes when all is imported."""
PARTITIONS = "DRILL_PARTITIONS"
"""The variable that holds how many partitions the entity has, where that is not 2."""
RECORDED = "DRILL_RECORDED"
"""The variable that names the folder in which processes write down what they append, read and commit."""
WAITING = "DRILL_WAITING"
"""The variable of processes that have all imported, and wait at their standard input for their turn."""


@dataclass(frozen=True)
class Latest:
    account: str
    amount: int


latest = Projection("latest", entity="bank.account", row=Latest)
latest.copies(Deposited, key="account")

entries = Projection("entries", entity="bank.account", row=Entry, key="number")


@entries.on(Deposited, touches=lambda _, change: [change.version])
def _entries(_: Entry | None, event: Deposited, change: Change) -> Entry:
    return Entry(change.key, change.version, event.amount)


@dataclass(frozen=True)
class Round:
    """All accounts' entries of one number."""

    number: int
    entries: int
    amount: int


rounds = entries.gather(
    "rounds",
    row=Round,
    by="number",
    each=lambda entry: Round(entry.number, 1, entry.amount),
    merge=lambda one, other: Round(one.number, one.entries + other.entries, one.amount + other.amount),
)

app = Truecopy("ledger", partitions=int(os.environ.get(PARTITIONS, "2")))
for projection in (balance, entries, latest):
    app.add(projection)

if MENDED in os.environ:
    bank.refused.clear()
if RECORDED in os.environ:
    from tests.chaos.recording import record_to

    record_to(Path(os.environ[RECORDED]))
if USER in os.environ:
    os.setuid(int(os.environ[USER]))
if WAITING in os.environ:
    sys.stdin.readline()
