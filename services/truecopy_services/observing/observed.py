"""A process under observation: gatherer, answers and server put together for as long as a block runs."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from truecopy_services.checking import Checked
from truecopy_services.errors import SettingError
from truecopy_services.observing.answers import Answer, LoopSeen, alive, ready
from truecopy_services.observing.gathering import GATHER_S, Gatherer
from truecopy_services.scrubbing import Scrubbed
from truecopy_services.service import Service
from truecopy_services.working import Loops

__all__ = ["observed"]


@asynccontextmanager
async def observed(
    service: Service,
    loops: Loops,
    stop: asyncio.Event,
    *,
    relays: bool = False,
    works: bool = False,
    checks: Mapping[str, Checked] | None = None,
    scrubs: Mapping[str, Scrubbed] | None = None,
    given: str | None = None,
    say: Callable[[str], None],
) -> AsyncIterator[None]:
    """Serve /metrics, /health and /ready while the block runs, if `given` (an option) or the settings name an address.

    `relays` and `works` say what this process needs: the store, the replica. `checks` and `scrubs` are filled by whoever
    does. Raises SettingError, also where the extra `control` is missing.
    """
    setting = "--http" if given else "TRUECOPY_HTTP"
    if not (address := given or service.settings.http):
        yield
        return
    try:
        from truecopy_services.observing.metrics import ProcessMetrics
        from truecopy_services.observing.serving import listening, serving
    except ImportError as fault:
        missing = f"what serves it is not installed ({fault.name})"
        raise SettingError(setting=setting, seen=missing, remedy="run: pip install 'truecopy[control]'") from None
    gatherer = Gatherer(service, loops, relays=relays)
    began_s, settings = time.monotonic(), service.settings
    needed = [
        "log",
        *(["store"] if relays else []),
        *(["replica"] if works or checks is not None or scrubs is not None else []),
    ]

    def seen() -> dict[str, LoopSeen]:
        now_s = time.monotonic()
        found = {
            name: LoopSeen(begun=outage.heard_at is not None, idle_s=now_s - (outage.heard_at or began_s), fault=outage.fault)
            for name, outage in {**loops.outages, "figures": gatherer.outage}.items()
        }
        paused = found["figures"]  # between its rounds it is well
        return found | {"figures": replace(paused, idle_s=max(0.0, paused.idle_s - GATHER_S))}

    def lives() -> Answer:
        return alive(seen(), stuck_s=settings.stuck_s)

    def serves() -> Answer:
        return ready(
            seen(),
            gatherer.latest,
            needed,
            now_s=time.monotonic(),
            stuck_s=settings.stuck_s,
            lag_max_s=settings.ready_lag_s,
            stopping=stop.is_set(),
        )

    listener = listening(address, setting=setting)
    host, port = listener.getsockname()[:2]
    metrics = ProcessMetrics(lambda: gatherer.latest, seen, checks or {}, scrubs or {})
    gathering = asyncio.create_task(gatherer.run())
    try:
        with serving(listener, metrics, alive=lives, ready=serves):
            say(f"metrics, health and readiness on http://{f'[{host}]' if ':' in host else host}:{port}")
            yield
    finally:
        gathering.cancel()
        with suppress(asyncio.CancelledError):
            await gathering
