"""Both ways across the border, on a real Kafka: Confluent's producer fills a replica, and Confluent's clients read our topics.

kcat reads our topic too where it is installed; elsewhere librdkafka, which it is made of, reads it the same way.
"""

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from truecopy_schemas.control import CONTROL_KEY
from truecopy_services import Change, Event, ForeignRecord, ForeignTopic, Projection, Service, Settings, Truecopy, Verdict
from truecopy_services.registry_http import routes, served

WAIT_S = 30.0
CUSTOMER = """{"type": "record", "name": "Customer", "namespace": "crm", "fields": [
    {"name": "name", "type": "string"},
    {"name": "credit", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}}]}"""


class Renamed(Event, entity="shop.customer"):
    name: str


class Left(Event, entity="shop.customer", deletes=True):
    why: str = ""


@dataclass(frozen=True)
class Customer:
    name: str
    changes: int


class ForeignRegistry:
    """As much of a Confluent registry as its clients need to register, and to read back."""

    def __init__(self) -> None:
        self.schemas: list[str] = []
        paths = {"/subjects/{subject}/versions": self.register, "/subjects/{subject}": self.register}
        self.routes = [Route(path, answer, methods=["POST"]) for path, answer in paths.items()]
        self.routes.append(Route("/schemas/ids/{id:int}", self.by_id))

    async def register(self, request: Request) -> JSONResponse:
        schema = (await request.json())["schema"]
        if schema not in self.schemas:
            self.schemas.append(schema)
        schema_id = 100 + self.schemas.index(schema)
        return JSONResponse({"subject": request.path_params["subject"], "id": schema_id, "version": 1, "schema": schema})

    async def by_id(self, request: Request) -> JSONResponse:
        at = request.path_params["id"] - 100
        if at not in range(len(self.schemas)):
            return JSONResponse({"error_code": 40403, "message": "Schema not found"}, 404)
        return JSONResponse({"schema": self.schemas[at]})


@asynccontextmanager
async def serving(some: list[Route]) -> AsyncIterator[str]:
    """These routes over HTTP, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with served(some, listener):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


class Confluent:
    """Confluent's own clients, for one broker. Everything here blocks: call it in a thread."""

    def __init__(self, brokers: str) -> None:
        self.brokers = brokers

    def create(self, topic: str, partitions: int) -> None:
        admin = AdminClient({"bootstrap.servers": self.brokers})
        admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(WAIT_S)

    def delete(self, topic: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.brokers})
        admin.delete_topics([topic])[topic].result(WAIT_S)

    def write(self, topic: str, registry: str, records: list[tuple[str, dict[str, Any] | None]]) -> None:
        with SchemaRegistryClient({"url": registry}) as client:
            serialize = AvroSerializer(client, CUSTOMER)
            producer = Producer({"bootstrap.servers": self.brokers, "enable.idempotence": True})
            context = SerializationContext(topic, MessageField.VALUE)
            for key, fields in records:
                producer.produce(topic, key=key, value=None if fields is None else serialize(fields, context))
            assert producer.flush(WAIT_S) == 0

    def write_transactions(self, topic: str, registry: str, transactions: list[tuple[dict[str, Any], bool]]) -> None:
        """Each a record of the key `c1`, and whether it is committed."""
        with SchemaRegistryClient({"url": registry}) as client:
            serialize = AvroSerializer(client, CUSTOMER)
            producer = Producer({"bootstrap.servers": self.brokers, "transactional.id": topic})
            producer.init_transactions(WAIT_S)
            for fields, committed in transactions:
                producer.begin_transaction()
                producer.produce(topic, key="c1", value=serialize(fields, SerializationContext(topic, MessageField.VALUE)))
                assert producer.flush(WAIT_S) == 0
                (producer.commit_transaction if committed else producer.abort_transaction)(WAIT_S)

    def read(self, topic: str) -> list[Message]:
        """All that the topic holds, by partition."""
        consumer = Consumer({"bootstrap.servers": self.brokers, "group.id": "foreign", "enable.auto.commit": False})
        found: list[Message] = []
        for partition in consumer.list_topics(topic, WAIT_S).topics[topic].partitions:
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), WAIT_S)
            consumer.assign([TopicPartition(topic, partition, 0)])
            while not found or (found[-1].partition(), found[-1].offset()) != (partition, end - 1):
                message = consumer.poll(WAIT_S)
                assert message is not None
                assert message.error() is None
                found.append(message)
        consumer.close()
        return found

    def decoded(self, topic: str, registry: str) -> list[tuple[bytes, dict[str, Any]]]:
        with SchemaRegistryClient({"url": registry}) as client:
            deserialize = AvroDeserializer(client)
            context = SerializationContext(topic, MessageField.VALUE)
            return [(message.key(), deserialize(message.value(), context)) for message in self.read(topic)]

    def kcat(self, topic: str) -> list[tuple[str, int, str]]:
        """(key, bytes of the value, headers) of all records, as kcat tells them."""
        if (program := shutil.which("kcat") or shutil.which("kafkacat")) is None:
            return [
                (
                    one.key().decode(),
                    len(one.value()),
                    ",".join(f"{name}={value.decode()}" for name, value in one.headers() or ()),
                )
                for one in self.read(topic)
            ]
        words = [program, "-C", "-b", self.brokers, "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%k\t%S\t%h\n"]
        ran = subprocess.run(words, capture_output=True, check=True, text=True, timeout=WAIT_S)
        lines = [line.split("\t") for line in ran.stdout.splitlines()]
        return [(key, int(size), headers) for key, size, headers in lines]


@pytest.fixture
def confluent(kafka_url: str) -> Confluent:
    return Confluent(urlsplit(kafka_url).netloc)


def app(kafka_url: str, folder: Path, *, namespace: str = "") -> Truecopy:
    settings = Settings(
        log=kafka_url, replica=f"sqlite:{folder}/replica.db", home=folder, namespace=namespace, check_wait_s=0.0, lease_s=2.0
    )
    return Truecopy("billing", partitions=2, settings=settings)


def customers(declared: Truecopy, topic: str, schemas: str) -> Projection[Customer]:
    found = declared.projection("customers", entity=ForeignTopic(topic, schemas=schemas), row=Customer)

    @found.on_record("crm.Customer")
    def customer(row: Customer | None, record: ForeignRecord, _: Change) -> Customer:
        return Customer(f"{record['name']} {record['credit']}", 1 + (row.changes if row else 0))

    return found


async def caught_up(service: Service, projection: Projection[Any]) -> None:
    worker = service.worker(projection)
    async with asyncio.timeout(WAIT_S):
        try:
            while await worker.step() or await behind(service, projection):
                pass
        finally:
            await worker.leave()


async def behind(service: Service, projection: Projection[Any]) -> bool:
    (report,) = await service.check(projection)
    return report.delivered.verdict is Verdict.BEHIND


async def test_a_confluent_producers_topic_becomes_a_replica(
    kafka_url: str, confluent: Confluent, topic_namespace: str, tmp_path: Path
) -> None:
    topic = f"{topic_namespace}-crm-customers"
    records: list[tuple[str, dict[str, Any] | None]] = [
        (f"c{number % 7}", {"name": f"n{number}", "credit": Decimal(f"{number}.50")}) for number in range(70)
    ]
    await asyncio.to_thread(confluent.create, topic, 3)
    async with serving(ForeignRegistry().routes) as registry:
        declared = app(kafka_url, tmp_path, namespace=topic_namespace)
        projection = customers(declared, topic, registry)
        await asyncio.to_thread(confluent.write, topic, registry, records)
        async with declared.open(store=False) as service:
            await caught_up(service, projection)
            assert await service.get(projection, "c6") == Customer("n69 69.50", 10)

            await asyncio.to_thread(confluent.write, topic, registry, [("c6", None), *records[:7]])
            await caught_up(service, projection)
            assert await service.get(projection, "c6") == Customer("n6 6.50", 1)
            assert await service.get(projection, "c5") == Customer("n5 5.50", 11)
            (report,) = await service.check(projection, deep=True)
            assert (report.verdict, report.computed.verdict, report.stored.verdict, report.count) == (
                Verdict.UNPROVEN,
                Verdict.EQUAL,
                Verdict.EQUAL,
                78,
            )

            await asyncio.to_thread(confluent.delete, topic)
            await asyncio.to_thread(confluent.create, topic, 3)
            await asyncio.to_thread(confluent.write, topic, registry, records * 2)
            worker = service.worker(projection)
            await worker.step()
            await worker.leave()
            assert await service.get(projection, "c5") == Customer("n5 5.50", 11), "nothing of the topic made anew is applied"
            (report,) = await service.check(projection)
            assert (report.delivered.verdict, report.computed.verdict) == (Verdict.INCOMPARABLE, Verdict.UNPROVEN)
            assert "incarnation" in report.delivered.why


async def test_of_transactions_only_what_was_committed_is_applied_and_their_markers_leave_nobody_behind(
    kafka_url: str, confluent: Confluent, topic_namespace: str, tmp_path: Path
) -> None:
    topic = f"{topic_namespace}-crm-customers"
    transactions = [({"name": f"n{number}", "credit": Decimal("1.00")}, number % 2 == 0) for number in range(6)]
    await asyncio.to_thread(confluent.create, topic, 1)
    async with serving(ForeignRegistry().routes) as registry:
        declared = app(kafka_url, tmp_path)
        projection = customers(declared, topic, registry)
        await asyncio.to_thread(confluent.write_transactions, topic, registry, transactions)
        async with declared.open(store=False) as service:
            await caught_up(service, projection)
            assert await service.get(projection, "c1") == Customer("n4 1.00", 3)
            (report,) = await service.check(projection, deep=True)
    assert (report.verdict, report.computed.verdict, dict(report.positions)) == (Verdict.UNPROVEN, Verdict.EQUAL, {0: 12})


async def test_confluents_deserializer_and_kcat_read_our_topics(
    kafka_url: str, confluent: Confluent, topic_namespace: str, tmp_path: Path
) -> None:
    async with app(kafka_url, tmp_path, namespace=topic_namespace).open() as service:
        for number in range(6):
            await service.publish(f"c{number % 3}", Renamed(name=f"n{number}"))
        await service.publish("c0", Left(why="moved"))
        relay = service.relay()
        await relay.drain()
        await relay.mark()
        await relay.leave()
        topic = f"{topic_namespace}.shop.customer"
        async with serving(routes(service.registry)) as registry:
            found = await asyncio.to_thread(confluent.decoded, topic, registry)
        told = await asyncio.to_thread(confluent.kcat, topic)

    events = sorted((key, said["_version"], said.get("name", said.get("why"))) for key, said in found if key != CONTROL_KEY)
    assert events == [
        (b"c0", 1, "n0"),
        (b"c0", 2, "n3"),
        (b"c0", 3, "moved"),
        (b"c1", 1, "n1"),
        (b"c1", 2, "n4"),
        (b"c2", 1, "n2"),
        (b"c2", 2, "n5"),
    ]
    controls = [said for key, said in found if key == CONTROL_KEY]
    assert len({said["incarnation"] for said in controls}) == 1
    assert sum(said.get("count", 0) for said in controls) == 7
    assert sum("partitions" in said for said in controls) == 2
    assert sorted(key for key, _, headers in told if "truecopy=" not in headers) == [key.decode() for key, _, _ in events]
    assert len(told) == len(found)


async def test_the_registry_answers_as_confluents_does() -> None:
    async with Truecopy("shop", log="memory:").test() as service:
        await service.publish("c1", Renamed(name="Ada"))
        await service.settle()
        async with serving(routes(service.registry)) as url:
            with SchemaRegistryClient({"url": url}) as client:

                def refused(ask: Callable[[], Any]) -> tuple[int, int]:
                    with pytest.raises(SchemaRegistryError) as raised:
                        ask()
                    return raised.value.http_status_code, raised.value.error_code

                def ask() -> tuple[Any, ...]:
                    (subject,) = [one for one in client.get_subjects() if one.startswith("shop.")]
                    latest = client.get_latest_version(subject)
                    refusals = [
                        refused(lambda: client.get_schema(999)),
                        refused(lambda: client.get_versions("nobody")),
                        refused(lambda: client.get_version(subject, 2)),
                        refused(lambda: client.get_version(subject, "two")),
                        refused(lambda: client.register_schema("mine", Schema(CUSTOMER, "AVRO"))),
                    ]
                    return subject, client.get_versions(subject), latest, client.get_schema(latest.schema_id), refusals

                subject, versions, latest, schema, refusals = await asyncio.to_thread(ask)
    assert (subject, versions, latest.version) == ("shop.customer-shop.customer.Renamed", [1], 1)
    assert json.loads(schema.schema_str)["fields"][0]["name"] == "_version"
    assert refusals == [(404, 40403), (404, 40401), (404, 40402), (422, 42202), (405, -1)]
