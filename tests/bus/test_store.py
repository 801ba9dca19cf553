"""The event store on both databases: versions, conflicts, and events that share the fate of the business write."""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import asyncpg
import orjson
import pytest

from truecopy_bus.errors import InvalidTokenError, VersionConflictError
from truecopy_bus.limits import PUBLISH_EVENTS_MAX
from truecopy_bus.sql.address import connect
from truecopy_bus.sql.port import Database
from truecopy_bus.store import EventStore
from truecopy_bus.token import Token
from truecopy_schemas.codec import Decoder, encode, read_version
from truecopy_schemas.errors import InvalidEventError, OversizeEventError
from truecopy_schemas.event import Event

ENTITY = "shop.customer"


class Renamed(Event, entity=ENTITY):
    name: str


class Bought(Event, entity=ENTITY, kind="delta"):
    cents: int


class Left(Event, entity=ENTITY, deletes=True):
    reason: str


class Shipped(Event, entity="shop.parcel", kind="delta"):
    carrier: str


class Unowned(Event):
    name: str


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/owner.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await connect(database_url, timeout_s=20.0)
    yield database
    await database.close()


@pytest.fixture
async def store(database: Database) -> EventStore:
    store = EventStore(database, service="shop")
    await store.open()
    async with store.transaction() as tx:
        await tx.execute("CREATE TABLE customers (id TEXT PRIMARY KEY, name TEXT)")
    return store


async def history(store: EventStore) -> list[tuple[str, int]]:
    """(key, version) of all events, in id order."""
    async with store.database.snapshot() as read:
        return [(key, version) for key, version in await read.fetch("SELECT key, version FROM truecopy_events ORDER BY id")]


async def customers(store: EventStore) -> list[tuple[str, str]]:
    async with store.database.snapshot() as read:
        return [(key, name) for key, name in await read.fetch("SELECT id, name FROM customers ORDER BY id")]


async def write_and_fail(store: EventStore) -> None:
    async with store.transaction() as tx:
        await tx.execute("INSERT INTO customers VALUES ($1, $2)", "42", "Ada")
        await tx.publish("42", Renamed(name="Ada"))
        _ = 1 / 0


async def test_versions_of_a_key_ascend_by_one(store: EventStore) -> None:
    first = await store.publish("42", Renamed(name="Ada"))
    second = await store.publish("42", Bought(cents=5))

    assert (first, second) == (Token(ENTITY, "42", 1), Token(ENTITY, "42", 2))
    assert await store.version(ENTITY, "42") == 2
    assert await store.version(ENTITY, "43") == 0


async def test_a_batch_may_hold_a_key_many_times_and_several_entities(store: EventStore) -> None:
    await store.publish("b", Bought(cents=1))

    changes = [("b", Bought(cents=2)), ("a", Renamed(name="Ada")), ("b", Bought(cents=3)), ("b", Shipped(carrier="post"))]
    tokens = await store.publish_many(changes)

    assert [(token.entity, token.key, token.version) for token in tokens] == [
        (ENTITY, "b", 2),
        (ENTITY, "a", 1),
        (ENTITY, "b", 3),
        ("shop.parcel", "b", 1),
    ]
    assert await store.entities() == {ENTITY: 4, "shop.parcel": 4}


async def test_the_body_is_what_the_codec_writes_for_its_version(store: EventStore) -> None:
    await store.publish_many([("42", Bought(cents=each)) for each in range(200)], tx="transfer-7/2")

    async with store.database.snapshot() as read:
        rows = await read.fetch("SELECT version, body, tx FROM truecopy_events ORDER BY id")

    assert [version for version, _, _ in rows] == list(range(1, 201))
    for version, body, tx in rows:
        assert read_version(body) == version
        assert body == encode(Bought(cents=version - 1), version=version, tx="transfer-7/2")
        assert tx == "transfer-7/2"


async def test_the_schema_is_kept_by_its_fingerprint(store: EventStore) -> None:
    await store.publish("42", Bought(cents=5))

    async with store.database.snapshot() as read:
        [(subject, schema, body)] = await read.fetch(
            "SELECT s.subject, s.schema, e.body FROM truecopy_events e JOIN truecopy_schemas s USING (fingerprint)"
        )
    assert subject == "shop.customer-shop.customer.Bought"
    assert Decoder(orjson.loads(schema)).decode(body) == (1, None, {"cents": 5})


async def test_an_event_commits_with_the_business_write(store: EventStore) -> None:
    async with store.transaction() as tx:
        await tx.execute("INSERT INTO customers VALUES ($1, $2)", "42", "Ada")
        token = await tx.publish("42", Renamed(name="Ada"))

    assert token.version == 1
    assert await customers(store) == [("42", "Ada")]
    assert await history(store) == [("42", 1)]


async def test_an_event_is_rolled_back_with_the_business_write(store: EventStore) -> None:
    with pytest.raises(ZeroDivisionError):
        await write_and_fail(store)

    assert await customers(store) == []
    assert await history(store) == []
    assert await store.version(ENTITY, "42") == 0
    assert await store.entities() == {}


async def test_what_a_rollback_undid_is_declared_again(store: EventStore) -> None:
    with pytest.raises(ZeroDivisionError):
        await write_and_fail(store)

    await store.publish("42", Renamed(name="Ada"))

    assert await store.entities() == {ENTITY: 4}
    async with store.database.snapshot() as read:
        assert len(await read.fetch("SELECT subject FROM truecopy_schemas")) == 1


@pytest.mark.parametrize(("expected", "actual"), [(0, 2), (1, 2), (3, 2), (9, 2)])
async def test_a_stale_expectation_names_both_versions_and_leaves_the_transaction_usable(
    store: EventStore, expected: int, actual: int
) -> None:
    await store.publish_many([("42", Bought(cents=1)), ("42", Bought(cents=2))])

    async with store.transaction() as tx:
        await tx.execute("INSERT INTO customers VALUES ($1, $2)", "42", "Ada")
        with pytest.raises(VersionConflictError) as conflict:
            await tx.publish("42", Bought(cents=3), expected_version=expected)
        await tx.publish("7", Bought(cents=4))

    assert (conflict.value.expected, conflict.value.actual) == (expected, actual)
    assert await customers(store) == [("42", "Ada")]
    assert await history(store) == [("42", 1), ("42", 2), ("7", 1)]
    assert await store.version(ENTITY, "42") == 2


async def test_a_met_expectation_publishes(store: EventStore) -> None:
    await store.publish("42", Bought(cents=1), expected_version=0)
    await store.publish("42", Bought(cents=2), expected_version=1)

    assert await history(store) == [("42", 1), ("42", 2)]


async def test_a_key_that_was_never_there_conflicts_as_version_0(store: EventStore) -> None:
    with pytest.raises(VersionConflictError) as conflict:
        await store.publish("42", Bought(cents=1), expected_version=5)

    assert (conflict.value.expected, conflict.value.actual) == (5, 0)
    assert await store.version(ENTITY, "42") == 0


async def test_a_conflict_in_a_batch_writes_nothing_of_the_batch(store: EventStore) -> None:
    await store.publish("b", Bought(cents=1))

    async with store.transaction() as tx:
        await tx.publish("before", Bought(cents=1))
        with pytest.raises(VersionConflictError):
            await tx.publish_many([("a", Bought(cents=1)), ("b", Bought(cents=2), 7), ("c", Bought(cents=3))])
        await tx.publish("after", Bought(cents=1))
    with pytest.raises(VersionConflictError):
        await store.publish_many([("a", Bought(cents=1)), ("b", Bought(cents=2), 0)])

    assert await history(store) == [("b", 1), ("before", 1), ("after", 1)]
    assert [await store.version(ENTITY, key) for key in "abc"] == [0, 1, 0]


async def test_expectations_within_a_batch_count_its_own_events(store: EventStore) -> None:
    await store.publish_many([("a", Bought(cents=1), 0), ("a", Bought(cents=2), 1), ("a", Bought(cents=3), None)])

    with pytest.raises(VersionConflictError) as conflict:
        await store.publish_many([("a", Bought(cents=4), 3), ("a", Bought(cents=5), 3)])

    assert (conflict.value.expected, conflict.value.actual) == (3, 4)
    assert await store.version(ENTITY, "a") == 3


async def test_a_deleted_key_comes_back_and_its_versions_go_on(store: EventStore) -> None:
    await store.publish_many([("42", Renamed(name="Ada")), ("42", Left(reason="moved"))])

    token = await store.publish("42", Renamed(name="Ada"))

    assert token.version == 3


async def test_concurrent_writers_of_one_key_leave_no_hole(store: EventStore) -> None:
    tokens = await asyncio.gather(*(store.publish("42", Bought(cents=each)) for each in range(12)))

    assert sorted(token.version for token in tokens) == list(range(1, 13))
    assert sorted(await history(store)) == [("42", version) for version in range(1, 13)]


async def test_concurrent_batches_over_the_same_keys_do_not_deadlock(store: EventStore) -> None:
    keys = [f"k{each}" for each in range(50)]
    orders = [keys, keys[::-1], keys[1::2] + keys[::2]]

    await asyncio.gather(*(store.publish_many([(key, Bought(cents=1)) for key in order]) for order in orders * 3))

    assert [await store.version(ENTITY, key) for key in keys] == [9] * 50


async def test_of_two_who_expect_the_same_version_one_wins(store: EventStore) -> None:
    await store.publish("42", Bought(cents=0))

    ends = await asyncio.gather(
        *(store.publish("42", Bought(cents=each), expected_version=1) for each in range(8)), return_exceptions=True
    )

    assert sum(isinstance(end, Token) for end in ends) == 1
    assert sum(isinstance(end, VersionConflictError) for end in ends) == 7
    assert await store.version(ENTITY, "42") == 2


@pytest.mark.parametrize(
    "key",
    ["", "\x00truecopy", "a\x00b", "\ud800", "k" * 1025, "ü" * 513, 42, None],
    ids=["empty", "control key", "U+0000", "surrogate", "long", "long in UTF-8", "number", "none"],
)
async def test_an_odd_key_is_refused_and_the_transaction_stays_usable(store: EventStore, key: str) -> None:
    async with store.transaction() as tx:
        with pytest.raises(InvalidEventError):
            await tx.publish(key, Bought(cents=1))
        await tx.publish("ok", Bought(cents=1))

    assert await history(store) == [("ok", 1)]


@pytest.mark.parametrize("key", ["k" * 1024, "日本", "'; DROP TABLE truecopy_events; --", '"[\\', "\x01\n\u2028"])
async def test_any_other_text_is_a_key(store: EventStore, key: str) -> None:
    token = await store.publish(key, Renamed(name="with U+0001: \x01"))

    assert await history(store) == [(key, 1)]
    assert Token.parse(str(token)) == token


@pytest.mark.parametrize("event", [Unowned(name="Ada"), "no event", Bought.model_construct(cents="many")])
async def test_what_is_no_event_of_an_entity_is_refused(store: EventStore, event: Event) -> None:
    with pytest.raises(InvalidEventError):
        await store.publish("42", event)


async def test_an_oversize_event_takes_no_version(store: EventStore) -> None:
    async with store.transaction() as tx:
        with pytest.raises(OversizeEventError):
            await tx.publish_many([("42", Bought(cents=1)), ("42", Renamed(name="x" * 1_000_000))])
        await tx.publish("42", Bought(cents=1))

    assert await history(store) == [("42", 1)]


async def test_a_batch_is_bounded(store: EventStore) -> None:
    event = Bought(cents=1)
    with pytest.raises(InvalidEventError, match=str(PUBLISH_EVENTS_MAX)):
        await store.publish_many((f"{each}", event) for each in range(PUBLISH_EVENTS_MAX + 1))


async def test_an_empty_batch_is_nothing(store: EventStore) -> None:
    assert await store.publish_many([]) == []


async def test_pending_counts_what_is_not_on_the_log(store: EventStore) -> None:
    assert (await store.pending(ENTITY)).count == 0

    await store.publish_many([("a", Bought(cents=1)), ("b", Bought(cents=1)), ("c", Shipped(carrier="post"))])

    pending = await store.pending(ENTITY)
    assert pending.count == 2
    assert 0.0 <= pending.oldest_s < 60.0


async def test_partitions_of_an_entity_are_those_of_its_first_event(store: EventStore, database: Database) -> None:
    await store.publish("42", Bought(cents=1))
    other = EventStore(database, service="shop", partitions=12)
    await other.open()

    await other.publish("43", Bought(cents=1))
    await other.publish("44", Shipped(carrier="post"))

    assert await other.entities() == {ENTITY: 4, "shop.parcel": 12}


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_borrowed_connection_decides_over_its_event(store: EventStore, database_url: str, commit: bool) -> None:
    if database_url.startswith("sqlite"):
        connection = apsw.Connection(database_url.removeprefix("sqlite://"))
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO customers VALUES ('42', 'Ada')")
        await store.within(connection).publish("42", Renamed(name="Ada"))
        connection.execute("COMMIT" if commit else "ROLLBACK")
        connection.close()
    else:
        connection = await asyncpg.connect(database_url)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("INSERT INTO customers VALUES ('42', 'Ada')")
        await store.within(connection).publish("42", Renamed(name="Ada"))
        await (transaction.commit() if commit else transaction.rollback())
        await connection.close()

    await store.publish("43", Renamed(name="Grace"))

    assert await customers(store) == ([("42", "Ada")] if commit else [])
    assert await history(store) == ([("42", 1), ("43", 1)] if commit else [("43", 1)])
    assert await store.entities() == {ENTITY: 4}


CREATE = """
import asyncio, sys
from truecopy_bus.sql.address import connect
from truecopy_bus.store import EventStore
async def main():
    database = await connect(sys.argv[1])
    await EventStore(database, service="shop").open()
    await database.close()
asyncio.run(main())
"""


async def test_the_standard_librarys_connection_can_be_borrowed(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    # In another process: two SQLite libraries on one file in one process drop each other's locks.
    creator = await asyncio.create_subprocess_exec(sys.executable, "-c", CREATE, f"sqlite://{path}")
    assert await creator.wait() == 0
    database = await connect(f"sqlite://{path}")
    connection = sqlite3.connect(path, isolation_level=None)
    store = EventStore(database, service="shop")

    connection.execute("BEGIN")
    first = await store.within(connection).publish("42", Renamed(name="Ada"))
    connection.execute("ROLLBACK")
    connection.execute("BEGIN")
    second = await store.within(connection).publish("42", Renamed(name="Ada"), expected_version=0)
    with pytest.raises(VersionConflictError):
        await store.within(connection).publish("42", Renamed(name="Ada"), expected_version=0)
    connection.execute("COMMIT")

    assert (first.version, second.version) == (1, 1)
    assert connection.execute("SELECT key, version FROM truecopy_events").fetchall() == [("42", 1)]
    assert connection.execute("SELECT COUNT(*) FROM truecopy_schemas").fetchall() == [(1,)]
    connection.close()
    await database.close()


@pytest.mark.parametrize("text", ["", "tc1.", "tc2.WyJhIiwiYiIsMV0", "tc1.!!", "tc1.WzFd", "tc1.WyJhIiwiYiIsdHJ1ZV0"])
def test_any_other_text_is_no_token(text: str) -> None:
    with pytest.raises(InvalidTokenError):
        Token.parse(text)
