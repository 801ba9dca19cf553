"""Drives of the bounds of a comparison of rows: how much of either side is in memory, how many rows are told of."""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from tests.limits.drives import drives
from tests.limits.history import copied

from truecopy_projections import limits
from truecopy_projections.comparing import compare_rows
from truecopy_projections.digest import bucket_of
from truecopy_projections.projection import Projection
from truecopy_projections.state import KeyState, StoredRow

Batch = Sequence[tuple[str, int, StoredRow]]


class Rows:
    """A snapshot of one row for each key, which notes how many buckets it was asked for at a time."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys, self.asked = keys, list[int]()

    async def rows(self, _: Projection[Any], *, buckets: Collection[int]) -> AsyncIterator[Batch]:
        self.asked.append(len(buckets))
        yield [(key, 0, StoredRow(values=(key, 1), hash=b"")) for key in self._keys if bucket_of(key) in buckets]

    async def keys(self, _: Projection[Any], *, buckets: Collection[int]) -> AsyncIterator[Sequence[tuple[str, int, KeyState]]]:
        assert buckets
        yield ()


@drives("projections.COMPARED_BUCKETS")
async def how_much_of_either_side_is_in_memory() -> None:
    one, other = Rows(["a"]), Rows(["a"])
    found = await compare_rows(one, copied, other, copied)  # type: ignore[arg-type]

    assert (found.compared, found.names.total()) == (1, 0)
    assert set(one.asked) == set(other.asked) == {limits.COMPARED_BUCKETS}
    assert sum(one.asked) == limits.BUCKETS


@drives("projections.COMPARED_SAMPLES")
async def how_many_rows_are_told_of() -> None:
    keys = [f"k{at}" for at in range(limits.COMPARED_SAMPLES + 1)]
    for some in (keys[:-1], keys):
        found = await compare_rows(Rows([]), copied, Rows(some), copied)  # type: ignore[arg-type]

        assert found.names == {"added": len(some)}
        assert len(found.samples["added"]) == limits.COMPARED_SAMPLES
