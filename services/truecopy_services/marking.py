"""A mark for whoever wants to judge now: the owner is asked for one, and it is waited for in the replica."""

import asyncio
import time
from typing import Any

from truecopy_bus.mark_requests import request_mark
from truecopy_projections.limits import CHECK_POLL_S
from truecopy_projections.projection import Projection
from truecopy_services.errors import NoAnswerError, UsageError
from truecopy_services.service import Service

__all__ = ["fresh_mark"]


async def fresh_mark(service: Service, projection: Projection[Any], *, asked_by: str) -> None:
    """Ask the owner of the projection's entity for a mark, and wait until the replica passed it in every partition that flows.

    Raises UsageError for a foreign topic, NoAnswerError when none has come after `timeout_s` of the settings, and what is away.
    """
    if projection.foreign is not None:
        raise UsageError(f"{projection.id}: a foreign topic has no marks, so nobody can be asked for one; leave --mark out")
    before = await _marks(service, projection)
    deadline = time.monotonic() + service.settings.timeout_s
    await request_mark(service.log, projection.entity, asked_by=asked_by, namespace=service.settings.topic_prefix)
    while not all(mark > before.get(p, (0, 0)) for p, mark in (await _marks(service, projection)).items()):
        if time.monotonic() >= deadline:
            what = (
                f"the owner of {projection.entity}, asked for a mark (are its relay and a worker of {projection.id} running?)"
            )
            raise NoAnswerError(what=what, waited_s=service.settings.timeout_s)
        await asyncio.sleep(CHECK_POLL_S)


async def _marks(service: Service, projection: Projection[Any]) -> dict[int, tuple[int, int]]:
    """Epoch and number of the newest mark that each flowing partition passed; (0, 0) of none."""
    async with service.replica_adapter.snapshot() as snapshot:
        states = await snapshot.states(projection.id)
        newest = {c.partition: (c.epoch, c.number) for c in await snapshot.checkpoints(projection.id, newest=1)}
    return {p: newest.get(p, (0, 0)) for p, state in states.items() if not state.halted}
