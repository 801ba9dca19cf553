"""The proof of gathered rows: they must be what their contributions come to, those on disk and those that the log yields.

Nothing is kept beside a gathered row to compare it with: it is folded again, in the snapshot of the check. Once from the
stored contributions; once from those that the log yields, which are the stored ones where their digests equal those of the
independent fold, and what the drill-down says of the others. The folding here is plain, and shares nothing with the one that
replicas use.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from truecopy_bus.fold import DIGEST_MODULUS
from truecopy_projections.columns import encode
from truecopy_projections.digest import row_hash
from truecopy_projections.gathered import Contribution, Gathered, GatheredRow, Group, GroupId, in_order
from truecopy_projections.projection import Address, Projection
from truecopy_projections.replica import Snapshot
from truecopy_projections.state import PartitionPlan
from truecopy_projections.verdicts import Difference, Kind

__all__ = ["GatheredFound", "contributions", "gathered_differences", "gathered_found", "refolding", "unequal"]

Expected = dict[Group, GatheredRow | None]
"""By group; None for one that can't be folded at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatheredFound:
    """What a check found of one kind of gathered rows (`name@number`): how many are stored, and their digest.

    `stored` are those that are not the fold of the stored contributions, `computed` those that are not the fold of what the
    log yields; None where that is not known. The digest is comparable where all partitions' counts are equal.
    """

    id: str
    rows: int
    digest: int
    stored: Sequence[Difference]
    computed: Sequence[Difference] | None


async def gathered_found(
    projection: Projection[Any], snapshot: Snapshot, differences: Sequence[Difference] | None
) -> tuple[GatheredFound, ...]:
    """Fold all gathered rows of a projection again. All of its contributions are in memory meanwhile.

    `differences` are all those of the stored contributions from what the log yields; None where that is not known.
    """
    if not projection.gathers:
        return ()
    stored = await contributions(projection, snapshot)
    meant = None if differences is None else _meant(stored, differences)
    found = []
    for gathered in projection.gathers:
        there: Expected = {}
        async for rows in snapshot.gathered(gathered):
            there |= {gathered.sub_key(row.values): row for row in rows}
        hashes = (row_hash(gathered.id, "", (*row.values, row.size)) for row in there.values() if row is not None)
        found.append(
            GatheredFound(
                id=gathered.id,
                rows=len(there),
                digest=sum(map(int.from_bytes, hashes)) % DIGEST_MODULUS,
                stored=unequal(gathered, there, _expected(gathered, stored)),
                computed=None if meant is None else unequal(gathered, there, _expected(gathered, meant)),
            )
        )
    return tuple(found)


def gathered_differences(found: Iterable[GatheredFound]) -> list[Difference]:
    """The gathered rows that are wrong: by the log where it could be folded, else by the contributions beside them."""
    return [one for kind in found for one in (kind.stored if kind.computed is None else kind.computed)]


def refolding(
    projection: Projection[Any], plans: Sequence[PartitionPlan], differences: Iterable[Difference]
) -> list[PartitionPlan]:
    """The plans that mend these differences, with the groups to fold anew: wrong ones, and those of wrong contributions.

    What such a contribution was when it was merged, nobody knows: it can't be taken out again.
    """
    found: set[GroupId] = set()
    for one in differences:
        if one.gathered:
            found.add((one.gathered, one.row))
        else:
            sides = [values for values in (one.stored, one.meant) if values is not None]
            found |= {(gathered.id, gathered.group(values)) for gathered in projection.gathers for values in sides}
    return [replace(plans[0], refolds=frozenset(found)), *plans[1:]]


async def contributions(projection: Projection[Any], snapshot: Snapshot) -> dict[Address, Contribution]:
    """All stored contributions that a replica's own reads find."""
    found: dict[Address, Contribution] = {}
    async for batch in snapshot.rows(projection):
        found |= {(key, projection.sub_key(row.values)): (key, row.values) for key, _, row in batch if row.astray is None}
    return found


def unequal(gathered: Gathered[Any], there: Expected, expected: Expected) -> list[Difference]:
    """The rows in which two sides differ, in the order of their groups."""
    names = [*(field.column.name for field in gathered.fields), "_count"]
    found = []
    for _, group in in_order((gathered.id, group) for group in there.keys() | expected.keys()):
        seen, meant = (None if row is None else (*row.values, row.size) for row in (there.get(group), expected.get(group)))
        if seen is None and meant is None:
            continue
        kind = Kind.MISSING if seen is None else Kind.GHOST if meant is None else Kind.DIFFERENT
        pairs = zip(names, seen or (None,) * len(names), meant or (None,) * len(names), strict=True)
        fields = {name: (one, other) for name, one, other in pairs if encode(one) != encode(other)}
        if fields:
            found.append(Difference(key="", row=group, kind=kind, version=0, fields=fields, gathered=gathered.id))
    return found


def _meant(stored: Mapping[Address, Contribution], differences: Iterable[Difference]) -> dict[Address, Contribution]:
    found = dict(stored)
    for one in differences:
        if "_bucket" in one.fields:
            continue  # it is not among them
        found.pop((one.key, one.row), None)
        if one.meant is not None:
            found[one.key, one.row] = one.key, one.meant
    return found


def _expected(gathered: Gathered[Any], contributions: Mapping[Address, Contribution]) -> Expected:
    groups: dict[Group, list[Contribution]] = {}
    for key, values in contributions.values():
        groups.setdefault(gathered.group(values), []).append((key, values))
    return {group: _folded(gathered, group, some) for group, some in groups.items()}


def _folded(gathered: Gathered[Any], group: Group, contributions: list[Contribution]) -> GatheredRow | None:
    contributions.sort(key=gathered.place_in_group)
    try:
        row = reduce(gathered.merge, (gathered.each(gathered.of.restored(values)) for _, values in contributions))
        return GatheredRow(gathered.values_of(group, row), len(contributions))
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever the user's functions raise, no replica could have stored such a row
        return None
