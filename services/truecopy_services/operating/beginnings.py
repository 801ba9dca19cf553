"""Where a look into a log begins: at either end, at an offset, or some time ago."""

from collections.abc import Mapping
from dataclasses import dataclass

from truecopy_bus.record import Record
from truecopy_services.errors import UsageError
from truecopy_services.operating.moments import ago

__all__ = ["Beginning", "Since", "beginning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """At `offset` of each partition, or `ago_ms` before now, or else at the end (`at_end`) or the first record."""

    at_end: bool = False
    offset: int | None = None
    ago_ms: int | None = None

    def positions(self, bounds: Mapping[int, tuple[int, int]]) -> dict[int, int]:
        """Partition -> first offset to read, within `bounds`. For a time: all that is stored, see Since."""
        if self.at_end:
            return {partition: end for partition, (_, end) in bounds.items()}
        return {partition: min(max(start, self.offset or 0), end) for partition, (start, end) in bounds.items()}


def beginning(text: str) -> Beginning:
    """From `beginning`, `end`, an offset, or a duration such as 90s, 15m, 2h, 1d. Raises UsageError."""
    if text in ("beginning", "end"):
        return Beginning(at_end=text == "end")
    if text.isascii() and text.isdecimal():
        return Beginning(offset=int(text))
    if (ago_ms := ago(text)) is not None:
        return Beginning(ago_ms=ago_ms)
    raise UsageError(f"--from {text!r}: use beginning, end, an offset, or a time ago such as 90s, 15m, 2h or 1d")


class Since:
    """Leaves out what comes before the first record of a time, for a log that can't look times up."""

    def __init__(self, at_ms: int) -> None:
        self._at_ms = at_ms
        self._met: set[int] = set()

    def __call__(self, record: Record) -> bool:
        """Whether the record is of the time or later, or comes after such a one in its partition."""
        if record.timestamp_ms >= self._at_ms:
            self._met.add(record.partition)
        return record.partition in self._met
