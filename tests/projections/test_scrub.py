"""The scrub: what was altered behind Truecopy's back is found in its bucket alone, and named where a row tells."""

import asyncio
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from tests.projections.bank import Balance, Deposited, balance, entries
from tests.projections.world import World, deposit

from truecopy_bus.errors import DatabaseCorruptError
from truecopy_projections.digest import bucket_of, row_hash
from truecopy_projections.errors import UnknownProjectionError
from truecopy_projections.limits import BUCKETS
from truecopy_projections.projection import Projection
from truecopy_projections.replicas import MemoryReplica
from truecopy_projections.scrub import Finding, Scrub, Side, scrub
from truecopy_projections.state import StoredRow
from truecopy_projections.verdicts import Verdict

MINE = bucket_of("k3")
OTHERS = frozenset(range(BUCKETS)) - {MINE}


@pytest.fixture
async def stored(world: World) -> World:
    """Twenty keys with three events each, applied."""
    await deposit(world)
    await world.settle(balance)
    return world


@pytest.fixture
async def remembered(stored: World) -> tuple[World, MemoryReplica]:
    """The same, in memory."""
    replica = MemoryReplica()
    world = stored._replace(replica=replica)
    await world.settle(balance)
    return world, replica


def told(found: Scrub) -> list[tuple[int | None, Side, list[str]]]:
    return [(one.bucket, one.side, [row.key for row in one.rows]) for one in found.findings]


@pytest.mark.parametrize("projection", [balance, entries], ids=["one row per key", "several"])
async def test_sound_rows_are_equal_by_buckets_and_as_a_whole(world: World, projection: Projection[Balance]) -> None:
    await deposit(world)
    await world.settle(projection)

    whole = await scrub(projection, world.replica)
    parts = [await scrub(projection, world.replica, buckets=range(at, BUCKETS, 16)) for at in range(16)]

    assert (whole.verdict, whole.good) == (Verdict.EQUAL, frozenset(range(BUCKETS)))
    assert whole.rows == sum(one.rows for one in parts) == (20 if projection is balance else 60)
    assert whole.bytes == sum(one.bytes for one in parts) > 0
    assert [one.verdict for one in parts] == [Verdict.EQUAL] * 16


DAMAGE: dict[str, tuple[str, list[tuple[int | None, Side, list[str]]]]] = {
    "a value": ("UPDATE balance__v1 SET amount = 999 WHERE _key = 'k3'", [(MINE, Side.ROWS, ["k3"])]),
    "a hash": (
        "UPDATE balance__v1 SET _hash = (SELECT _hash FROM balance__v1 WHERE _key = 'k4') WHERE _key = 'k3'",
        [(MINE, Side.HASHES, ["k3"])],
    ),
    "a value and its hash": (
        "UPDATE balance__v1 SET amount = 999, _hash = (SELECT _hash FROM balance__v1 WHERE _key = 'k4') WHERE _key = 'k3'",
        [(MINE, Side.SEVERAL, ["k3"])],
    ),
    "a row deleted": ("DELETE FROM balance__v1 WHERE _key = 'k3'", [(MINE, Side.DIGEST, [])]),
    "a row under another bucket": (
        "UPDATE balance__v1 SET _bucket = 7 WHERE _key = 'k3'",
        [(7, Side.DIGEST, ["k3"]), (MINE, Side.DIGEST, [])],
    ),
    "a row under no bucket": (
        "UPDATE balance__v1 SET _bucket = 5000 WHERE _key = 'k3'",
        [(MINE, Side.DIGEST, []), (5000, Side.DIGEST, ["k3"])],
    ),
    "a row in no partition": (
        "UPDATE balance__v1 SET _part = 77 WHERE _key = 'k3'",
        [(MINE, Side.DIGEST, []), (MINE, Side.DIGEST, [])],
    ),
    "a digest": (
        "UPDATE truecopy_partitions SET row_digest = input_digest WHERE part = 0",
        [(None, Side.TOTAL, [])],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
async def test_what_was_altered_is_found_in_its_bucket(stored: World, name: str) -> None:
    statement, expected = DAMAGE[name]
    await stored.execute(statement)

    found = await scrub(balance, stored.replica)

    assert (found.verdict, told(found)) == (Verdict.DIVERGED, expected)
    doubted = {min(bucket, BUCKETS - 1) for bucket, _, _ in expected if bucket is not None}
    assert found.good == found.buckets - doubted
    assert told(await scrub(balance, stored.replica, buckets=doubted)) == expected
    assert [one.bucket for one in (await scrub(balance, stored.replica, buckets=found.good)).findings if one.bucket] == []


async def test_a_forged_row_with_a_right_hash_does_not_add_up(stored: World) -> None:
    async with stored.replica.snapshot() as snapshot:
        _, (row,) = await snapshot.get(balance, "k3")
    forged = row_hash(balance.id, "k3", (row.values[0], 999, *row.values[2:])).hex()
    literal = f"'\\x{forged}'::bytea" if "postgres" in stored.replica.name else f"x'{forged}'"
    await stored.execute(f"UPDATE balance__v1 SET amount = 999, _hash = {literal} WHERE _key = 'k3'")

    assert told(await scrub(balance, stored.replica, buckets={MINE})) == [(MINE, Side.DIGEST, [])]


async def test_a_row_that_rotted_in_memory_is_named(remembered: tuple[World, MemoryReplica]) -> None:
    world, replica = remembered
    assert (await scrub(balance, replica)).verdict is Verdict.EQUAL
    partition, row = replica._contents[balance.id].rows["k3"][()]

    replica._contents[balance.id].rows["k3"][()] = partition, StoredRow((*row.values[:1], 999, *row.values[2:]), row.hash)

    (finding,) = (await scrub(balance, world.replica, buckets={MINE})).findings
    assert str(finding).endswith("('k3': it differs from the hash beside it)")
    assert finding.as_json()["rows"] == [{"key": "k3", "row": [], "why": "it differs from the hash beside it"}]


async def test_a_projection_that_is_not_there_is_no_equal_one(world: World) -> None:
    with pytest.raises(UnknownProjectionError, match="balance@1"):
        await scrub(balance, world.replica)


async def test_a_scrub_beside_writers_raises_no_false_alarm(stored: World) -> None:
    counts, findings = set[int](), list[Finding]()
    writing = asyncio.create_task(_write(stored))

    while not writing.done():
        for at in range(4):
            found = await scrub(balance, stored.replica, buckets=range(at, BUCKETS, 4))
            findings += found.findings
            counts.add(found.rows)
            await asyncio.sleep(0)

    await writing
    assert findings == []
    assert len(counts) > 4


async def _write(world: World) -> None:
    for turn in range(12):
        await world.store.publish_many([(f"w{turn}-{at}", Deposited(amount=at)) for at in range(40)])
        await deposit(world, each=1)
        await world.settle(balance)


@pytest.mark.parametrize("in_memory", [False, True])
async def test_times_are_kept_by_bucket_and_never_go_back(stored: World, in_memory: bool) -> None:
    replica = MemoryReplica() if in_memory else stored.replica
    await stored._replace(replica=replica).settle(balance)

    async with replica.snapshot() as snapshot:
        before = await snapshot.scrubs(balance.id)
        await replica.scrubbed(balance, dict.fromkeys(range(BUCKETS), 5_000) | {7: 3_000})
        await replica.scrubbed(balance, {7: 2_000, 8: 9_000})
        assert (await snapshot.scrubs(balance.id)).at_ms == before.at_ms
    async with replica.snapshot() as snapshot:
        after = await snapshot.scrubs(balance.id)

    assert (before.oldest_ms, before.oldest_age_s, before.never) == (None, None, BUCKETS)
    assert (after.oldest_ms, after.never, after.at_ms[7:9]) == (3_000, 0, (3_000, 9_000))
    assert after.oldest_first()[:2] == [7, 0]
    assert after.oldest_first()[-1] == 8
    assert after.oldest_age_s == (after.now_ms - 3_000) / 1000
    await replica.scrubbed(balance, {9: 0})
    async with replica.snapshot() as snapshot:
        wrong = await snapshot.scrubs(balance.id)
    assert (wrong.never, wrong.oldest_ms, wrong.oldest_first()[0]) == (1, None, 9)
    await replica.scrubbed(balance, None)
    async with replica.snapshot() as snapshot:
        assert (await snapshot.scrubs(balance.id)).never == BUCKETS


async def test_a_projection_that_is_made_anew_was_never_scrubbed(stored: World) -> None:
    await stored.replica.scrubbed(balance, dict.fromkeys(range(BUCKETS), 5_000))
    await stored.execute("DELETE FROM truecopy_partitions")
    await stored.execute("DELETE FROM balance__v1")

    await stored.settle(balance)

    async with stored.replica.snapshot() as snapshot:
        assert (await snapshot.scrubs(balance.id)).never == BUCKETS


async def test_what_the_index_lost_is_told_apart_from_what_the_table_lost(stored: World) -> None:
    await unindex(stored, "k3")

    found = await scrub(balance, stored.replica, buckets=range(BUCKETS))

    assert told(found) == [(MINE, Side.INDEX, [])]


async def unindex(world: World, key: str) -> None:
    """Take a key's entry out of the index of the primary key; its row stays."""
    if "postgres" in world.replica.name:
        ready = "UPDATE pg_index SET indisready = {0}, indisvalid = {0} WHERE indexrelid = to_regclass('balance__v1_pkey')"
        await world.execute(
            f"DO $$ BEGIN {ready.format('false')}; CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM balance__v1 "
            f"WHERE _key = '{key}'; DELETE FROM balance__v1 WHERE _key = '{key}'; INSERT INTO balance__v1 SELECT * FROM kept; "
            f"{ready.format('true')}; END $$"
        )
        return
    with closing(apsw.Connection(world.replica.name.removeprefix("sqlite:"))) as connection:
        _imposter(connection, f"DELETE FROM imposter WHERE _key = '{key}'")


def _imposter(connection: apsw.Connection, statement: str) -> None:
    """Run a statement on the primary key's index, read as the table that its pages could be as well."""
    [(root,)] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_balance__v1_1'")
    made = "CREATE TABLE imposter (_bucket, _key, at, PRIMARY KEY (_bucket, _key, at)) WITHOUT ROWID"
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("INSERT INTO sqlite_schema VALUES ('table', 'imposter', 'imposter', ?, ?)", (root, made))
    connection.execute("PRAGMA writable_schema = RESET")
    connection.execute(statement)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("DELETE FROM sqlite_schema WHERE name = 'imposter'")
    connection.execute("PRAGMA writable_schema = RESET")


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("damage", ["another key", "a page of zeros"])
async def test_a_file_that_is_corrupt_says_so_with_its_remedy(stored: World, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "replica.db"
    await stored.replica.close()
    with closing(apsw.Connection(str(path))) as connection:
        if damage == "another key":
            _imposter(connection, "UPDATE imposter SET _key = 'k33' WHERE _key = 'k3'")
        [(root,)] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'balance__v1'")
        [(size,)] = connection.execute("PRAGMA page_size")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if damage != "another key":
        with path.open("r+b") as file:
            file.seek((root - 1) * size)
            file.write(bytes(size))

    with pytest.raises(DatabaseCorruptError, match="REINDEX") as told:
        await scrub(balance, stored.replica, buckets=range(BUCKETS))
    assert "unavailable" not in str(told.value)
