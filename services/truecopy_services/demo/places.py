"""Where the demo's log and databases are, and plain SQL on them, past Truecopy.

Embedded, all are files of one folder. With real servers each service gets a database of its own, and the log a namespace of
its own; both are removed at the end, unless they are to be kept or the server ends anyway.
"""

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apsw

from truecopy_bus.errors import TopicMissingError, UnavailableError
from truecopy_bus.limits import CONNECT_TIMEOUT_S, STATEMENT_TIMEOUT_S
from truecopy_bus.registry import SCHEMAS_TOPIC
from truecopy_services.config import Settings
from truecopy_services.errors import UsageError
from truecopy_services.opening import open_log
from truecopy_services.real_servers import real_server

__all__ = ["SERVICES", "Places", "places"]

SERVICES = ("shop", "marketing", "billing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """`shared` are settings of all services, `databases` the DSN of each service; empty if they are files."""

    directory: Path
    shared: Mapping[str, Any]
    databases: Mapping[str, str]

    def settings(self, service: str) -> Settings:
        """A service's settings, whatever the environment says."""
        address = self.databases.get(service, "")
        return Settings(**self.shared, store=address, replica=address)

    def environment(self, service: str) -> dict[str, str]:
        """The same for a process of the service."""
        address = self.databases.get(service, "")
        stated = {**self.shared, "store": address, "replica": address}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRUECOPY_")}
        return inherited | {f"TRUECOPY_{name.upper()}": str(value) for name, value in stated.items()}

    async def sql(self, service: str, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement on a service's replica, as anybody with its address could."""
        if not self.databases:
            path = self.settings(service).replica_of(service).removeprefix("sqlite:")
            return await asyncio.to_thread(_sqlite, path, statement)
        return await _postgres(self.databases[service], statement)


@asynccontextmanager
async def places(
    *,
    keep: Path | None,
    on_kafka: bool,
    on_postgres: bool,
    settings: Mapping[str, Any],
    say: Callable[[str], None],
    services: Sequence[str] = SERVICES,
    topics: Sequence[str] = ("shop.customer",),
    resumes: bool = False,
) -> AsyncIterator[Places]:
    """Make them, with servers if asked; `settings` are those that all services share, `topics` those of their entities.

    With `resumes` the folder to keep may hold files of an earlier run. Raises UsageError, UnavailableError.
    """
    async with AsyncExitStack() as stack:
        directory = _directory(stack, keep, resumes=resumes)
        shared: dict[str, Any] = {**settings, "home": directory, "log": "", "namespace": ""}
        databases: dict[str, str] = {}
        label = f"demo_{secrets.token_hex(4)}"
        if on_kafka:
            given = _given("kafka:", "TRUECOPY_KAFKA", "TRUECOPY_LOG")
            server = await real_server("kafka", given=given, stack=stack, say=say)
            say(server.told)
            shared |= {"log": server.url, "namespace": label}
            if not server.ours and keep is None:
                stack.push_async_callback(_delete_topics, Settings(**shared), topics)
        if on_postgres:
            given = _given("postgres", "TRUECOPY_POSTGRES", "TRUECOPY_REPLICA", "TRUECOPY_STORE")
            server = await real_server("postgres", given=given, stack=stack, say=say)
            say(server.told)
            for service in services:
                name = f"{label}_{service}"
                await _postgres(server.url, f"CREATE DATABASE {name}")
                databases[service] = urlsplit(server.url)._replace(path=f"/{name}").geturl()
                if not server.ours and keep is None:
                    stack.push_async_callback(_postgres, server.url, f"DROP DATABASE {name} WITH (FORCE)")
        yield Places(directory=directory, shared=shared, databases=databases)


def _directory(stack: AsyncExitStack, keep: Path | None, *, resumes: bool) -> Path:
    if keep is None:
        directory = Path(tempfile.mkdtemp(prefix="truecopy-demo-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        return directory
    if not resumes and keep.exists() and any(keep.iterdir()):
        raise UsageError(f"--keep {keep}: the folder is not empty; name a new one")
    keep.mkdir(parents=True, exist_ok=True)
    return keep.absolute()


def _given(scheme: str, own: str, *shared: str) -> str | None:
    """The server that the variable `own` names, or one of `shared` if that names such a server at all."""
    named = [value for name in shared if (value := os.environ.get(name, "")).startswith(scheme)]
    return os.environ.get(own) or next(iter(named), None)


async def _delete_topics(settings: Settings, topics: Sequence[str]) -> None:
    log: Any = open_log(settings)
    try:
        for topic in (*topics, SCHEMAS_TOPIC):
            await log.delete(settings.topic_prefix + topic)
    except (TopicMissingError, UnavailableError):
        pass  # nothing of the demo's outcome depends on it
    finally:
        await log.close()


def _sqlite(path: str, statement: str) -> list[tuple[Any, ...]]:
    connection = apsw.Connection(path)
    try:
        connection.set_busy_timeout(int(1_000 * STATEMENT_TIMEOUT_S))
        return list(connection.execute(statement))
    finally:
        connection.close()


async def _postgres(address: str, statement: str) -> list[tuple[Any, ...]]:
    import asyncpg

    connection = await asyncpg.connect(address, timeout=CONNECT_TIMEOUT_S)
    try:
        return [tuple(row) for row in await connection.fetch(statement, timeout=STATEMENT_TIMEOUT_S)]
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_S)
