"""Uses of the public API, for type checkers alone: every line must mean what it seems to."""

# ruff: noqa: ARG001, ARG005 - a reducer's signature is given, whatever it makes of it
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, assert_type

from pydantic import Field

from truecopy_projections.certificate import Certificate, Standing
from truecopy_projections.testing import gathering, given
from truecopy_services import (
    EVERY_ROW,
    Change,
    Event,
    ForeignRecord,
    ForeignTopic,
    Gathered,
    GatheredReader,
    Projection,
    Record,
    ReplicaReader,
    Report,
    Service,
    Settings,
    Token,
    Truecopy,
    TruecopyError,
    Verdict,
    VersionConflictError,
)
from truecopy_services.testing import Harness


class Line(Record):
    sku: str
    pieces: int


class Ordered(Event, entity="shop.order", kind="state"):
    lines: list[Line]
    total: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]


class Cancelled(Event, entity="shop.order", deletes=True):
    pass


@dataclass(frozen=True)
class Order:
    total: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]


@dataclass(frozen=True)
class OrderLine:
    sku: str
    pieces: int


app = Truecopy("shop", log="memory:", partitions=2)
orders = app.projection("orders", entity="shop.order", row=Order)
lines = app.add(Projection("lines", entity="shop.order", row=OrderLine, key="sku", version=2))
prices = app.projection("prices", entity=ForeignTopic("erp.prices", schemas="http://localhost:8081"), row=Order)
assert_type(prices, Projection[Order])
assert_type(orders, Projection[Order])
assert_type(lines, Projection[OrderLine])


@orders.on(Ordered)
def order(row: Order | None, event: Ordered, change: Change) -> Order | None:
    assert_type(change.key, str)
    return Order(event.total)


@orders.on(Cancelled)
def cancel(row: Order | None, event: Cancelled, change: Change) -> None:
    return None


@lines.on(Ordered, touches=lambda event, change: [line.sku for line in event.lines])
def line(row: OrderLine | None, event: Ordered, change: Change) -> OrderLine | None:
    return next((OrderLine(one.sku, one.pieces) for one in event.lines if (one.sku,) == change.row), None)


@lines.on(Cancelled, touches=lambda event, change: EVERY_ROW)
def forget(row: OrderLine | None, event: Cancelled, change: Change) -> OrderLine | None:
    return None


@dataclass(frozen=True)
class Pieces:
    sku: str
    pieces: int


def one_line(line: OrderLine) -> Pieces:
    return Pieces(line.sku, line.pieces)


def add(one: Pieces, other: Pieces) -> Pieces:
    return Pieces(one.sku, one.pieces + other.pieces)


pieces = lines.gather("pieces", row=Pieces, by="sku", each=one_line, merge=add, unmerge=lambda one, other: one)
assert_type(pieces, Gathered[Pieces])
gathering(pieces, OrderLine("sku-1", 1)).then(Pieces("sku-1", 1))


@prices.on_record("erp.Price", "erp.Correction")
def price(row: Order | None, record: ForeignRecord, change: Change) -> Order | None:
    return Order(record["total"])


async def use(settings: Settings) -> list[Report]:
    async with app.at(settings).running() as service:
        assert_type(service, Service)
        token = await service.publish("o1", Ordered(lines=[], total=Decimal("1.00")), expected_version=0)
        assert_type(token, Token)
        tokens = await service.publish_many([("o2", Cancelled()), ("o3", Cancelled(), 3)])
        assert_type(tokens, list[Token])
        async with service.store.transaction() as tx:
            await tx.execute("SELECT 1")
            assert_type(await tx.publish("o1", Cancelled()), Token)
        reader = service.replica(orders)
        assert_type(reader, ReplicaReader[Order])
        assert_type(await reader.get("o1", at_least=token), Order | None)
        assert_type(await service.get(orders, "o1", at_least=str(token)), Order | None)
        assert_type(await service.replica(lines).rows("o1"), list[OrderLine])
        assert_type(await service.replica(lines).get("o1", "sku-1"), OrderLine | None)
        assert_type(service.replica(pieces), GatheredReader[Pieces])
        assert_type(await service.replica(pieces).get("sku-1", at_least=token), Pieces | None)
        assert_type(await service.replica(pieces).rows(), list[Pieces])
        reports = await service.check(orders, lines, deep=True)
        assert_type(reports, list[Report])
        assert_type(reports[0].verdict, Verdict)
        certificate = await service.certify(reports[0], because="why")
        assert_type(certificate, Certificate)
        assert_type(await service.certificates(orders), list[Certificate])
        assert_type((await service.verify(certificate, projection=orders)).standing, Standing)
        await service.repair(orders, apply=True)
        return reports


async def test() -> None:
    async with app.test(shuffle=True, duplicates=0.2, seed=1) as service:
        assert_type(service, Harness)
        await use_of(service)
        await service.settle(parked=True)
        assert_type(await service.get(orders, "o1"), Order | None)
        assert_type(service.replica(lines), ReplicaReader[OrderLine])
        assert_type(await service.rows(lines), dict[str, list[OrderLine]])
        assert_type(await service.check(), list[Report])
    given(orders, Ordered(lines=[], total=Decimal("1.00"))).when(Cancelled()).then(None)
    given(lines).when(Cancelled()).then(OrderLine("sku-1", 1), OrderLine("sku-2", 1))


async def use_of(service: Service) -> None:
    await service.publish("o1", Cancelled())


def remedy(error: TruecopyError) -> int:
    return error.actual if isinstance(error, VersionConflictError) else 0
