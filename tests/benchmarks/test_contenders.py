"""The benchmark's parts do what they say on little work, and the page tells what was measured."""

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import report  # noqa: E402

EVENTS = 2_000
WITHIN_S = 60
ASKED = {
    *("catchup_postgres_vs_best", "catchup_postgres_spread_vs_best", "catchup_sqlite_vs_best", "catchup_sqlite_spread_vs_best"),
    *("catchup_postgres_vs_row_by_row", "append_vs_bare_batch", "workers_2_vs_1", "workers_4_vs_1"),
    *("start_worker_long_vs_short", "start_relay_long_vs_short"),
}
FOUND = json.loads((HERE / "results.json").read_text())


def run(name: str, **given: Any) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, str(HERE / "contender.py"), name, json.dumps(given)],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def test_every_contender_does_the_work(kafka_url: str, postgres_url: str, tmp_path: Path) -> None:
    regime = f"b{uuid.uuid4().hex[:8]}.repeating"
    work = {"log": kafka_url, "regime": regime, "events": EVENTS}

    assert run("publish", store=f"sqlite:{tmp_path}/store.db", replica="memory:", **work)["publish"] > 0
    assert run("truecopy", replica=postgres_url, **work)["memory"]
    assert run("best", target=str(tmp_path / "best.db"), **work)["seconds"] > 0
    assert run("row_by_row", target=postgres_url, **{**work, "events": 100})["seconds"] > 0
    assert run("append", log=kafka_url, topic=f"{regime}.append", events=EVENTS)["seconds"] > 0
    assert run("decode", events=EVENTS)["columns"] > 0


def test_the_results_have_what_is_asked_for() -> None:
    assert FOUND["ratios"].keys() >= ASKED
    assert FOUND["rounds"] >= 3
    assert FOUND["events"] == 200_000


def test_the_page_tells_what_was_measured() -> None:
    (told,) = report.MEASURED.findall(report.PAGE.read_text())

    assert told == report.tables(FOUND)


@pytest.mark.parametrize("picture", ["catch_up", "workers", "memory"])
def test_the_pictures_are_there(picture: str) -> None:
    assert "<svg" in (report.PICTURES / f"{picture}.svg").read_text()
    assert f"benchmarks/{picture}.svg" in report.PAGE.read_text()
