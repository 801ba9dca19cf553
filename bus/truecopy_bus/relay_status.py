"""What a relay holds, and what it says about it: plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from truecopy_bus.leases import Fence
from truecopy_bus.record import Incarnation
from truecopy_bus.relay_pass import Decided
from truecopy_bus.relay_plan import RelayPlan

__all__ = ["EntityStatus", "HeldPartition", "PartitionStatus", "RelayStatus", "RelayedEntity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatus:
    """A partition that this relay holds, after its last pass: events put on the log in all (`count`, None before the first
    pass), rows that stay in the outbox, by why, and when the oldest of them was committed (ms since 1970)."""

    epoch: int
    count: int | None = None
    waiting: int = 0
    refused: int = 0
    conflicts: int = 0
    oldest_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityStatus:
    """An entity of the store. `halted` says why nothing is put into its topic, and what to do; None if all is well."""

    topic: str
    partitions: int
    incarnation: Incarnation | None
    halted: str | None
    held: Mapping[int, PartitionStatus]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayStatus:
    """A relay at one moment. `away` is what it waits for, if anything; `refused` maps fingerprints (hex) to reasons."""

    holder: str
    sent: int
    away: str | None
    entities: Mapping[str, EntityStatus]
    refused: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class HeldPartition:
    """A partition under our fence. `marked_at` is the event loop's time in seconds.

    `after` is where the next page starts: at 0, unless a whole page had little to send and the rows behind it must not
    starve. `unmarked` counts events since the last mark; it begins at 1 because nobody knows what the last holder left.
    `stated` is the count that the log's own marks stated when we came, None until they were read. `asked`: somebody wants a
    mark now.
    """

    fence: Fence
    marked_at: float
    status: PartitionStatus
    after: int = 0
    unmarked: int = 1
    stated: int | None = None
    asked: bool = False

    @property
    def staying(self) -> int:
        """Rows of the last page that could not be sent."""
        return self.status.waiting + self.status.refused + self.status.conflicts

    def settle(self, planned: RelayPlan, after: int) -> None:
        """Take note of a pass that was recorded."""
        stay = (*planned.waiting, *planned.refused, *planned.conflicts)
        self.after = after
        self.unmarked += len(planned.send)
        self.status = PartitionStatus(
            epoch=self.fence.epoch,
            count=planned.count,
            waiting=len(planned.waiting),
            refused=len(planned.refused),
            conflicts=len(planned.conflicts),
            oldest_at_ms=min((row.at_ms for row in stay), default=None),
        )


@dataclass(slots=True, kw_only=True)
class RelayedEntity:
    """An entity on its way into its topic. `halted` stops it; `stated` is what was last logged about that.

    `unrecorded` is on the log, and was not recorded yet under the fences of these partitions.
    """

    name: str
    topic: str
    partitions: int
    incarnation: Incarnation = ""
    halted: str | None = None
    stated: str | None = None
    held: dict[int, HeldPartition] = field(default_factory=dict)
    unrecorded: tuple[dict[int, HeldPartition], Decided] | None = None

    def status(self) -> EntityStatus:
        """As plain data."""
        return EntityStatus(
            topic=self.topic,
            partitions=self.partitions,
            incarnation=self.incarnation or None,
            halted=self.halted,
            held={part: held.status for part, held in sorted(self.held.items())},
        )
