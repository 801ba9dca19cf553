"""The quarantine as somebody sees it who has to rule about it: key by key, what waits at its head, and what can be done. Pure.

The head of a key is the one record that holds up all others of it: the event after the version that its rows are at, or,
where the latest version came again with other content, that other content.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from truecopy_projections.state import KeyState, Reason, Waiting

__all__ = ["ParkedKey", "head_of", "parked_key", "remedy_of", "unruled"]

_RULED = frozenset({Reason.UNDECODABLE, Reason.REJECTED, Reason.REFUSED, Reason.ROTTEN})


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedKey:
    """A parked key. `head` is None where what is missing never came; `behind` counts what waits beside the head.

    `applied` is the version that its rows are at, `oldest_ms` the owner's time of the oldest record, `bytes` what all take.
    """

    key: str
    partition: int
    reason: Reason
    detail: str
    applied: int
    head: Waiting | None
    behind: int
    bytes: int
    oldest_ms: int

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "key": self.key,
            "partition": self.partition,
            "reason": self.reason.name,
            "detail": self.detail,
            "applied": self.applied,
            "version": self.head.version if self.head else None,
            "offset": self.head.offset if self.head else None,
            "behind": self.behind,
            "bytes": self.bytes,
            "oldest_ms": self.oldest_ms,
            "remedy": remedy_of(self.reason),
        }


def head_of(state: KeyState, waiting: Sequence[Waiting]) -> Waiting | None:
    """The record that holds up the others; None where that never came."""
    if state.parked is Reason.CONFLICT:
        return next((one for one in waiting if one.reason is Reason.CONFLICT), None)
    mine = (one for one in waiting if one.version == state.applied + 1 and one.reason is not Reason.CONFLICT)
    return next(mine, None)


def parked_key(key: str, state: KeyState, waiting: Sequence[Waiting]) -> ParkedKey | None:
    """What is to be said of a key; None for one that is not parked, or of which nothing waits."""
    if state.parked is None or not waiting:
        return None
    head = head_of(state, waiting)
    first = head or waiting[0]
    return ParkedKey(
        key=key,
        partition=first.partition,
        reason=state.parked,
        detail=first.detail,
        applied=state.applied,
        head=head,
        behind=len(waiting) - (head is not None),
        bytes=sum(one.size for one in waiting),
        oldest_ms=min(one.timestamp_ms for one in waiting),
    )


def unruled(reason: Reason, *, foreign: bool = False) -> str:
    """Why nobody can rule about a record that waits for this reason; "" where one can. `foreign`: others write the topic."""
    if reason is Reason.GAP:
        return "the version that is missing was never delivered, so there is no event to rule about"
    if reason is Reason.SCHEMA and not foreign:
        return "without its schema it can be neither counted nor told from another"
    return ""


def remedy_of(reason: Reason) -> str:
    """What lets a key go on that is parked for this reason."""
    match reason:
        case Reason.GAP:
            return "let the owner's relay send the missing version; `truecopy check` tells whether the owner states it"
        case Reason.SCHEMA:
            return "register its schema, or restore the registry; then it is tried again by itself"
        case Reason.CONFLICT:
            return "find the second writer; skip it: the first one stands"
        case Reason.ROTTEN:
            return "`truecopy repair --apply` mends the row; then retry"
        case Reason.FOREIGN:
            return "skip it by its offset, once nobody needs it any more"
        case Reason.BEHIND:
            return "rule about the head of its key"
    assert reason in _RULED
    return "mend reducer, schema or database and retry; or edit it, or skip it"
