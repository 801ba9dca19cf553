"""What relays halt at, kept in the owner's database, so that whoever looks from another process sees it.

A row is of one relay, and true while that relay lives: a relay that died says nothing any more, and the next one that
halts at the same says so itself.
"""

from collections.abc import Mapping

from truecopy_bus.sql.port import Connection
from truecopy_bus.store_tables import HALTS

__all__ = ["halts", "tell"]

_DEAD = "holder NOT IN (SELECT holder FROM truecopy_members WHERE until_ms > {now})"


async def tell(tx: Connection, holder: str, found: Mapping[str, str]) -> None:
    """Write down all that the relay `holder` halts at now: an entity or an event type's subject, and why."""
    dead = _DEAD.format(now=tx.dialect.now_ms)
    await tx.fetch(f"DELETE FROM truecopy_halts WHERE holder = $1 OR {dead}", holder)
    await tx.put(HALTS, [(holder, about, why) for about, why in sorted(found.items())])


async def halts(read: Connection) -> dict[str, str]:
    """What living relays halt at: an entity or an event type's subject, and why with its remedy."""
    dead = _DEAD.format(now=read.dialect.now_ms)
    rows = await read.fetch(f"SELECT about, why FROM truecopy_halts WHERE NOT ({dead}) ORDER BY holder DESC")
    return {str(about): str(why) for about, why in rows}
