"""Our schema registry over HTTP, as Confluent's clients ask for it: read-only, the part that deserializers and browsers use.

A serializer can't register here: owners claim ids on the log, through their relay. The registry is read on before each answer
that depends on what is new, and an id that is known is answered from memory.

Source of paths, answers and error codes: Confluent's Schema Registry API reference.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from truecopy_bus.registry import Registry
from truecopy_schemas.errors import TruecopyError, UnknownSchemaError
from truecopy_schemas.registry import Registered

__all__ = ["routes", "served"]

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
NO_SUBJECT, NO_VERSION, NO_SCHEMA, INVALID_VERSION, NO_STORE = 40401, 40402, 40403, 42202, 50001
LATEST = ("latest", "-1")
ENDING_S = 1
"""Seconds for answers under way when the server ends."""

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


class _RefusedError(Exception):
    """An answer that is an error: its code's first three digits are the status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def routes(registry: Registry) -> list[Route]:
    """What to mount at the root that clients are given as `schema.registry.url`. Raises nothing; what is away answers 500."""

    async def by_id(request: Request) -> Any:
        return {"schema": _text(await _held(registry, request))}

    async def subjects(_: Request) -> Any:
        await registry.refresh()
        return list(registry.state.subjects)

    async def versions(request: Request) -> Any:
        return [held.version for held in await _subject(registry, request)]

    async def version(request: Request) -> Any:
        held = _version(await _subject(registry, request), request.path_params["version"])
        return {"subject": held.subject, "version": held.version, "id": held.id, "schema": _text(held)}

    asked = {
        "/schemas/ids/{id:int}": by_id,
        "/subjects": subjects,
        "/subjects/{subject}/versions": versions,
        "/subjects/{subject}/versions/{version}": version,
    }
    return [Route(path, _answering(ask), methods=["GET"]) for path, ask in asked.items()]


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are whose loop this is


@asynccontextmanager
async def served(some: list[Route], listener: socket.socket) -> AsyncIterator[None]:
    """Answer on `listener` for as long as the block runs, in this event loop."""
    server = _Server(
        uvicorn.Config(
            Starlette(routes=some),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=ENDING_S,
        )
    )
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def _answering(ask: Callable[[Request], Awaitable[Any]]) -> Handler:
    async def answer(request: Request) -> Response:
        try:
            return _answer(await ask(request), 200)
        except _RefusedError as fault:
            return _answer({"error_code": fault.code, "message": str(fault)}, fault.code // 100)
        except TruecopyError as fault:  # the log is away, or its topic of schemas is not what it must be
            return _answer({"error_code": NO_STORE, "message": str(fault)}, 500)

    return answer


def _answer(said: Any, status: int) -> Response:
    return Response(orjson.dumps(said), status_code=status, media_type=MEDIA_TYPE)


def _text(held: Registered) -> str:
    return orjson.dumps(held.schema).decode()


async def _held(registry: Registry, request: Request) -> Registered:
    try:
        return await registry.schema(request.path_params["id"])
    except UnknownSchemaError as fault:
        raise _RefusedError(NO_SCHEMA, f"Schema {fault.schema_id} not found") from None


async def _subject(registry: Registry, request: Request) -> tuple[Registered, ...]:
    await registry.refresh()
    name = request.path_params["subject"]
    if not (found := registry.state.versions(name)):
        raise _RefusedError(NO_SUBJECT, f"Subject '{name}' not found")
    return found


def _version(held: tuple[Registered, ...], asked: str) -> Registered:
    if asked in LATEST:
        return held[-1]
    if not asked.isdecimal():
        raise _RefusedError(INVALID_VERSION, f"The specified version '{asked}' is not a valid version id")
    found = [one for one in held if str(one.version) == asked]
    if not found:
        raise _RefusedError(NO_VERSION, f"Version {asked} not found")
    return found[0]
