"""How many records a worker asks for: as many as it can apply within its share of the lease."""

from truecopy_projections.limits import BATCH_GROWTH_MAX, BATCH_LEASE_SHARE, BATCH_RECORDS_FIRST

__all__ = ["BatchSize"]


class BatchSize:
    """`records` is what the next batch asks for, at most `records_max`. `lease_s` is in seconds."""

    def __init__(self, *, records_max: int, lease_s: float) -> None:
        self.records = min(BATCH_RECORDS_FIRST, records_max)
        self._records_max, self._share_s = records_max, lease_s * BATCH_LEASE_SHARE

    def adapt(self, read: int, took_s: float) -> None:
        """Ask for more after a full batch that took less than its share of the lease, and for less after one that took more."""
        if read >= self.records or took_s > self._share_s:
            wanted = int(self.records * min(BATCH_GROWTH_MAX, self._share_s / took_s))
            self.records = min(max(wanted, BATCH_RECORDS_FIRST), self._records_max)
