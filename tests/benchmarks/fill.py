"""Fills a topic as a service does, through the event store and the relay, and states how fast both were."""

import time
from itertools import islice

import workload

from truecopy_services import Truecopy
from truecopy_services.service import Service

PUBLISHED_AT_ONCE = 5_000


async def fill(service: Service, regime: str, events: int) -> dict[str, float]:
    """Events per second of publishing (encoding and one transaction for each 5,000) and of relaying what was published."""
    changes = list(workload.changes(regime, events))
    began = time.perf_counter()
    left = iter(changes)
    while some := list(islice(left, PUBLISHED_AT_ONCE)):
        await service.publish_many(some)
    published = time.perf_counter()
    relay = service.relay()
    await relay.drain()
    relayed = time.perf_counter()
    await relay.mark()
    await relay.leave()
    return {"publish": events / (published - began), "relay": events / (relayed - published)}


def app(*, log: str, store: str, replica: str, regime: str) -> Truecopy:
    """A service that publishes and copies the benchmark's entity, in a namespace of its own for each regime."""
    found = Truecopy("bench", log=log, store=store, replica=replica, namespace=regime, partitions=workload.PARTITIONS)
    found.add(workload.copied)
    found.add(workload.reduced)
    return found
