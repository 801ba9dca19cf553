"""Foreign topics in a service: declared, under test beside topics of its own, and never shown as proven equal."""

import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest

from truecopy_bus.record import Outgoing, TopicSpec
from truecopy_projections.errors import NotEqualError
from truecopy_schemas.framing import frame
from truecopy_services import Change, Event, ForeignRecord, ForeignTopic, Service, Settings, Truecopy, Verdict
from truecopy_services.errors import SettingError
from truecopy_services.status import status
from truecopy_services.testing import NotConvergedError

TOPIC = "crm.customers"
SCHEMA: dict[str, Any] = {"type": "record", "name": "crm.Customer", "fields": [{"name": "name", "type": "string"}]}


class Deposited(Event, entity="bank.account", kind="delta"):
    amount: int


@dataclass(frozen=True)
class Balance:
    amount: int


@dataclass(frozen=True)
class Customer:
    name: str
    changes: int


def bank(schemas: str, settings: Settings | None = None) -> Truecopy:
    app = Truecopy("bank", partitions=2, settings=settings)
    customers = app.projection("customers", entity=ForeignTopic(TOPIC, schemas=schemas), row=Customer)
    balances = app.projection("balance", entity="bank.account", row=Balance)

    @customers.on_record("crm.Customer")
    def customer(row: Customer | None, record: ForeignRecord, _: Change) -> Customer:
        return Customer(record["name"], 1 + (row.changes if row else 0))

    @balances.on(Deposited)
    def deposit(row: Balance | None, event: Deposited, _: Change) -> Balance:
        return Balance(event.amount + (row.amount if row else 0))

    return app


@pytest.fixture
def schemas(tmp_path: Path) -> str:
    (tmp_path / "100.avsc").write_text(json.dumps(SCHEMA))
    return f"folder:{tmp_path}"


async def write(service: Service, key: str, name: str) -> None:
    """What the other service does."""
    body = BytesIO()
    fastavro.schemaless_writer(body, SCHEMA, {"name": name})
    await service.log.create(TopicSpec(name=TOPIC, partitions=1))
    await service.log.append(TOPIC, 0, [Outgoing(key.encode(), frame(100, body.getvalue()), 0)])


@pytest.mark.parametrize("drawn", [{}, {"shuffle": True, "duplicates": 0.5, "seed": 7}], ids=["in order", "on a bad day"])
async def test_a_service_is_tested_with_foreign_topics_and_its_own(schemas: str, drawn: dict[str, Any]) -> None:
    app = bank(schemas)
    customers = app.find("customers")
    async with app.test(**drawn) as service:
        for number in range(20):
            await write(service, f"c{number % 3}", f"n{number}")
            await service.publish(f"a{number % 3}", Deposited(amount=number))
        await service.settle()

        assert await service.get(customers, "c0") == Customer("n18", 7)
        foreign, own = await service.check()
        assert (foreign.verdict, own.verdict) == (Verdict.UNPROVEN, Verdict.EQUAL)
        where = (await status(service, log_name="memory")).projections[0]
        assert (where.topic, where.unknown[1:], [one.lag for one in where.partitions]) == (TOPIC, (), [0])
        with pytest.raises(NotEqualError):
            await service.certify(foreign)


async def test_a_reducer_that_remembers_fails_the_test_of_a_foreign_topic_too(schemas: str) -> None:
    app = Truecopy("bank")
    customers = app.projection("customers", entity=ForeignTopic(TOPIC, schemas=schemas), row=Customer)
    seen: list[str] = []

    @customers.on_record("crm.Customer")
    def customer(_: Customer | None, record: ForeignRecord, change: Change) -> Customer:
        seen.append(change.key)
        return Customer(record["name"], len(seen))

    with pytest.raises(NotConvergedError, match="computed DIVERGED"):
        async with app.test() as service:
            await write(service, "c1", "Ada")


async def test_where_schemas_are_is_declared_or_set(schemas: str, tmp_path: Path) -> None:
    settings = Settings(log="memory:", home=tmp_path, namespace="test")
    async with bank("", settings).open() as service:
        customers, balance = service.projections.values()
        assert (service.topic(customers), service.topic(balance)) == (TOPIC, "test.bank.account")
        assert service.schemas(customers) is service.schemas(balance) is service.registry
    async with bank("", settings.model_copy(update={"schemas": schemas})).open() as service:
        assert (await service.schemas(service.projections["customers@1"]).schema(100)).schema == SCHEMA
    async with bank("registry:8081", settings).open() as service:
        with pytest.raises(SettingError, match="TRUECOPY_SCHEMAS"):
            service.worker(service.projections["customers@1"])
