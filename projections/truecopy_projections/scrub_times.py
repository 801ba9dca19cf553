"""When each bucket of a projection's rows was last read from the disk, hashed again, and right.

A bucket that never was, or was found wrong since, has no time, and then nor has the whole: its age is unknown, and not zero.
"""

import struct
from collections.abc import Mapping
from typing import NamedTuple

from truecopy_projections.limits import BUCKETS

__all__ = ["NEVER", "ScrubTimes", "packed", "unpacked"]

NEVER = (0,) * BUCKETS
"""The times of a projection that was not scrubbed yet."""
_FORM = struct.Struct(f">{BUCKETS}q")


class ScrubTimes(NamedTuple):
    """By bucket, in milliseconds since 1970 by the clock of the replica's database, which says `now_ms`.

    0 is never, or found wrong since.
    """

    now_ms: int
    at_ms: tuple[int, ...]

    @property
    def never(self) -> int:
        """How many buckets have no time."""
        return self.at_ms.count(0)

    @property
    def oldest_ms(self) -> int | None:
        """When the bucket that was not looked at for the longest was; None while one has no time."""
        return min(self.at_ms) or None

    @property
    def oldest_age_s(self) -> float | None:
        """Seconds since then; None while a bucket has no time."""
        return None if self.oldest_ms is None else max(0.0, (self.now_ms - self.oldest_ms) / 1000)

    def oldest_first(self) -> list[int]:
        """All buckets, those before the others that have waited longer."""
        return sorted(range(BUCKETS), key=lambda bucket: (self.at_ms[bucket], bucket))


def packed(at_ms: tuple[int, ...], changes: Mapping[int, int]) -> bytes:
    """The times as they are stored, after these changes. None goes back, but to 0: a bucket that was found wrong."""
    found = list(at_ms)
    for bucket, time_ms in changes.items():
        found[bucket] = max(found[bucket], time_ms) if time_ms else 0
    return _FORM.pack(*found)


def unpacked(stored: bytes | None) -> tuple[int, ...]:
    """The times that were stored. What is none of ours says nothing of any bucket."""
    return _FORM.unpack(stored) if stored is not None and len(stored) == _FORM.size else NEVER
