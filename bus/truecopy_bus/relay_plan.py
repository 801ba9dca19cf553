"""What a relay does with a page of the outbox, as values: what is sent, what waits and for which version, and the ledger after.

Rows come in id order, which is not the order in which they were committed: a key's version 2 can be visible while its
version 1 is not yet. So each row goes through the same `fold` as on every replica, against the ledger of what is on the
log. There is no cursor over ids and no transaction horizon: a row that is not sent is looked at again, until it is.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from truecopy_bus.fold import UNKNOWN, Head, Verdict, fold, moved

__all__ = ["OutboxRow", "RelayPlan", "plan"]


class OutboxRow(NamedTuple):
    """One unpublished event of one partition; at_ms is its commit time, ms since 1970."""

    id: int
    key: str
    version: int
    fingerprint: bytes
    body: bytes
    at_ms: int


@dataclass(slots=True, kw_only=True)
class RelayPlan:
    """`send` in this order; `known` are on the log already; the others stay in the outbox.

    `waiting`: a version before them is missing, `awaited` names the first that is missing by key. `refused`: their schema
    was. `conflicts`: the log holds other content under their version. `heads` are the ledger rows that change; `count` and
    `digest` are the partition's figures once `send` is on the log.
    """

    count: int
    digest: int
    send: list[OutboxRow] = field(default_factory=list)
    known: list[OutboxRow] = field(default_factory=list)
    waiting: list[OutboxRow] = field(default_factory=list)
    awaited: dict[str, int] = field(default_factory=dict)
    refused: list[OutboxRow] = field(default_factory=list)
    conflicts: list[OutboxRow] = field(default_factory=list)
    heads: dict[str, Head] = field(default_factory=dict)


def plan(
    rows: Iterable[OutboxRow],
    ledger: Mapping[str, Head],
    *,
    count: int,
    digest: int,
    refused: Collection[bytes] = (),
) -> RelayPlan:
    """Decide over rows of one partition. `ledger` holds the heads of their keys, `refused` fingerprints that can't be sent.

    A row that waits is sent as soon as its predecessor of the same page is. Every row ends up in exactly one of the lists.
    """
    result = RelayPlan(count=count, digest=digest)
    early: dict[str, dict[int, OutboxRow]] = {}
    for row in rows:
        following: OutboxRow | None = row
        while following is not None:
            _one(result, ledger, early, following, refused)
            head = result.heads.get(row.key)
            following = early[row.key].pop(head.version + 1, None) if head and row.key in early else None
    for key, waiting in early.items():
        if waiting:
            result.waiting.extend(waiting.values())
            result.awaited[key] = (result.heads.get(key) or ledger.get(key, UNKNOWN)).version + 1
    return result


def _one(
    result: RelayPlan,
    ledger: Mapping[str, Head],
    early: dict[str, dict[int, OutboxRow]],
    row: OutboxRow,
    refused: Collection[bytes],
) -> None:
    known = result.heads.get(row.key) or ledger.get(row.key, UNKNOWN)
    verdict, head = fold(known, row.key, row.version, row.fingerprint, row.body)
    match verdict:
        case Verdict.APPLY if row.fingerprint in refused:
            result.refused.append(row)
        case Verdict.APPLY:
            result.send.append(row)
            result.heads[row.key] = head
            result.digest = moved(result.digest, old=known.element, new=head.element)
            result.count += 1
        case Verdict.GAP:
            early.setdefault(row.key, {})[row.version] = row
        case Verdict.DUPLICATE:
            result.known.append(row)
        case Verdict.CONFLICT:
            result.conflicts.append(row)
