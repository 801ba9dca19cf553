"""A topic of deposits on a metered log, written without an owner: what workers and checks of these drives are given."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.limits.metered import MeteredLog
from tests.projections.bank import SCHEMA_IDS, Deposited, record

from truecopy_bus.record import Outgoing, TopicSpec
from truecopy_bus.registry import Registry
from truecopy_projections.projection import Change, Projection
from truecopy_schemas.avro_schema import avro_schema

__all__ = ["TOPIC", "Copied", "Sum", "copied", "deposited", "history", "summed"]

TOPIC = "bank.account"


@dataclass(frozen=True)
class Copied:
    account: str
    amount: int


copied = Projection("copied", entity=TOPIC, row=Copied)
copied.copies(Deposited, key="account")


@dataclass(frozen=True)
class Sum:
    account: str
    amount: int


def summed(refuses: Callable[[Deposited], str] = lambda _: "") -> Projection[Any]:
    """A projection whose reducer raises what `refuses` says of an event."""
    projection: Projection[Any] = Projection("summed", entity=TOPIC, row=Sum)

    @projection.on(Deposited)
    def reduce(row: Sum | None, event: Deposited, change: Change) -> Sum:
        if why := refuses(event):
            raise ValueError(why)
        return Sum(change.key, event.amount + (row.amount if row else 0))

    return projection


def deposited(keys: Iterable[str], version: int = 1) -> list[Outgoing]:
    """One event of each key."""
    made = (record(0, key, version, Deposited(amount=version)) for key in keys)
    return [Outgoing(one.key, one.value, 0) for one in made]


async def history(
    records: Iterable[Outgoing] = (), *, now: Callable[[], float] = lambda: 0.0, partitions: int = 1
) -> tuple[MeteredLog, Registry]:
    """A log with the topic, `records` in its partition 0 behind the genesis, and the registry that knows their schema."""
    log = MeteredLog(now)
    registry = Registry(log)
    await registry.ensure()
    assert await registry.register(avro_schema(Deposited)) == SCHEMA_IDS[Deposited]
    await log.create(TopicSpec(name=TOPIC, partitions=partitions))
    if some := list(records):
        await log.append(TOPIC, 0, some)
    return log, registry
