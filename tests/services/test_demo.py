"""The demo as a person or a script runs it, embedded and on real servers: every promised figure."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from truecopy_projections.certificate_form import read

KEYS = [
    "published", "applied", "redelivered", "killed_at", "resumed_at", "oracle_rows", "oracle_equal", "marks_compared",
    "verdicts", "damaged", "found", "repaired", "certificate", "seconds",
]  # fmt: skip
COPIES = {f"{service}/{name}@1" for service in ("marketing", "billing") for name in ("customer_value", "purchases")}


async def run_demo(*words: str, **settings: str) -> tuple[int, dict[str, Any], str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "truecopy_services", "demo", "--json", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | settings,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, json.loads(out.splitlines()[-1]), err.decode()


def expect_as_promised(code: int, found: dict[str, Any], err: str) -> None:
    assert code == 0, (found, err)
    assert list(found) == KEYS
    assert found["published"] == found["applied"] == 6_919
    assert found["oracle_rows"] == found["oracle_equal"] == 2_357
    assert found["marks_compared"] >= 20
    assert found["resumed_at"] < found["killed_at"]
    assert found["killed_at"] >= 6_919 // 2
    assert found["redelivered"] >= found["killed_at"] - found["resumed_at"]
    assert found["verdicts"].keys() == COPIES
    for claims in found["verdicts"].values():
        assert [claims[name] for name in ("verdict", "delivered", "computed", "stored")] == ["EQUAL"] * 4
        assert claims["count"] == 6_919
    [row] = found["found"]
    assert row["key"] == found["damaged"]["key"]
    assert row["fields"] == {"dollars": {"stored": found["damaged"]["after"], "expected": found["damaged"]["before"]}}
    assert found["repaired"] == 1
    assert read(json.dumps(found["certificate"]).encode()).is_signed()


@pytest.mark.timeout(300)
async def test_the_demo_embedded(tmp_path: Path) -> None:
    code, found, err = await run_demo("--keep", str(tmp_path / "kept"))

    expect_as_promised(code, found, err)
    assert (tmp_path / "kept" / "log.db").exists()


@pytest.mark.timeout(300)
async def test_the_demo_on_real_kafka_and_postgresql(kafka_url: str, postgres_url: str) -> None:
    code, found, err = await run_demo(TRUECOPY_LOG=kafka_url, TRUECOPY_REPLICA=postgres_url)

    expect_as_promised(code, found, err)
    assert found["certificate"]["replica"].startswith("postgresql://")


async def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()

    code, found, _ = await run_demo("--keep", str(tmp_path))

    assert code == 2
    assert "not empty" in found["error"]


@pytest.mark.timeout(120)
async def test_no_process_outlives_a_demo_that_is_killed(tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    demo = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "truecopy_services", "demo", "--keep", str(tmp_path / "kept"),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    parent = psutil.Process(demo.pid)
    async with asyncio.timeout(60):
        while len(started := parent.children(recursive=True)) < 4:
            await asyncio.to_thread(parent.cpu_percent, 0.05)

    demo.send_signal(signal.SIGKILL)
    await demo.wait()

    gone, alive = await asyncio.to_thread(psutil.wait_procs, started, 30)
    assert len(gone) == len(started), alive
