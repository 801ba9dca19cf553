"""A small owner for tests: events of `bank.account`, and two projections of them."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from pydantic import Field

from truecopy_bus.record import Record
from truecopy_projections.arrival import Reading
from truecopy_projections.projection import Change, Projection
from truecopy_schemas import Event
from truecopy_schemas.avro_schema import avro_schema, fingerprint
from truecopy_schemas.codec import encode
from truecopy_schemas.framing import frame


class Deposited(Event, entity="bank.account", kind="delta"):
    amount: Annotated[int, Field(ge=-1_000_000, le=1_000_000)]


class Closed(Event, entity="bank.account", deletes=True):
    reason: str = ""


@dataclass(frozen=True)
class Balance:
    account: str
    amount: int
    mean: Annotated[Decimal, Field(max_digits=12, decimal_places=2)]
    events: int


@dataclass(frozen=True)
class Entry:
    account: str
    number: int
    amount: int


refused = {666}
"""Amounts that the reducer of `balance` fails for."""
balance = Projection("balance", entity="bank.account", row=Balance)
entries = Projection("entries", entity="bank.account", row=Entry, key="number")


@balance.on(Deposited)
def _balance(row: Balance | None, event: Deposited, change: Change) -> Balance:
    if event.amount in refused:
        raise ValueError("no such luck")
    events = 1 + (row.events if row else 0)
    amount = event.amount + (row.amount if row else 0)
    return Balance(change.key, amount, Decimal(amount) / events, events)


@balance.restores(leaving=["mean", "events"])
def _restore(now: Balance | None, then: Balance | None, _: Change) -> Event:
    return Closed() if then is None else Deposited(amount=then.amount - (now.amount if now else 0))


@entries.on(Deposited, touches=lambda _, change: [change.version])
def _entries(_: Entry | None, event: Deposited, change: Change) -> Entry:
    return Entry(change.key, change.version, event.amount)


SCHEMA_IDS = {Deposited: 16, Closed: 17}


def reading(projection: Projection[Balance] | Projection[Entry]) -> Reading:
    """A Reading that knows the schemas of these events."""
    told = Reading(projection)
    for event, schema_id in SCHEMA_IDS.items():
        schema = avro_schema(event)
        told.learn(schema_id, fingerprint=fingerprint(schema), schema=schema)
    return told


def record(offset: int, key: str, version: int, event: Event, *, partition: int = 0) -> Record:
    """The record of an event, as the relay appends it."""
    value = frame(SCHEMA_IDS[type(event)], encode(event, version=version))
    return Record(partition, offset, key.encode(), value, 0, ())
