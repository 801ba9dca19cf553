"""The metrics in Prometheus' format. A figure that is not known has no sample: it is never shown as zero.

Figures of the replica are the same in whichever process is asked; what a process itself did has no partition, and `held` says
which partitions are its own. Names and labels are an interface: dashboards and alerts are built on them.
"""

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from truecopy_projections.verdicts import Verdict
from truecopy_services.checking import Checked
from truecopy_services.observing.answers import LoopSeen, known
from truecopy_services.observing.gathering import Figures
from truecopy_services.scrubbing import Scrubbed
from truecopy_services.status import EntityStatus, PartitionStatus, ProjectionStatus, WaitingStatus

__all__ = ["ProcessMetrics"]


class _Told(NamedTuple):
    family: type[GaugeMetricFamily] | type[CounterMetricFamily]
    name: str
    help: str
    value: Callable[[PartitionStatus], float | None]


def _seconds(at_ms: int | None) -> float | None:
    return None if at_ms is None else at_ms / 1000


_GAUGE, _COUNTER = GaugeMetricFamily, CounterMetricFamily
_PARTITION = (
    _Told(_GAUGE, "lag_records", "Records from the position to the log's end, marks among them.", lambda o: o.lag),
    _Told(
        _GAUGE,
        "oldest_unapplied_seconds",
        "Age of the oldest event that the replica has not reached; 0 without one.",
        lambda o: o.oldest_unapplied_s,
    ),
    _Told(_COUNTER, "delivered_events", "Distinct events delivered since the beginning.", lambda o: o.count),
    _Told(_COUNTER, "duplicate_events", "Events delivered again and not applied again.", lambda o: o.duplicates),
    _Told(_COUNTER, "foreign_records", "Records that are no events, in quarantine.", lambda o: o.foreign),
    _Told(_GAUGE, "parked_keys", "Keys whose next event can't be applied.", lambda o: o.parked),
    _Told(_GAUGE, "waiting_bytes", "Bytes of the records in quarantine.", lambda o: o.waiting_bytes),
    _Told(_GAUGE, "halted", "1 if the partition stands still.", lambda o: None if o.halted is None else float(bool(o.halted))),
    _Told(_GAUGE, "verified_through", "Events of the last mark that was judged EQUAL.", lambda o: o.verified_through),
    _Told(_GAUGE, "verified_offset", "Offset of that mark.", lambda o: o.verified_offset),
    _Told(_GAUGE, "verified_timestamp_seconds", "Its time, by the owner's clock.", lambda o: _seconds(o.verified_at_ms)),
    _Told(_GAUGE, "verified_age_seconds", "Seconds since it.", lambda o: o.verified_s),
    _Told(_GAUGE, "certified_through", "Events of the newest certificate.", lambda o: o.certified_through),
    _Told(_GAUGE, "certified_age_seconds", "Seconds since it was issued.", lambda o: o.certified_s),
)
_ROWS: tuple[tuple[str, str, Callable[[ProjectionStatus], float | None]], ...] = (
    (
        "oldest_scrub_age_seconds",
        "Seconds since the bucket of rows that waited longest was hashed again and right; none while one never was.",
        lambda o: o.oldest_scrub_age_s,
    ),
    ("unscrubbed_buckets", "Buckets that never were, or were found wrong since.", lambda o: o.unscrubbed_buckets),
    ("quarantine_share", "How much of what may wait does, where it is most; 1 stops a partition.", lambda o: o.waiting_share),
    ("amendments", "Rulings by which events are skipped or have another effect.", lambda o: o.amendments),
)
_WAITING: tuple[tuple[str, str, Callable[[WaitingStatus], float]], ...] = (
    ("quarantine_records", "Records that wait, by reason.", lambda o: o.records),
    ("quarantine_keys", "Keys of which records wait for this reason.", lambda o: o.keys),
    ("quarantine_bytes", "Bytes of them.", lambda o: o.bytes),
    ("quarantine_oldest_seconds", "Age of the oldest of them, by the owner's clock.", lambda o: o.oldest_s),
)
_OUTBOX: tuple[tuple[str, str, Callable[[EntityStatus], float]], ...] = (
    ("outbox_pending_events", "Committed events that are not on the log yet.", lambda o: o.pending),
    ("outbox_oldest_seconds", "Age of the oldest of them; 0 without one.", lambda o: o.oldest_s),
    ("relay_halted", "1 if relays put nothing into the entity's topic.", lambda o: float(o.halted is not None)),
)


class ProcessMetrics(Collector):
    """Collects from what these functions return at that moment; each returns at once."""

    def __init__(
        self,
        latest: Callable[[], Figures | None],
        loops: Callable[[], Mapping[str, LoopSeen]],
        checks: Mapping[str, Checked],
        scrubs: Mapping[str, Scrubbed],
    ) -> None:
        self._latest, self._loops, self._checks, self._scrubs = latest, loops, checks, scrubs

    def collect(self) -> Iterator[Metric]:
        """All families. What is older than FIGURES_OLD_S is left out."""
        told = {"version": version("truecopy"), "python": platform.python_version()}
        yield InfoMetricFamily("truecopy_build", "What runs here.", value=told)
        now_s, figures = time.monotonic(), self._latest()
        turns = GaugeMetricFamily("truecopy_loop_idle_seconds", "Seconds since the loop came round.", labels=["loop"])
        waits = GaugeMetricFamily("truecopy_loop_waits", "1 while the loop waits for what is away.", labels=["loop"])
        for name, seen in self._loops().items():
            turns.add_metric([name], seen.idle_s)
            if seen.begun:
                waits.add_metric([name], float(seen.fault is not None))
        yield from (turns, waits)
        if figures is not None:
            age_s = now_s - figures.gathered_s
            yield GaugeMetricFamily("truecopy_figures_age_seconds", "Age of the figures below.", value=age_s)
        if (current := known(figures, now_s)) is not None:
            yield from _of_process(current)
            yield from _of_status(current)
        yield from _of_checks(self._checks)
        yield from _of_scrubs(self._scrubs)


def _of_status(figures: Figures) -> Iterator[Metric]:
    if (status := figures.status) is None:
        return
    up = GaugeMetricFamily("truecopy_up", "1 if it answered in the last round.", labels=["dependency"])
    for part, answered in status.answered.items():
        up.add_metric([part], float(answered))
    yield up
    for told in _PARTITION:
        family = told.family(f"truecopy_{told.name}", told.help, labels=["projection", "partition"])
        for projection in status.projections:
            for one in projection.partitions:
                if (value := told.value(one)) is not None:
                    family.add_metric([projection.id, str(one.partition)], value)
        yield family
    for name, help_, of_rows in _ROWS:
        family = GaugeMetricFamily(f"truecopy_{name}", help_, labels=["projection"])
        for projection in status.projections:
            if (value := of_rows(projection)) is not None:
                family.add_metric([projection.id], value)
        yield family
    for name, help_, of_waiting in _WAITING:
        family = GaugeMetricFamily(f"truecopy_{name}", help_, labels=["projection", "partition", "reason"])
        for projection in status.projections:
            for waits in projection.waiting:
                family.add_metric([projection.id, str(waits.partition), waits.reason], of_waiting(waits))
        yield family
    for name, help_, value_of in _OUTBOX:
        family = GaugeMetricFamily(f"truecopy_{name}", help_, labels=["entity"])
        for entity in status.entities or ():
            family.add_metric([entity.entity], value_of(entity))
        yield family


def _of_process(figures: Figures) -> Iterator[Metric]:
    applied = CounterMetricFamily("truecopy_applied_events", "Events applied by this process.", labels=["projection"])
    for name, count in figures.applied.items():
        applied.add_metric([name], count)
    held = GaugeMetricFamily("truecopy_held", "1 for each partition held here.", labels=["projection", "partition"])
    for name, partitions in figures.held.items():
        for p in partitions:
            held.add_metric([name, str(p)], 1)
    yield from (applied, held)
    if figures.relay is not None:
        sent = figures.relay.sent
        yield CounterMetricFamily("truecopy_relay_sent_events", "Events put on the log by this process.", value=sent)
        relayed = GaugeMetricFamily("truecopy_relay_held", "Partitions that this relay holds.", labels=["entity"])
        for name, entity in figures.relay.entities.items():
            relayed.add_metric([name], len(entity.held))
        yield relayed


def _of_checks(checks: Mapping[str, Checked]) -> Iterator[Metric]:
    labels = ["projection", "verdict"]
    verdicts = GaugeMetricFamily("truecopy_check_verdict", "1 for the verdict of the last round.", labels=labels)
    at = GaugeMetricFamily("truecopy_check_timestamp_seconds", "When a check last ended.", labels=["projection"])
    rounds = CounterMetricFamily("truecopy_check_rounds", "Rounds by verdict, or UNREACHABLE.", labels=labels)
    for name, checked in checks.items():
        if checked.verdict is not None:
            for verdict in Verdict:
                verdicts.add_metric([name, verdict.name], float(verdict is checked.verdict))
        if checked.at_s is not None:
            at.add_metric([name], checked.at_s)
        for told, count in tuple(checked.rounds.items()):
            rounds.add_metric([name, told], count)
    yield from (verdicts, at, rounds)


def _of_scrubs(scrubs: Mapping[str, Scrubbed]) -> Iterator[Metric]:
    labels = ["projection"]
    rows = CounterMetricFamily("truecopy_scrubbed_rows", "Rows hashed again by this process.", labels=labels)
    size = CounterMetricFamily("truecopy_scrubbed_bytes", "Bytes of them, in canonical form.", labels=labels)
    bad = GaugeMetricFamily("truecopy_bad_buckets", "Buckets that this process last found wrong.", labels=labels)
    for name, scrubbed in scrubs.items():
        rows.add_metric([name], scrubbed.rows)
        size.add_metric([name], scrubbed.bytes)
        if scrubbed.buckets:
            bad.add_metric([name], len(scrubbed.bad.keys() | scrubbed.corrupt.keys()))
    yield from (rows, size, bad)
