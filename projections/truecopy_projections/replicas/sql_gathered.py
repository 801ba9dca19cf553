"""Gathered rows in SQL: which groups a batch touches, their locks, and folding them again, all within its transaction.

Two workers that hold different partitions may touch one group at once. So a batch takes the locks of all groups that it
touches, in one order, before it writes; whoever comes second waits for the first one's commit, and then reads what that
wrote. Locks stand for some groups each, so that a batch of any size takes a bounded number of them. On SQLite writers are
alone anyway.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from truecopy_bus.sql import Connection
from truecopy_projections.columns import encode
from truecopy_projections.digest import bucket_of
from truecopy_projections.gathered import Contribution, Gathered, GatheredRow, Group, GroupId, in_order, of_group
from truecopy_projections.limits import GROUP_LOCKS, GROUP_ROWS_MAX
from truecopy_projections.projection import Address, Projection
from truecopy_projections.replicas.tables import stored_of
from truecopy_projections.state import PartitionPlan

__all__ = ["gathered_of", "locked", "locks_of", "refold"]

_LABEL = b"truecopy/group/1"
_REPAIR = ""
"""Stands for no source key: groups to fold anew whatever was written."""

Row = tuple[Any, ...]


async def locked(tx: Connection, projection: Projection[Any], plans: Sequence[PartitionPlan]) -> Mapping[str, set[GroupId]]:
    """Lock the groups that these plans touch, before anything of them is written; which they are, by source key.

    The fences of the plans' partitions are held, so nobody else changes their contributions.
    """
    if not projection.gathers:
        return {}
    touched = await _touched(tx, projection, plans)
    if tx.dialect.name != "sqlite" and touched:
        locks = locks_of(place for places in touched.values() for place in places)
        await tx.fetch("SELECT pg_advisory_xact_lock(one) FROM unnest($1::bigint[]) AS one", locks)
    return touched


async def refold(tx: Connection, projection: Projection[Any], places: Iterable[GroupId]) -> None:
    """Let these gathered rows be the fold of the contributions that are there now. Raises GroupRefusedError."""
    ordered = in_order(places)
    for gathered in projection.gathers:
        for groups in await _together(tx, gathered, [group for name, group in ordered if name == gathered.id]):
            await _refold(tx, projection, gathered, groups)


def gathered_of(row: Row) -> GatheredRow:
    """The gathered row of one in the shape of its table."""
    return GatheredRow(tuple(row[:-1]), row[-1])


async def _touched(tx: Connection, projection: Projection[Any], plans: Sequence[PartitionPlan]) -> dict[str, set[GroupId]]:
    names = [field.column.name for field in projection.fields]
    places: dict[str, set[GroupId]] = {}

    def note(key: str, values: Mapping[str, Any]) -> None:
        for gathered in projection.gathers:
            places.setdefault(key, set()).add((gathered.id, tuple(values[name] for name in gathered.key)))

    addresses: dict[Address, None] = {}
    for plan in (plan.expanded() for plan in plans):
        addresses |= {**dict.fromkeys(plan.puts), **dict.fromkeys(plan.drops)}
        for (key, _), row in plan.puts.items():
            note(key, dict(zip(names, row.values, strict=True)))
        if plan.refolds:
            places.setdefault(_REPAIR, set()).update(plan.refolds)
    by = projection.shape.key
    before = of_group(projection.shape, [*by, *(name for gathered in projection.gathers for name in gathered.key)])
    columns = [column.name for column in before.columns]
    for found in await tx.pick(before, by, [(bucket_of(key), key, *sub) for key, sub in addresses]) if addresses else ():
        stored = dict(zip(columns, found, strict=True))
        note(stored["_key"], stored)
    return places


def locks_of(places: Iterable[GroupId]) -> list[int]:
    """The locks that stand for these groups, as signed numbers of 64 bits, in the order in which everybody takes them."""
    return sorted(set(map(_lock, places)))


def _lock(place: GroupId) -> int:
    name, group = place
    own = blake2b(name.encode(), digest_size=7, key=_LABEL).digest()
    told = blake2b(b"".join(map(encode, group)), digest_size=2, key=_LABEL).digest()
    return int.from_bytes(own + (int.from_bytes(told) % GROUP_LOCKS).to_bytes(1), signed=True)


async def _together(tx: Connection, gathered: Gathered[Any], groups: Sequence[Group]) -> Iterator[list[Group]]:
    """The groups in slices that had not more contributions than one group may have."""
    counts = of_group(gathered.shape, [*gathered.key, "_count"])
    at = [[column.name for column in counts.columns].index(name) for name in gathered.key]
    found = await tx.pick(counts, gathered.key, groups) if groups else []
    known = {tuple(row[place] for place in at): row[-1] for row in found}

    def slices() -> Iterator[list[Group]]:
        some: list[Group] = []
        left = GROUP_ROWS_MAX
        for group in groups:
            left -= 1 + known.get(group, 0)
            if some and left < 0:
                yield some
                some, left = [], GROUP_ROWS_MAX - 1 - known.get(group, 0)
            some.append(group)
        if some:
            yield some

    return slices()


async def _refold(tx: Connection, projection: Projection[Any], gathered: Gathered[Any], groups: Sequence[Group]) -> None:
    members: dict[Group, list[Contribution]] = {group: [] for group in groups}
    for key, _, row in (stored_of(projection, one) for one in await tx.pick(projection.shape, gathered.key, groups)):
        if row.astray is None:
            members[gathered.group(row.values)].append((key, row.values))
    folded = {group: gathered.folded(group, some) for group, some in members.items()}
    if gone := [group for group, row in folded.items() if row is None]:
        await tx.drop(gathered.shape, gathered.key, gone)
    if rows := [(*row.values, row.size) for row in folded.values() if row is not None]:
        await tx.put(gathered.shape, rows)
