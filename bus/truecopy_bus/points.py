"""Named points on the way of a change, where a drill can hold a process still and kill it.

`TRUECOPY_HOLD=relay.appended@300` holds the process the first time that the point `relay.appended` is reached with a figure
of 300 or more: it says so in one line on standard error and then waits to be killed. Without the variable a point costs one
comparison. Kills by position and not by time are what makes a crash test repeatable.
"""

import asyncio
import os
import sys

__all__ = ["HELD_LINE", "HOLD_VARIABLE", "reached"]

HOLD_VARIABLE = "TRUECOPY_HOLD"
HELD_LINE = "truecopy: held at"
"""How the line begins that says so; the point and the figure follow."""

_name, _, _figure = os.environ.get(HOLD_VARIABLE, "").partition("@")
_least = int(_figure or 0)


async def reached(point: str, figure: int = 0) -> None:
    """Pass, or stay for ever if this is the point to hold at. `figure` is the point's own: a position, a count."""
    if point != _name or figure < _least:
        return
    print(HELD_LINE, point, figure, file=sys.stderr, flush=True)
    await asyncio.Event().wait()
