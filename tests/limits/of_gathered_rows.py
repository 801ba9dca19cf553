"""Drives of the bounds of gathered rows: how much one may be folded from, and the locks that stand for all groups."""

import pytest
from tests.limits.drives import drives

from truecopy_projections import limits
from truecopy_projections.gathered import Gathered, GroupRefusedError
from truecopy_projections.replicas.sql_gathered import locks_of
from truecopy_projections.testing.replica_gathering import SUMMED, SUMS


@drives("projections.GROUP_ROWS_MAX")
def contributions_that_are_folded() -> None:
    some: list[tuple[str, tuple[object, ...]]] = [("key", ("s", at, 1)) for at in range(limits.GROUP_ROWS_MAX + 1)]
    plain = Gathered("first", of=SUMMED, row=SUMS.row, by="shop", each=SUMS.each, merge=lambda one, _: one)

    found = plain.folded(("s",), some[:-1])
    assert found is not None
    assert found.size == limits.GROUP_ROWS_MAX
    with pytest.raises(GroupRefusedError, match=f"would have {limits.GROUP_ROWS_MAX + 1} contributions"):
        plain.folded(("s",), some)


@drives("projections.GROUP_LOCKS")
def locks_of_all_groups() -> None:
    assert len(locks_of(("t@1", (f"g{at}",)) for at in range(20 * limits.GROUP_LOCKS))) == limits.GROUP_LOCKS
    assert locks_of([("t@1", ("g",))]) != locks_of([("u@1", ("g",))])
