"""From results.json to the measured part of docs/fault-matrix.md. `make chaos` runs it at its end."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parent.parent / "docs" / "fault-matrix.md"
MEASURED = re.compile(r"(?<=<!-- measured -->\n).*(?=<!-- /measured -->)", re.DOTALL)
HEAD = "| fault | rounds | acknowledged | during it | lost | twice | order | copies | verdict | first batch, s | caught up, s |"
SUMMED = ("acknowledged", "during", "lost", "twice", "order", "second_copies")
RULE = "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |"


def table(found: Mapping[str, Any]) -> str:
    """The measured part of the page. Figures are totals of all rounds, seconds their median and longest."""
    versions = ", ".join(f"{name} {told}" for name, told in found["versions"].items())
    lines = [f"Machine: {found['machine']}.", f"Versions: {versions}.", "", HEAD, RULE]
    faults = found["faults"]
    lines += [_line(name, faults[name]["rounds"]) for name in faults]
    rounds = sum(len(fault["rounds"]) for fault in faults.values())
    events = sum(one["acknowledged"] for fault in faults.values() for one in fault["rounds"])
    minutes = sum(fault["seconds"] for fault in faults.values()) / 60
    lines += ["", f"In all {rounds} rounds of {len(faults)} faults, {events:,} acknowledged events, {minutes:.0f} minutes."]
    return "\n".join(lines) + "\n"


def _line(name: str, rounds: Sequence[Mapping[str, Any]]) -> str:
    verdicts = sorted({one["verdict"] for one in rounds})
    cells = [
        name,
        str(len(rounds)),
        *(f"{sum(one[figure] for one in rounds):,}" for figure in SUMMED),
        ", ".join(verdicts),
        *(_seconds([one[figure] for one in rounds]) for figure in ("first_batch_s", "caught_up_s")),
    ]
    return f"| {' | '.join(cells)} |"


def _seconds(those: Sequence[float]) -> str:
    return f"{median(those):.1f} ({max(those):.1f})"


def main() -> None:
    found = json.loads(RESULTS.read_text())
    text = table(found)
    PAGE.write_text(MEASURED.sub(lambda _: text, PAGE.read_text()))
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
