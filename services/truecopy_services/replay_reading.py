"""Reading the log beside a replay: what one would take in, and the events behind what differs from the live replica."""

import time
from collections import Counter, deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from truecopy_bus.record import Record
from truecopy_projections.comparing import Changed, RowsDiff, compare_rows
from truecopy_projections.cut import Cut, read_between
from truecopy_projections.limits import COMPARED_SAMPLES
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_schemas.errors import UnknownSchemaError
from truecopy_services.operating.lines import Line, Lines
from truecopy_services.selecting import Choosing, Selection, starts_of
from truecopy_services.service import Service

__all__ = ["KEYS_TOLD_MAX", "Difference", "Survey", "compare_with_live", "survey"]

KEYS_TOLD_MAX = 1_000_000
"""Keys that a survey tells apart, some 60 bytes each; of more it says that there are more."""


@dataclass(slots=True, kw_only=True)
class Survey:
    """What a replay would read up to a cut: events by type, marks and other controls, what can't be read.

    Of what it would apply: `selected` by type, `keys` (None: more than KEYS_TOLD_MAX), times, and by partition the offsets of
    the first and the last. `took_s` is how long reading alone took.
    """

    cut: Cut
    records: int = 0
    controls: int = 0
    unreadable: int = 0
    types: Counter[str] = field(default_factory=Counter)
    first_ms: int | None = None
    last_ms: int | None = None
    selected: Counter[str] = field(default_factory=Counter)
    keys: int | None = 0
    offsets: dict[int, tuple[int, int]] = field(default_factory=dict)
    took_s: float = 0.0

    @property
    def events(self) -> int:
        """All that has a type."""
        return self.types.total()

    def take(self, line: Line) -> None:
        """Count a record."""
        self.records += 1
        if line.control:
            self.controls += 1
        elif line.why:
            self.unreadable += 1
        else:
            self.types[line.type] += 1

    def choose(self, record: Record, name: str) -> None:
        """Count an event that would be applied."""
        self.selected[name] += 1
        at_ms, p = record.timestamp_ms, record.partition
        self.first_ms = at_ms if self.first_ms is None else min(self.first_ms, at_ms)
        self.last_ms = at_ms if self.last_ms is None else max(self.last_ms, at_ms)
        self.offsets[p] = self.offsets.get(p, (record.offset, 0))[0], record.offset

    def least_s(self, rate: int | None) -> float:
        """Seconds that a replay takes at least, at this many records a second."""
        return max(self.took_s, self.records / rate if rate else 0.0)

    def as_json(self, rate: int | None = None) -> dict[str, Any]:
        """Plain values."""
        names = ("records", "controls", "unreadable", "events", "first_ms", "last_ms", "keys")
        named = {one: getattr(self, one) for one in names}
        counts = {name: dict(sorted(of.items())) for name, of in (("types", self.types), ("selected", self.selected))}
        offsets = {str(p): list(ends) for p, ends in sorted(self.offsets.items())}
        return {"cut": self.cut.as_json(), **named, **counts, "offsets": offsets, "least_s": round(self.least_s(rate), 3)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How a sandbox differs from the live replica, at which offsets each was read, and events by key behind the samples."""

    rows: RowsDiff
    live: Mapping[int, int]
    sandbox: Mapping[int, int]
    causes: Mapping[str, Collection[Line]]

    @property
    def total(self) -> int:
        """0 if nothing differs."""
        return self.rows.names.total()

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        samples = [self._plain(name, one) for name, some in sorted(self.rows.samples.items()) for one in some]
        return {
            "compared": self.rows.compared,
            "differs": dict(sorted(self.rows.names.items())),
            "ahead": self.rows.ahead,
            "live": {str(p): at for p, at in self.live.items()},
            "sandbox": {str(p): at for p, at in self.sandbox.items()},
            "samples": samples,
        }

    def _plain(self, name: str, one: Changed) -> dict[str, Any]:
        told = {"kind": name, **asdict(one), "versions": {"live": one.versions[0], "sandbox": one.versions[1]}}
        shown = ("partition", "offset", "at_ms", "type", "version")
        told["events"] = [{part: getattr(line, part) for part in shown} for line in self.causes.get(one.key, ())]
        return told


async def survey(service: Service, projection: Projection[Any], cut: Cut, selection: Selection | None = None) -> Survey:
    """Read what a replay up to a cut would, and count. Writes nothing. Raises CutError, UsageError, LogUnavailableError."""
    selection, began_s, keys = selection or Selection(), time.monotonic(), set[bytes]()
    topic, schemas, foreign = service.topic(projection), service.registry.state, projection.foreign is not None
    await service.registry.refresh()
    found, lines, choosing = Survey(cut=cut), Lines(topic, schemas), Choosing(projection, selection)
    bounds = (await service.log.describe(topic)).bounds

    def look(record: Record) -> bool:
        found.take(line := lines.read(record))
        for schema_id in choosing.reading.unknown([record]):
            with suppress(UnknownSchemaError):
                choosing.learn(schema_id, schemas.by_id(schema_id))
        named = [name for _, name in choosing.among([record])] if not foreign else [line.type] * (not line.control)
        for name in named:
            found.choose(record, name)
            if len(keys) <= KEYS_TOLD_MAX:
                keys.add(record.key or b"")
        return True

    starts = await starts_of(service, projection, selection, cut)
    starts = {p: min(max(bounds[p][0], starts[p]), end) for p, end in cut.offsets.items()}
    await read_between(service.log, topic, starts, cut.offsets, look)
    found.keys, found.took_s = len(keys) if len(keys) <= KEYS_TOLD_MAX else None, time.monotonic() - began_s
    return found


async def compare_with_live(
    service: Service, projection: Projection[Any], sandbox: Replica, *, samples_max: int = COMPARED_SAMPLES
) -> Difference:
    """What the sandbox has added, changed or removed against the live replica: each read in one snapshot, neither written.

    A sample's events are those between the two versions of its key, or, where these are one, the last up to it; of each key
    at most `samples_max`. Raises UnknownProjectionError, LogUnavailableError, and what is away.
    """
    async with service.replica_adapter.snapshot() as live, sandbox.snapshot() as other:
        rows = await compare_rows(live, projection, other, projection, samples_max=samples_max)
        positions = [{p: one.position for p, one in (await each.states(projection.id)).items()} for each in (live, other)]
    ranges = {one.key: one.versions for some in rows.samples.values() for one in some}
    causes = await _causes(service, projection, ranges, positions, samples_max)
    return Difference(rows=rows, live=positions[0], sandbox=positions[1], causes=causes)


async def _causes(
    service: Service,
    projection: Projection[Any],
    ranges: Mapping[str, tuple[int, int]],
    positions: Collection[Mapping[int, int]],
    events_max: int,
) -> dict[str, deque[Line]]:
    found: dict[str, deque[Line]] = {key: deque(maxlen=events_max) for key in ranges}
    if not ranges:
        return found
    await service.registry.refresh()
    topic = service.topic(projection)
    lines, keys = Lines(topic, service.registry.state), {key.encode() for key in ranges}

    def look(record: Record) -> bool:
        if record.key in keys:
            line = lines.read(record)
            low, high = sorted(ranges[str(line.key)])
            if line.version is None or (line.version <= high and (low == high or line.version > low)):
                found[str(line.key)].append(line)
        return True

    bounds = (await service.log.describe(topic)).bounds
    ends = {p: min(end, max(one.get(p, 0) for one in positions)) for p, (_, end) in bounds.items()}
    await read_between(service.log, topic, {p: start for p, (start, _) in bounds.items()}, ends, look)
    return found
