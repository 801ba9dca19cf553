"""What readers would see change if one number of a projection took another's place: rows added, changed, removed.

Only columns that both have under one name and type are compared. The difference has a name, made of all of it: whoever accepts
it by its name accepts this one, and no other that came about since.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from truecopy_projections.columns import encode
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Snapshot

__all__ = ["ROWS_SHOWN", "NumbersDiff", "compare_numbers"]

ROWS_SHOWN = 20
"""Rows of each kind that are named; the counts are of all."""
_NAME_CHARS = 12
_Row = tuple[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class NumbersDiff:
    """`name` is what to accept it by; "" where the compared columns of all rows are equal. `gone` and `fresh` are columns that
    only the old or only the new number has; `shown` names some of the source keys of each kind."""

    name: str
    compared: Sequence[str]
    gone: Sequence[str]
    fresh: Sequence[str]
    added: int
    changed: int
    removed: int
    shown: Sequence[tuple[str, str]]

    def __str__(self) -> str:
        columns = f"compared by {', '.join(self.compared) or 'no column'}"
        parted = [
            *([f"without {', '.join(self.gone)}"] if self.gone else []),
            *([f"with {', '.join(self.fresh)} anew"] if self.fresh else []),
        ]
        rows = f"{self.added} rows added, {self.changed} changed, {self.removed} removed"
        return f"{'; '.join([rows, columns, *parted])}" + (f"; its name is {self.name}" if self.name else "")

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "compared": list(self.compared),
            "gone": list(self.gone),
            "fresh": list(self.fresh),
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "shown": [list(one) for one in self.shown],
        }


async def compare_numbers(new: Projection[Any], old: Projection[Any], snapshot: Snapshot) -> NumbersDiff:
    """Compare all rows of two numbers in one snapshot. It holds a hash of each row of the old one in memory."""
    described = {number.id: {str(column[0]): column for column in number.described()} for number in (new, old)}
    of_new, of_old = described[new.id], described[old.id]
    compared = [name for name in of_new if of_new[name] == of_old.get(name)]
    before = {row: said async for row, said in _rows(old, snapshot, compared)}
    kinds: dict[str, list[tuple[str, bytes]]] = {"added": [], "changed": [], "removed": []}
    async for row, said in _rows(new, snapshot, compared):
        known = before.pop(row, None)
        if known != said:
            kinds["added" if known is None else "changed"].append((row[0], b"".join((row[1], known or b"", said))))
    kinds["removed"] = [(key, sub + said) for (key, sub), said in before.items()]
    gone, fresh = [name for name in of_old if name not in compared], [name for name in of_new if name not in compared]
    return NumbersDiff(
        name=_named(kinds, [*gone, *fresh]),
        compared=compared,
        gone=gone,
        fresh=fresh,
        added=len(kinds["added"]),
        changed=len(kinds["changed"]),
        removed=len(kinds["removed"]),
        shown=[(kind, key) for kind, rows in kinds.items() for key, _ in sorted(rows)[:ROWS_SHOWN]],
    )


def _named(kinds: dict[str, list[tuple[str, bytes]]], columns: Collection[str]) -> str:
    if not any(kinds.values()) and not columns:
        return ""
    told = hashlib.blake2b(key=b"truecopy/difference/1")
    for part in (*columns, *kinds):
        for text in (part.encode(), *(key.encode() + said for key, said in sorted(kinds.get(part, ())))):
            told.update(len(text).to_bytes(8) + text)
    return told.hexdigest()[:_NAME_CHARS]


async def _rows(projection: Projection[Any], snapshot: Snapshot, compared: Collection[str]) -> Any:
    """Each row's source key and sub key, and a hash of the columns that are compared."""
    at = [i for i, field in enumerate(projection.fields) if field.column.name in compared]
    async for batch in snapshot.rows(projection):
        for key, _, row in batch:
            told = hashlib.blake2b(digest_size=16)
            for i in at:
                value = encode(row.values[i])
                told.update(len(value).to_bytes(8) + value)
            yield (key, b"".join(map(encode, projection.sub_key(row.values)))), told.digest()
