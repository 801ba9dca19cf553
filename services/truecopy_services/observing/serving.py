"""The HTTP server of a process, in a thread of its own: it answers while everything else is stuck, and holds nothing up.

It speaks to nobody but whoever may reach the port: there is no login, so it listens on the loopback unless told otherwise.
"""

import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import orjson
import uvicorn
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from truecopy_services.errors import SettingError
from truecopy_services.observing.answers import Answer

__all__ = ["listening", "serving"]

LOOPBACK = "127.0.0.1"
REQUESTS_MAX = 32
"""Requests at a time; more are answered 503. A scraper and two probes need three."""
KEEP_ALIVE_S = 5
"""Seconds for which an idle connection is kept."""
ENDING_S = 1
"""Seconds for answers under way when the process ends."""
_ADDRESS = re.compile(r"(?:(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\]):)?(?P<port>[0-9]{1,5})")

_log = logging.getLogger("truecopy.observing")


def listening(address: str, *, setting: str) -> socket.socket:
    """A socket on `HOST:PORT` or `PORT`, which is on the loopback; port 0 is any free one. Raises SettingError."""
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found["port"]) > 65535:
        raise SettingError(setting=setting, seen=f"{address!r} is no address", remedy="use HOST:PORT, or PORT on the loopback")
    host = (found["host"] or LOOPBACK).strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(found["port"])), family=family)
    except OSError as fault:
        raise SettingError(
            setting=setting,
            seen=f"{address} can't be listened on: {fault.strerror or fault}",
            remedy="use a free port and an address of this machine",
        ) from None


@contextmanager
def serving(
    listener: socket.socket, metrics: Collector, *, alive: Callable[[], Answer], ready: Callable[[], Answer]
) -> Iterator[None]:
    """Answer /metrics, /health and /ready on `listener` until the block ends. The functions run in the server's thread."""
    registry = CollectorRegistry()
    registry.register(metrics)
    ProcessCollector(registry=registry)

    async def metrics_page(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    async def health_page(_: Request) -> Response:
        return _told("alive", alive())

    async def ready_page(_: Request) -> Response:
        return _told("ready", ready())

    pages = (("/metrics", metrics_page), ("/health", health_page), ("/ready", ready_page))
    server = uvicorn.Server(
        uvicorn.Config(
            Starlette(routes=[Route(path, page, methods=["GET"]) for path, page in pages]),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=REQUESTS_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=ENDING_S,
        )
    )
    thread = threading.Thread(target=_serve, args=(server, listener), name="truecopy-http", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(3 * ENDING_S)
        listener.close()


def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    try:
        server.run(sockets=[listener])
    except Exception:  # a process that works is not ended because it can't be watched
        _log.exception("the server of /metrics, /health and /ready has failed; this process works on without it")


def _told(name: str, answer: Answer) -> Response:
    body = orjson.dumps({name: answer.good, "reasons": answer.reasons, **answer.facts})
    return Response(body, status_code=200 if answer.good else 503, media_type="application/json")
