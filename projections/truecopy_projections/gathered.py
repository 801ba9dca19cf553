"""Gathered rows: one row for many source keys, folded from the rows that each of them has by itself.

The rows of a projection belong to one source key each. Here they are the contributions: those that agree in the fields `key`
are a group, and a group's gathered row is the merge of all of them. A contribution that changes its group leaves the old
one; a group whose last contribution goes has no row any more.

By itself a group is folded again from all of its contributions whenever one of them changes. With `unmerge`, which takes one
out of a row again, the row is moved by what changed alone, however large its group is.

A gathered row is a function of the contributions that are there, whatever the order in which they came. `merge` must be
commutative and associative, and depend on nothing else; all the same a group is folded in one order everywhere, that of its
source keys. So two replicas that hold the same contributions hold the same gathered rows, even under a merge that rounds.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from truecopy_bus.sql import Kind, Shape, columns
from truecopy_projections.columns import encode
from truecopy_projections.errors import ProjectionError
from truecopy_projections.limits import GROUP_ROWS_MAX
from truecopy_projections.row_type import RowType, SubKey

if TYPE_CHECKING:
    from truecopy_projections.projection import Projection

__all__ = ["Contribution", "Gathered", "GatheredRow", "Group", "GroupId", "GroupRefusedError", "in_order", "of_group"]

R = TypeVar("R")

Group = SubKey
"""The values of the fields that a group shares, as canonical values."""
GroupId = tuple[str, Group]
"""Where a gathered row is: the id (`name@number`) of what gathers it, and its group."""
Contribution = tuple[str, tuple[Any, ...]]
"""A source key, and one of its rows as canonical values."""
_NOT_BY = (Kind.REAL, Kind.JSON)


class GatheredRow(NamedTuple):
    """A gathered row as stored: its canonical values, and how many contributions it was folded from."""

    values: tuple[Any, ...]
    size: int


class GroupRefusedError(Exception):
    """A group can't be folded: `each` or `merge` raised, or made a row that can't be stored, or it has too many rows."""


class Gathered(RowType[R]):
    """The declaration of gathered rows; see Projection.gather, which makes it.

    `of` has the contributions; its number is this one's. Raises ProjectionError.
    """

    def __init__(
        self,
        name: str,
        *,
        of: "Projection[Any]",
        row: type[R],
        by: str | tuple[str, ...],
        each: Callable[[Any], R],
        merge: Callable[[R, R], R],
        unmerge: Callable[[R, R], R] | None = None,
    ) -> None:
        super().__init__(name, row=row, key=by, number=of.number)
        self.of, self.each, self.merge, self.unmerge = of, each, merge, unmerge
        theirs = {field.column.name: at for at, field in enumerate(of.fields)}
        for name in self.key:
            (own,) = (field.column for field in self.fields if field.column.name == name)
            if name not in theirs or own.nullable or own.kind in _NOT_BY or own != of.fields[theirs[name]].column:
                raise ProjectionError(
                    f"{self.id}: groups share {name!r}, which must be a field of {of.row.__name__} and of {row.__name__} "
                    "of one and the same type, neither float nor document and never None"
                )
        if not self.key:
            raise ProjectionError(f"{self.id}: name the fields that a group shares in by=")
        if unmerge is not None and (real := [f.column.name for f in self.fields if f.column.kind is Kind.REAL]):
            raise ProjectionError(
                f"{self.id}: what was merged into floats can't be taken out again to the bit; make {', '.join(real)} "
                "Decimal or int, or leave out unmerge="
            )
        self._group_at = tuple(theirs[name] for name in self.key)

    @cached_property
    def shape(self) -> Shape:
        """The table as it is stored: the row's own columns, and the number of its contributions."""
        own = tuple(field.column for field in self.fields)
        return Shape(name=self.table, columns=(*own, *columns(_count=Kind.INTEGER)), key=self.key)

    def group(self, values: tuple[Any, ...]) -> Group:
        """The group of a contribution's canonical values."""
        return tuple(values[at] for at in self._group_at)

    def folded(self, group: Group, contributions: Iterable[Contribution]) -> GatheredRow | None:
        """The row of a group that has these contributions, all of them; None of none. Raises GroupRefusedError."""
        found: Any = None
        ordered = sorted(contributions, key=self.place_in_group)
        if len(ordered) > GROUP_ROWS_MAX and self.unmerge is None:
            raise GroupRefusedError(
                f"{self.id}: group {group!r} would have {len(ordered)} contributions, the limit without unmerge= is "
                f"{GROUP_ROWS_MAX}; give one, or gather by more fields and add the parts up where they are read"
            )
        try:
            for at, (_, values) in enumerate(ordered):
                one = self.each(self.of.restored(values))
                found = one if at == 0 else self.merge(found, one)
            return GatheredRow(self.values_of(group, found), len(ordered)) if ordered else None
        except KeyboardInterrupt:
            raise
        except BaseException as fault:  # the user's functions; whatever they raise, the group can't be folded
            raise GroupRefusedError(f"{self.id}: group {group!r} can't be folded: {type(fault).__name__}: {fault}") from fault

    def moved(
        self, group: Group, known: GatheredRow | None, *, come: Sequence[Contribution], gone: Sequence[Contribution]
    ) -> GatheredRow | None:
        """The row of a group, `known` before, once these contributions have come and gone. Raises GroupRefusedError.

        For what has an `unmerge`.
        """
        assert self.unmerge is not None
        size = (known.size if known else 0) + len(come) - len(gone)
        if size <= 0:
            return None
        try:
            found = None if known is None else self.restored(known.values)
            for _, values in come:  # first, so that there is something to take from
                one = self.each(self.of.restored(values))
                found = one if found is None else self.merge(found, one)
            for _, values in gone:
                one = self.each(self.of.restored(values))
                found = self.unmerge(found, one)  # type: ignore[arg-type]  # there is a row, or the size is below 1
            return GatheredRow(self.values_of(group, found), size)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            raise
        except BaseException as fault:  # as in `folded`
            raise GroupRefusedError(f"{self.id}: group {group!r} can't be moved: {type(fault).__name__}: {fault}") from fault

    def place_in_group(self, contribution: Contribution) -> tuple[str, tuple[bytes, ...]]:
        """By this contributions of a group are ordered: by source key, and where one has several, by their `key` fields."""
        key, values = contribution
        return key, tuple(map(encode, self.of.sub_key(values))) if self.of.key else ()

    def values_of(self, group: Group, row: R) -> tuple[Any, ...]:
        """A gathered row's canonical values. Raises ValueError for one of another group, RowRejectedError like `stored`."""
        values = self.stored(row)
        if self.sub_key(values) != group:
            raise ValueError(f"the merge of group {group!r} returned a row of group {self.sub_key(values)!r}")
        return values

    def as_group(self, *values: Any) -> Group:
        """The group that these values name. Raises ProjectionError for another number of them, RowRejectedError."""
        if len(values) != len(self.key):
            raise ProjectionError(f"{self.id}: asked for group {values}, expected values of {self.key}")
        kinds = {field.column.name: field for field in self.fields}
        return tuple(kinds[name].store(value) for name, value in zip(self.key, values, strict=True))


def in_order(places: Iterable[GroupId]) -> list[Any]:
    """These places in the one order in which everybody locks and folds them."""
    return sorted(set(places))  # a field of a group has one type and is never None


def of_group(shape: Shape, names: Iterable[str]) -> Shape:
    """The table of `shape` without its other columns than these."""
    wanted = set(names)
    return replace(shape, columns=tuple(column for column in shape.columns if column.name in wanted))
