"""One round of the corruption drill on each database, with every kind; `make drill` plays a thousand injections on each."""

from pathlib import Path

import pytest
from tests.corruption.alarms import EXPECTED, listen
from tests.corruption.behind import BehindPostgres, BehindSqlite
from tests.corruption.injections import AT_REST, OF_FIGURES, OF_RECORDS, OF_ROWS, Injection
from tests.corruption.intended import Intent
from tests.corruption.judging import Named, judged
from tests.corruption.ledger import PARTITIONS, PROJECTIONS
from tests.corruption.stage import plan, staged

SEED = 11
RATE = 520
KINDS = len((*OF_ROWS, *OF_FIGURES, *OF_RECORDS, *AT_REST))
SMALL = Intent(seed=SEED, quiet=60, moving=60)
TAKES_S = 300
"""Seconds on a machine that does much else; alone it is some ten."""


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, str], BehindSqlite | BehindPostgres]:
    """The addresses of a stage, and the way in behind Truecopy's back."""
    if request.param == "sqlite":
        return {}, BehindSqlite(tmp_path / "ledger.replica.db")
    url = str(request.getfixturevalue("postgres_url"))
    return {"TRUECOPY_REPLICA": url}, BehindPostgres(url)


@pytest.mark.timeout(TAKES_S)
async def test_every_kind_of_corruption_is_found_located_repaired_and_certified_while_events_flow(
    place: tuple[dict[str, str], BehindSqlite | BehindPostgres], tmp_path: Path, topic_namespace: str
) -> None:
    addresses, behind = place
    async with staged(PROJECTIONS[0], addresses, tmp_path, behind, intent=SMALL, rate=RATE, namespace=topic_namespace) as stage:
        await stage.round(*plan(stage.draw, 2 * KINDS), files=isinstance(behind, BehindSqlite))
        await stage.end()

    assert stage.faults == [], f"seed {SEED}"
    assert len({one.injection.kind for one in stage.outcomes}) == KINDS
    assert all(one.certified for one in stage.outcomes)


@pytest.mark.timeout(TAKES_S)
async def test_nothing_is_called_diverged_while_relays_are_zombies_and_workers_are_killed(
    tmp_path: Path, topic_namespace: str
) -> None:
    heard = await listen({}, tmp_path, intent=SMALL, rate=RATE, namespace=topic_namespace, comparisons=500, marks=100)

    assert heard.alarms == [], f"seed {SEED}"
    assert all(heard.trouble[kind] for kind in EXPECTED)


def row(key: str, *, moving: bool = False) -> Injection:
    return Injection(kind="value changed", way="", projection="balance@1", rows=frozenset({(key, ())}), moving=moving)


def test_the_judgement_tells_what_was_missed_cured_and_named_without_reason() -> None:
    named = Named(rows=frozenset({("q1", ()), ("q9", ())}), keys=frozenset({"q1"}), partitions=frozenset({3}))

    judgement = judged([row("q1"), row("q2"), row("m3", moving=True)], named, PARTITIONS)

    assert [one.rows for one in judgement.missed] == [row("q2").rows]
    assert [one.rows for one in judgement.cured] == [row("m3").rows]
    assert [one.rows for one in judgement.located] == [row("q1").rows]
    assert judgement.extra[0] == "row ('q9', ())"


def test_the_oracle_comes_to_the_same_rows_however_often_it_is_asked() -> None:
    assert SMALL.rows(400) == SMALL.rows(400)
    assert len(SMALL.rows(SMALL.first)["latest"]) == SMALL.quiet + SMALL.moving
