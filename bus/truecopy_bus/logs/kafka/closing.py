"""Closing what may hang: bounded, and apart from whoever closes it."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from truecopy_bus.limits import BACKOFF_LAST_S
from truecopy_bus.logs.kafka.settings import KafkaSettings

__all__ = ["closed"]

_closing: set[asyncio.Task[None]] = set()  # a task that nobody holds may be collected before it ends


async def closed(closing: Coroutine[Any, Any, None], settings: KafkaSettings) -> bool:
    """Whether it closed within its time. A broker that is away is no fault of the one who leaves.

    In a task of its own: stopping a consumer whose fetch has just failed raises the CancelledError of an inner task,
    which here would look as if the caller was cancelled (aiokafka 0.14, `Fetcher.close`).
    """
    task = asyncio.create_task(closing)
    _closing.add(task)
    task.add_done_callback(_closing.discard)
    limit_s = min(settings.connect_timeout_s, BACKOFF_LAST_S)
    await asyncio.wait([task], timeout=limit_s)
    if task.cancel():
        await asyncio.wait([task], timeout=limit_s)
    return task.done() and not task.cancelled() and task.exception() is None
