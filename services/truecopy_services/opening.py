"""From addresses to adapters. Nothing connects here: that is left to the first use, which says what is away."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from truecopy_bus.log import Log
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.schema_sources import SchemaSource, schema_source
from truecopy_bus.sql import Database
from truecopy_bus.sql.address import connect
from truecopy_bus.sql.sqlite_session import Synchronous
from truecopy_bus.tls import TlsFileError, TlsFiles
from truecopy_projections.foreign import ForeignTopic
from truecopy_projections.replica import Replica
from truecopy_projections.replicas import MemoryReplica, SqlReplica
from truecopy_services.config import MEMORY, Settings
from truecopy_services.errors import SettingError, UsageError

__all__ = ["file_of", "open_log", "open_peer", "open_replica", "open_schemas", "open_store_database", "opened_peers", "shown"]


def shown(address: str) -> str:
    """An address for people: without user, password and options."""
    parts = urlsplit(address)
    if not parts.netloc:
        return address
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def file_of(address: str) -> Path | None:
    """The file of an embedded log or database; None for a server, and for what is in memory."""
    scheme, _, rest = address.partition(":")
    return Path(rest.removeprefix("//")) if scheme == "sqlite" and rest and rest != MEMORY else None


def open_log(settings: Settings) -> Log:
    """Raises SettingError."""
    address = settings.log_of()
    scheme, _, rest = address.partition(":")
    if address == MEMORY:
        return MemoryLog()
    if scheme == "sqlite" and rest and rest != MEMORY:
        return SQLiteLog(rest.removeprefix("//"), busy_timeout_s=settings.statement_timeout_s)
    if scheme == "kafka":
        return _kafka(settings, address)
    raise settings.refused(
        "log",
        seen=f"no log has an address that starts with {scheme!r}" if rest else "it is no address",
        remedy="use sqlite:PATH, kafka://host:port or memory:",
    )


def _kafka(settings: Settings, address: str) -> Log:
    try:
        from truecopy_bus.logs.kafka import KafkaLog, KafkaSettings
    except ImportError:
        raise _missing(settings, "log", "kafka") from None
    stated = urlsplit(address).query
    more: dict[str, Any] = {
        name: settings.timeout_s for name in ("connect_timeout_s", "request_timeout_s") if name not in stated
    }
    files = TlsFiles(
        ca=settings.kafka_ca,
        cert=settings.kafka_cert,
        key=settings.kafka_key,
        key_password=_revealed(settings.kafka_key_password),
    )
    try:
        kafka = KafkaSettings.from_url(address, **more, tls=files, sasl_password=_revealed(settings.kafka_password))
        if kafka.with_tls:
            files.context()
        return KafkaLog(kafka)
    except TlsFileError as fault:
        remedy = "correct the setting, or the file that it names"
        raise settings.refused(f"kafka_{fault.part}", seen=str(fault), remedy=remedy) from None
    except ValueError as fault:
        raise settings.refused("log", seen=str(fault), remedy="correct the address") from None


def open_schemas(settings: Settings, foreign: ForeignTopic | None, registry: SchemaSource) -> SchemaSource:
    """Where a topic's schemas are: `registry` for one of ours. Raises SettingError."""
    if foreign is None:
        return registry
    try:
        return schema_source(foreign.schemas or settings.schemas, registry)
    except ValueError as fault:
        remedy = f"correct it, or the schemas of ForeignTopic({foreign.name!r})"
        raise SettingError(setting="TRUECOPY_SCHEMAS", seen=str(fault), remedy=remedy) from None


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


async def open_store_database(settings: Settings, service: str, *, make: bool = True) -> Database:
    """The owner's database; `make` the folder of its file if it is missing. Raises SettingError."""
    return await _database("store", settings.store_of(service), settings, make=make)


async def open_replica(settings: Settings, service: str, *, make: bool = True) -> tuple[Replica, Database | None]:
    """The replica, and the database that it is in, None for one in memory. Raises SettingError."""
    address = settings.replica_of(service)
    if address == MEMORY:
        return MemoryReplica(), None
    database = await _database("replica", address, settings, make=make)
    return SqlReplica(database, service=settings.topic_prefix + service), database


async def open_peer(settings: Settings, address: str) -> Database:
    """The database of another replica, to be read, by an address that was given.

    Raises UsageError for what is no address of a database, or of a file that is not there: it would be made.
    """
    if (path := file_of(address)) is not None and not path.exists():
        raise UsageError(f"peer: there is no file {path}; name the file of a replica")
    try:
        if ":" not in address:  # it may be a secret that was put into the wrong place
            raise ValueError("it is no address; use sqlite:PATH or postgresql://...")
        return await connect(address, synchronous="NORMAL", timeout_s=settings.statement_timeout_s)
    except (ValueError, ImportError) as fault:
        raise UsageError(f"peer: {fault}") from None


@asynccontextmanager
async def opened_peers(settings: Settings, peers: Sequence[str | Replica]) -> AsyncIterator[list[Replica]]:
    """Other replicas, opened by address to be read, and closed at the end; those that are open already stay so.

    Raises UsageError for what is no address of a database, or of a file that is not there: it would be made.
    """
    opened: list[Replica] = []
    async with AsyncExitStack() as stack:
        for peer in peers:
            if not isinstance(peer, str):
                opened.append(peer)
                continue
            replica = SqlReplica(await open_peer(settings, peer))
            stack.push_async_callback(replica.close)
            opened.append(replica)
        yield opened


async def _database(name: str, address: str, settings: Settings, *, make: bool) -> Database:
    if ":" not in address:  # it may be a secret that was put into the wrong place
        raise settings.refused(name, seen="it is no address", remedy="use sqlite:PATH or postgresql://...")
    if make and (path := file_of(address)) is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            seen = f"the folder {path.parent} can't be made: {fault.strerror}"
            raise settings.refused(name, seen=seen, remedy="name a folder that this user can write") from None
    synchronous: Synchronous = "NORMAL" if name == "replica" else "FULL"
    try:
        return await connect(address, synchronous=synchronous, timeout_s=settings.statement_timeout_s)
    except ImportError:
        raise _missing(settings, name, "postgres") from None
    except ValueError as fault:
        raise settings.refused(name, seen=str(fault), remedy="correct the address") from None


def _missing(settings: Settings, name: str, extra: str) -> SettingError:
    seen = "the address is of a server whose client is not installed"
    return settings.refused(name, seen=seen, remedy=f"run: pip install 'truecopy[{extra}]'")
