"""Given these contributions, then these are the gathered rows: tests of a merge, without log, replica or loop.

    gathering(totals, Sale("o1", "north", 5), Sale("o2", "north", 7)).then(Total("north", 12))

Rows go through their stored form. Contributions are merged in many orders and groupings: a merge whose row depends on them,
or on anything else, fails.
"""

from dataclasses import dataclass
from random import Random
from typing import Any, Generic, TypeVar

from truecopy_projections.gathered import Contribution, Gathered, GatheredRow, Group
from truecopy_projections.gathered_check import unequal
from truecopy_projections.merge_laws import broken_laws

__all__ = ["Gathering", "gathering"]

R = TypeVar("R")


def gathering(gathered: Gathered[R], *contributions: Any) -> "Gathering[R]":
    """Rows of the projection that is gathered, each of a source key of its own. Raises RowRejectedError."""
    stored = [(f"key {at:09}", gathered.of.stored(row)) for at, row in enumerate(contributions)]
    return Gathering(gathered=gathered, contributions=tuple(stored))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering(Generic[R]):
    """What is gathered, and from what."""

    gathered: Gathered[R]
    contributions: tuple[Contribution, ...]

    def then(self, *rows: R) -> None:
        """All gathered rows are these, in any order; of no contribution there is none.

        Raises AssertionError, which names the fields that differ, or both rows that a merge made of the same contributions;
        GroupRefusedError for what can't be folded, RowRejectedError for an expected row that can't be stored.
        """
        if broken := broken_laws(self.gathered, self.contributions, Random(0)):
            raise AssertionError("\n".join(broken))
        groups: dict[Group, list[Contribution]] = {}
        for key, values in self.contributions:
            groups.setdefault(self.gathered.group(values), []).append((key, values))
        seen = {group: self.gathered.folded(group, some) for group, some in groups.items()}
        stored = map(self.gathered.stored, rows)
        meant = {group: GatheredRow(values, len(groups.get(group, ()))) for group, values in self._by_group(stored)}
        if differing := unequal(self.gathered, seen, {**dict.fromkeys(seen), **meant}):
            told = ", ".join(
                f"{name}: seen {one!r}, expected {other!r}" for row in differing for name, (one, other) in row.fields.items()
            )
            raise AssertionError(f"{self.gathered.id} of {differing[0].row!r} differs: {told}")

    def _by_group(self, stored: Any) -> list[tuple[Group, tuple[Any, ...]]]:
        return [(self.gathered.sub_key(values), values) for values in stored]
