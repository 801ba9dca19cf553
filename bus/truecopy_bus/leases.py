"""Who may write a partition, and until when: leases with fences, kept in the database that the writes go to.

One mechanism for relays (in the owner's database) and workers (in the replica's). A holder heartbeats as a member, renews
what it holds, gives back what exceeds its fair share and takes what is free. Taking a partition writes a new fence: an
epoch one higher and a random claim id. A write holds its fence's row to the end of its transaction, so a holder that was
frozen past its lease and woken up cannot write any more; and since the claim id is random, not even a database that
crashed and came back with an older epoch can make an old fence valid again.

Time is the database's own clock, and it only decides when a silent holder may be replaced, never what is written.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from truecopy_bus.limits import LEASE_STRETCH_MAX
from truecopy_bus.sql.port import Connection, Kind, Shape, columns

__all__ = ["LEASES", "MEMBERS", "Fence", "Lease", "Share", "fair_share", "hold", "leave", "prepare", "renew", "stretched"]

LEASES = Shape(
    name="truecopy_leases",
    columns=columns(
        scope=Kind.TEXT, part=Kind.INTEGER, epoch=Kind.INTEGER, claim=Kind.BYTES, holder=Kind.TEXT, until_ms=Kind.INTEGER
    ),
    key=("scope", "part"),
)
MEMBERS = Shape(
    name="truecopy_members",
    columns=columns(scope=Kind.TEXT, holder=Kind.TEXT, until_ms=Kind.INTEGER),
    key=("scope", "holder"),
)
_CLAIM_BYTES = 16
_NOBODY = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """The right to write one partition, until somebody else takes it."""

    partition: int
    epoch: int
    claim: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A lease row as read: `alive` if its time has not run out by the database's clock."""

    fence: Fence
    holder: str
    alive: bool


@dataclass(frozen=True, slots=True)
class Share:
    """What a holder does next: partitions to take, and to give back."""

    take: frozenset[int]
    give: frozenset[int]


def fair_share(leases: Sequence[Lease], members: Collection[str], me: str) -> Share:
    """Decide what `me` takes and gives, so that members converge to shares that differ by one at the most.

    The members in sorted order agree on who has the larger shares, without talking to each other.
    """
    everyone = sorted({*members, me})
    small, larger = divmod(len(leases), len(everyone))
    share = small + (everyone.index(me) < larger)
    mine = sorted(lease.fence.partition for lease in leases if lease.holder == me and lease.alive)
    free = sorted(lease.fence.partition for lease in leases if lease.holder == _NOBODY or not lease.alive)
    return Share(frozenset(free[: max(0, share - len(mine))]), frozenset(mine[share:]))


def stretched(lease_s: float, *, turn_s: float) -> float:
    """Seconds of a lease for a holder whose last turn took `turn_s`, from its heartbeat to what it wrote under the fence.

    A turn that outlasts its lease does all in vain if another waits for the partition, whose turn does then too: both would
    send the same again for ever. So whoever has seen such a turn asks for twice its time, up to a bound.
    """
    return min(max(lease_s, 2 * turn_s), LEASE_STRETCH_MAX * lease_s)


async def prepare(tx: Connection, scope: str, partitions: int) -> None:
    """Make the lease rows of a scope that are missing; free, at epoch 0."""
    missing = set(range(partitions)) - {lease.fence.partition for lease in await _read(tx, scope)}
    for partition in sorted(missing):
        await tx.fetch(
            "INSERT INTO truecopy_leases (scope, part, epoch, claim, holder, until_ms) "
            "VALUES ($1, $2, 0, $3, $4, 0) ON CONFLICT (scope, part) DO NOTHING",
            scope,
            partition,
            b"",
            _NOBODY,
        )


async def renew(
    tx: Connection, scope: str, me: str, held: Collection[Fence], *, lease_s: float, seize: bool = False
) -> dict[int, Fence]:
    """One heartbeat of `me`: renew, give back, take. Returns what it holds now, by partition.

    A fence of `held` that another has taken is not in the answer. With `seize` it takes all partitions under new fences,
    whoever holds them: for an operator's act that must be alone. Run it durably, in a transaction of its own, every third
    of `lease_s` (seconds).
    """
    now = tx.dialect.now_ms
    until = f"{now} + {int(lease_s * 1000)}"
    await tx.fetch(
        f"INSERT INTO truecopy_members (scope, holder, until_ms) VALUES ($1, $2, {until}) "
        "ON CONFLICT (scope, holder) DO UPDATE SET until_ms = excluded.until_ms",
        scope,
        me,
    )
    await tx.fetch(f"DELETE FROM truecopy_members WHERE scope = $1 AND until_ms < {now}", scope)
    members = [str(row[0]) for row in await tx.fetch("SELECT holder FROM truecopy_members WHERE scope = $1", scope)]
    leases = await _read(tx, scope)
    everything = frozenset(lease.fence.partition for lease in leases)
    share = Share(everything, frozenset()) if seize else fair_share(leases, members, me)
    kept: dict[int, Fence] = {}
    for lease in leases:
        fence = lease.fence
        if fence.partition in share.take:
            fence = Fence(partition=fence.partition, epoch=fence.epoch + 1, claim=secrets.token_bytes(_CLAIM_BYTES))
        elif fence not in held:
            continue
        gives = fence.partition in share.give
        if not gives:
            kept[fence.partition] = fence
        await tx.fetch(
            f"UPDATE truecopy_leases SET epoch = $1, claim = $2, holder = $3, until_ms = {'0' if gives else until} "
            "WHERE scope = $4 AND part = $5",
            fence.epoch,
            fence.claim,
            _NOBODY if gives else me,
            scope,
            fence.partition,
        )
    return kept


async def hold(tx: Connection, scope: str, fences: Collection[Fence]) -> frozenset[int]:
    """The partitions among `fences` that may still be written by this transaction; their rows stay locked until it ends."""
    valid = {lease.fence for lease in await _read(tx, scope, frozenset(fence.partition for fence in fences))}
    return frozenset(fence.partition for fence in fences if fence in valid)


async def leave(tx: Connection, scope: str, me: str, held: Collection[Fence]) -> None:
    """Give everything back at once, so that nobody has to wait for the leases to run out."""
    await tx.fetch("DELETE FROM truecopy_members WHERE scope = $1 AND holder = $2", scope, me)
    for partition in sorted(await hold(tx, scope, held)):
        await tx.fetch(
            "UPDATE truecopy_leases SET holder = $1, until_ms = 0 WHERE scope = $2 AND part = $3",
            _NOBODY,
            scope,
            partition,
        )


async def _read(tx: Connection, scope: str, only: Collection[int] | None = None) -> list[Lease]:
    """Lease rows in partition order, which is the one order in which they are locked."""
    wanted = "" if only is None else f"AND part IN ({', '.join(str(p) for p in sorted(only))}) " if only else "AND 1 = 0 "
    rows = await tx.fetch(
        f"SELECT part, epoch, claim, holder, CASE WHEN until_ms > {tx.dialect.now_ms} THEN 1 ELSE 0 END "
        f"FROM truecopy_leases WHERE scope = $1 {wanted}ORDER BY part {tx.dialect.for_update}",
        scope,
    )
    return [
        Lease(fence=Fence(partition=part, epoch=epoch, claim=claim), holder=holder, alive=bool(alive))
        for part, epoch, claim, holder, alive in rows
    ]
