"""One contender at one piece of work, in a process of its own: `contender.py NAME '{"log": ...}'` prints figures as JSON.

One that has to begin at the same moment as others prints "ready", and begins when it is sent a line.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

import bare
import psutil
import yardsticks

from truecopy_bus.logs.kafka import KafkaLog
from truecopy_bus.record import TopicSpec
from truecopy_schemas.avro_schema import avro_schema, fingerprint
from truecopy_schemas.blocks import BlockDecoder
from truecopy_schemas.codec import Decoder
from truecopy_services import Settings
from truecopy_services.benchmark import workload
from truecopy_services.benchmark.measuring import LATENCY_WITHIN_S, Sightings, catch_up, fill, pace, proven, watched
from truecopy_services.benchmark.workload import CustomerChanged, app
from truecopy_services.working import spare_collector, work

PROJECTIONS = {"copied": workload.copied, "reduced": workload.reduced}
SAMPLES = 50


def settings(**given: str) -> Settings:
    return Settings.load(**given)


async def publish(regime: str, events: int, **at: str) -> dict[str, Any]:
    async with app(settings(namespace=regime, **at)).open() as service:
        return dict(await fill(service, regime, events))


async def truecopy(regime: str, events: int, projection: str = "copied", **at: str) -> dict[str, Any]:
    """Catch-up from nothing, with the memory that it took along the way."""
    chosen, process = PROJECTIONS[projection], psutil.Process()
    memory: list[tuple[int, float]] = []

    def note(applied: int) -> None:
        if applied >= len(memory) * events / SAMPLES:
            memory.append((applied, process.memory_info().rss / 2**20))

    async with app(settings(namespace=regime, store="sqlite::memory:", **at)).open(store=False) as service:
        seconds = await catch_up(service, chosen, events, each=note)
        await proven(service, chosen)
    return {"seconds": seconds, "memory": memory}


async def apply(regime: str, events: int, projection: str = "copied", **at: str) -> dict[str, Any]:
    """Catch-up from a log in memory: decode, plan and apply, without a fetch."""
    async with app(settings(log="memory:", namespace=regime, **at)).open() as service:
        await fill(service, regime, events)
        return {"seconds": await catch_up(service, PROJECTIONS[projection], events)}


async def share(regime: str, events: int, **at: str) -> dict[str, Any]:
    """One of several workers; done when all of them together have applied all."""
    async with app(settings(namespace=regime, store="sqlite::memory:", **at)).open(store=False) as service:
        worker = service.worker(workload.copied)
        print("ready", flush=True)
        sys.stdin.readline()
        count = 0
        while count < events:
            if not await worker.step():
                async with service.replica_adapter.snapshot() as snapshot:
                    count = sum(state.count for state in (await snapshot.states(workload.copied.id)).values())
        await worker.leave()
    return {"applied": worker.applied}


async def start(regime: str, **at: str) -> dict[str, Any]:
    """Seconds until a relay has moved one event, and until a worker has applied it, both just started on what is there."""
    async with app(settings(namespace=regime, **at)).open() as service:
        _, event = next(workload.changes("spread", 2))
        await service.publish(f"start-{time.time_ns()}", event)
        began = time.perf_counter()
        relay = service.relay()
        await relay.drain()
        relayed = time.perf_counter()
        worker = service.worker(workload.copied)
        while not worker.applied:
            await worker.step()
        applied = time.perf_counter()
        await worker.leave()
        await relay.leave()
    return {"relay": relayed - began, "worker": applied - relayed}


async def owner(rate: float, events: int, **at: str) -> dict[str, Any]:
    """The publishing half of a latency: an owner with its relay in its own process."""
    stop = asyncio.Event()
    async with app(settings(**at)).open() as service, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(work(service, stop, relay=True, projections=[]))
        warm = await pace(service, rate=rate, events=int(rate))
        # Making a topic is no part of a latency, and the outbox has no signal of its own.
        async with asyncio.timeout(LATENCY_WITHIN_S):
            while (await service.store.pending(workload.ENTITY)).count:  # noqa: ASYNC110
                await asyncio.sleep(1 / rate)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        committed_at = await pace(service, rate=rate, events=events)
        stop.set()
        await running
        relay = service.relay()
        await relay.drain()
        await relay.leave()
    return {"at": committed_at, "warm": len(warm)}


async def reader(**at: str) -> dict[str, Any]:
    """The applying half: a worker in its own process, as `truecopy run --only workers` has it."""
    seen, stop = Sightings(), asyncio.Event()
    async with app(settings(**at)).open(store=False) as service, asyncio.TaskGroup() as tasks:
        tasks.create_task(work(watched(service, seen.note), stop, relay=False, projections=[workload.copied]))
        print("ready", flush=True)
        await seen.until(json.loads(await asyncio.to_thread(sys.stdin.readline)))
        stop.set()
    return {"at": seen.seen_at}


async def append(log: str, topic: str, events: int) -> dict[str, Any]:
    """The log alone: batches of 5,000 to each of the partitions at a time."""
    batches = bare.batches(events)
    to = KafkaLog.from_url(log)
    await to.create(TopicSpec(name=topic, partitions=workload.PARTITIONS))
    began = time.perf_counter()

    async def each(partition: int) -> None:
        for batch in batches[partition]:
            await to.append(topic, partition, batch)

    await asyncio.gather(*map(each, batches))
    seconds = time.perf_counter() - began
    await to.close()
    return {"seconds": seconds}


async def decode(events: int) -> dict[str, Any]:
    """Bodies in memory: one by one, and as blocks of 50,000."""
    bodies = bare.bodies(events)
    schema = avro_schema(CustomerChanged)
    decoder, block = Decoder(schema), BlockDecoder.of(schema)
    assert block is not None
    began = time.perf_counter()
    for body in bodies:
        decoder.decode(body)
    between = time.perf_counter()
    for at in range(0, len(bodies), 50_000):
        assert block.decode(bodies[at : at + 50_000]) is not None
    after = time.perf_counter()
    return {"records": events / (between - began), "columns": events / (after - between), "schema": fingerprint(schema).hex()}


def main() -> None:
    name, given = sys.argv[1], json.loads(sys.argv[2])
    own = {each.__name__: each for each in (publish, truecopy, apply, share, start, owner, reader, append, decode)}
    spare_collector()  # as `truecopy run` does; the others are spared too, and some gain as much
    figures: dict[str, Any]
    if name in own:
        figures = asyncio.run(own[name](**given))
    elif name == "bare_append":
        figures = asyncio.run(bare.append(**given))
    else:
        topic = f"{given.pop('regime')}.{workload.ENTITY}"
        figures = {"seconds": yardsticks.run(name, topic=topic, **given)}
    process = psutil.Process(os.getpid())
    print(json.dumps({**figures, "cpu_seconds": time.process_time(), "mib": process.memory_info().rss / 2**20}))


if __name__ == "__main__":
    main()
