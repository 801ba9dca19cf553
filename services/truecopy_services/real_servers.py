"""Real servers beside the processes that need them: given ones, or our own for as long as somebody holds them open.

Only here is the package of servers imported, and only when one is to be started: the base install has not what it needs.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from truecopy_bus.errors import UnavailableError
from truecopy_services.errors import SettingError

__all__ = ["RealServer", "ServerAwayError", "real_server"]


class ServerAwayError(UnavailableError):
    """A server could not be started. The message says why, and what else would do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealServer:
    """A server that answers. `ours`: it ends, with all that it holds, when its stack does."""

    url: str = field(repr=False)
    told: str
    ours: bool


async def real_server(kind: str, *, given: str | None, stack: AsyncExitStack, say: Callable[[str], None]) -> RealServer:
    """A `kafka` or `postgres`: the one at `given`, or one that is started now. Raises SettingError, ServerAwayError."""
    if given:
        url = given if "://" in given else f"{kind}://{given}"
        return RealServer(url=url, told=f"{kind}: given", ours=False)
    try:
        from truecopy_services.servers import ServerError, kafka, postgres
    except ImportError as fault:
        remedy = "run: pip install 'truecopy[kafka,postgres,servers]', or give the address of one that runs"
        raise SettingError(setting=f"--{kind}", seen=str(fault), remedy=remedy) from None
    starting = kafka(say=say) if kind == "kafka" else postgres(say=say)
    try:
        server = await asyncio.to_thread(stack.enter_context, starting)
    except ServerError as fault:
        raise ServerAwayError(str(fault)) from fault
    return RealServer(url=server.url, told=f"{kind}: {server.rung}", ours=True)
