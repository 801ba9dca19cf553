"""The benchmark's records ready to be sent, and the least that can send them: aiokafka's own `send_batch`."""

import time
from itertools import islice
from typing import Any

from aiokafka import AIOKafkaProducer

from truecopy_bus.partitioner import partition_of
from truecopy_bus.record import Outgoing
from truecopy_schemas.codec import encode
from truecopy_schemas.framing import frame
from truecopy_services.benchmark.workload import PARTITIONS, changes

BATCH = 5_000


def bodies(events: int) -> list[bytes]:
    return [encode(event, version=1) for _, event in changes("spread", events)]


def batches(events: int) -> dict[int, list[list[Outgoing]]]:
    """By partition, batches of at most 5,000 records."""
    by_partition: dict[int, list[Outgoing]] = {part: [] for part in range(PARTITIONS)}
    for key, event in changes("spread", events):
        record = Outgoing(key.encode(), frame(1, encode(event, version=1)), time.time_ns() // 1_000_000)
        by_partition[partition_of(key, PARTITIONS)].append(record)
    found: dict[int, list[list[Outgoing]]] = {}
    for part, records in by_partition.items():
        left = iter(records)
        found[part] = list(iter(lambda left=left: list(islice(left, BATCH)), []))  # type: ignore[misc]
    return found


async def append(log: str, topic: str, events: int) -> dict[str, Any]:
    """Each partition's records in batches as full as they get, acks=all, none waited for before the end."""
    ready = batches(events)
    producer = AIOKafkaProducer(bootstrap_servers=log.removeprefix("kafka://"), acks="all", max_batch_size=1_000_000)
    await producer.start()
    await producer.partitions_for(topic)
    began = time.perf_counter()
    sent = []
    for part, some in ready.items():
        batch = producer.create_batch()
        for record in (record for each in some for record in each):
            if batch.append(key=record.key, value=record.value, timestamp=record.timestamp_ms) is None:
                sent.append(await producer.send_batch(batch, topic, partition=part))
                batch = producer.create_batch()
                batch.append(key=record.key, value=record.value, timestamp=record.timestamp_ms)
        sent.append(await producer.send_batch(batch, topic, partition=part))
    for future in sent:
        await future
    seconds = time.perf_counter() - began
    await producer.stop()
    return {"seconds": seconds}
