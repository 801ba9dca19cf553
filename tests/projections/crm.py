"""A topic that others write, on a log in memory, and two projections of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro

from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.record import Outgoing, TopicSpec
from truecopy_bus.registry import Registry
from truecopy_bus.schema_sources import SchemaSource, schema_source
from truecopy_projections import Change, ForeignRecord, ForeignTopic, Projection, Replica, Report, Worker
from truecopy_projections.check import check
from truecopy_projections.state import PartitionState, Reason
from truecopy_schemas.framing import frame

TOPIC = "crm-customers"
CUSTOMER = {
    "type": "record",
    "name": "Customer",
    "namespace": "crm",
    "fields": [{"name": "name", "type": "string"}, {"name": "spent", "type": {"type": "long"}}],
}
VISIT = {"type": "record", "name": "crm.Visit", "fields": [{"name": "place", "type": ["null", "string"]}]}
PING = {"type": "record", "name": "crm.Ping", "fields": []}
IDS = {"crm.Customer": 7, "crm.Visit": 8, "crm.Ping": 9}


@dataclass(frozen=True)
class Customer:
    name: str
    spent: int
    changes: int


@dataclass(frozen=True)
class Visit:
    number: int
    place: str | None


customers = Projection("customers", entity=ForeignTopic(TOPIC), row=Customer)
visits = Projection("visits", entity=ForeignTopic(TOPIC), row=Visit, key="number")


@customers.on_record("crm.Customer")
def _customer(row: Customer | None, record: ForeignRecord, _: Change) -> Customer:
    if record["name"] == "Eve":
        raise ValueError("no such luck")
    return Customer(record["name"], record["spent"] + (row.spent if row else 0), 1 + (row.changes if row else 0))


@visits.on_record("crm.Visit", touches=lambda _, change: [change.version])
def _visit(_: Visit | None, record: ForeignRecord, change: Change) -> Visit:
    return Visit(change.version, record["place"])


def framed(schema: Mapping[str, Any], schema_id: int = 0, **fields: Any) -> bytes:
    """A value as a Confluent serializer writes it."""
    body = BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(dict(schema)), fields)
    return frame(schema_id or IDS[fastavro.parse_schema(dict(schema))["name"]], body.getvalue())


def customer(name: str, spent: int = 1) -> bytes:
    return framed(CUSTOMER, name=name, spent=spent)


@dataclass
class Crm:
    """The writer of the topic, a folder of schemas, and a replica."""

    folder: Path
    replica: Replica
    log: Any = field(default_factory=MemoryLog)
    partitions: int = 2

    async def begin(self, *schemas: Mapping[str, Any]) -> None:
        await self.log.create(TopicSpec(name=TOPIC, partitions=self.partitions))
        for schema in schemas or (CUSTOMER, VISIT, PING):
            self.tell(schema)

    def tell(self, schema: Mapping[str, Any]) -> None:
        """Put a schema where it is looked up."""
        schema_id = IDS[fastavro.parse_schema(dict(schema))["name"]]
        (self.folder / f"{schema_id}.avsc").write_text(json.dumps(schema))

    async def write(self, *records: tuple[str | None, bytes | None], partition: int | None = None) -> None:
        for key, value in records:
            p = sum((key or "").encode()) % self.partitions if partition is None else partition
            await self.log.append(TOPIC, p, [Outgoing(None if key is None else key.encode(), value, 0)])

    def schemas(self) -> SchemaSource:
        return schema_source(f"folder:{self.folder}", Registry(self.log))

    def worker(self, projection: Projection[Any] = customers, *, records_max: int = 50_000) -> Worker:
        schemas = self.schemas()
        return Worker(
            projection, self.replica, self.log, schemas, lease_s=1.0, wait_s=0.02, records_max=records_max, holder="w"
        )

    async def apply(self, projection: Projection[Any] = customers, *, records_max: int = 50_000) -> None:
        """A new worker applies all that is there."""
        worker = self.worker(projection, records_max=records_max)
        try:
            while await worker.step():
                pass
        finally:
            await worker.leave()

    async def check(self, projection: Projection[Any] = customers, *, deep: bool = True, wait_s: float = 0.0) -> Report:
        return await check(projection, self.replica, self.log, self.schemas(), deep=deep, wait_s=wait_s)

    async def rows(self, key: str, projection: Projection[Any] = customers) -> tuple[int, Sequence[Any]]:
        """The version that a key is applied at, and its rows."""
        async with self.replica.snapshot() as snapshot:
            state, rows = await snapshot.get(projection, key)
        found = [projection.restored(row.values) for row in rows]
        return (state.applied if state else 0), sorted(found, key=repr)

    async def states(self) -> Mapping[int, PartitionState]:
        async with self.replica.snapshot() as snapshot:
            return await snapshot.states(customers.id)

    async def waiting(self) -> list[tuple[str | None, int | None, Reason]]:
        async with self.replica.snapshot() as snapshot:
            return [(one.key, one.version, one.reason) for one in await snapshot.waiting(customers.id)]
