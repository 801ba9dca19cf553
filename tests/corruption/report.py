"""The drill's tables: on the screen, as JSON, and between two lines of its page."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.corruption.stage import Outcome

if TYPE_CHECKING:
    from tests.corruption.drill import Half

ROOT = Path(__file__).parent.parent.parent
RESULTS = Path(__file__).parent / "results.json"
PAGE = ROOT / "docs" / "corruption-drill.md"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
HEADS = ("kind", "injected", "found", "located", "cured", "repaired", "certified", "median s", "longest s")
ALL = "all"


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What of these injections was found, and in what time."""
    seconds = [one.found_s for one in outcomes if one.found_s is not None]
    return {
        "injected": len(outcomes),
        "found": len(seconds),
        "located": sum(one.located for one in outcomes),
        "cured": sum(one.cured for one in outcomes),
        "repaired": sum(one.repaired for one in outcomes),
        "certified": sum(one.certified for one in outcomes),
        "median_s": round(median(seconds), 1) if seconds else None,
        "longest_s": round(max(seconds), 1) if seconds else None,
        "moving": sum(one.injection.moving for one in outcomes),
        "ways": dict(sorted(Counter(one.injection.way for one in outcomes if one.injection.way).items())),
    }


def by_kind(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """By kind, and of all."""
    kinds = dict.fromkeys(one.injection.kind for one in outcomes)
    found = {kind: figures([one for one in outcomes if one.injection.kind == kind]) for kind in sorted(kinds)}
    return {**found, ALL: figures(outcomes)}


def table(rows: Iterable[Sequence[object]]) -> str:
    """Rows of Markdown, the first of them the heads; all but the first column to the right."""
    head, *rest = [[str(cell) for cell in row] for row in rows]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rest)])


def kinds_table(found: dict[str, dict[str, Any]]) -> str:
    """The table of one database."""
    names = ("injected", "found", "located", "cured", "repaired", "certified", "median_s", "longest_s")
    return table([HEADS, *([kind, *(told[name] for name in names)] for kind, told in found.items())])


def as_json(half: "Half", *, versions: str) -> dict[str, Any]:
    """Plain values."""
    heard = half.alarms
    return {
        "database": half.database,
        "versions": versions,
        "minutes": round(half.minutes, 1),
        "kinds": by_kind(half.outcomes),
        "events": half.events,
        "events_per_s": round(half.events / half.seconds),
        "faults": half.faults,
        "without_injections": {
            "events": heard.events,
            "events_per_s": round(heard.events / heard.seconds) if heard.seconds else 0,
            "comparisons": heard.compared,
            "buckets": heard.buckets,
            "marks": dict(sorted(heard.marks.items())),
            "checks": dict(sorted(heard.checks.items())),
            "trouble": dict(sorted(heard.trouble.items())),
            "false_alarms": len(heard.alarms),
        },
    }


def told(half: dict[str, Any]) -> str:
    """The part of the page about one database."""
    quiet = half["without_injections"]
    moving = half["kinds"][ALL]["moving"]
    quiet_row = [quiet["events"], quiet["events_per_s"], quiet["comparisons"], sum(quiet["checks"].values())]
    heads = ("events", "events/s", "marks and buckets compared", "whole checks", "false alarms")
    trouble = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in quiet["trouble"].items())
    ignored = ", ".join(f"{number} {name}" for name, number in quiet["marks"].items() if name not in ("EQUAL", "DIVERGED"))
    return "\n\n".join(
        (
            f"### {half['database']}",
            f"{half['minutes']} minutes; {half['versions']}. {half['events_per_s']} events/s meanwhile; {moving} of the "
            "injections met rows that the flow went on writing.",
            kinds_table(half["kinds"]),
            "Without injections:",
            table([heads, [*quiet_row, quiet["false_alarms"]]]),
            f"Meanwhile: {trouble}. Marks that were not judged, as they were late or another relay's: {ignored or 'none'}.",
        )
    )


def write(halves: "Sequence[Half]", *, versions: str, keep: bool) -> None:
    """Print; with `keep` also put them into results.json, in place of what is there of these databases, and on the page."""
    found = {half.database: as_json(half, versions=versions) for half in halves}
    print("\n\n".join(map(told, found.values())), file=sys.stdout, flush=True)
    if keep:
        known = {one["database"]: one for one in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
        databases = [one for _, one in sorted({**known, **found}.items(), reverse=True)]
        RESULTS.write_text(json.dumps(databases, indent=1) + "\n")
        render()


def render() -> None:
    """Put the results on the page, between its two lines."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    text = "\n\n".join(map(told, json.loads(RESULTS.read_text())))
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")
