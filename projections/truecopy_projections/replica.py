"""The replica port: the database that holds a service's projected rows, their digests and its own position.

What every adapter promises:
- `apply` is one transaction for all the partitions that it is given: rows, keys, digests, waiting records, checkpoints,
  amendments and position commit together or not at all. A partition whose fence is lost, or that is not where the plan says
  it was, is dropped from it, and the rest commits.
- Gathered rows are part of the same transaction: after it the row of each group that a batch touched is the fold of all the
  contributions that are there, also those that others committed meanwhile.
- Storing is the identity: rows read back equal to what was put, value by value, for every type of column.
- A snapshot sees one state of everything, whatever is applied meanwhile.
- What was applied survives the death of the process. (After the death of the machine the newest transactions may be gone,
  rows and position together.)

What it does not do: decide, retry, or read the log.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from truecopy_bus.errors import TopicMismatchError
from truecopy_bus.leases import Fence
from truecopy_projections.amendment import Amendments
from truecopy_projections.effects import Delivery
from truecopy_projections.errors import ProjectionError
from truecopy_projections.gathered import Gathered, GatheredRow, Group
from truecopy_projections.projection import Projection
from truecopy_projections.scrub_times import ScrubTimes
from truecopy_projections.stages import Stage, Staged
from truecopy_projections.state import (
    Checkpoint,
    KeyState,
    Known,
    MarkVerdict,
    PartitionPlan,
    PartitionState,
    StoredRow,
    Waiting,
    WaitingTally,
    Wanted,
)

__all__ = ["FORMAT", "JournalEntry", "Replica", "Snapshot", "refuse_other_declaration", "refuse_other_partitions"]

FORMAT = 1
"""Number of the layout of a replica's own tables. A replica with a newer one is refused by name."""

JournalEntry = Mapping[str, Any]


class Snapshot(Protocol):
    """One consistent state of a replica. Every method reads as of the moment at which it was opened."""

    async def states(self, projection: str) -> dict[int, PartitionState]:
        """By partition; empty when the replica holds no such projection (`name@version`)."""
        ...

    def rows(
        self, projection: Projection[Any], *, buckets: Collection[int] | None = None, indexed: bool = True
    ) -> AsyncIterator[Sequence[tuple[str, int, StoredRow]]]:
        """The rows of these buckets of the digests (None: all) in batches, as (source key, partition, row), in no order.

        They are those stored under these buckets; one whose key has another is `astray`, and is missing there. Buckets are read
        by the index by which workers find their rows; unless `indexed`, the whole table is read and the index is not.
        """
        ...

    def keys(
        self, projection: Projection[Any], *, buckets: Collection[int] | None = None
    ) -> AsyncIterator[Sequence[tuple[str, int, KeyState]]]:
        """The source keys of these buckets (None: all) in batches, as (key, partition, state), in no order."""
        ...

    async def get(self, projection: Projection[Any], key: str) -> tuple[KeyState | None, Sequence[StoredRow]]:
        """A source key and its rows."""
        ...

    async def unreachable(self, projection: Projection[Any]) -> Sequence[str]:
        """Source keys of rows that `rows` yields and no look-up by key finds: a damaged index hides them. In their order."""
        ...

    def gathered(self, gathered: Gathered[Any], group: Group | None = None) -> AsyncIterator[Sequence[GatheredRow]]:
        """All gathered rows in batches, in no order; or the one of `group`, if it has one."""
        ...

    async def checkpoints(
        self, projection: str, *, latest: MarkVerdict | None = None, newest: int | None = None
    ) -> Sequence[Checkpoint]:
        """The kept checkpoints, by partition and then offset.

        With `latest` only each partition's last of that verdict, with `newest` only so many of the last of each partition; one
        of the two may be given, and either is found by index, however many are kept.
        """
        ...

    async def waiting(self, projection: str) -> Sequence[Waiting]:
        """All of the quarantine, by partition and then offset."""
        ...

    def quarantine(self, projection: str, *, key: str | None = None) -> AsyncIterator[Sequence[Waiting]]:
        """What waits, of `key` or (None) of all, in small batches: foreign records first, then key by key, by version."""
        ...

    async def tallies(self, projection: str) -> Sequence[WaitingTally]:
        """How much waits, by partition and reason, without reading it."""
        ...

    async def amendments(self, projection: str) -> Amendments:
        """All rulings about events of a projection."""
        ...

    async def journal(self, kind: str, *, newest: int | None = None) -> Sequence[JournalEntry]:
        """Entries of one kind, oldest first; `newest` only so many of the last. Once seen, none comes before another."""
        ...

    async def scrubs(self, projection: str) -> ScrubTimes:
        """When each bucket was last hashed again and right. Of a projection that was made anew, never."""
        ...

    async def stages(self, name: str) -> Sequence[Staged]:
        """The numbers of the projection `name` (without its number), in their order."""
        ...

    async def remembered(self, projection: str, what: str) -> JournalEntry | None:
        """What was last remembered of a projection under this name."""
        ...


class Replica(Protocol):
    """See the module's text for the guarantees. All methods raise DatabaseUnavailableError when the database is away."""

    @property
    def name(self) -> str:
        """For messages, without credentials."""
        ...

    async def install(self, projection: Projection[Any], *, partitions: int, incarnation: str) -> None:
        """Make the projection's tables, view, lease rows and partition states that are missing; change nothing that is there.

        The first number of a name is LIVE, and its views show it; a further one is BUILDING.

        Raises NewerFormatError, ProjectionError (declared otherwise under the same number before), TopicMismatchError
        (followed with another number of partitions before).
        """
        ...

    async def renew(
        self, projection: Projection[Any], holder: str, held: Collection[Fence], *, lease_s: float, seize: bool = False
    ) -> Mapping[int, Fence]:
        """One heartbeat of a worker, see leases.renew. With `seize` it takes all partitions, whoever holds them."""
        ...

    async def leave(self, projection: Projection[Any], holder: str, held: Collection[Fence]) -> None:
        """Give the partitions back at once."""
        ...

    async def load(self, projection: Projection[Any], wanted: Wanted) -> Known:
        """What is known of the wanted keys and rows."""
        ...

    async def apply(
        self,
        projection: Projection[Any],
        plans: Sequence[PartitionPlan],
        *,
        durable: bool = True,
        journal: Sequence[tuple[str, JournalEntry]] = (),
    ) -> frozenset[int]:
        """Apply, and append `journal` entries (kind, entry). Returns the partitions that were committed.

        Raises DataRefusedError (nothing was written): ask `culprits` which keys are to blame.
        """
        ...

    def delivering(self, name: str, limit: int, *, without: Collection[str] = ()) -> AbstractAsyncContextManager[Delivery]:
        """The first `limit` effects of a projection's name, removed when the block ends well, left as they were when it raises.

        Keys that are held are passed over, and those of `without`. One block has effects at a time; a second waits, and is
        given what is left.
        """
        ...

    async def hold(self, name: str, key: str, why: str) -> None:
        """Keep the effects of a key from being handed out, for a reason; with "" release them."""
        ...

    async def held(self, name: str) -> Mapping[str, str]:
        """The keys whose effects are held, each with the reason."""
        ...

    async def pending(self, name: str) -> tuple[int, int]:
        """How many effects of a projection's name wait to be delivered, and the age of the oldest in ms (0 if none)."""
        ...

    async def culprits(self, projection: Projection[Any], plans: Sequence[PartitionPlan]) -> Mapping[str, str]:
        """The source keys whose rows the database refuses, each with its reason. Writes nothing."""
        ...

    async def scrubbed(self, projection: Projection[Any], at_ms: Mapping[int, int] | None) -> None:
        """Keep when these buckets were right (see ScrubTimes), 0 if they are not; with None forget all. It needs no fence."""
        ...

    async def remember(self, projection: Projection[Any], what: str, said: JournalEntry) -> None:
        """Keep `said`, JSON values, under a name, in place of what was kept there. It needs no fence: who checks writes it."""
        ...

    async def stage(self, projection: Projection[Any], stage: Stage, *, by: str = "") -> None:
        """Make an installed number FOLLOWING without end, BUILDING or RETIRED; only `install` and `swap` make one LIVE."""
        ...

    async def swap(
        self,
        new: Projection[Any],
        old: Projection[Any],
        fences: Mapping[str, Collection[Fence]],
        *,
        follow_ms: int,
        by: str,
        journal: Sequence[tuple[str, JournalEntry]] = (),
    ) -> None:
        """Let `new` be LIVE and `old` FOLLOWING, for so many ms, in one transaction with the views and the journal.

        `fences` are all those of either, by its id. Raises SwapRefusedError with nothing changed: a fence is lost, the two are
        at different positions, are not FOLLOWING and LIVE, or somebody's object stands on the view.
        """
        ...

    async def drop(self, projection: Projection[Any], *, by: str = "") -> None:
        """Forget a number, its tables and all that is kept of it. Raises SwapRefusedError for the live one."""
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]: ...

    async def flush(self) -> None:
        """Return once all that any snapshot has shown would survive a power failure of the database.

        A reader that was promised "at least this" is answered after it: what a crash takes back was never served.
        """
        ...

    async def close(self) -> None: ...


def refuse_other_declaration(projection: Projection[Any], known: Mapping[str, Any]) -> None:
    """Raises ProjectionError, which names what differs, unless `known` is what `projection.describe()` says."""
    now = projection.describe()
    if known == now:
        return
    said = [
        f"{part} was {known.get(part)!r}, is {now.get(part)!r}"
        for part in ("entity", "key", "gathered")
        if known.get(part) != now.get(part)
    ]
    was, own = ({name: _typed(*kind) for name, *kind in columns["columns"]} for columns in (known, now))
    said += [
        f"column {name!r} was {was.get(name, 'not there')}, is {own.get(name, 'not there')}"
        for name in {**was, **own}
        if was.get(name) != own.get(name)
    ]
    raise ProjectionError(
        f"{projection.id}: the replica holds it declared otherwise: {'; '.join(said) or 'its columns are in another order'}; "
        "give the new declaration the next number"
    )


def _typed(kind: str, nullable: bool, precision: int, scale: int) -> str:
    digits = f"({precision}, {scale})" if precision else ""
    return f"{kind}{digits}{' or null' if nullable else ''}"


def refuse_other_partitions(projection: Projection[Any], known: int, partitions: int) -> None:
    """Raises TopicMismatchError unless `known`, the partitions followed so far, is none or `partitions`.

    With another number keys live elsewhere, and their versions would meet rows of another partition's history.
    """
    if known not in (0, partitions):
        seen, expected = f"{partitions} partitions", f"the {known} that replica {projection.id} follows"
        raise TopicMismatchError(topic=projection.entity, seen=seen, expected=expected)
