"""From addresses to adapters. Nothing connects here: that is left to the first use, which says what is away."""

from pathlib import Path
from urllib.parse import urlsplit

from truecopy_bus.log import Log
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.sql import Database
from truecopy_bus.sql.address import connect
from truecopy_bus.sql.sqlite_session import Synchronous
from truecopy_projections.replica import Replica
from truecopy_projections.replicas import MemoryReplica, SqlReplica
from truecopy_services.config import MEMORY, Settings
from truecopy_services.errors import SettingError

__all__ = ["file_of", "open_log", "open_replica", "open_store_database", "shown"]


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
    raise SettingError(
        setting="TRUECOPY_LOG",
        seen=f"no log has an address that starts with {scheme!r}",
        remedy="use sqlite:PATH, kafka://host:port or memory:",
    )


def _kafka(settings: Settings, address: str) -> Log:
    try:
        from truecopy_bus.logs.kafka import KafkaLog, KafkaSettings
    except ImportError:
        raise _missing("TRUECOPY_LOG", "kafka") from None
    more = {} if settings.kafka_password is None else {"sasl_password": settings.kafka_password.get_secret_value()}
    stated = urlsplit(address).query
    for name in ("connect_timeout_s", "request_timeout_s"):
        if name not in stated:
            more[name] = settings.timeout_s  # type: ignore[assignment]
    try:
        return KafkaLog(KafkaSettings.from_url(address, **more))
    except ValueError as fault:
        raise SettingError(setting="TRUECOPY_LOG", seen=str(fault), remedy="correct the address") from None


async def open_store_database(settings: Settings, service: str, *, make: bool = True) -> Database:
    """The owner's database; `make` the folder of its file if it is missing. Raises SettingError."""
    return await _database("TRUECOPY_STORE", settings.store_of(service), settings, make=make)


async def open_replica(settings: Settings, service: str, *, make: bool = True) -> tuple[Replica, Database | None]:
    """The replica, and the database that it is in, None for one in memory. Raises SettingError."""
    address = settings.replica_of(service)
    if address == MEMORY:
        return MemoryReplica(), None
    database = await _database("TRUECOPY_REPLICA", address, settings, make=make)
    return SqlReplica(database, service=settings.topic_prefix + service), database


async def _database(setting: str, address: str, settings: Settings, *, make: bool) -> Database:
    if make and (path := file_of(address)) is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            seen = f"the folder {path.parent} can't be made: {fault.strerror}"
            raise SettingError(setting=setting, seen=seen, remedy="name a folder that this user can write") from None
    synchronous: Synchronous = "NORMAL" if setting == "TRUECOPY_REPLICA" else "FULL"
    try:
        return await connect(address, synchronous=synchronous, timeout_s=settings.statement_timeout_s)
    except ImportError:
        raise _missing(setting, "postgres") from None
    except ValueError as fault:
        raise SettingError(setting=setting, seen=str(fault), remedy="correct the address") from None


def _missing(setting: str, extra: str) -> SettingError:
    seen = "the address is of a server whose client is not installed"
    return SettingError(setting=setting, seen=seen, remedy=f"run: pip install 'truecopy[{extra}]'")
