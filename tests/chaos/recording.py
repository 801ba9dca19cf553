"""Writes down what a process appends, reads and commits, outside of the system: one JSON line each, before and after.

The app of the drills asks for it when a variable names a folder. It wraps the ports of the adapters at hand, and so sees
what went over them and not what was meant. A line that begins something and has no line that ends it is that of a process
which was killed in between: nobody knows whether it happened. Times are those of the machine's monotonic clock.
"""

import itertools
import json
import os
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tests.projections.bank import Deposited

from truecopy_bus.logs.kafka.log import KafkaLog
from truecopy_bus.logs.kafka.reader import KafkaReader
from truecopy_bus.record import Appended, Outgoing, Record
from truecopy_projections.projection import Projection
from truecopy_projections.replicas.sql import SqlReplica
from truecopy_projections.state import PartitionPlan
from truecopy_schemas.avro_schema import avro_schema
from truecopy_schemas.codec import Decoder
from truecopy_schemas.control import CONTROL_KEY
from truecopy_schemas.framing import unframe

_decoder = Decoder(avro_schema(Deposited), Deposited)
_numbers = itertools.count()


def event(key: bytes | None, value: bytes | None) -> list[Any] | None:
    """Key, version and amount of an event; None for a control record."""
    if key is None or key == CONTROL_KEY:
        return None
    version, _, fields = _decoder.decode(bytes(unframe(value)[1]))
    return [key.decode(), version, fields["amount"]]


def record_to(folder: Path) -> None:
    """Wrap the adapters of this process."""
    file = os.open(folder / f"{os.getpid()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(**line: Any) -> None:
        os.write(file, json.dumps({"at": time.monotonic(), "pid": os.getpid(), **line}).encode() + b"\n")

    append, read, apply = KafkaLog.append, KafkaReader.read, SqlReplica.apply

    async def recorded_append(self: KafkaLog, topic: str, partition: int, records: Sequence[Outgoing]) -> Appended:
        if not topic.endswith(Deposited.__entity__):
            return await append(self, topic, partition, records)
        number = next(_numbers)
        write(did="send", begins=number, partition=partition, records=[event(r.key, r.value) for r in records])
        appended = await append(self, topic, partition, records)
        write(did="send", ends=number, first=appended.first)
        return appended

    async def recorded_read(self: KafkaReader, positions: Any, *, records_max: int, wait_s: float) -> Sequence[Record]:
        asked = dict(positions)
        records = await read(self, positions, records_max=records_max, wait_s=wait_s)
        if records and self._topic.endswith(Deposited.__entity__):
            found = [(r.partition, r.offset, event(r.key, r.value)) for r in records]
            reader = self.__dict__.setdefault("recorded_as", next(_numbers))
            write(did="poll", reader=reader, asked=asked, records=found)
        return records

    async def recorded_apply(
        self: SqlReplica, projection: Projection[Any], plans: Sequence[PartitionPlan], **more: Any
    ) -> Collection[int]:
        number = next(_numbers)
        moves = [
            {"partition": p.was.partition, "from": p.was.position, "to": p.state.position, "applied": p.applied} for p in plans
        ]
        write(did="commit", begins=number, projection=projection.id, plans=moves)
        committed = await apply(self, projection, plans, **more)
        write(did="commit", ends=number, committed=sorted(committed))
        return committed

    for adapter, name, recorded in (
        (KafkaLog, "append", recorded_append),
        (KafkaReader, "read", recorded_read),
        (SqlReplica, "apply", recorded_apply),
    ):
        setattr(adapter, name, recorded)
