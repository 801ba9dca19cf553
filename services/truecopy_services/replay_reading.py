"""Reading the log beside a replay: what one would take in, and the events behind what differs from the live replica."""

from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from truecopy_bus.record import Record
from truecopy_projections.comparing import Changed, RowsDiff, compare_rows
from truecopy_projections.cut import Cut, read_between
from truecopy_projections.limits import COMPARED_SAMPLES
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_services.operating.lines import Line, Lines
from truecopy_services.service import Service

__all__ = ["Difference", "Survey", "compare_with_live", "survey"]


@dataclass(slots=True, kw_only=True)
class Survey:
    """What lies between the beginning and a cut: events by type, marks and other controls, what can't be read."""

    cut: Cut
    records: int = 0
    controls: int = 0
    unreadable: int = 0
    types: Counter[str] = field(default_factory=Counter)
    first_ms: int | None = None
    last_ms: int | None = None

    @property
    def events(self) -> int:
        """All that has a type."""
        return self.types.total()

    def take(self, line: Line) -> None:
        """Count a record."""
        self.records += 1
        self.first_ms = line.at_ms if self.first_ms is None else min(self.first_ms, line.at_ms)
        self.last_ms = line.at_ms if self.last_ms is None else max(self.last_ms, line.at_ms)
        if line.control:
            self.controls += 1
        elif line.why:
            self.unreadable += 1
        else:
            self.types[line.type] += 1

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        named = {one: getattr(self, one) for one in ("records", "controls", "unreadable", "events", "first_ms", "last_ms")}
        return {"cut": self.cut.as_json(), **named, "types": dict(sorted(self.types.items()))}


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


async def survey(service: Service, projection: Projection[Any], cut: Cut) -> Survey:
    """Read from the beginning up to a cut, and count. Writes nothing. Raises LogUnavailableError."""
    await service.registry.refresh()
    found, lines = Survey(cut=cut), Lines(service.topic(projection), service.registry.state)
    bounds = (await service.log.describe(service.topic(projection))).bounds

    def look(record: Record) -> bool:
        found.take(lines.read(record))
        return True

    starts = {p: min(bounds[p][0], end) for p, end in cut.offsets.items()}
    await read_between(service.log, service.topic(projection), starts, cut.offsets, look)
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
