"""What only a replica in a database has: files that outlive it, a view for its readers, a format, names that may be cut."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from truecopy_bus.errors import TableAlteredError
from truecopy_bus.sql import Database
from truecopy_bus.sql.address import connect
from truecopy_projections.digest import bucket_of
from truecopy_projections.errors import OtherServiceError, ProjectionError
from truecopy_projections.limits import BUCKETS
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.replicas import MemoryReplica, SqlReplica, open_replica
from truecopy_projections.state import Reason, Wanted
from truecopy_projections.testing.replica_plans import (
    EVERYTHING,
    INCARNATION,
    LINES,
    Line,
    everything,
    gathered,
    key_states,
    line,
    moved_on,
    rows_of,
    taken,
    waiting_at,
)
from truecopy_schemas.errors import NewerFormatError


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    found: str = request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite:{tmp_path}/replica.db"
    return found


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = await connect(url)
    yield database
    await database.close()


@dataclass(frozen=True, slots=True)
class Wider:
    """The next declaration of LINES."""

    shop: str
    number: int
    amount: int
    note: str


async def test_what_was_applied_is_there_for_the_next_process(url: str) -> None:
    first = await open_replica(url)
    fences, states = await taken(first, LINES)
    plan = moved_on(fences[0], states[0], puts=rows_of(LINES, {"k": [line()]}), keys=key_states("k"))
    await first.apply(LINES, [plan], durable=False, journal=[("repair", {"n": 1})])
    await first.close()

    second = await open_replica(url)

    known = await second.load(LINES, Wanted(keys=frozenset({"k"}), whole=frozenset({"k"})))
    assert (known.rows, known.keys) == (plan.puts, plan.keys)
    async with second.snapshot() as snapshot:
        assert await snapshot.states(LINES.id) == {0: plan.state, 1: states[1]}
        assert await snapshot.journal("repair") == [{"n": 1}]
    assert await second.apply(LINES, [moved_on(fences[0], plan.state)]) == {0}
    await second.close()


async def test_readers_find_the_own_columns_of_the_first_installed_number_in_the_view(database: Database) -> None:
    replica = SqlReplica(database)
    wider = Projection("suite_lines", entity="suite.lines", row=Wider, key="shop", version=2)
    fences, states = await taken(replica, LINES)
    await replica.apply(LINES, [moved_on(fences[0], states[0], puts=rows_of(LINES, {"k": [line("s", 1, 2)]}))])

    await replica.install(wider, partitions=2, incarnation=INCARNATION)
    await replica.install(LINES, partitions=2, incarnation=INCARNATION)

    async with database.snapshot() as connection:
        assert await connection.fetch("SELECT * FROM suite_lines") == [("s", 1, 2)]


async def test_a_view_reads_columns_whose_names_are_reserved(database: Database) -> None:
    replica = SqlReplica(database)
    await replica.install(EVERYTHING, partitions=1, incarnation=INCARNATION)

    async with database.snapshot() as connection:
        assert await connection.fetch('SELECT "order", "offset", "user", "camelCase" FROM suite_everything') == []


async def test_a_newer_format_is_refused_by_name_and_left_alone(database: Database) -> None:
    replica = SqlReplica(database)
    await replica.install(LINES, partitions=1, incarnation=INCARNATION)
    async with database.transaction() as tx:
        await tx.fetch("UPDATE truecopy_meta SET value = '2' WHERE name = 'format'")

    with pytest.raises(NewerFormatError, match="format 2"):
        async with replica.snapshot():
            pass
    with pytest.raises(NewerFormatError, match="format 2"):
        await replica.install(EVERYTHING, partitions=1, incarnation=INCARNATION)

    async with database.transaction() as tx:
        names = await tx.fetch("SELECT name FROM truecopy_meta ORDER BY name")
        tables = "sqlite_schema WHERE name" if tx.dialect.name == "sqlite" else "pg_class WHERE relname"
        made = await tx.fetch(f"SELECT 1 FROM {tables} = $1", EVERYTHING.table)
    assert names == [("format",), ("projection:suite_lines@1",)]
    assert made == []


async def test_a_reader_with_another_declaration_is_told_so(database: Database) -> None:
    replica = SqlReplica(database)
    other = Projection("suite_lines", entity="suite.lines", row=Wider, key=("shop", "number"))
    await replica.install(LINES, partitions=1, incarnation=INCARNATION)

    async with replica.snapshot() as snapshot:
        with pytest.raises(ProjectionError, match="suite_lines@1"):
            await gathered(snapshot.rows(other))


async def test_a_name_that_a_database_would_cut_is_refused(database: Database) -> None:
    long: Projection[Any] = Projection("l" * 55, entity="suite.lines", row=Line, key=("shop", "number"))
    longest: Projection[Any] = Projection("l" * 54, entity="suite.lines", row=Line, key=("shop", "number"))

    with pytest.raises(ProjectionError, match="shorter name"):
        await SqlReplica(database).install(long, partitions=1, incarnation=INCARNATION)
    await SqlReplica(database).install(longest, partitions=1, incarnation=INCARNATION)


async def test_no_detail_is_too_bad_for_the_quarantine(database: Database) -> None:
    replica = SqlReplica(database)
    fences, states = await taken(replica, LINES)
    waits = [waiting_at(0, 1, "k", Reason.REFUSED, detail="seen 'a\0b\ud800'")]

    await replica.apply(LINES, [moved_on(fences[0], states[0], waits=waits)])

    async with replica.snapshot() as snapshot:
        assert [waiting.detail for waiting in await snapshot.waiting(LINES.id)] == ["seen 'a\\0b\\ud800'"]


@pytest.mark.parametrize("bucket", [bucket_of("k") + 1, -1, 5_000], ids=["of another key", "below all", "above all"])
@pytest.mark.parametrize("projection", [LINES, EVERYTHING], ids=["several rows", "one row"])
async def test_a_row_under_another_bucket_is_astray_there_and_missing_in_its_own(
    database: Database, projection: Projection[Any], bucket: int
) -> None:
    replica = SqlReplica(database)
    fences, states = await taken(replica, projection)
    puts = rows_of(projection, {"k": [line() if projection is LINES else everything(1)]})
    await replica.apply(projection, [moved_on(fences[0], states[0], puts=puts, keys=key_states("k"))])
    async with database.transaction() as tx:
        await tx.fetch(f"UPDATE {projection.table} SET _bucket = {bucket}")

    async with replica.snapshot() as snapshot:
        assert await gathered(snapshot.rows(projection, buckets={bucket_of("k")})) == []
        (everywhere,) = await gathered(snapshot.rows(projection))
        (there,) = await gathered(snapshot.rows(projection, buckets={min(max(bucket, 0), BUCKETS - 1)}))
        _, rows = await snapshot.get(projection, "k")
    known = await replica.load(projection, Wanted(whole=frozenset({"k"}), rows=frozenset(puts)))
    assert (everywhere[2].astray, there[2].astray, list(rows), known.rows) == (bucket, bucket, [], {})


async def test_memory_is_an_address_too() -> None:
    assert isinstance(await open_replica("memory:"), MemoryReplica)
    with pytest.raises(ValueError, match="no database has an address"):
        await open_replica("mysql://here")


async def test_a_projection_of_another_service_is_refused(database: Database) -> None:
    """Also under another number: all numbers of a name share the view."""
    mine, other = SqlReplica(database, service="billing"), SqlReplica(database, service="shop")
    next_lines = Projection("suite_lines", entity="suite.lines", row=Wider, key="shop", version=2)
    await taken(mine, LINES)
    await mine.install(LINES, partitions=2, incarnation=INCARNATION)

    for refused in (
        other.install(LINES, partitions=2, incarnation=INCARNATION),
        other.install(next_lines, partitions=2, incarnation=INCARNATION),
        other.renew(LINES, "repair", [], lease_s=3.0, seize=True),
    ):
        with pytest.raises(OtherServiceError, match=r"for service 'billing', expected 'shop'.*give each a database"):
            await refused
    await mine.install(next_lines, partitions=2, incarnation=INCARNATION)


@pytest.mark.parametrize("table", ["suite_lines__v1", "suite_lines__v1_keys", "truecopy_partitions"])
async def test_a_dropped_table_is_told_and_not_made_anew(database: Database, table: str) -> None:
    replica = SqlReplica(database)
    await taken(replica, LINES)
    async with database.transaction() as tx:
        await tx.fetch(f"DROP TABLE {table}" + (" CASCADE" if tx.dialect.name == "postgres" else ""))

    with pytest.raises(TableAlteredError, match=table):
        await replica.install(LINES, partitions=2, incarnation=INCARNATION)


@pytest.mark.parametrize("in_memory", [True, False])
async def test_a_changed_declaration_names_what_differs(database: Database, in_memory: bool) -> None:
    replica: Replica = MemoryReplica() if in_memory else SqlReplica(database)
    await taken(replica, LINES)
    changed = Projection("suite_lines", entity="suite.lines", row=Wider, key="shop")

    with pytest.raises(ProjectionError) as refused:
        await replica.install(changed, partitions=2, incarnation=INCARNATION)

    told = str(refused.value)
    assert "column 'note' was not there, is TEXT" in told
    assert "key was ['shop', 'number'], is ['shop']" in told
    assert "'amount'" not in told
    assert "give the new declaration the next number" in told
