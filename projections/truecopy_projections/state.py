"""The values between log, plan and replica: what a replica knows, what a plan changes, what waits, what was compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

from truecopy_bus.fold import UNKNOWN, Head
from truecopy_bus.leases import Fence
from truecopy_bus.record import Headers
from truecopy_projections.amendment import Amendment
from truecopy_projections.digest import EMPTY
from truecopy_projections.effects import FiredEffect
from truecopy_projections.gathered import GroupId
from truecopy_projections.projection import Address

__all__ = [
    "NEW_KEY",
    "RESTORED",
    "Checkpoint",
    "Copies",
    "KeyState",
    "Known",
    "MarkVerdict",
    "PartitionPlan",
    "PartitionState",
    "Reason",
    "StoredRow",
    "Waiting",
    "WaitingTally",
    "Wanted",
    "head_state",
    "stands_restored",
]


class Reason(Enum):
    """Why a record waits. The first six park its key; BEHIND waits for its key; FOREIGN concerns no key."""

    GAP = "a version is missing before it"
    CONFLICT = "the latest version again, with other content"
    SCHEMA = "its schema id is not in the registry"
    UNDECODABLE = "its bytes do not fit its schema"
    REJECTED = "the reducer raised, or returned a row that can't be stored"
    REFUSED = "the database refused its row, or a row that gathers it can't be folded"
    ROTTEN = "the stored row it changes differs from its own hash"
    BEHIND = "its key is parked"
    FOREIGN = "not a change event: null key or value, or no frame"


class KeyState(NamedTuple):
    """A source key in a replica: its head (all that was delivered), the version applied to rows, and why it is parked.

    `applied` is the head's version unless the key is parked.
    """

    head: Head
    applied: int
    parked: Reason | None


NEW_KEY = KeyState(UNKNOWN, 0, None)


def head_state(head: tuple[int, bytes, bytes]) -> KeyState:
    """The state of a key all of whose versions are applied."""
    return KeyState(Head(*head), head[0], None)


class StoredRow(NamedTuple):
    """A row as stored: its canonical values, and the hash they had when they were written.

    `astray` is the bucket that it is stored under where that is not its key's: somebody moved it, and no load finds it there.
    """

    values: tuple[Any, ...]
    hash: bytes
    astray: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A record in quarantine, whole. `version` is None where it could not be read; `key` is None for a foreign one."""

    partition: int
    offset: int
    key: str | None
    version: int | None
    reason: Reason
    detail: str
    record_key: bytes | None
    record_value: bytes | None
    headers: Headers
    timestamp_ms: int

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.record_key or b"") + len(self.record_value or b"")


class WaitingTally(NamedTuple):
    """What waits in a partition for one reason: records, keys that they are of, bytes, and the owner's time of the oldest."""

    partition: int
    reason: Reason
    records: int
    keys: int
    bytes: int
    oldest_ms: int


class MarkVerdict(Enum):
    """What a mark says of the replica that reads it."""

    EQUAL = "same count, same input digest"
    DIVERGED = "same count and another digest, or something delivered is missing"
    PARKED = "what is missing waits in quarantine"
    LATE = "the replica is ahead of it: not judged"
    SUPERSEDED = "from a relay that lost its lease: not judged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The replica's figures at a mark, beside the owner's. Digests are integers modulo 2^256."""

    partition: int
    offset: int
    epoch: int
    number: int
    count: int
    mark_count: int
    input_digest: int
    mark_digest: int
    row_digest: int
    verdict: MarkVerdict
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """How far a projection's replica is in one partition, and its digests there.

    `position` is the next offset, `count` the distinct events delivered, `uncounted` how many waiting records could not be
    counted, `duplicates` and `foreign` totals since the beginning, `relay_epoch` the highest seen in a mark,
    `halted` the named state that stops the partition ("" when it flows).
    """

    partition: int
    incarnation: str
    position: int = 0
    count: int = 0
    input_digest: int = 0
    rows: bytes = EMPTY
    row_digest: int = 0
    relay_epoch: int = 0
    parked: int = 0
    uncounted: int = 0
    waiting_bytes: int = 0
    duplicates: int = 0
    foreign: int = 0
    halted: str = ""


RESTORED = "restored"
"""How the named state begins in which a restore leaves a partition. Only whoever asks for it ends it."""


def stands_restored(state: PartitionState) -> bool:
    """Whether a restore has taken the partition back, and nobody let it go on yet."""
    return state.halted.startswith(RESTORED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a plan needs to know first: states of keys, single rows, all rows of some keys.

    Of `hashes`, keys whose only row is replaced unseen, the row's hash is enough.
    """

    keys: frozenset[str] = frozenset()
    rows: frozenset[Address] = frozenset()
    whole: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The answer to Wanted. Keys and rows that do not exist are absent. `waiting` holds what waits for parked wanted keys."""

    keys: Mapping[str, KeyState] = field(default_factory=dict)
    rows: Mapping[Address, StoredRow] = field(default_factory=dict)
    hashes: Mapping[str, bytes] = field(default_factory=dict)
    waiting: Mapping[str, Sequence[Waiting]] = field(default_factory=dict)


class Copies(NamedTuple):
    """Rows in columns: the only row of each of `keys`, its hash, and the key's head as (version, element, previous)."""

    keys: Sequence[str]
    fields: Sequence[Sequence[Any]]
    hashes: Sequence[bytes]
    heads: Sequence[tuple[int, bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPlan:
    """All that one batch changes in one partition, applied whole or not at all.

    `was` is the state it was planned on: a replica that is elsewhere refuses it. `freed` are offsets of waiting records that
    wait no more, `forgotten` source keys that the log does not know, `strays` rows to remove from a bucket that is not their
    key's, `refolds` gathered rows to fold anew beside those of the groups that its rows are in (only a repair finds such).
    `copies` are further puts, each with the state of its key, which is not parked; `expanded` has them among the others.
    `amendments` are rulings that its rows were made by, `undone` offsets of checkpoints to forget, `effects` what its events
    ask for, whether or not they did before. `applied` counts the events whose effect it holds.
    """

    fence: Fence
    was: PartitionState
    state: PartitionState
    keys: Mapping[str, KeyState] = field(default_factory=dict)
    forgotten: frozenset[str] = frozenset()
    puts: Mapping[Address, StoredRow] = field(default_factory=dict)
    drops: frozenset[Address] = frozenset()
    strays: frozenset[tuple[int, Address]] = frozenset()
    refolds: frozenset[GroupId] = frozenset()
    copies: Sequence[Copies] = ()
    waits: Sequence[Waiting] = ()
    freed: frozenset[int] = frozenset()
    checkpoints: Sequence[Checkpoint] = ()
    amendments: Sequence[Amendment] = ()
    undone: frozenset[int] = frozenset()
    effects: Sequence[FiredEffect] = ()
    applied: int = 0

    def expanded(self) -> "PartitionPlan":
        """The same plan without `copies`."""
        if not self.copies:
            return self
        keys, puts = dict(self.keys), dict(self.puts)
        for some in self.copies:
            keys |= zip(some.keys, map(head_state, some.heads), strict=True)
            rows = map(StoredRow, zip(*some.fields, strict=True), some.hashes)
            puts |= {(key, ()): row for key, row in zip(some.keys, rows, strict=True)}
        return replace(self, keys=keys, puts=puts, copies=())
