"""Planning record by record against a replica: what a batch, or a look at what is parked, has to know, and whom to blame.

This is the way that every projection and every record can go. A database that refuses a batch is asked which keys are to blame,
and the batch is planned again without them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from truecopy_bus.errors import UnavailableError
from truecopy_bus.leases import Fence
from truecopy_bus.record import Record
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.amendment import Amendments
from truecopy_projections.arrival import Arrival, Item, Reading
from truecopy_projections.ordinals import ForeignReading, Ordinals, keys_in, ordinals
from truecopy_projections.plan import RETRIED, plan, wanted
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.state import Known, PartitionPlan, PartitionState, Reason, Waiting, Wanted
from truecopy_projections.waiting_alarm import WaitingAlarm
from truecopy_schemas.errors import UnknownSchemaError

__all__ = ["RecordsWork", "Task", "record_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Something to plan, with all that this takes. `refused` grows when the database refuses rows."""

    known: Known
    revived: Mapping[str, Sequence[Arrival]]
    items: Sequence[Item] = ()
    retry: Collection[str] = ()
    refused: dict[str, str] = field(default_factory=dict)


class RecordsWork:
    """The way by records, for one worker."""

    def __init__(self, projection: Projection[Any], replica: Replica, schemas: SchemaSource, reading: Reading) -> None:
        self._projection, self._replica, self._schemas = projection, replica, schemas
        self._alarm = WaitingAlarm(projection.id)
        self._reading = reading if projection.foreign is None else ForeignReading(projection)

    @property
    def amendments(self) -> Amendments:
        """By which records are read."""
        return self._reading.amendments

    @amendments.setter
    def amendments(self, amendments: Amendments) -> None:
        self._reading.amendments = amendments

    async def renew(self) -> None:
        """Read anew what only changes under leases that are not ours: the amendments."""
        async with self._replica.snapshot() as snapshot:
            self.amendments = await snapshot.amendments(self._projection.id)

    async def learn(self, records: Sequence[Record]) -> bool:
        """Ask for the schemas of these records; ids that nobody knows stay unknown. Whether one became known."""
        learned = False
        for schema_id in sorted(self._reading.unknown(records)):
            try:
                found = await self._schemas.schema(schema_id)
            except UnknownSchemaError:
                continue
            self._reading.learn(schema_id, fingerprint=found.fingerprint, schema=found.schema)
            learned = True
        return learned

    async def batch(self, records: Sequence[Record], states: Mapping[int, PartitionState]) -> Task:
        """The task that a batch is, of partitions that are in these states."""
        await self.learn(records)
        items = self._items(records, await self._ordinals(records, states))
        known, revived = await self._revived(await self._replica.load(self._projection, wanted(items)))
        return Task(known=known, revived=revived, items=items)

    async def parked(self, partitions: Collection[int]) -> Task:
        """The task of trying the parked keys of these partitions again: code, schema or data may have been mended."""
        async with self._replica.snapshot() as snapshot:
            waiting = [w for w in await snapshot.waiting(self._projection.id) if w.partition in partitions]
        return await self.retried({w.key for w in waiting if w.key is not None}, RETRIED)

    async def retried(self, keys: Collection[str], reasons: Collection[Reason] = tuple(Reason)) -> Task:
        """The task of trying these keys again, those of them that are parked for one of `reasons`."""
        known = await self._replica.load(self._projection, Wanted(keys=frozenset(keys)))
        retry = frozenset(key for key in keys if key in known.keys and known.keys[key].parked in reasons)
        known, revived = await self._revived(known)
        return Task(known=known, revived=revived, retry=retry)

    def plan(self, task: Task, states: Mapping[int, PartitionState], fences: Mapping[int, Fence]) -> list[PartitionPlan]:
        """The plans of a task as it stands."""
        plans = plan(
            self._projection,
            states,
            fences,
            task.items,
            task.known,
            revived=task.revived,
            retry=task.retry,
            refused=task.refused,
        )
        after = {one.was.partition: one.state for one in plans}
        self._alarm.look({**states, **after}.values())
        return plans

    async def blame(self, task: Task, plans: Sequence[PartitionPlan]) -> bool:
        """Note which keys' rows the database refuses, to plan without them. False if no key is to blame for it.

        Raises UnavailableError where nothing is refused any more because others changed the groups that the keys are in.
        """
        found = await self._replica.culprits(self._projection, plans)
        if not found and self._projection.gathers:
            raise UnavailableError(
                f"{self._projection.id}: a group could not be folded, and now it can; the batch is tried again"
            )
        new = bool(found.keys() - task.refused.keys())
        task.refused.update(found)
        return new

    async def _ordinals(self, records: Sequence[Record], states: Mapping[int, PartitionState]) -> Ordinals:
        """The versions of a foreign topic's records, which follow those that their keys have in the replica."""
        if self._projection.foreign is None:
            return {}
        known = await self._replica.load(self._projection, Wanted(keys=frozenset(keys_in(records).values())))
        return ordinals(records, known.keys, {p: state.position for p, state in states.items()})

    def _items(self, records: Iterable[Record], versions: Ordinals) -> list[Item]:
        reading = self._reading
        return reading.items(records) if isinstance(reading, Reading) else reading.items(records, versions)

    async def again(self, waiting: Sequence[Waiting]) -> list[Item]:
        """What waiting records, not foreign ones, are read as now."""
        records = [record_of(one) for one in waiting]
        await self.learn(records)
        return self._items(records, {(one.partition, one.offset): one.version or 0 for one in waiting})

    async def _revived(self, known: Known) -> tuple[Known, dict[str, list[Arrival]]]:
        """Read what waits for parked keys again, and load the rows that it touches beside those already known."""
        if not known.waiting:
            return known, {}
        items = iter(await self.again([w for waiting in known.waiting.values() for w in waiting]))
        revived = {key: [i for i in islice(items, len(some)) if type(i) is Arrival] for key, some in known.waiting.items()}
        more = await self._replica.load(self._projection, wanted([a for some in revived.values() for a in some]))
        rows, hashes = {**known.rows, **more.rows}, {**known.hashes, **more.hashes}
        return replace(known, rows=rows, hashes=hashes), revived


def record_of(waiting: Waiting) -> Record:
    """The record as the log had it."""
    return Record(
        waiting.partition,
        waiting.offset,
        waiting.record_key,
        waiting.record_value,
        waiting.timestamp_ms,
        waiting.headers,
    )
