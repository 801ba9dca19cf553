"""The faults, and the script of a run: which of them strikes at which operation. A script is data, and can be cut short."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from random import Random

__all__ = ["ALL_FAULTS", "HARMLESS", "Fault", "Side", "Step", "Strike", "drawn"]


class Side(Enum):
    """Where an operation goes."""

    STORE = "the owner's database"
    LOG = "the log"
    REPLICA = "the replica's database"


class Step(Enum):
    """What an operation is, as far as faults can tell."""

    READ = "reads"
    BEGIN = "begins a transaction"
    STATEMENT = "is a statement within a transaction"
    COMMIT = "commits, or changes something at once"
    APPEND = "appends a batch"


class Fault(Enum):
    """All that a run can meet. What is said of it is what happens, not what must come of it: that, the oracle says."""

    KILLED_BEFORE = "a process dies on its way to an operation"
    KILLED_AFTER = "a process dies when an operation is done and nobody told it"
    FROZEN = "a process stands still for longer than its lease, and goes on where it was"
    FAILED = "an operation fails, and nothing came of it"
    REPLY_LOST = "a commit or an append is done, and its caller is told that it failed"
    TORN = "an append fails after the first of its records landed"
    LOG_AWAY = "the log does not answer for a while"
    STORE_AWAY = "the owner's database does not answer for a while"
    REPLICA_AWAY = "the replica's database does not answer for a while"
    DISK_FULL = "a database takes nothing in for a while"
    CLOCK_FORWARD = "a database's clock jumps ahead, past every lease"
    CLOCK_BACK = "a database's clock jumps back"
    REWOUND = "the replica's database crashes and forgets what it did not flush"
    SENT_AGAIN = "some records of a partition are appended once more"
    FOREIGN = "somebody else's bytes are on the topic"
    SCHEMA_MISSING = "a schema is not found for a while"
    POISON = "the reducer raises for one key, for a while"
    # What follows loses or alters something: a run meets one of these at the most.
    TRIMMED = "the log's beginning is gone, read or not"
    TRIMMED_UNREAD = "records are gone that were not read"
    MADE_ANEW = "the topic was deleted and made anew"
    LOST_ON_LOG = "a record of the log is lost: the one before it lies there twice"
    ALTERED_ON_LOG = "a bit of a record of the log is another"
    LOST_ON_THE_WAY = "a worker is not given a record"
    ALTERED_ON_THE_WAY = "a worker is given a record with another bit"
    ROW_ALTERED = "a stored row has another value"
    ROW_GONE = "a stored row is gone"
    HASH_ALTERED = "the hash beside a row has another bit"
    ROWS_DIGEST_ALTERED = "the vector of the rows' digests has another bit"
    INPUT_DIGEST_ALTERED = "the input digest has another bit"
    POSITION_BACK = "the stored position is lower"
    POSITION_FORWARD = "the stored position is higher, as far as the log goes"


_FIRST_DAMAGE = list(Fault).index(Fault.TRIMMED)
HARMLESS = frozenset(list(Fault)[:_FIRST_DAMAGE])
"""After these a replica must become equal without help."""
ALL_FAULTS = frozenset(Fault)

_WEIGHTS = {Fault.KILLED_BEFORE: 6, Fault.KILLED_AFTER: 6, Fault.REPLY_LOST: 5, Fault.TORN: 4, Fault.FROZEN: 4}
"""How much likelier than others: what can strike anywhere needs the most tries."""


@dataclass(frozen=True, slots=True)
class Strike:
    """`fault` strikes at the first operation from number `at` on that it can; what else there is to draw comes from `draw`."""

    at: int
    fault: Fault
    draw: int

    def __str__(self) -> str:
        return f"{self.fault.name} from operation {self.at} on"


def drawn(random: Random, faults: Collection[Fault], *, operations: int, strikes_max: int, damage: float) -> tuple[Strike, ...]:
    """A script of up to `strikes_max` faults among the first `operations`; in a share `damage` of scripts one does damage."""
    harmless = [fault for fault in Fault if fault in faults and fault in HARMLESS]
    harmful = [fault for fault in Fault if fault in faults and fault not in HARMLESS]
    weights = [_WEIGHTS.get(fault, 2) for fault in harmless]
    chosen = random.choices(harmless, weights, k=random.randint(0, strikes_max)) if harmless else []
    if harmful and (random.random() < damage or not harmless):
        chosen.append(random.choice(harmful))
    script = [Strike(random.randrange(operations), fault, random.getrandbits(32)) for fault in chosen]
    return tuple(sorted(script, key=lambda strike: strike.at))
