"""Named points on the way of a change, where a drill can hold a process still and kill it.

`TRUECOPY_HOLD=relay.appended@300` holds the process the first time that the point `relay.appended` is reached with a figure
of 300 or more: it says so in one line on standard error and then waits to be killed. Where a point has no figure of its own,
that is how often this process has come by. Several points stand with commas between them, for what is done at the same time.
Points that are passed meanwhile are said too, one line each. Without the variable a point costs one comparison. Kills by
position and not by time are what makes a crash test repeatable.
"""

import asyncio
import os
import sys
from collections import Counter
from enum import Enum

__all__ = ["HELD_LINE", "HOLD_VARIABLE", "PASSED_LINE", "Point", "reached"]

HOLD_VARIABLE = "TRUECOPY_HOLD"
HELD_LINE = "truecopy: held at"
"""How the line begins that says so; the point and the figure follow."""
PASSED_LINE = "truecopy: passed"
"""How the line of a point begins at which nothing is held."""


class Point(Enum):
    """All points that there are, by who comes by. Each has its drill, which is made from this list."""

    PUBLISH_NUMBERED = "publish.numbered"
    """Versions are taken in the owner's transaction; no event is written."""
    PUBLISH_WRITTEN = "publish.written"
    """The events are written, the owner's transaction is open still."""
    PUBLISH_COMMITTED = "publish.committed"
    """It is committed; the caller does not know yet."""
    RELAY_LEASED = "relay.leased"
    """Partitions were taken. The figure: how many are held."""
    RELAY_TOPIC_EMPTY = "relay.topic_empty"
    """Kafka made a topic, which has no genesis yet. The figure: its partitions."""
    RELAY_TOPIC = "relay.topic"
    """A new entity's topic is there with its genesis; the owner's database knows nothing of it. The figure: its partitions."""
    RELAY_CLAIMED = "relay.claimed"
    """A claim of a schema id is on the log and was not read back."""
    RELAY_APPENDING = "relay.appending"
    """A page is planned and nothing of it appended. The figure of this and the next three: events appended by this process."""
    RELAY_APPENDED = "relay.appended"
    """A page is on the log; ledger and figures do not say so."""
    RELAY_RECORDING = "relay.recording"
    """They are written, and not committed."""
    RELAY_RECORDED = "relay.recorded"
    """They are committed."""
    RELAY_NUMBERED = "relay.numbered"
    """Marks are numbered and not appended. The figure: how many."""
    RELAY_MARKED = "relay.marked"
    """A mark is on the log, others of the same moment are not. The figure: its number."""
    WORKER_INSTALLED = "worker.installed"
    """The replica's tables are there. The figure: the topic's partitions."""
    WORKER_LEASED = "worker.leased"
    """Partitions were taken. The figure: how many."""
    WORKER_READ = "worker.read"
    """A batch was read. The figure: its records."""
    WORKER_COLUMNS = "worker.columns"
    """A batch is planned by columns; its commit begins. The figure: the plans."""
    WORKER_AHEAD = "worker.ahead"
    """The next batch is planned by columns, the commit of the one before was not awaited yet. The figure: its records."""
    WORKER_APPLYING = "worker.applying"
    """A plan is about to be committed. The figure of this and the next two: events of the partitions with it."""
    WORKER_WRITING = "worker.writing"
    """Its rows are written, the position that goes with them is not; nothing is committed."""
    WORKER_APPLIED = "worker.applied"
    """It is committed; nobody was told the position."""
    WORKER_REPORTED = "worker.reported"
    """The log was told the position. The figure: events applied by this process."""
    WORKER_RETRYING = "worker.retrying"
    """Parked keys are planned again and not committed. The figure: how many are freed."""
    WORKER_RETRIED = "worker.retried"
    """That is committed."""
    CERTIFY_JOURNALED = "certify.journaled"
    """A certificate is kept in the replica, and not published. The figure: which of its chain it is, from 1."""
    ROLLBACK_WRITTEN = "rollback.written"
    """Restoring events and their journal are written, not committed. The figure of this and the next: keys so far."""
    ROLLBACK_COMMITTED = "rollback.committed"
    """They are committed; others of the same rollback are to come."""
    AMEND_RULED = "amend.ruled"
    """Rulings are committed with the rows that they lead to, and not published. The figure: how many."""
    REBUILD_STEPPED = "rebuild.stepped"
    """A batch of a rebuild is committed. The figure: events that it applied."""
    REBUILD_PROVEN = "rebuild.proven"
    """A rebuilt number was found EQUAL; its stage does not say so."""
    SWAP_SEIZED = "swap.seized"
    """Both numbers of a swap are held by it, and stand at one position."""
    SWAP_WRITTEN = "swap.written"
    """The view shows the new number, nothing is committed."""
    SWAP_DONE = "swap.done"
    """It is committed; the leases are not given back."""
    REPLAY_CLAIMED = "replay.claimed"
    """A database is marked as a sandbox, and holds nothing else."""
    REPLAY_STEPPED = "replay.stepped"
    """A batch of a replay is committed. The figure: events that it applied."""
    BOOTSTRAP_BEGUN = "bootstrap.begun"
    """The place for a copy of a peer is made, and empty."""
    BOOTSTRAP_COPYING = "bootstrap.copying"
    """A part of the peer is copied. The figure: its bytes so far, about."""
    BOOTSTRAP_VERIFIED = "bootstrap.verified"
    """The copy is verified, and nobody can see it."""
    BOOTSTRAP_ADOPTING = "bootstrap.adopting"
    """What makes it the replica's is written and not committed."""
    BOOTSTRAP_ADOPTED = "bootstrap.adopted"
    """Workers and readers can see it; whoever asked does not know yet."""


def _asked(text: str) -> dict[Point, int]:
    """Least figures by point. Raises ValueError for a point that there is not."""
    pairs = [one.partition("@") for one in text.split(",") if one]
    return {Point(name): int(figure or 0) for name, _, figure in pairs}


_held = _asked(os.environ.get(HOLD_VARIABLE, ""))
_times = Counter[Point]()


async def reached(point: Point, figure: int | None = None) -> None:
    """Pass, or stay for ever if this is a point to hold at. `figure` is the point's own: a position, a count."""
    if not _held:
        return
    _times[point] += 1
    figure = _times[point] if figure is None else figure
    stays = point in _held and figure >= _held[point]
    print(HELD_LINE if stays else PASSED_LINE, point.value, figure, file=sys.stderr, flush=True)
    if stays:
        await asyncio.Event().wait()
