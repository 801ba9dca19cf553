"""Every bound binds: each constant of each `limits.py` is driven to its limit and one beyond, by the drives of this folder.

The list of bounds is read from the packages, so that a new one fails here until it has a drive, and a drive of one that is
gone fails too.
"""

import asyncio
import importlib
import inspect
from pathlib import Path

import pytest
from tests.limits.drives import BOUNDS, DRIVES, Drive

OF = [f"tests.limits.{path.stem}" for path in sorted(Path(__file__).parent.glob("of_*.py"))]
pytest.register_assert_rewrite(*OF)
for name in OF:
    importlib.import_module(name)

CASES = [
    pytest.param(bound, drive, id=f"{bound}-{drive.__name__}" if drive else bound)
    for bound in BOUNDS
    for drive in DRIVES.get(bound) or [None]
]


@pytest.mark.parametrize(("bound", "drive"), CASES)
def test_the_bound_binds(bound: str, drive: Drive | None, request: pytest.FixtureRequest) -> None:
    assert drive is not None, f"no drive takes {bound} to its limit; write one in tests/limits and mark it @drives({bound!r})"
    given = {name: request.getfixturevalue(name) for name in inspect.signature(drive).parameters}
    ended = drive(**given)
    if inspect.iscoroutine(ended):
        (given["clock"].run if "clock" in given else asyncio.run)(ended)


def test_every_drive_is_of_a_bound_that_is_there() -> None:
    assert sorted(DRIVES.keys() - set(BOUNDS)) == []
