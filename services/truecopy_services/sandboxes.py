"""Opening a sandbox by its address: told apart from what is live, by whatever spelling, before anything is written to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from truecopy_bus.errors import UnavailableError
from truecopy_bus.points import Point, reached
from truecopy_bus.sql import Database, connect
from truecopy_projections.bootstrap import same_database
from truecopy_projections.errors import ReplayRefusedError
from truecopy_projections.projection import Projection
from truecopy_projections.replicas import SqlReplica
from truecopy_projections.replicas.sql_sandbox import claim_sandbox, clear_sandbox
from truecopy_services.errors import UsageError
from truecopy_services.opening import file_of, shown
from truecopy_services.service import Service

__all__ = ["opened_sandbox"]


@asynccontextmanager
async def opened_sandbox(
    service: Service, projection: Projection[Any], address: str, *, anew: bool = False
) -> AsyncIterator[SqlReplica]:
    """The sandbox at `address`, claimed if it is empty, until the block ends. `anew` forgets what it holds of the projection.

    Raises UsageError for what is no address of a database, ReplayRefusedError for what is live or holds other things.
    """
    _refuse_live_file(service, address)
    database = await _connected(service, address)
    try:
        await _refuse_live_database(service, database)
        await claim_sandbox(database)
        await reached(Point.REPLAY_CLAIMED)
        if anew:
            await clear_sandbox(database, projection)
        yield SqlReplica(database)
    finally:
        await database.close()


async def _connected(service: Service, address: str) -> Database:
    if (path := file_of(address)) is not None and not path.parent.is_dir():
        raise UsageError(f"sandbox: there is no folder {path.parent}; name a file in one that is there")
    try:
        if ":" not in address:  # it may be a secret that was put into the wrong place
            raise ValueError("it is no address; use sqlite:PATH or postgresql://...")
        return await connect(address, synchronous="NORMAL", timeout_s=service.settings.statement_timeout_s)
    except (ValueError, ImportError) as fault:
        raise UsageError(f"sandbox: {fault}") from None


def _refuse_live_file(service: Service, address: str) -> None:
    settings, path = service.settings, file_of(address)
    live = {
        "replica": settings.replica_of(service.name),
        "event store": settings.store_of(service.name),
        "log": settings.log_of(),
    }
    for name, other in live.items():
        of_live = file_of(other)
        if path is not None and of_live is not None and _is_one(path, of_live):
            raise _live(address, name)


def _is_one(path: Path, other: Path) -> bool:
    return path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other))


async def _refuse_live_database(service: Service, database: Database) -> None:
    for name, other in (("replica", service.replica_database), ("event store", service.store.database)):
        if other is None or {other.dialect.name, database.dialect.name} != {"postgres"}:
            continue
        with suppress(UnavailableError):  # a server that does not answer is not the one that does
            if await same_database(database, other):
                raise _live(database.name, name)


def _live(address: str, name: str) -> ReplayRefusedError:
    remedy = "name another file, database or schema: a replay never touches what is live"
    return ReplayRefusedError(sandbox=shown(address), seen=f"it is this service's live {name}", remedy=remedy)
