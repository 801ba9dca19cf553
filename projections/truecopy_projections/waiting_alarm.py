"""The alarm of a worker: said once a minute while so much waits that its partition will soon stand still."""

import logging
import time
from collections.abc import Callable, Iterable

from truecopy_projections.limits import KEYS_PARKED_MAX, WAITING_BYTES_MAX, WAITING_REPEAT_S, WAITING_SHARE_MAX
from truecopy_projections.state import PartitionState

__all__ = ["WaitingAlarm", "share_of"]

_log = logging.getLogger("truecopy.worker")


def share_of(parked: int, waiting_bytes: int) -> float:
    """How much of what may wait in a partition does, of keys or of bytes, whichever is nearer to its limit; 1 is all."""
    return max(parked / KEYS_PARKED_MAX, waiting_bytes / WAITING_BYTES_MAX)


class WaitingAlarm:
    """Looks at the states of a projection's partitions. `clock` tells seconds."""

    def __init__(self, projection: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._projection, self._clock = projection, clock
        self._quiet_until: dict[int, float] = {}

    def look(self, states: Iterable[PartitionState]) -> None:
        """Say which of these partitions are near their limits, each once in WAITING_REPEAT_S seconds."""
        for state in states:
            share = share_of(state.parked, state.waiting_bytes)
            now = self._clock()
            if share < WAITING_SHARE_MAX or now < self._quiet_until.get(state.partition, now):
                continue
            self._quiet_until[state.partition] = now + WAITING_REPEAT_S
            _log.warning(
                "%s[%d]: %d keys and %d bytes wait in quarantine, %.0f %% of what may; at 100 %% the partition stands still; "
                "see `truecopy quarantine list`",
                *(self._projection, state.partition, state.parked, state.waiting_bytes, 100 * share),
                extra={"projection": self._projection, "partition": state.partition, "parked": state.parked},
            )
