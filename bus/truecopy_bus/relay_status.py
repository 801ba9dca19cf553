"""What a relay holds and what it says about it, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from truecopy_bus.leases import Fence
from truecopy_bus.record import Incarnation
from truecopy_bus.relay_plan import RelayPlan

__all__ = ["EntityStatus", "HeldPartition", "PartitionStatus", "RelayStatus", "RelayedEntity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatus:
    """A partition that this relay holds. Rows of the last page that stay in the outbox, by why; at_ms of the oldest."""

    epoch: int
    count: int
    waiting: int
    refused: int
    conflicts: int
    oldest_waiting_at_ms: int | None


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
    """A relay at one moment. `refused` maps the fingerprint (hex) of each schema that the registry refused to its reason."""

    holder: str
    sent: int
    away: str | None
    entities: Mapping[str, EntityStatus]
    refused: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class HeldPartition:
    """A partition under our fence. Times are the event loop's, in seconds.

    `after` is where the next page starts: 0, unless a whole page had little to send and the rows behind it must not starve.
    """

    fence: Fence
    marked_at: float
    after: int = 0
    unmarked: int = 1
    plan: RelayPlan = field(default_factory=lambda: RelayPlan(count=0, digest=0))

    @property
    def stuck(self) -> int:
        """Rows of the last page that stayed."""
        return len(self.plan.waiting) + len(self.plan.refused) + len(self.plan.conflicts)

    def status(self) -> PartitionStatus:
        staying = (*self.plan.waiting, *self.plan.refused, *self.plan.conflicts)
        return PartitionStatus(
            epoch=self.fence.epoch,
            count=self.plan.count,
            waiting=len(self.plan.waiting),
            refused=len(self.plan.refused),
            conflicts=len(self.plan.conflicts),
            oldest_waiting_at_ms=min((row.at_ms for row in staying), default=None),
        )


@dataclass(slots=True, kw_only=True)
class RelayedEntity:
    """An entity on its way into its topic. `halted` stops it; `stated` is what was last logged about that."""

    name: str
    topic: str
    partitions: int
    incarnation: Incarnation | None = None
    halted: str | None = None
    stated: str | None = None
    held: dict[int, HeldPartition] = field(default_factory=dict)

    def status(self) -> EntityStatus:
        return EntityStatus(
            topic=self.topic,
            partitions=self.partitions,
            incarnation=self.incarnation,
            halted=self.halted,
            held={part: one.status() for part, one in sorted(self.held.items())},
        )
