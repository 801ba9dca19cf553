"""What `make bench-proof` is made of, on little work; and that the page tells what was measured."""

import json
import sys
from pathlib import Path

import pytest

from truecopy_projections.peers import compare
from truecopy_projections.replicas import open_replica
from truecopy_projections.scrub import scrub
from truecopy_projections.verdicts import Verdict

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import proof  # noqa: E402

FOUND = json.loads(proof.RESULTS.read_text())


async def test_filled_replicas_are_sound_and_differ_where_they_were_altered(tmp_path: Path) -> None:
    pair = [await open_replica(f"sqlite:{tmp_path}/{name}.db") for name in ("one", "other")]
    fillings = [proof.Filling(replica) for replica in pair]
    for filling in fillings:
        await filling.begin("bench")
        await filling.put(filling.planned(range(500)))
    same = await compare(proof.copied, *pair, wait_s=0)
    await fillings[1].alter([3, 4])
    differing = await compare(proof.copied, *pair, wait_s=0)

    assert [(await scrub(proof.copied, one)).verdict for one in pair] == [Verdict.EQUAL] * 2
    assert (same.verdict, differing.verdict) == (Verdict.EQUAL, Verdict.DIVERGED)
    assert [one.key for one in differing.differences] == ["customer-0000003", "customer-0000004"]
    for one in pair:
        await one.close()


def test_the_page_tells_what_was_measured() -> None:
    (told,) = proof.MEASURED.findall(proof.PAGE.read_text())

    assert told == proof.table(FOUND)


@pytest.mark.parametrize("name", ["quick_check", "scrub", "bare_ordered_scan", "apply_proven", "apply_bare"])
def test_both_databases_were_measured(name: str) -> None:
    assert {kind for kind in ("sqlite", "postgres") for figure in FOUND["figures"] if figure.startswith(f"{name}_{kind}")} == {
        "sqlite",
        "postgres",
    }
