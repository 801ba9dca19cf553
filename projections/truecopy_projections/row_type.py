"""Rows of a declared kind: a dataclass, its fields, the table of its number, and the canonical form of its values."""

from collections.abc import Hashable
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any, Generic, TypeVar, get_type_hints

from truecopy_projections.columns import Field, field_of
from truecopy_projections.errors import ProjectionError, RowRejectedError

__all__ = ["RowType", "SubKey"]

R = TypeVar("R")

SubKey = tuple[Hashable, ...]
_RESERVED = ("_key", "_part", "_hash", "_bucket", "_version", "_element", "_previous", "_count")


class RowType(Generic[R]):
    """`name@number`, whose rows are of the dataclass `row` and told apart by the fields `key`.

    Raises ProjectionError when the name can't be one, a field has no column, or `key` names none.
    """

    def __init__(self, name: str, *, row: type[R], key: str | tuple[str, ...], number: int) -> None:
        if not name.isidentifier() or name.startswith("_") or number < 1:
            raise ProjectionError(f"projection {name!r}@{number}: use an identifier and a number from 1 on")
        if not is_dataclass(row):
            raise ProjectionError(f"projection {name!r}: rows are dataclasses; seen {row!r}")
        self.name, self.number, self.row = name, number, row
        self.key: tuple[str, ...] = (key,) if isinstance(key, str) else key
        hints = get_type_hints(row, include_extras=True)
        self.fields: tuple[Field, ...] = tuple(field_of(f.name, hints[f.name]) for f in fields(row))
        names = [f.column.name for f in self.fields]
        for wrong in [*(k for k in self.key if k not in names), *(n for n in names if n in _RESERVED)]:
            raise ProjectionError(f"projection {name!r}: {wrong!r} is not a field of {row.__name__} that can be used so")
        self._values = attrgetter(*names) if len(names) > 1 else lambda row: (getattr(row, names[0]),)
        self._names = names
        self._restores = [(f.column.name, f.restore) for f in self.fields if f.restore is not None]
        self._key_at = tuple(names.index(k) for k in self.key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id})"

    @property
    def id(self) -> str:
        """`name@version`, which names it everywhere."""
        return f"{self.name}@{self.number}"

    @property
    def table(self) -> str:
        """The table of this version; readers use the view `name`."""
        return f"{self.name}__v{self.number}"

    def stored(self, row: R) -> tuple[Any, ...]:
        """A row's canonical values, in the order of its fields. Raises RowRejectedError for one that has no column."""
        values = self._values(row)
        if None in values:
            return tuple(
                None if v is None and f.column.nullable else f.store(v) for f, v in zip(self.fields, values, strict=True)
            )
        return tuple(f.store(v) for f, v in zip(self.fields, values, strict=True))

    def sub_key(self, values: tuple[Any, ...]) -> SubKey:
        """The values of the `key` fields among a row's canonical values."""
        return tuple(values[at] for at in self._key_at)

    def restored(self, values: tuple[Any, ...]) -> R:
        """The row of canonical values. Raises RowRejectedError for stored values that its types can't hold."""
        named = dict(zip(self._names, values, strict=True))
        try:
            for name, restore in self._restores:
                if named[name] is not None:
                    named[name] = restore(named[name])
            return self.row(**named)
        except ValueError as fault:
            raise RowRejectedError(
                f"{self.id}: a stored row can't be read ({fault!s:.200}); `truecopy check` names it, `truecopy repair` mends it"
            ) from fault

    def described(self) -> list[list[Any]]:
        """The columns, as a replica remembers them."""
        return [[f.column.name, f.column.kind.name, f.column.nullable, f.column.precision, f.column.scale] for f in self.fields]
