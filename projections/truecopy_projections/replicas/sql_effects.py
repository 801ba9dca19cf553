"""Effects in SQL: fired in the transaction of an apply, handed out and removed in another."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager

from truecopy_bus.sql import Connection, Database, Dialect, Kind, Shape, columns
from truecopy_projections.effects import Delivery, FiredEffect
from truecopy_projections.state import PartitionPlan

__all__ = ["EFFECTS_FIRED", "EFFECTS_HELD", "delivering", "effects_statement", "fire", "held", "hold", "pending"]

EFFECTS_FIRED = Shape(
    name="truecopy_effects_fired",
    columns=columns(projection=Kind.TEXT, key=Kind.TEXT, version=Kind.INTEGER),
    key=("projection", "key"),
)
EFFECTS_HELD = Shape(
    name="truecopy_effects_held",
    columns=columns(projection=Kind.TEXT, key=Kind.TEXT, why=Kind.TEXT),
    key=("projection", "key"),
)
_STATEMENT_ROWS = 500
"""Rows of one INSERT: seven parameters each, and SQLite takes 32,766 of them."""


def effects_statement(dialect: Dialect) -> str:
    """The table of what is to be delivered. Ids ascend within a key: one worker at a time applies it."""
    return (
        f"CREATE TABLE IF NOT EXISTS truecopy_effects (id {dialect.serial}, projection TEXT NOT NULL, key TEXT NOT NULL, "
        "version BIGINT NOT NULL, n BIGINT NOT NULL, kind TEXT NOT NULL, payload TEXT NOT NULL, at_ms BIGINT NOT NULL, "
        "UNIQUE (projection, key, version, n))"
    )


async def fire(tx: Connection, plans: Sequence[PartitionPlan]) -> None:
    """Write the effects of versions that this projection's name has not fired, whichever of its numbers is asking."""
    effects = sorted((one for plan in plans for one in plan.effects), key=lambda one: (one.key, one.version, one.n))
    if not effects:
        return
    name, keys = effects[0].projection, sorted({one.key for one in effects})
    known: dict[str, int] = {}
    for at in range(0, len(keys), _STATEMENT_ROWS):
        some = keys[at : at + _STATEMENT_ROWS]
        places = ", ".join(f"(${2 * i + 1}, ${2 * i + 2}, 0)" for i in range(len(some)))
        args = [part for key in some for part in (name, key)]
        # First a row for each key, then all of them locked in one order: two numbers of one name that apply an event wait here.
        await tx.fetch(
            f"INSERT INTO truecopy_effects_fired (projection, key, version) VALUES {places} "
            "ON CONFLICT (projection, key) DO NOTHING",
            *args,
        )
        asked = ", ".join(f"${i + 2}" for i in range(len(some)))
        rows = await tx.fetch(
            f"SELECT key, version FROM truecopy_effects_fired WHERE projection = $1 AND key IN ({asked}) "
            f"ORDER BY key {tx.dialect.for_update}",
            name,
            *some,
        )
        known |= {key: version for key, version in rows}
    new = [one for one in effects if one.version > known[one.key]]
    for at in range(0, len(new), _STATEMENT_ROWS):
        batch = new[at : at + _STATEMENT_ROWS]
        row = ", ".join(["$%d"] * 6)
        places = ", ".join(f"({row % tuple(range(at, at + 6))}, {tx.dialect.now_ms})" for at in range(1, 6 * len(batch), 6))
        values = [part for one in batch for part in (one.projection, one.key, one.version, one.n, one.kind, one.payload)]
        await tx.fetch(
            f"INSERT INTO truecopy_effects (projection, key, version, n, kind, payload, at_ms) VALUES {places}", *values
        )
    latest = {one.key: one.version for one in new}
    if latest:
        await tx.put(EFFECTS_FIRED, [(name, key, version) for key, version in latest.items()])


@asynccontextmanager
async def delivering(
    database: Database, name: str, limit: int, without: Collection[str], *, before: Callable[[], Awaitable[None]]
) -> AsyncIterator[Delivery]:
    """See Replica.delivering. The rows stay locked, in their order: a second deliverer waits at the first of them."""
    await before()
    passed_over = "".join(f" AND key <> ${at}" for at in range(2, len(without) + 2))
    async with database.transaction() as tx:
        rows = await tx.fetch(
            "SELECT id, projection, key, version, n, kind, payload FROM truecopy_effects WHERE projection = $1 "
            f"AND key NOT IN (SELECT key FROM truecopy_effects_held WHERE projection = $1){passed_over} "
            f"ORDER BY id LIMIT {limit:d} {tx.dialect.for_update}",
            name,
            *without,
        )
        delivery = Delivery(
            effects=tuple(
                FiredEffect(projection=projection, key=key, version=version, n=n, kind=kind, payload=payload)
                for _, projection, key, version, n, kind, payload in rows
            ),
            connection=tx,
        )
        yield delivery
        done = [str(int(row[0])) for row, one in zip(rows, delivery.effects, strict=True) if one.id not in delivery.left]
        if done:
            await tx.fetch(f"DELETE FROM truecopy_effects WHERE id IN ({', '.join(done)})")


async def hold(tx: Connection, name: str, key: str, why: str) -> None:
    """See Replica.hold."""
    if why:
        await tx.put(EFFECTS_HELD, [(name, key, why.replace("\0", "\\0"))])
    else:
        await tx.drop(EFFECTS_HELD, EFFECTS_HELD.key, [(name, key)])


async def held(read: Connection, name: str) -> dict[str, str]:
    """See Replica.held."""
    return dict(await read.fetch("SELECT key, why FROM truecopy_effects_held WHERE projection = $1 ORDER BY key", name))


async def pending(read: Connection, name: str) -> tuple[int, int]:
    """How many effects wait to be delivered, and the age of the oldest in ms (0 if none waits)."""
    [[count, age_ms]] = await read.fetch(
        f"SELECT COUNT(*), {read.dialect.now_ms} - MIN(at_ms) FROM truecopy_effects WHERE projection = $1", name
    )
    return count, max(0, age_ms or 0)
