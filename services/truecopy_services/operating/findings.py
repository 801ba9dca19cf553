"""What a doctor says of what it saw: well, a warning, or failed, and then what to do. Every threshold is named here.

A warning works now and may not later, or concerns somebody else; failed does not work, or loses something.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from truecopy_projections.state import PartitionState
from truecopy_services.operating.topic_care import Act, Difference
from truecopy_services.status import EntityStatus

__all__ = [
    "Finding",
    "Level",
    "broker",
    "clock",
    "disk",
    "failed",
    "leases",
    "marks",
    "outbox",
    "partitions",
    "topics",
    "warning",
    "well",
]

DISK_LOW_BYTES, DISK_FULL_BYTES = 1024**3, 100 * 1024**2
"""Free bytes below which the disk of an embedded file is told as low, and as full: a log grows by 64 MiB at once."""
CLOCK_APART_MS = 1_000
"""Milliseconds between two clocks that are worth a word. Nothing depends on them but times that people read."""
OUTBOX_OLD_S = 60.0
"""Seconds that an event waits in an outbox before that is told: a relay takes milliseconds."""
_HISTORY = ("cleanup.policy", "retention.bytes", "retention.ms")
"""Settings that lose history when they are others."""
_KAFKA_3_6 = "log.message.timestamp.before.max.ms"
"""A setting of brokers that came with Kafka 3.6 (KIP-937)."""


class Level(Enum):
    """How it is. There is no fourth."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check and its outcome. `away` if it failed because something did not answer: then the rest is not known either."""

    check: str
    level: Level
    seen: str
    remedy: str = ""
    away: bool = False


def well(check: str, seen: str) -> Finding:
    """Nothing to do."""
    return Finding(check=check, level=Level.OK, seen=seen)


def warning(check: str, seen: str, remedy: str) -> Finding:
    """It works, but."""
    return Finding(check=check, level=Level.WARNING, seen=seen, remedy=remedy)


def failed(check: str, seen: str, remedy: str, *, away: bool = False) -> Finding:
    """It does not work."""
    return Finding(check=check, level=Level.FAILED, seen=seen, remedy=remedy, away=away)


def disk(check: str, free_bytes: int) -> Finding:
    """Free space of the disk that an embedded file is on."""
    seen = f"{free_bytes / 1024**3:.1f} GiB free"
    if free_bytes < DISK_FULL_BYTES:
        return failed(check, seen, "make room: writes are refused soon, and nothing is lost by that")
    if free_bytes < DISK_LOW_BYTES:
        return warning(check, seen, "make room, or move the file to a larger disk")
    return well(check, seen)


def clock(check: str, ahead_ms: int, within_ms: int) -> Finding:
    """Another's clock, `ahead_ms` before ours, known to `within_ms` either way. Order never depends on it."""
    seen = f"{abs(ahead_ms)} ms {'ahead of' if ahead_ms >= 0 else 'behind'} this machine's (to {within_ms} ms)"
    if abs(ahead_ms) - within_ms > CLOCK_APART_MS:
        return warning(check, seen, "set both clocks by NTP; order does not depend on them, the times that people read do")
    return well(check, seen)


def broker(node: int, settings: Mapping[str, str]) -> Finding:
    """A broker's version, as far as its settings give it away, and whether it makes topics that are asked about."""
    check = f"broker {node}"
    if _KAFKA_3_6 not in settings:
        return failed(check, "older than Kafka 3.6", "upgrade it: topics can't be made as they must be")
    makes = settings.get("auto.create.topics.enable") == "true"
    told = (
        "; makes topics that others ask about (auto.create.topics.enable), Truecopy asks so that it does not" if makes else ""
    )
    return well(check, f"Kafka 3.6 or later{told}")


def topics(names: Iterable[str], differences: Sequence[Difference]) -> list[Finding]:
    """One for each topic that is as needed, one for each difference of the others."""
    found = []
    for name in names:
        mine = [one for one in differences if one.topic == name]
        if not mine:
            found.append(well(f"topic {name}", "as needed"))
        for one in mine:
            seen = f"{one.what} is {one.seen}, expected {one.expected}"
            harmful = one.what in _HISTORY or (one.act is Act.REFUSE and one.what not in ("the topic", "the genesis"))
            said = failed if harmful else warning
            found.append(said(f"topic {name}", seen, one.remedy))
    return found


def marks(topic: str, newest_ms: int | None, now_ms: int) -> Finding:
    """The newest mark of a topic, by its owner's clock."""
    check = f"marks of {topic}"
    if newest_ms is None:
        return warning(check, "none among its last records", "run the owner's relay: replicas are proven against marks")
    if newest_ms - now_ms > CLOCK_APART_MS:
        seen = f"the newest is {(newest_ms - now_ms) / 1000:.1f} s in the future"
        return warning(check, seen, "set the clocks of this machine and of the relay's by NTP")
    return well(check, f"the newest is {max(0, now_ms - newest_ms) / 1000:.1f} s old")


def outbox(entity: EntityStatus) -> list[Finding]:
    """What waits in the owner's store, and whether anybody moves it."""
    check = f"outbox of {entity.entity}"
    if entity.halted:
        return [failed(check, f"its relay is halted: {entity.halted}", "do what the relay says, it goes on by itself")]
    seen = f"{entity.pending} events wait" + (f", the oldest for {entity.oldest_s:.1f} s" if entity.pending else "")
    idle = sorted(part for part, holder in entity.holders.items() if not holder)
    if entity.pending and (idle or entity.oldest_s > OUTBOX_OLD_S):
        return [warning(check, seen, "run the owner's relay (`truecopy run`), and look at its messages if it runs")]
    return [well(check, seen), leases(f"relays of {entity.entity}", entity.holders)]


def leases(check: str, holders: Mapping[int, str | None]) -> Finding:
    """Who works on the partitions."""
    idle = sorted(part for part, holder in holders.items() if not holder)
    if idle:
        seen = f"nobody holds partition {', '.join(map(str, idle))} of {len(holders)}"
        return warning(check, seen, "start `truecopy run`; after a crash a lease runs out by itself")
    return well(check, f"{len(holders)} partitions held by {len(set(holders.values()))}")


def partitions(projection: str, states: Mapping[int, PartitionState]) -> list[Finding]:
    """Halted partitions and parked keys of a replica."""
    check = f"partitions of {projection}"
    if not states:
        return [warning(check, "not in the replica", "run its worker: `truecopy run`")]
    halted = {part: state.halted for part, state in sorted(states.items()) if state.halted}
    found = [failed(check, f"partition {part} is halted: {why}", "do what it says") for part, why in halted.items()]
    if not found:
        found.append(well(check, f"{len(states)} flow"))
    parked = sum(state.parked for state in states.values())
    if parked:
        remedy = "`truecopy check` names them with their reasons; mend the reducer or the data and restart the worker"
        found.append(warning(f"parked keys of {projection}", f"{parked}", remedy))
    else:
        found.append(well(f"parked keys of {projection}", "none"))
    return found
