"""Which source keys hold the rows that a database refuses: found by halves, under savepoints, and never written.

All is tried within one transaction, so that two keys that clash with each other are seen: the later one is to blame. A
batch of n keys with k culprits takes about k * log2(n) statements. The groups that keys contribute to are folded with them,
and one that can't be is refused like a row.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from truecopy_bus.errors import DataRefusedError
from truecopy_bus.sql import Connection, Database
from truecopy_projections.digest import bucket_of
from truecopy_projections.gathered import GroupRefusedError
from truecopy_projections.projection import Address, Projection
from truecopy_projections.replicas.sql_gathered import locked, refold
from truecopy_projections.state import PartitionPlan

__all__ = ["culprits"]

_Rows = list[tuple[Any, ...]]


class _UndoneError(Exception):
    """Ends the transaction without a commit."""


async def culprits(
    database: Database, projection: Projection[Any], drops: Sequence[PartitionPlan], puts: dict[str, _Rows]
) -> dict[str, str]:
    """Try the drops of these plans, then `puts` (rows by source key); the keys that are refused, each with its reason."""
    dropped: dict[str, _Rows] = {}
    for plan in drops:
        for key, sub in plan.drops:
            dropped.setdefault(key, []).append((bucket_of(key), key, *sub))
    refused: dict[str, str] = {}
    shape = projection.shape
    try:
        async with database.transaction(durable=False) as tx:
            if tx.dialect.name != "sqlite":
                # A deferred constraint speaks up at the commit, to which this never comes.
                await tx.fetch("SET CONSTRAINTS ALL IMMEDIATE")
            touched = await locked(tx, projection, drops)
            come: dict[str, list[Address]] = {}
            gone: dict[str, list[Address]] = {}
            for address, (_, after) in touched.changes.items():
                (gone if after is None else come).setdefault(address[0], []).append(address)

            async def drop(keys: Sequence[str]) -> None:
                await tx.drop(shape, shape.key, [row for key in keys for row in dropped[key]])
                await refold(tx, projection, touched, [address for key in keys for address in gone.get(key, ())])

            async def put(keys: Sequence[str]) -> None:
                await tx.put(shape, [row for key in keys for row in puts[key]])
                await refold(tx, projection, touched, [address for key in keys for address in come.get(key, ())])

            await _blame(tx, list(dropped), drop, refused)
            await _blame(tx, [key for key in puts if key not in refused], put, refused)
            raise _UndoneError
    except _UndoneError:
        return refused


async def _blame(
    tx: Connection, keys: list[str], attempt: Callable[[Sequence[str]], Awaitable[None]], refused: dict[str, str]
) -> None:
    """Attempt halves, keep what is accepted, and note the single keys that are not."""
    if not keys:
        return
    try:
        async with tx.savepoint():
            await attempt(keys)
    except (DataRefusedError, GroupRefusedError) as error:
        if len(keys) == 1:
            refused[keys[0]] = error.seen if isinstance(error, DataRefusedError) else str(error)
            return
        middle = len(keys) // 2
        await _blame(tx, keys[:middle], attempt, refused)
        await _blame(tx, keys[middle:], attempt, refused)
