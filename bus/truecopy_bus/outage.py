"""What is away, from the first fault to the first success: said once at each end, and tried again with growing pauses.

It is said again where something else turns out to be the matter, which asks for another remedy: a database that dropped its
connections, and then says that it is read-only.
"""

import logging
import random
import time

from truecopy_bus.limits import BACKOFF_FIRST_S, BACKOFF_LAST_S

__all__ = ["Outage"]


class Outage:
    """The outages of one loop, one after the other. `name` begins what is said, on `logger`."""

    def __init__(self, logger: logging.Logger, name: str) -> None:
        self._logger, self._name = logger, name
        self._since, self._pause_s = 0.0, BACKOFF_FIRST_S
        self._said: set[str] = set()
        self.fault: Exception | None = None
        """What is away now, None if nothing is."""

    def strike(self, fault: Exception, *, longest_s: float = BACKOFF_LAST_S, quiet_s: float = 0.0) -> float:
        """Note a fault; say so if it is the first with its remedy, after `quiet_s` seconds. Returns the seconds to wait.

        Pauses double up to `longest_s`, with jitter between half and all of it, so that many do not come back in step.
        """
        now = time.monotonic()
        if self.fault is None:
            self._since, self._pause_s = now, BACKOFF_FIRST_S
        self.fault = fault
        remedy = getattr(fault, "remedy", "")
        if remedy not in self._said and now - self._since >= quiet_s:
            self._logger.warning("%s: %s; trying again until it answers", self._name, fault)
            self._said.add(remedy)
        pause_s = self._pause_s * random.uniform(0.5, 1.0)
        self._pause_s = min(2 * self._pause_s, longest_s)
        return pause_s

    def over(self) -> None:
        """Note a success; say so if the outage was said."""
        if self.fault is not None and self._said:
            self._logger.warning("%s: works again after %.1f s", self._name, time.monotonic() - self._since)
        self.fault = None
        self._said.clear()
