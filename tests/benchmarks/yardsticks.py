"""What the same work takes without Truecopy: three pipelines that others write. None can say whether its copy is true.

`row_by_row` is the loop of a first version: one record, one decode, one committed upsert. `faststream` is FastStream with a
batch handler, as its documentation shows it, and one multi-row upsert for each batch. `best` is what an expert writes by hand
for exactly this table: large fetches, a container block for each batch, the last row of each key, COPY and merge (or one
executemany on SQLite) and the position in the same transaction.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from io import BytesIO
from typing import Any

import asyncpg
import fastavro
import orjson
import polars
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from truecopy_schemas.avro_schema import avro_schema
from truecopy_schemas.control import CONTROL_KEY
from truecopy_services.benchmark.workload import PARTITIONS, CustomerChanged

FETCH_RECORDS = 50_000
FETCH_BYTES = 8 * 1024 * 1024
PARTITION_BYTES = 4 * 1024 * 1024
WAIT_MS = 1_000
FRAME = 5
COLUMNS = ("customer", "visits", "balance", "active", "seen_at")
TABLE = (
    "CREATE TABLE IF NOT EXISTS customer (customer text PRIMARY KEY, visits bigint NOT NULL, "
    "balance double precision NOT NULL, active boolean NOT NULL, seen_at timestamptz NOT NULL)"
)
POSITIONS = "CREATE TABLE IF NOT EXISTS positions (part integer PRIMARY KEY, next bigint NOT NULL)"
REPLACE = (
    "ON CONFLICT (customer) DO UPDATE SET visits = excluded.visits, balance = excluded.balance, "
    "active = excluded.active, seen_at = excluded.seen_at"
)
MOVE_ON = "INSERT INTO positions VALUES ($1, $2) ON CONFLICT (part) DO UPDATE SET next = excluded.next"
MARKER = b"truecopy--bench!"


async def consumer(log: str, topic: str) -> AIOKafkaConsumer:
    """A consumer of all partitions from their beginnings."""
    found = AIOKafkaConsumer(
        bootstrap_servers=log.removeprefix("kafka://"),
        enable_auto_commit=False,
        auto_offset_reset="none",
        max_partition_fetch_bytes=PARTITION_BYTES,
        fetch_max_bytes=FETCH_BYTES,
    )
    await found.start()
    parts = [TopicPartition(topic, part) for part in range(PARTITIONS)]
    found.assign(parts)
    for part in parts:
        found.seek(part, 0)
    return found


async def fetched(log: str, topic: str, events: int) -> AsyncIterator[list[ConsumerRecord]]:
    """Batches of at most FETCH_RECORDS change events, until there were `events` of them."""
    source = await consumer(log, topic)
    seen = 0
    try:
        while seen < events:
            found = await source.getmany(timeout_ms=WAIT_MS, max_records=FETCH_RECORDS)
            batch = [record for each in found.values() for record in each if record.key != CONTROL_KEY]
            seen += len(batch)
            if batch:
                yield batch
    finally:
        await source.stop()


async def row_by_row(log: str, topic: str, url: str, events: int) -> float:
    schema = fastavro.parse_schema(avro_schema(CustomerChanged))
    to = await asyncpg.connect(url)
    await to.execute(TABLE)
    source = await consumer(log, topic)
    upsert = f"INSERT INTO customer VALUES ($1, $2, $3, $4, $5) {REPLACE}"
    began = time.perf_counter()
    seen = 0
    while seen < events:
        record = await source.getone()
        if record.key != CONTROL_KEY:
            row = fastavro.schemaless_reader(BytesIO(record.value[FRAME:]), schema, None)
            await to.execute(upsert, *(row[name] for name in COLUMNS))
            seen += 1
    took = time.perf_counter() - began
    await source.stop()
    await to.close()
    return took


async def faststream(log: str, topic: str, url: str, events: int) -> float:
    from faststream import FastStream
    from faststream.kafka import KafkaBroker, KafkaMessage

    schema = fastavro.parse_schema(avro_schema(CustomerChanged))
    broker = KafkaBroker(log.removeprefix("kafka://"), logger=None)
    app = FastStream(broker, logger=None)
    to = await asyncpg.connect(url)
    await to.execute(TABLE)
    seen = 0

    async def decoded(message: KafkaMessage) -> list[dict[str, Any]]:
        raw = zip(message.raw_message, message.body, strict=True)
        return [
            fastavro.schemaless_reader(BytesIO(body[FRAME:]), schema, None) for record, body in raw if record.key != CONTROL_KEY
        ]

    @broker.subscriber(
        topic, batch=True, max_records=5_000, group_id=f"bench-{time.time_ns()}", auto_offset_reset="earliest", decoder=decoded
    )
    async def copy(rows: list[dict[str, Any]]) -> None:
        nonlocal seen
        latest = {row["customer"]: row for row in rows}
        columns = [[row[name] for row in latest.values()] for name in COLUMNS]
        arrays = "unnest($1::text[], $2::bigint[], $3::float8[], $4::boolean[], $5::timestamptz[])"
        await to.execute(f"INSERT INTO customer SELECT * FROM {arrays} {REPLACE}", *columns)
        seen += len(rows)
        if seen >= events:
            app.exit()

    began = time.perf_counter()
    await app.run()
    took = time.perf_counter() - began
    await to.close()
    return took


async def best_postgres(log: str, topic: str, url: str, events: int) -> float:
    to = await asyncpg.connect(url)
    await to.execute(f"{TABLE}; {POSITIONS}")
    began = time.perf_counter()
    async for batch in fetched(log, topic, events):
        rows = latest(batch)
        async with to.transaction():
            await to.execute("CREATE TEMPORARY TABLE given (LIKE customer) ON COMMIT DROP")
            await to.copy_records_to_table("given", records=rows)
            await to.execute(f"INSERT INTO customer SELECT * FROM given ORDER BY customer {REPLACE}")
            await to.executemany(MOVE_ON, list(positions(batch).items()))
    took = time.perf_counter() - began
    await to.close()
    return took


async def best_sqlite(log: str, topic: str, path: str, events: int) -> float:
    to = sqlite3.connect(path, isolation_level=None)
    for sql in ("PRAGMA journal_mode = wal", "PRAGMA synchronous = NORMAL", TABLE, POSITIONS):
        to.execute(sql)
    began = time.perf_counter()
    async for batch in fetched(log, topic, events):
        rows = [(*row[:4], row[4].isoformat()) for row in latest(batch)]
        to.execute("BEGIN")
        to.executemany(f"INSERT INTO customer VALUES (?, ?, ?, ?, ?) {REPLACE}", rows)
        to.executemany(MOVE_ON.replace("$1, $2", "?, ?"), list(positions(batch).items()))
        to.execute("COMMIT")
    took = time.perf_counter() - began
    to.close()
    return took


def latest(batch: Sequence[ConsumerRecord]) -> list[tuple[Any, ...]]:
    """The last row of each customer, all bodies decoded as one block."""
    frame = polars.read_avro(BytesIO(block([record.value[FRAME:] for record in batch])), columns=list(COLUMNS))
    return frame.unique("customer", keep="last").rows()


def block(bodies: Sequence[bytes]) -> bytes:
    """Bodies of one schema as an Avro object container file of one block."""
    out = BytesIO()
    metadata = {"avro.schema": orjson.dumps(avro_schema(CustomerChanged)), "avro.codec": b"null"}
    out.write(b"Obj\x01")
    fastavro.schemaless_writer(out, {"type": "map", "values": "bytes"}, metadata)
    out.write(MARKER)
    data = b"".join(bodies)
    for number in (len(bodies), len(data)):
        fastavro.schemaless_writer(out, "long", number)
    out.write(data + MARKER)
    return out.getvalue()


def positions(batch: Sequence[ConsumerRecord]) -> dict[int, int]:
    return {record.partition: record.offset + 1 for record in batch}


def run(name: str, *, log: str, topic: str, target: str, events: int) -> float:
    """Seconds that the pipeline `name` takes."""
    pipelines = {
        "row_by_row": row_by_row,
        "faststream": faststream,
        "best": best_sqlite if not target.startswith("postgresql") else best_postgres,
    }
    return asyncio.run(pipelines[name](log, topic, target, events))
