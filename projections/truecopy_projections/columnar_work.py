"""Planning by columns against a replica: load what is not known, decode and plan beside the event loop.

A worker that goes on with keys it wrote itself knows what it wrote. So the newest state of its last keys is kept, for as long
as nobody else can have written them: until a fence is lost, a batch was planned record by record, or anything went wrong.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from truecopy_bus.leases import Fence
from truecopy_bus.record import Record
from truecopy_projections.arrival import Reading
from truecopy_projections.columnar import Batch, Columnar
from truecopy_projections.columnar_plan import Latest, Planned, plan_columns
from truecopy_projections.limits import COLUMN_RECORDS_MIN, THREAD_RECORDS_MIN, WARM_KEYS_MAX
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.state import PartitionState, Wanted

__all__ = ["ColumnarWork"]


class ColumnarWork:
    """The way by columns, for one worker."""

    def __init__(self, projection: Projection[Any], replica: Replica, reading: Reading) -> None:
        self._projection, self._replica = projection, replica
        self._columnar, self._reading = Columnar(projection, reading), reading
        self._warm: dict[str, Latest] = {}

    async def plan(
        self, records: Sequence[Record], states: Mapping[int, PartitionState], fences: Mapping[int, Fence]
    ) -> Planned | None:
        """Plan a batch, or None: plan it record by record.

        `states` are those before the batch; the commit that leads to them may be under way, if it was `took`. Raises like
        Replica.load.
        """
        if len(records) < COLUMN_RECORDS_MIN:
            return None
        beside = len(records) >= THREAD_RECORDS_MIN
        batch = await asyncio.to_thread(self._columnar.read, records) if beside else self._columnar.read(records)
        if batch is None or self._holds_amended(batch):
            return None
        known = await self._known(batch)
        if known is None:
            return None
        given = (self._projection, states, fences, batch, known)
        return await asyncio.to_thread(plan_columns, *given) if beside else plan_columns(*given)

    def _holds_amended(self, batch: Batch) -> bool:
        """Whether one of the events may be one that a ruling is about: what is out of the ordinary goes record by record."""
        latest = self._reading.amendments.latest
        amended = {name: latest[key] for name, key in batch.keys.items() if key in latest} if latest else {}
        return bool(amended) and any(
            version <= amended.get(name, 0) for name, version in zip(batch.names, batch.versions, strict=True)
        )

    async def _known(self, batch: Batch) -> Mapping[str, Latest] | None:
        """What is known of the batch's keys; None if one of them is parked."""
        cold = frozenset(key for key in batch.keys.values() if key not in self._warm)
        if not cold:
            return self._warm
        loaded = await self._replica.load(self._projection, Wanted(keys=cold, hashes=cold))
        if any(state.parked is not None for state in loaded.keys.values()):
            return None
        found = {key: self._warm[key] for key in batch.keys.values() if key in self._warm} if self._warm else {}
        found |= {key: (0, b"", row) for key, row in loaded.hashes.items()}
        for key, state in loaded.keys.items():
            found[key] = (state.head.version, state.head.element, loaded.hashes.get(key, b""))
        return found

    def took(self, planned: Planned) -> None:
        """It is being committed: what it says is what is known now, unless `forget` is called."""
        if len(self._warm) > WARM_KEYS_MAX:
            self._warm.clear()
        self._warm |= planned.latest

    def forget(self) -> None:
        """Others may have written, or a commit failed: ask the replica again."""
        self._warm.clear()
