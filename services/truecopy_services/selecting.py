"""Replaying some events of a history into a sandbox: by key, type, range or fields. A what-if, which proves nothing.

Its partitions bear an incarnation that is no topic's, made of the selection: so a check says INCOMPARABLE, and a sandbox of one
selection does not go on with another. Rows and position commit together, so a replay that was killed goes on where it was.
"""

import asyncio
import hashlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import orjson

from truecopy_bus.leases import Fence
from truecopy_bus.limits import READ_WAIT_S
from truecopy_bus.points import Point, reached
from truecopy_bus.record import Record
from truecopy_projections.arrival import Arrival, Reading
from truecopy_projections.cut import Asked, AtEnd, Cut
from truecopy_projections.errors import ReplayRefusedError
from truecopy_projections.limits import ALONE_LEASE_S
from truecopy_projections.plan import wanted
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.selected_plan import selected_plan
from truecopy_projections.stages import Stage
from truecopy_schemas.avro_schema import full_name
from truecopy_schemas.errors import TruecopyError, UnknownSchemaError
from truecopy_schemas.framing import FRAME_BYTES
from truecopy_schemas.registry import Registered
from truecopy_services.errors import UsageError
from truecopy_services.operating.conditions import where
from truecopy_services.quarantine import actor
from truecopy_services.replaying import Progress, Replayed, cut_of, journal, take_rulings
from truecopy_services.service import Service

__all__ = ["Choosing", "Selection", "replay_selected", "starts_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which events: from a cut on (None: from the beginning), of these keys and types (none: all), whose fields meet these."""

    begin: Asked | None = None
    keys: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    conditions: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it leaves out nothing."""
        return self == Selection()

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        begin = None if self.begin is None else str(self.begin)
        return {"from": begin, "keys": sorted(self.keys), "types": sorted(self.types), "where": list(self.conditions)}

    def incarnation(self, topic: str) -> str:
        """What a sandbox of it bears in place of the topic's incarnation, which is part of it: so are its positions."""
        return f"selected {hashlib.blake2b(orjson.dumps(self.as_json()), digest_size=8).hexdigest()} of {topic}"


async def starts_of(service: Service, projection: Projection[Any], selection: Selection, cut: Cut) -> dict[int, int]:
    """Where a selection begins, by partition. Raises CutError."""
    begin = {} if selection.begin is None else (await cut_of(service, projection, selection.begin)).offsets
    return {**dict.fromkeys(cut.offsets, 0), **begin}


async def replay_selected(
    service: Service,
    projection: Projection[Any],
    sandbox: Replica,
    selection: Selection,
    *,
    to: Asked | None = None,
    rate: int | None = None,
    by: str = "",
    told: Callable[[Progress], None] = lambda _: None,
) -> Replayed:
    """Replay what is selected up to a cut (None: the end). Raises like `replay`, and StoppedError for what can't be applied."""
    if projection.foreign is not None:
        raise UsageError(f"{projection.id} is of a topic of others, whose records get their numbers by being read as a whole")
    where(selection.conditions)
    began_s = time.monotonic()
    cut = await cut_of(service, projection, to or AtEnd())
    starts = await starts_of(service, projection, selection, cut)
    incarnation = selection.incarnation(cut.incarnation)
    await sandbox.install(projection, partitions=len(cut.offsets), incarnation=incarnation)
    await sandbox.stage(projection, Stage.BUILDING, by=by)
    holder = f"replay {socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    fences = await sandbox.renew(projection, holder, (), lease_s=ALONE_LEASE_S, seize=True)
    try:
        async with sandbox.snapshot() as snapshot:
            states = await snapshot.states(projection.id)
        if {state.incarnation for state in states.values()} != {incarnation}:
            seen = "it holds another selection of the history, or all of it, or one of a topic that was made anew"
            raise ReplayRefusedError(sandbox=sandbox.name, seen=seen, remedy="begin it --anew, or name another")
        began = {p: state.position for p, state in states.items()}
        about = {"projection": projection.id, "by": by or actor(), "cut": cut.as_json(), "selection": selection.as_json()}
        await journal(projection, sandbox, "begun", about, began, applied=0)
        work = _Work(service, projection, sandbox, selection, holder, fences)
        work.states = states
        work.choosing.reading.amendments = await take_rulings(service, projection, sandbox, fences.values())
        try:
            await work.go({p: max(began[p], starts[p]) for p in began}, cut.offsets, rate, told)
        except TruecopyError as fault:
            at = {p: state.position for p, state in work.states.items()}
            await journal(projection, sandbox, f"stopped: {fault}", about, at, applied=work.applied)
            raise
        await journal(projection, sandbox, "ended", about, cut.offsets, applied=work.applied)
    finally:
        await sandbox.leave(projection, holder, fences.values())
    return Replayed(
        projection=projection.id,
        sandbox=sandbox.name,
        positions={p: state.position for p, state in work.states.items()},
        began=began,
        applied=work.applied,
        count=sum(state.count for state in work.states.values()),
        parked=0,
        took_s=time.monotonic() - began_s,
    )


class Choosing:
    """Reads records for one projection, and chooses of the events those that are selected. `reading` holds the rulings."""

    def __init__(self, projection: Projection[Any], selection: Selection) -> None:
        self.reading = Reading(projection)
        self._keys, self._types = {key.encode() for key in selection.keys}, selection.types
        self._meets = where(selection.conditions) if selection.conditions else None
        self._names: dict[int, str] = {}

    def learn(self, schema_id: int, found: Registered) -> None:
        """Take in a registered schema."""
        self.reading.learn(schema_id, fingerprint=found.fingerprint, schema=found.schema)
        self._names[schema_id] = full_name(found.schema)

    def among(self, records: Sequence[Record]) -> Iterator[tuple[Arrival, str]]:
        """The selected events, each with the full name of its type, "" where that is not known."""
        for item in self.reading.items([one for one in records if not self._keys or one.key in self._keys]):
            if type(item) is not Arrival:
                continue
            name = self._names.get(int.from_bytes((item.record.value or b"")[1:FRAME_BYTES]), "")
            if self._types and not self._types & {name, name.rpartition(".")[2]}:
                continue
            if self._meets is not None and item.fault is None and not self._meets(cast(Any, item.event)):
                continue  # what can't be read may be meant, and ends a replay
            yield item, name


class _Work:
    """One replay of a selection under way."""

    def __init__(
        self, service: Service, projection: Projection[Any], sandbox: Replica, selection: Selection, holder: str, fences: Any
    ) -> None:
        self._service, self._projection, self._sandbox = service, projection, sandbox
        self._holder, self._fences = holder, dict(fences)
        self._schemas, self.choosing = service.schemas(projection), Choosing(projection, selection)
        self.states: dict[int, Any] = {}
        self.applied = 0

    async def go(self, at: dict[int, int], upto: Any, rate: int | None, told: Callable[[Progress], None]) -> None:
        """Apply what lies between these offsets."""
        began_s, first, read = time.monotonic(), sum(at.values()), 0
        total, renewed_s = sum(upto.values()), began_s
        reader = self._service.log.reader(self._service.topic(self._projection))
        size = min(self._service.settings.batch_records, max(1, rate or self._service.settings.batch_records))
        try:
            while left := {p: offset for p, offset in at.items() if offset < upto[p]}:
                records = await reader.read(left, records_max=size, wait_s=READ_WAIT_S)
                for record in records:
                    at[record.partition] = min(record.offset + 1, upto[record.partition])
                read += len(records)
                if time.monotonic() - renewed_s > ALONE_LEASE_S / 3:
                    renewed = await self._sandbox.renew(
                        self._projection, self._holder, self._fences.values(), lease_s=ALONE_LEASE_S
                    )
                    self._fences, renewed_s = dict(renewed), time.monotonic()
                await self._apply([one for one in records if one.offset < upto[one.partition]], at)
                await reached(Point.REPLAY_STEPPED, self.applied)
                took_s = max(time.monotonic() - began_s, 1e-9)
                done = sum(at.values())
                pace = (done - first) / took_s
                told(Progress(done=done, total=total, left_s=(total - done) / pace if pace > 0 else None))
                if rate is not None:
                    await asyncio.sleep(max(0.0, read / rate - took_s))
        finally:
            await reader.close()

    async def _apply(self, records: Sequence[Record], at: dict[int, int]) -> None:
        for schema_id in sorted(self.choosing.reading.unknown(records)):
            with suppress(UnknownSchemaError):
                self.choosing.learn(schema_id, await self._schemas.schema(schema_id))
        chosen = [arrival for arrival, _ in self.choosing.among(records)]
        known = await self._sandbox.load(self._projection, wanted(chosen))
        held: dict[int, Fence] = self._fences
        plans = selected_plan(self._projection, self.states, held, chosen, known, at)
        committed = await self._sandbox.apply(self._projection, plans)
        if lost := {plan.was.partition for plan in plans} - committed:
            seen = f"another replay took partitions {sorted(lost)} of it"
            raise ReplayRefusedError(sandbox=self._sandbox.name, seen=seen, remedy="wait for its end, or name another")
        self.states |= {plan.state.partition: plan.state for plan in plans}
        self.applied += sum(plan.applied for plan in plans)
