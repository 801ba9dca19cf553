"""Whether a merge keeps its laws, tried on contributions that there are: any order and any grouping must give one row.

A replica folds a group in the order of its source keys, so it would not show a merge that depends on order. Such a merge still
says nothing that its readers could rely on, and it can't be folded in any other way. So it is refused where it is tested.
"""

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from truecopy_projections.columns import encode
from truecopy_projections.gathered import Contribution, Gathered, Group

__all__ = ["broken_laws"]

ORDERS = 20
"""Orders drawn for each group, each with a grouping of its own, beside those that are always tried."""
ROWS_MAX = 30
"""Contributions of a group that are tried: a law that is broken is broken by few."""
GROUPS_MAX = 200
"""Groups that are tried."""

Order = Callable[[list[Any], Callable[[Any, Any], Any]], Any]


def broken_laws(gathered: Gathered[Any], contributions: Iterable[Contribution], random: Random) -> list[str]:
    """A line for each group whose row depends on more than what contributes to it; it names the group and both rows.

    Raises nothing: what `each` or `merge` raises is told like a row.
    """
    groups: dict[Group, list[Contribution]] = {}
    for key, values in sorted(contributions, key=gathered.place_in_group):
        some = groups.setdefault(gathered.group(values), []) if len(groups) < GROUPS_MAX else groups.get(gathered.group(values))
        if some is not None and len(some) < ROWS_MAX:
            some.append((key, values))
    return [line for group, some in groups.items() if (line := _broken(gathered, group, some, random))]


def _broken(gathered: Gathered[Any], group: Group, contributions: list[Contribution], random: Random) -> str:
    def row(order: Order) -> Any:
        try:
            rows = [gathered.each(gathered.of.restored(values)) for _, values in contributions]
            return gathered.values_of(group, order(rows, gathered.merge))
        except Exception as fault:
            return fault

    tried: list[tuple[str, Order]] = [
        ("once more", _from_the_left),
        ("from the last to the first", lambda rows, merge: _from_the_left(rows[::-1], merge)),
        ("grouped from the right", _from_the_right),
    ]
    tried += [("in another order", lambda rows, merge: _anyhow(rows, merge, random))] * ORDERS
    if (unmerge := gathered.unmerge) is not None and len(contributions) > 1:
        tried.append(("with each taken out and merged in again", lambda rows, merge: _out_and_in(rows, merge, unmerge)))
    first = row(_from_the_left)
    for how, order in tried:
        again = row(order)
        if not _same(first, again):
            return (
                f"{gathered.id} of {group!r}: merged in the order of keys it is {_told(gathered, first)}, {how} it is "
                f"{_told(gathered, again)}; a merge must be commutative and associative, and depend on its two rows alone "
                "(sums of floats are not: use Decimal or int), and unmerge must undo it"
            )
    return ""


def _from_the_left(rows: list[Any], merge: Callable[[Any, Any], Any]) -> Any:
    found = rows[0]
    for row in rows[1:]:
        found = merge(found, row)
    return found


def _from_the_right(rows: list[Any], merge: Callable[[Any, Any], Any]) -> Any:
    found = rows[-1]
    for row in rows[-2::-1]:
        found = merge(row, found)
    return found


def _out_and_in(rows: list[Any], merge: Callable[[Any, Any], Any], unmerge: Callable[[Any, Any], Any]) -> Any:
    found = _from_the_left(rows, merge)
    for row in rows:
        found = merge(unmerge(found, row), row)
    for row in rows[1:]:  # down to the first one alone, and up again
        found = unmerge(found, row)
    return _from_the_left([found, *rows[1:]], merge)


def _anyhow(rows: list[Any], merge: Callable[[Any, Any], Any], random: Random) -> Any:
    random.shuffle(rows)
    while len(rows) > 1:
        at = random.randrange(len(rows) - 1)
        rows[at : at + 2] = [merge(rows[at], rows[at + 1])]
    return rows[0]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Exception) or isinstance(other, Exception):
        return repr(one) == repr(other)
    return list(map(encode, one)) == list(map(encode, other))


def _told(gathered: Gathered[Any], row: Any) -> str:
    return f"{type(row).__name__}: {row}" if isinstance(row, Exception) else repr(gathered.restored(row))
