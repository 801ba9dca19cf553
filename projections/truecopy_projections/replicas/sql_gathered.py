"""Gathered rows in SQL: which groups a batch touches, their locks, and folding them again, all within its transaction.

Two workers that hold different partitions may touch one group at once. So a batch takes the locks of all groups that it
touches, in one order, before it writes; whoever comes second waits for the first one's commit, and then reads what that
wrote. Locks stand for some groups each, so that a batch of any size takes a bounded number of them. On SQLite writers are
alone anyway.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from truecopy_bus.sql import Connection
from truecopy_projections.columns import encode
from truecopy_projections.digest import bucket_of
from truecopy_projections.gathered import Contribution, Gathered, GatheredRow, Group, GroupId, of_group
from truecopy_projections.limits import GROUP_LOCKS, GROUP_ROWS_MAX
from truecopy_projections.projection import Address, Projection
from truecopy_projections.replicas.tables import address_of, stored_of
from truecopy_projections.state import PartitionPlan

__all__ = ["Touched", "gathered_of", "locked", "locks_of", "refold"]

_LABEL = b"truecopy/group/1"

Row = tuple[Any, ...]
Values = tuple[Any, ...] | None


class Touched(NamedTuple):
    """What a batch does to contributions: by address how each was and shall be (None: not there), and groups to fold anew."""

    changes: Mapping[Address, tuple[Values, Values]]
    refolds: frozenset[GroupId]

    def groups(self, gathered: Gathered[Any], addresses: Iterable[Address]) -> Iterator[tuple[Address, Group]]:
        """The groups that these of the changes touch."""
        for address in addresses:
            for values in self.changes[address]:
                if values is not None:
                    yield address, gathered.group(values)


async def locked(tx: Connection, projection: Projection[Any], plans: Sequence[PartitionPlan]) -> Touched:
    """Lock the groups that these plans touch, before anything of them is written; what they do.

    The fences of the plans' partitions are held, so nobody else changes their contributions.
    """
    if not projection.gathers:
        return Touched({}, frozenset())
    touched = await _touched(tx, projection, plans)
    if tx.dialect.name != "sqlite":
        groups = {(one.id, group) for one in projection.gathers for _, group in touched.groups(one, touched.changes)}
        if locks := locks_of(groups | touched.refolds):
            await tx.fetch("SELECT pg_advisory_xact_lock(one) FROM unnest($1::bigint[]) AS one", locks)
    return touched


async def refold(
    tx: Connection, projection: Projection[Any], touched: Touched, addresses: Collection[Address] | None = None
) -> None:
    """Let gathered rows follow what was written at `addresses` (None: all that is touched). Raises GroupRefusedError."""
    written = touched.changes if addresses is None else addresses
    for gathered in projection.gathers:
        anew = {group for name, group in touched.refolds if name == gathered.id}
        groups = {group for _, group in touched.groups(gathered, written)} - anew
        if gathered.unmerge is not None:
            await _move(tx, gathered, touched, written, groups)
        else:
            anew |= groups
        for some in await _together(tx, gathered, sorted(anew)):
            await _fold(tx, projection, gathered, some)


def gathered_of(row: Row) -> GatheredRow:
    """The gathered row of one in the shape of its table."""
    return GatheredRow(tuple(row[:-1]), row[-1])


async def _touched(tx: Connection, projection: Projection[Any], plans: Sequence[PartitionPlan]) -> Touched:
    after: dict[Address, Values] = {}
    for plan in (plan.expanded() for plan in plans):
        after |= dict.fromkeys(plan.drops)
        after |= {address: row.values for address, row in plan.puts.items()}
    by = projection.shape.key
    found = await tx.pick(projection.shape, by, [(bucket_of(key), key, *sub) for key, sub in after]) if after else []
    before = {address_of(projection, row): stored_of(projection, row)[2].values for row in found}
    return Touched(
        changes={address: (before.get(address), values) for address, values in after.items()},
        refolds=frozenset().union(*(plan.refolds for plan in plans)),
    )


def locks_of(groups: Iterable[GroupId]) -> list[int]:
    """The locks that stand for these groups, as signed numbers of 64 bits, in the order in which everybody takes them."""
    return sorted(set(map(_lock, groups)))


def _lock(where: GroupId) -> int:
    name, group = where
    own = blake2b(name.encode(), digest_size=7, key=_LABEL).digest()
    told = blake2b(b"".join(map(encode, group)), digest_size=2, key=_LABEL).digest()
    return int.from_bytes(own + (int.from_bytes(told) % GROUP_LOCKS).to_bytes(1), signed=True)


async def _move(
    tx: Connection, gathered: Gathered[Any], touched: Touched, written: Iterable[Address], groups: Collection[Group]
) -> None:
    """Move the rows of these groups by what was written."""
    come: dict[Group, list[Contribution]] = {group: [] for group in groups}
    gone: dict[Group, list[Contribution]] = {group: [] for group in groups}
    for address in written:
        before, after = touched.changes[address]
        for side, values in ((gone, before), (come, after)):
            if values is not None and (group := gathered.group(values)) in side:
                side[group].append((address[0], values))
    found = await tx.pick(gathered.shape, gathered.key, sorted(groups)) if groups else []
    known = {gathered.sub_key(row): gathered_of(row) for row in found}
    await _write(
        tx, gathered, {group: gathered.moved(group, known.get(group), come=come[group], gone=gone[group]) for group in groups}
    )


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


async def _fold(tx: Connection, projection: Projection[Any], gathered: Gathered[Any], groups: Sequence[Group]) -> None:
    """Fold the rows of these groups from all that contributes to them now."""
    members: dict[Group, list[Contribution]] = {group: [] for group in groups}
    for key, _, row in (stored_of(projection, one) for one in await tx.pick(projection.shape, gathered.key, groups)):
        if row.astray is None:
            members[gathered.group(row.values)].append((key, row.values))
    await _write(tx, gathered, {group: gathered.folded(group, some) for group, some in members.items()})


async def _write(tx: Connection, gathered: Gathered[Any], found: Mapping[Group, GatheredRow | None]) -> None:
    if gone := [group for group, row in found.items() if row is None]:
        await tx.drop(gathered.shape, gathered.key, gone)
    if rows := [(*row.values, row.size) for row in found.values() if row is not None]:
        await tx.put(gathered.shape, rows)
