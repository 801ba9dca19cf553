"""A worker that goes up to an offset of each partition and no further, alone: for whoever needs a replica as of a point.

It takes all partitions whoever holds them, and applies as any worker does. With `stops` it parks nothing: what can't be applied
ends it, with key, version, offset and reason.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from truecopy_bus.leases import Fence
from truecopy_bus.log import ForeignTopics, Log
from truecopy_bus.record import Record, TopicState
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.errors import NotCaughtUpError, StoppedError
from truecopy_projections.limits import ALONE_LEASE_S
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.state import PartitionPlan, Reason
from truecopy_projections.worker import Worker

__all__ = ["BoundedWorker"]

_OF_THE_LOG = frozenset({Reason.GAP, Reason.CONFLICT, Reason.BEHIND, Reason.FOREIGN})
"""What waits whatever a reducer does: the log is so."""


class BoundedWorker(Worker):
    """Applies `projection` up to the offsets of `upto`, which may be raised. `reports`: lag tools are told of it."""

    def __init__(
        self,
        projection: Projection[Any],
        replica: Replica,
        log: Log,
        registry: SchemaSource,
        *,
        upto: Mapping[int, int],
        topic: str | None = None,
        group: str | None = None,
        holder: str,
        stops: bool = False,
        reports: bool = False,
        lease_s: float = ALONE_LEASE_S,
        wait_s: float,
        records_max: int,
        durable: bool = True,
    ) -> None:
        super().__init__(
            projection,
            _Seizing(replica),
            log if reports else _Untold(log),
            registry,
            topic=topic,
            group=group,
            holder=holder,
            lease_s=lease_s,
            wait_s=wait_s,
            records_max=records_max,
            durable=durable,
        )
        self.upto, self._stops = dict(upto), stops

    @property
    def fences(self) -> Collection[Fence]:
        """What it holds: all partitions, after its first step."""
        return tuple(self._fences.values())

    @property
    def positions(self) -> dict[int, int]:
        """How far it is, by partition; empty before its first step."""
        return {p: state.position for p, state in sorted(self._states.items())}

    @property
    def left(self) -> int:
        """Offsets to go."""
        return sum(max(0, end - self.positions.get(p, 0)) for p, end in self.upto.items())

    async def arrive(self, *, within_s: float) -> None:
        """Step until it is there. Raises NotCaughtUpError after so many seconds, or where a partition stands still."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    await self.step()
                    if not self.left:
                        return
                    self.refuse_standstill()
        except TimeoutError:
            raise NotCaughtUpError(projection=self.projection.id, left=self.left, why=f"after {within_s:.0f} s") from None

    def refuse_standstill(self) -> None:
        """Raises NotCaughtUpError where a partition that it is to bring on halted."""
        for p, why in self.held().items():
            if why and self.positions.get(p, 0) < self.upto.get(p, 0):
                raise NotCaughtUpError(projection=self.projection.id, left=self.left, why=f"partition {p} halted: {why}")

    def _flowing(self) -> dict[int, int]:
        return {p: at for p, at in super()._flowing().items() if at < self.upto.get(p, 0)}

    async def _pass(self, read: Mapping[int, int], ends: Mapping[int, int]) -> None:
        await super()._pass(read, {p: min(end, self.upto.get(p, end)) for p, end in ends.items()})

    async def _read(self, positions: Mapping[int, int]) -> Sequence[Record]:
        return [record for record in await super()._read(positions) if record.offset < self.upto[record.partition]]

    async def _apply(self, plans: Sequence[PartitionPlan]) -> None:
        if self._stops:
            for waiting in (one for plan in plans for one in plan.waits if one.reason not in _OF_THE_LOG):
                raise StoppedError(
                    projection=self.projection.id,
                    key=waiting.key or "",
                    version=waiting.version,
                    partition=waiting.partition,
                    offset=waiting.offset,
                    why=f"{waiting.reason.name}, {waiting.detail or waiting.reason.value}",
                )
        await super()._apply(plans)


class _Seizing:
    """A replica whose leases are taken from whoever holds them."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replica, name)

    async def renew(
        self,
        projection: Projection[Any],
        holder: str,
        held: Collection[Fence],
        *,
        lease_s: float,
        seize: bool = True,  # noqa: ARG002
    ) -> Mapping[int, Fence]:
        return await self._replica.renew(projection, holder, held, lease_s=lease_s, seize=True)


class _Untold:
    """A log that is told no positions."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def foreign(self, topic: str) -> TopicState:
        """Said, because protocols are not looked for behind __getattr__ from Python 3.12 on."""
        return await (self._log.foreign(topic) if isinstance(self._log, ForeignTopics) else self._log.describe(topic))

    async def report(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Nothing."""
