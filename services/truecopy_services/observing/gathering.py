"""The figures of a process, gathered by one task: however often somebody asks, log, store and replica are asked as seldom."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from truecopy_bus.outage import Outage
from truecopy_bus.relay_status import RelayStatus
from truecopy_schemas.errors import TruecopyError
from truecopy_services.opening import shown
from truecopy_services.service import Service
from truecopy_services.status import ServiceStatus, status
from truecopy_services.unapplied import Unapplied
from truecopy_services.working import Loops

__all__ = ["GATHER_S", "Figures", "Gatherer"]

GATHER_S = 2.0
"""Seconds between rounds: a few statements and one look at the topic, which the workers themselves ask for every second."""

ASK_S = 3.0
"""Seconds for each of log, store and replica to answer in a round: who takes longer is told as not answering."""

_log = logging.getLogger("truecopy.observing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One round. `gathered_s` is `time.monotonic()`; `status` is None when it failed, and `fault` says why.

    `held` has the partitions that this process holds, by projection, each with why it stands still ("" where it flows).
    """

    gathered_s: float
    status: ServiceStatus | None
    fault: str = ""
    held: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    applied: Mapping[str, int] = field(default_factory=dict)
    relay: RelayStatus | None = None


class Gatherer:
    """The task, and what it found last. `latest` may be read by other threads: it is replaced, never changed."""

    def __init__(self, service: Service, loops: Loops, *, relays: bool) -> None:
        self.latest: Figures | None = None
        self.outage = Outage(_log, "figures")
        self._service, self._loops, self._relays = service, loops, relays
        self._unapplied = Unapplied(service.log)
        self._opened = False

    async def run(self) -> None:
        """Gather until cancelled. Never raises: what is wrong is the workers' to raise."""
        while True:
            try:
                self.latest = await self.gather()
                self.outage.over()
            except Exception as fault:  # whatever it is, this task must not end a process that works
                # The text of what is no error of ours may quote an address with its password.
                told = fault if isinstance(fault, TruecopyError) else RuntimeError(f"unexpected {type(fault).__name__}")
                self.latest = Figures(gathered_s=time.monotonic(), status=None, fault=str(told))
                self.outage.strike(told)
            await asyncio.sleep(GATHER_S)

    async def gather(self) -> Figures:
        """One round, bounded by ASK_S for each of log, store and replica, and by LOOK_S for each topic that is behind."""
        name = shown(self._service.settings.log_of())
        found = await status(
            self._service,
            log_name=name,
            unapplied=self._unapplied,
            owner=self._relays,
            opens=not self._opened,
            timeout_s=min(ASK_S, self._service.settings.timeout_s),
        )
        self._opened = self._opened or found.entities is not None
        workers, relay = self._loops.workers, self._loops.relay
        return Figures(
            gathered_s=time.monotonic(),
            status=found,
            held={name: worker.held() for name, worker in workers.items()},
            applied={name: worker.applied for name, worker in workers.items()},
            relay=relay.status() if relay is not None else None,
        )
