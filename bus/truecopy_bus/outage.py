"""What is away, from the first fault to the first success: said once at each end, and tried again with growing pauses.

What waiting alone can't mend is tried again too, because it may be mended at the other side: a certificate is renewed, a
user is made. But it is said again and again, so that nobody takes it for something that will pass. What is merely away is said
again where something else turns out to be the matter, which asks for another remedy: a database that dropped its connections,
and then says that it is read-only.
"""

import logging
import random
import time
from collections.abc import Mapping

from truecopy_bus.errors import UnavailableError
from truecopy_bus.limits import BACKOFF_FIRST_S, BACKOFF_LAST_S, REFUSED_REPEAT_S

__all__ = ["Outage"]


class Outage:
    """The outages of one loop, one after the other. `name` begins what is said, on `logger`; `about` goes with it as fields."""

    def __init__(self, logger: logging.Logger, name: str, *, about: Mapping[str, object] | None = None) -> None:
        self._logger, self._name, self._about = logger, name, dict(about or {})
        self._since, self._pause_s, self._repeat_at = 0.0, 0.0, 0.0
        self._said: set[str] = set()
        self.fault: Exception | None = None
        """What is away now, None if nothing is."""
        self.heard_at: float | None = None
        """When the loop last came round, well or not (`time.monotonic()`); None before the first time."""

    def strike(self, fault: Exception, *, longest_s: float = BACKOFF_LAST_S, quiet_s: float = 0.0) -> float:
        """Note a fault; say so if it is the first with its remedy, after `quiet_s` seconds. Returns the seconds to wait.

        A fault that waiting does not help is said at once, and again every REFUSED_REPEAT_S seconds. Pauses double up to
        `longest_s`, with jitter between half and all of it, so that many do not come back in step.
        """
        self.heard_at = now = time.monotonic()
        if self.fault is None:
            self._since, self._pause_s = now, BACKOFF_FIRST_S
        self.fault = fault
        about, remedy = {**self._about, "error": type(fault).__name__}, getattr(fault, "remedy", "")
        if isinstance(fault, UnavailableError) and not fault.waiting_helps:
            if now >= self._repeat_at:
                told = "%s: %s; waiting alone does not mend this; trying again all the same"
                self._logger.error(told, self._name, fault, extra=about)
                self._repeat_at = now + REFUSED_REPEAT_S
                self._said.add(remedy)
        elif remedy not in self._said and now - self._since >= quiet_s:
            self._logger.warning("%s: %s; trying again until it answers", self._name, fault, extra=about)
            self._said.add(remedy)
        pause_s = self._pause_s * random.uniform(0.5, 1.0)
        self._pause_s = min(2 * self._pause_s, longest_s)
        return pause_s

    def over(self) -> None:
        """Note a success; say so if the outage was said."""
        self.heard_at = now = time.monotonic()
        if self.fault is not None and self._said:
            self._logger.warning("%s: works again after %.1f s", self._name, now - self._since, extra=self._about)
        self.fault, self._repeat_at = None, 0.0
        self._said.clear()
