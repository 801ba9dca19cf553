"""Moments as an operator writes them: a time with its zone, or so long ago."""

import re
import time
from datetime import UTC, datetime

from truecopy_services.errors import UsageError

__all__ = ["ago", "as_datetime", "moment", "shown_moment"]

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)")


def ago(text: str) -> int | None:
    """Milliseconds of 90s, 15m, 2h or 1d; None for what is no duration."""
    found = _AGO.fullmatch(text)
    return round(float(found[1]) * _UNITS_MS[found[2]]) if found else None


def moment(text: str, *, now_ms: int | None = None) -> int:
    """Milliseconds since 1970 of `2026-05-01T12:00:00+02:00`, or of a time ago such as 90s, 15m, 2h, 1d.

    Raises UsageError for what is neither, for a time without its zone, and for one that is still to come.
    """
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    if (ago_ms := ago(text)) is not None:
        return now - ago_ms
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no time: write 2026-05-01T12:00:00+00:00, or a time ago such as 15m, 2h, 1d") from None
    if read.tzinfo is None:
        raise UsageError(f"{text!r} has no time zone: end it with Z or +00:00")
    at_ms = round(read.timestamp() * 1000)
    if at_ms > now:
        raise UsageError(f"{text!r} is still to come; it is {shown_moment(now)}")
    return at_ms


def as_datetime(at_ms: int) -> datetime:
    """The time, in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def shown_moment(at_ms: int) -> str:
    """The time as people read it, in UTC."""
    return as_datetime(at_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
