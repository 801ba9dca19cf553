"""The delivery of effects: one loop hands those of a projection to a handler, in the order of each key.

A handler that raises is tried again after a pause that grows, and only its key waits meanwhile. After EFFECT_TRIES_MAX tries
the key is held, with what was raised: its effects stay, others flow, and somebody has to release it. A handler that raises
UnavailableError says that the world is away: nothing is counted, and all waits.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import TypeAlias

from truecopy_bus.errors import UnavailableError
from truecopy_bus.outage import Outage
from truecopy_bus.sql import Connection
from truecopy_projections.effects import FiredEffect
from truecopy_projections.replica import Replica

__all__ = [
    "DELIVERY_EFFECTS",
    "DELIVERY_POLL_S",
    "EFFECT_PAUSE_MAX_S",
    "EFFECT_PAUSE_S",
    "EFFECT_TRIES_MAX",
    "KEYS_RETRIED_MAX",
    "Deliverer",
    "EffectHandler",
]

DELIVERY_EFFECTS = 100
"""Effects of one transaction: what is delivered again, at the most, when a process dies."""
DELIVERY_POLL_S = 0.5
"""Seconds between looks where nothing waits."""
EFFECT_TRIES_MAX = 8
"""Tries of one effect by one process before its key is held: some two minutes, what a restart elsewhere takes."""
EFFECT_PAUSE_S, EFFECT_PAUSE_MAX_S = 0.5, 60.0
"""Seconds before the second try, doubled each time, and the most."""
KEYS_RETRIED_MAX = 100
"""Keys that wait for another try. At so many it is not the effects: nothing more is taken until one of them is due."""

EffectHandler: TypeAlias = Callable[[FiredEffect, Connection | None], Awaitable[None]]
"""Carries one effect out. What it writes by the connection (None in memory) is written exactly once."""

_log = logging.getLogger("truecopy.effects")


class Deliverer:
    """Delivers the effects of one projection's name. `outage` says what it waits for."""

    def __init__(
        self,
        name: str,
        replica: Replica,
        handler: EffectHandler,
        *,
        tries_max: int = EFFECT_TRIES_MAX,
        pause_s: float = EFFECT_PAUSE_S,
    ) -> None:
        self._name, self._replica, self._handler = name, replica, handler
        self._tries_max, self._pause_s = tries_max, pause_s
        self._tries: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self.outage = Outage(_log, f"effects of {name}", about={"projection": name})

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop` is set; what is at hand is finished. Never raises for what is away."""
        while not stop.is_set():
            try:
                pause_s = 0.0 if await self.step() else DELIVERY_POLL_S
                self.outage.over()
            except UnavailableError as fault:
                pause_s = self.outage.strike(fault)
            if pause_s:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await stop.wait()

    async def step(self) -> int:
        """Hand out the effects that are due, once. Returns how many were carried out. Raises UnavailableError."""
        now = asyncio.get_running_loop().time()
        self._due = {key: at for key, at in self._due.items() if at > now}
        if len(self._due) >= KEYS_RETRIED_MAX:
            return 0
        failed: dict[str, tuple[FiredEffect, Exception]] = {}
        async with self._replica.delivering(self._name, DELIVERY_EFFECTS, without=frozenset(self._due)) as delivery:
            for effect in delivery.effects:
                if effect.key in failed:
                    delivery.left.add(effect.id)
                    continue
                try:
                    async with delivery.connection.savepoint() if delivery.connection else nullcontext():
                        await self._handler(effect, delivery.connection)
                except UnavailableError:
                    raise
                except Exception as fault:  # the user's handler; whatever it raises is about this effect
                    failed[effect.key] = effect, fault
                    delivery.left.add(effect.id)
        done = len(delivery.effects) - len(delivery.left)
        for effect in delivery.effects:
            if effect.id not in delivery.left:
                self._tries.pop(effect.id, None)
        for effect, raised in failed.values():
            await self._failed(effect, f"{effect.id}: its handler raised {type(raised).__name__}: {raised}")
        return done

    async def _failed(self, effect: FiredEffect, why: str) -> None:
        tries = self._tries[effect.id] = self._tries.get(effect.id, 0) + 1
        if tries < self._tries_max:
            pause_s = min(self._pause_s * 2 ** (tries - 1), EFFECT_PAUSE_MAX_S)
            self._due[effect.key] = asyncio.get_running_loop().time() + pause_s
            _log.warning("%s; tried %d of %d times", why, tries, self._tries_max)
            return
        del self._tries[effect.id]
        await self._replica.hold(self._name, effect.key, why)
        _log.error("%s; %d times: key %r is held until it is released", why, tries, effect.key)
