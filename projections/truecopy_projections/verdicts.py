"""What a check says: a closed set of verdicts, three claims with their evidence, and every differing row by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from truecopy_projections.amendment import Amendment
from truecopy_projections.projection import SubKey
from truecopy_projections.state import Checkpoint

__all__ = [
    "Claim",
    "Comparison",
    "Difference",
    "Explanation",
    "Kind",
    "Report",
    "Values",
    "Verdict",
    "difference_json",
    "worst",
]


class Verdict(Enum):
    """The answers of a check, the worst first. Nothing but EQUAL is convergence; what is unknown is never shown as it."""

    DIVERGED = "the replica is not a true copy"
    INCOMPARABLE = "the two sides can't be compared"
    PARKED = "keys wait in quarantine"
    BEHIND = "the replica has not got there yet"
    UNPROVEN = "there is no evidence"
    EQUAL = "proven equal"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The one that decides; EQUAL of none."""
    order = list(Verdict)
    return min(verdicts, key=order.index, default=Verdict.EQUAL)


class Kind(Enum):
    """How a row differs."""

    MISSING = "missing"
    GHOST = "ghost"
    STALE = "stale"
    AHEAD = "ahead"
    DIFFERENT = "different"


Values = tuple[Any, ...]
"""A row's canonical values, in the order of its fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where a stored row and the meant one part; `why` is a sentence for people.

    `version`, `offset`, `event` and `at_ms` name the event after which they do (its place in the log, type, and the owner's
    time); None where the log holds none of the key. `log` and `replica` are the row before and after that event by either
    side, None for no row. `parted` are the fields that differ from one fold of the log to the next: of these the reducer
    depends on more than row and event.
    """

    why: str
    version: int | None = None
    offset: int | None = None
    event: str = ""
    at_ms: int | None = None
    log: tuple[Values | None, Values | None] = (None, None)
    replica: tuple[Values | None, Values | None] = (None, None)
    parted: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        sides = {
            name: {"before": _plain_row(before), "after": _plain_row(after)}
            for name, (before, after) in (("log", self.log), ("replica", self.replica))
        }
        named = {"version": self.version, "offset": self.offset, "event": self.event, "at_ms": self.at_ms}
        return {"why": self.why, **named, **sides, "not_deterministic": list(self.parted)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One row that is not what the log, or a peer, holds. `fields` maps a field's name to (stored, expected).

    The field `_hash` stands for the hash kept beside the row. `version` is the source key's, as applied. `stored` and `meant`
    are the two rows, None for no row; `partition` is the key's, where nobody knows the key that of the stored row.
    Of a gathered row `gathered` is what it belongs to (`name@number`), `row` its group, and the field `_count` the number of
    its contributions.
    """

    key: str
    row: SubKey
    kind: Kind
    version: int
    fields: Mapping[str, tuple[Any, Any]]
    gathered: str = ""
    partition: int = field(default=-1, compare=False, repr=False)
    stored: Values | None = field(default=None, compare=False, repr=False)
    meant: Values | None = field(default=None, compare=False, repr=False)
    explanation: Explanation | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        name = f"{self.key!r}" + (f" row {self.row!r}" if self.row else "")
        told = ", ".join(f"{field}: stored {seen!r}, expected {wanted!r}" for field, (seen, wanted) in self.fields.items())
        where = f"{self.gathered} of {self.row!r}" if self.gathered else f"{name} at version {self.version}"
        return f"{where} is {self.kind.value}" + (f": {told}" if told else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One of the three claims, with its evidence in `facts`; `why` is a sentence for people."""

    verdict: Verdict
    why: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the comparison with one peer found; `through` is the count of events at the last common mark, by partition."""

    peer: str
    verdict: Verdict
    why: str
    through: Mapping[int, int] = field(default_factory=dict)
    differences: Sequence[Difference] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "peer": self.peer,
            "verdict": self.verdict.name,
            "why": self.why,
            "through": {str(p): count for p, count in sorted(self.through.items())},
            "differences": [difference_json(one) for one in self.differences],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one check of one projection in one replica found, at `positions` (partition -> next offset).

    `quick` says that neither log nor rows were read for it. `peers` are the comparisons that were asked for.
    `counts` are the events of each partition, `marks` the last checkpoint of each that was judged EQUAL. `amendments` are the
    rulings by which the log was folded: a true copy is one of the amended history.
    """

    projection: str
    entity: str
    replica: str
    incarnation: str
    positions: Mapping[int, int]
    count: int
    marks_compared: int
    delivered: Claim
    computed: Claim
    stored: Claim
    differences: Sequence[Difference]
    parked: Sequence[str]
    fingerprints: Sequence[str]
    checked_at_ms: int
    quick: bool = False
    peers: Sequence[Comparison] = ()
    counts: Mapping[int, int] = field(default_factory=dict)
    marks: Mapping[int, Checkpoint] = field(default_factory=dict)
    amendments: Sequence[Amendment] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst of the three claims. What a peer says is evidence of `computed`: see `agreed`."""
        return worst([self.delivered.verdict, self.computed.verdict, self.stored.verdict])

    @property
    def agreed(self) -> bool:
        """Whether this replica is proven a true copy, and so is every peer that it was compared with."""
        return self.verdict is Verdict.EQUAL and all(one.verdict is Verdict.EQUAL for one in self.peers)

    def as_json(self) -> dict[str, Any]:
        """Plain values: verdicts by name, digests in hex, field values as text where JSON has no type for them."""
        claims = {
            name: {"verdict": claim.verdict.name, "why": claim.why, **claim.facts}
            for name, claim in (("delivered", self.delivered), ("computed", self.computed), ("stored", self.stored))
        }
        return {
            "projection": self.projection,
            "entity": self.entity,
            "replica": self.replica,
            "verdict": self.verdict.name,
            "incarnation": self.incarnation,
            "positions": {str(p): offset for p, offset in sorted(self.positions.items())},
            "count": self.count,
            "marks_compared": self.marks_compared,
            **claims,
            "differences": [difference_json(one) for one in self.differences],
            "parked": list(self.parked),
            "amendments": [one.as_json() for one in self.amendments],
            "checked_at_ms": self.checked_at_ms,
            "quick": self.quick,
            "peers": [one.as_json() for one in self.peers],
        }


def difference_json(one: Difference) -> dict[str, Any]:
    """A difference as plain values."""
    return {
        "key": one.key,
        "row": [_plain(value) for value in one.row],
        "kind": one.kind.value,
        "version": one.version,
        **({"gathered": one.gathered} if one.gathered else {}),
        "fields": {name: {"stored": _plain(s), "expected": _plain(e)} for name, (s, e) in one.fields.items()},
        **({"explanation": one.explanation.as_json()} if one.explanation else {}),
    }


def _plain_row(values: Values | None) -> list[Any] | None:
    return None if values is None else [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
