"""Cuts of a history as an operator writes them: `end`, `offset:0=120,1=98`, `time:15m`, `mark:latest`, `mark:0=17`."""

from truecopy_projections.cut import Asked, AtEnd, AtMark, AtOffset, AtTime
from truecopy_services.errors import UsageError
from truecopy_services.operating.moments import moment

__all__ = ["CUT_FORMS", "cut_asked", "version_asked"]

CUT_FORMS = "end, offset:120 or offset:0=120,1=98, time:WHEN, mark:latest, mark:WHEN or mark:0=17,1=16"
"""For help texts. WHEN is a time with its zone, or so long ago."""


def cut_asked(text: str, *, now_ms: int | None = None) -> Asked:
    """The cut that a text asks for. Raises UsageError for what is none, and for a time that is still to come."""
    kind, _, said = text.partition(":")
    if text == "end":
        return AtEnd()
    if kind == "offset" and said:
        return AtOffset(int(said) if _is_number(said) else _by_partition(text, said))
    if kind == "time" and said:
        return AtTime(moment(said, now_ms=now_ms))
    if kind == "mark" and said:
        if said == "latest":
            return AtMark()
        return AtMark(numbers=_by_partition(text, said)) if "=" in said else AtMark(at_ms=moment(said, now_ms=now_ms))
    raise UsageError(f"{text!r} is no point of a history: write one of {CUT_FORMS}")


def version_asked(text: str) -> int | None:
    """The version that `version:12` asks for; None for what is no version. Raises UsageError for one that can't be."""
    kind, _, said = text.partition(":")
    if kind != "version":
        return None
    if not _is_number(said) or not int(said):
        raise UsageError(f"{text!r} is no version of a key: write version:N, from 1 on")
    return int(said)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _by_partition(text: str, said: str) -> dict[int, int]:
    found: dict[int, int] = {}
    for one in said.split(","):
        partition, _, number = one.partition("=")
        if not (_is_number(partition) and _is_number(number)) or int(partition) in found:
            raise UsageError(f"{text!r}: {one!r} is no PARTITION=NUMBER, each partition once, such as 0=17,1=16")
        found[int(partition)] = int(number)
    return found
