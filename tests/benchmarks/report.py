"""From results.json to docs/benchmarks.md: its tables, and its pictures beside it. `make bench` runs it at its end."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "benchmarks.md"
PICTURES = PAGE.with_suffix("")
MEASURED = re.compile(r"(?<=<!-- measured -->\n).*(?=<!-- /measured -->)", re.DOTALL)
TARGETS = {
    "catchup_postgres_vs_best": 0.65,
    "catchup_postgres_spread_vs_best": 0.5,
    "catchup_sqlite_vs_best": 0.65,
    "catchup_sqlite_spread_vs_best": 0.65,
    "catchup_postgres_vs_row_by_row": 20,
    "append_vs_bare_batch": 0.7,
}
"""What was set as a goal for a ratio."""
OURS, OTHERS = "#1f6f8b", "#b7b7b7"
CONTENDERS = ("row_by_row", "faststream", "truecopy", "best")
TOLD = {
    "row_by_row": "row by row",
    "faststream": "FastStream, batches",
    "truecopy": "Truecopy, proven",
    "best": "by hand, no guarantees",
}


def tables(found: Mapping[str, Any]) -> str:
    """The measured part of the page."""
    versions = ", ".join(f"{name} {told}" for name, told in found["versions"].items())
    lines = [
        f"Machine: {found['machine']}.",
        f"Versions: {versions}.",
        f"Medians of {found['rounds']} rounds of {found['events']:,} events.",
    ]
    lines += ["", "| ratio | measured | goal |", "| --- | ---: | ---: |"]
    lines += [f"| `{name}` | {ratio:g} | {TARGETS.get(name, '')} |" for name, ratio in found["ratios"].items()]
    lines += ["", "| figure | median | lowest | highest |", "| --- | ---: | ---: | ---: |"]
    for name, figure in found["figures"].items():
        lowest, highest = found["lowest_and_highest"][name]
        lines.append(f"| `{name}` | {_figure(figure)} | {_figure(lowest)} | {_figure(highest)} |")
    return "\n".join(lines) + "\n"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def draw(found: Mapping[str, Any]) -> None:
    """The pictures. Needs the extra `bench`."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "truecopy"  # the same figures make the same file
    PICTURES.mkdir(exist_ok=True)
    catch_up(found["figures"])
    workers(found["figures"])
    memory(found["memory"])


def catch_up(figures: Mapping[str, float]) -> None:
    """Catch-up of each contender, one panel for each database and regime."""
    from matplotlib import pyplot

    panels = [(kind, regime) for kind in ("postgres", "sqlite") for regime in ("repeating", "spread")]
    drawn, axes = pyplot.subplots(2, 2, figsize=(10, 4.5), sharex=True)
    for axis, (kind, regime) in zip(axes.flat, panels, strict=True):
        rates = {name: figures.get(f"catchup_{kind}_{regime}_{name}") for name in CONTENDERS}
        there = {name: rate for name, rate in rates.items() if rate is not None}
        bars = axis.barh(
            [TOLD[name] for name in there],
            [rate / 1000 for rate in there.values()],
            color=[OURS if name == "truecopy" else OTHERS for name in there],
        )
        axis.bar_label(bars, fmt="%.0f", padding=2)
        axis.margins(x=0.15)
        axis.set_title(f"{kind}, {regime}, 1,000 events/s")
    _saved(drawn, "catch_up")


def workers(figures: Mapping[str, float]) -> None:
    """Catch-up by the number of worker processes."""
    from matplotlib import pyplot

    numbers = sorted(int(name.rpartition("_")[2]) for name in figures if name.startswith("catchup_postgres_long_workers_"))
    drawn, axis = pyplot.subplots(figsize=(5, 3))
    rates = [figures[f"catchup_postgres_long_workers_{number}"] / 1000 for number in numbers]
    axis.plot(numbers, rates, marker="o", color=OURS)
    axis.set(xlabel="worker processes, 4 partitions", ylabel="1,000 events/s", ylim=(0, max(rates) * 1.15), xticks=numbers)
    _saved(drawn, "workers")


def memory(samples: Sequence[Sequence[float]]) -> None:
    """Memory of a worker while it catches up with a long topic."""
    from matplotlib import pyplot

    drawn, axis = pyplot.subplots(figsize=(5, 3))
    axis.plot([applied / 1e6 for applied, _ in samples], [mib for _, mib in samples], color=OURS)
    axis.axhline(300, color=OTHERS, linestyle="--")
    axis.set(xlabel="million events applied", ylabel="MiB", ylim=(0, 330))
    _saved(drawn, "memory")


def _saved(drawn: Any, name: str) -> None:
    drawn.tight_layout()
    drawn.savefig(PICTURES / f"{name}.svg", metadata={"Date": None})


def main() -> None:
    found = json.loads((HERE / "results.json").read_text())
    PAGE.write_text(MEASURED.sub(lambda _: tables(found), PAGE.read_text()))
    draw(found)


if __name__ == "__main__":
    main()
