"""Cuts of a history as an operator writes them."""

import pytest

from truecopy_projections.cut import Asked, AtEnd, AtMark, AtOffset, AtTime
from truecopy_services.errors import UsageError
from truecopy_services.operating.cuts import cut_asked, version_asked

NOW_MS = 1_800_000_000_000

CASES = [
    pytest.param("end", AtEnd(), id="end"),
    pytest.param("offset:120", AtOffset(120), id="one offset for all"),
    pytest.param("offset:0=120,1=98", AtOffset({0: 120, 1: 98}), id="offsets by partition"),
    pytest.param("time:15m", AtTime(NOW_MS - 900_000), id="time ago"),
    pytest.param("time:2026-05-01T12:00:00+02:00", AtTime(1_777_629_600_000), id="time with its zone"),
    pytest.param("mark:latest", AtMark(), id="newest mark"),
    pytest.param("mark:1h", AtMark(at_ms=NOW_MS - 3_600_000), id="mark of a time"),
    pytest.param("mark:0=17,1=16", AtMark(numbers={0: 17, 1: 16}), id="marks by partition"),
]
WRONG = [
    "",
    "start",
    "offset:",
    "offset:x",
    "offset:-1",
    "offset:0=1,0=2",
    "offset:0=",
    "time:",
    "time:12:00",
    "time:2100-01-01",
]
WRONG += ["mark:", "mark:0", "mark:0=x", "mark:2100-01-01T00:00:00Z", "time:2100-01-01T00:00:00Z", "offset:٣"]


@pytest.mark.parametrize(("text", "asked"), CASES)
def test_a_cut_is_read(text: str, asked: Asked) -> None:
    assert cut_asked(text, now_ms=NOW_MS) == asked


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_cut_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        cut_asked(text, now_ms=NOW_MS)


def test_a_version_is_read_or_refused() -> None:
    assert version_asked("version:12") == 12
    assert version_asked("mark:latest") is None
    for text in ("version:0", "version:", "version:x"):
        with pytest.raises(UsageError):
            version_asked(text)
