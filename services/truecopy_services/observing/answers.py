"""Whether a process lives, and whether it is ready: judged from when its loops came round and from the newest figures.

A loop that waits for a server lives: it comes round with every try. One that does not come round is stuck in something, and
starting it anew is the remedy. Ready is more: what it needs answered lately, what it holds flows, and none of it is too old.
What is not known makes a process neither dead nor ready.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from truecopy_bus.errors import TopicLostError, TopicMissingError
from truecopy_services.observing.gathering import Figures

__all__ = ["FIGURES_OLD_S", "Answer", "LoopSeen", "alive", "known", "ready"]

FIGURES_OLD_S = 20.0
"""Seconds after which figures say nothing of now: longer than a round takes in which nobody answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSeen:
    """A loop from outside: whether it ever came round, seconds since it last did (or since it began), what it waits for."""

    begun: bool
    idle_s: float
    fault: Exception | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Yes, or the reasons why not."""

    reasons: tuple[str, ...]
    facts: Mapping[str, Any]

    @property
    def good(self) -> bool:
        return not self.reasons


def known(figures: Figures | None, now_s: float) -> Figures | None:
    """The figures, unless they are too old to be shown as what is."""
    return figures if figures is not None and now_s - figures.gathered_s <= FIGURES_OLD_S else None


def alive(loops: Mapping[str, LoopSeen], *, stuck_s: float) -> Answer:
    """Whether every loop came round within `stuck_s` seconds."""
    reasons = [
        f"{name} did not come round for {seen.idle_s:.0f} s, expected within {stuck_s:g} s (TRUECOPY_STUCK_S): it is stuck"
        for name, seen in loops.items()
        if seen.idle_s > stuck_s
    ]
    facts = {
        name: {"idle_s": round(seen.idle_s, 3), "waits_for": None if seen.fault is None else str(seen.fault)}
        for name, seen in loops.items()
    }
    return Answer(reasons=tuple(reasons), facts={"loops": facts})


def ready(
    loops: Mapping[str, LoopSeen],
    figures: Figures | None,
    needed: Collection[str],
    *,
    now_s: float,
    stuck_s: float,
    lag_max_s: float | None,
    stopping: bool,
) -> Answer:
    """Whether it does its work now. `needed` are those of log, store and replica that it can't do without."""
    living = alive(loops, stuck_s=stuck_s)
    reasons = [*(["it is stopping"] if stopping else []), *living.reasons]
    for name, seen in loops.items():
        if not seen.begun:
            reasons.append(f"{name} has not come round yet")
        elif seen.fault is not None and not _is_to_come(seen.fault):
            reasons.append(f"{name} waits: {seen.fault}")
    current = known(figures, now_s)
    if current is None or current.status is None:
        told = current.fault if current else f"nothing was learned in the last {FIGURES_OLD_S:g} s"
        return Answer(reasons=(*reasons, f"figures: {told}"), facts=living.facts)
    answered = current.status.answered
    reasons += [f"{part} did not answer" for part in needed if not answered.get(part)]
    reasons += [f"{name}[{p}] stands still: {why}" for name, held in current.held.items() for p, why in held.items() if why]
    if current.relay is not None:
        halted = ((name, entity.halted) for name, entity in current.relay.entities.items())
        reasons += [f"relay of {name} is halted: {why}" for name, why in halted if why]
    if lag_max_s is not None:
        reasons += _too_old(current, lag_max_s)
    held = {name: sorted(found) for name, found in current.held.items()}
    facts = {**living.facts, "answered": dict(answered), "held": held, "waiting": _waiting(current)}
    return Answer(reasons=tuple(reasons), facts=facts)


def _waiting(figures: Figures) -> dict[str, Any]:
    """What lies in quarantine. It makes nobody unready before a partition stands still: to start anew would mend nothing."""
    return {
        projection.id: {
            "records": sum(one.records for one in projection.waiting),
            "oldest_s": round(max(one.oldest_s for one in projection.waiting), 3),
            "share": projection.waiting_share,
        }
        for projection in (figures.status.projections if figures.status else ())
        if projection.waiting
    }


def _is_to_come(fault: Exception) -> bool:
    """A topic that its owner has not made yet: there is nothing to be behind of."""
    return isinstance(fault, TopicMissingError) and not isinstance(fault, TopicLostError)


def _too_old(figures: Figures, lag_max_s: float) -> list[str]:
    reasons = []
    for projection in figures.status.projections if figures.status else ():
        for one in projection.partitions:
            if one.partition in figures.held.get(projection.id, ()):
                age_s, name = one.oldest_unapplied_s, f"{projection.id}[{one.partition}]"
                if age_s is None:
                    reasons.append(f"{name}: the age of its oldest unapplied event is unknown")
                elif age_s > lag_max_s:
                    limit = f"{lag_max_s:g} s (TRUECOPY_READY_LAG_S)"
                    reasons.append(f"{name}: its oldest unapplied event is {age_s:.1f} s old, expected at most {limit}")
    return reasons
