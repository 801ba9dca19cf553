"""Gathered rows in the process's memory: what a batch makes of them, found before any of it is written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from truecopy_projections.gathered import Contribution, GatheredRow, GroupId, GroupRefusedError
from truecopy_projections.projection import Address, Projection
from truecopy_projections.state import PartitionPlan, StoredRow

__all__ = ["changes_of", "refolded", "refused"]

Changes = dict[Address, tuple[Any, ...] | None]
"""Rows as they shall be, by address; None for one that goes."""


def changes_of(plans: Sequence[PartitionPlan]) -> Changes:
    """What these plans, without copies, do to contributions."""
    changes: Changes = {}
    for plan in plans:
        changes |= dict.fromkeys(plan.drops)
        changes |= {address: tuple(row.values) for address, row in plan.puts.items()}
    return changes


def refolded(
    projection: Projection[Any],
    rows: Mapping[str, Mapping[Any, tuple[int, StoredRow]]],
    changes: Changes,
    refolds: Iterable[GroupId] = (),
) -> dict[GroupId, GatheredRow | None]:
    """The gathered rows of the groups that `changes` of `rows` touch, and of `refolds`; None where none is left.

    Raises GroupRefusedError.
    """
    found: dict[GroupId, GatheredRow | None] = {}
    for gathered in projection.gathers:
        before = (rows[key][sub][1].values for key, sub in changes if sub in rows.get(key, ()))
        after = (values for values in changes.values() if values is not None)
        groups = {gathered.group(values) for some in (before, after) for values in some}
        members: dict[Any, list[Contribution]] = {group: [] for group in groups}
        members |= {group: [] for name, group in refolds if name == gathered.id}
        for key, values in _contributions(rows, changes) if members else ():
            if (group := gathered.group(values)) in members:
                members[group].append((key, values))
        found |= {(gathered.id, group): gathered.folded(group, some) for group, some in members.items()}
    return found


def refused(
    projection: Projection[Any],
    rows: Mapping[str, Mapping[Any, tuple[int, StoredRow]]],
    changes: Changes,
    without: Iterable[str],
) -> dict[str, str]:
    """The source keys whose changes, one key after the other, make a group that can't be folded, with the reason."""
    found: dict[str, str] = {}
    accepted: Changes = {}
    for name in dict.fromkeys(key for key, _ in changes):
        own = {address: values for address, values in changes.items() if address[0] == name}
        if name not in without:
            try:
                refolded(projection, rows, {**accepted, **own})
                accepted |= own
            except GroupRefusedError as fault:
                found[name] = str(fault)
    return found


def _contributions(rows: Mapping[str, Mapping[Any, tuple[int, StoredRow]]], changes: Changes) -> Iterator[Contribution]:
    for key, own in rows.items():
        for sub, (_, row) in own.items():
            if (key, sub) not in changes:
                yield key, tuple(row.values)
    for (key, _), values in changes.items():
        if values is not None:
            yield key, values
