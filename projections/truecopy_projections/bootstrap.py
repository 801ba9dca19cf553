"""Bootstrap: fill a new or lost replica from a peer, prove the copy, and let it follow the log from the peer's position.

The peer is read in one snapshot and is not paused; neither is its worker. Of the log only the part between the peer's last
mark and its position is read, and of the owner nothing. What is inherited are rows, the heads of keys with their elements,
positions, counts, digests, the quarantine, the rulings about it and the marks that were judged; not leases, journal and
certificates. `inheritance` says why a copy is accepted or refused, `replicas/landing` where it lies until then.

Nobody sees the copy before it is proven. A process that is killed leaves no projection or a whole one.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from truecopy_bus.errors import DatabaseUnavailableError, LogUnavailableError
from truecopy_bus.limits import LEASE_S, READ_RECORDS_MAX, READ_WAIT_S
from truecopy_bus.log import Log, Passing, identified
from truecopy_bus.points import Point, reached
from truecopy_bus.record import TopicState
from truecopy_bus.sql import Connection, Database
from truecopy_bus.sql.sqlite import SqliteDatabase
from truecopy_projections.certificate import newest_certificate
from truecopy_projections.errors import BootstrapRefusedError, InvalidCertificateError, ProjectionError, UnknownProjectionError
from truecopy_projections.inheritance import Inheritance, Recount, Refusal, Tail, unanchored, uncertified, unfit
from truecopy_projections.limits import REPLAY_STALL_S
from truecopy_projections.projection import Projection
from truecopy_projections.replicas.landing import Landing, Pace, Room, own_room
from truecopy_projections.replicas.landing_beside import beside, taken
from truecopy_projections.replicas.landing_file import as_file, clear_away, is_alone, new_file
from truecopy_projections.replicas.sql_snapshot import SqlSnapshot, check, read_meta
from truecopy_schemas.errors import NewerFormatError

__all__ = ["Bootstrap", "Progress", "bootstrap", "same_database"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a bootstrap is: `doing` is "copying" (done in bytes, about) or "verifying" (in rows).

    `total` and `left_s`, seconds to go, are None where they are not known.
    """

    doing: str
    done: int
    total: int | None
    left_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """What was copied from a peer, or by a dry run would be. `beyond` counts the records since the certified position.

    `issued_at_ms` (since 1970) and `public_key` are the certificate's. Nothing was written unless `applied`.
    """

    projection: str
    replica: str
    peer: str
    incarnation: str
    positions: Mapping[int, int]
    count: int
    rows: int
    parked: Sequence[str]
    beyond: int
    issued_at_ms: int
    public_key: str
    copied_bytes: int
    applied: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "positions": {str(p): offset for p, offset in sorted(self.positions.items())}}


async def bootstrap(
    projection: Projection[Any],
    target: Database,
    peer: Database,
    log: Log,
    *,
    trusted: Collection[str],
    service: str = "",
    topic: str | None = None,
    replace: bool = False,
    dry_run: bool = False,
    bytes_per_second: int | None = None,
    lease_s: float = LEASE_S,
    told: Callable[[Progress], None] = lambda _: None,
) -> Bootstrap:
    """Fill `target` with the projection as `peer` holds it, and prove it, under a certificate of one of the keys `trusted`.

    `replace` throws away what the target holds of it; `dry_run` proves the peer itself and copies nothing. Raises
    BootstrapRefusedError, OtherServiceError, UnknownProjectionError (at the peer), ProjectionError (the target's is declared
    otherwise), TopicMissingError, and what is unavailable.
    """

    def refuse(why: Refusal) -> BootstrapRefusedError:
        return BootstrapRefusedError(projection=projection.id, replica=target.name, peer=peer.name, seen=why[0], remedy=why[1])

    def insist(why: Refusal | None) -> None:
        if why is not None:
            raise refuse(why)

    name = topic or projection.entity
    if projection.foreign is not None:
        insist(("its topic is foreign, and no copy of one can be certified", "let workers fill the replica from the log"))
    _refuse_missing(peer)
    if await same_database(target, peer):
        insist(("the two are one database", "name another replica's address"))
    file = new_file(target)
    if file is None:
        clear_away(target)
        async with target.snapshot() as connection:
            insist(await taken(connection, target.name, projection, service=service, replace=replace))
    described = await identified(log, name)
    watch = _Watch(told)
    async with AsyncExitStack() as landings:
        async with peer.snapshot() as source:
            found = await _found(source, projection, peer, refuse)
            insist(uncertified(projection, found.certificate, described, trusted) or unfit(found, described))
            tails = await _tails(log, name, found)
            watched = {key for tail in tails.values() for key, _ in tail.events}
            pace = Pace(bytes_per_second, watch.copying)
            if dry_run:
                recount = await _recount(source, own_room(projection), watched, watch)
            else:
                way = beside(target, projection, refuse, service=service, replace=replace, lease_s=lease_s)
                if file is not None and await is_alone(source, projection):
                    way = as_file(file, projection, refuse, service=service)  # type: ignore[assignment]
                landing: Landing = await landings.enter_async_context(way)
                await landing.copy(source, pace)
        if not dry_run:
            async with landing.reading() as copy:
                recount = await _recount(copy, landing.room, watched, watch)
        insist(recount.differs(found) or unanchored(found, tails, recount.heads))
        result = _result(projection, target, peer, found, recount, pace, applied=not dry_run)
        if not dry_run:
            await reached(Point.BOOTSTRAP_VERIFIED)
            insist(_moved_on(described, await identified(log, name)))
            assert found.certificate is not None
            await landing.adopt(found, {**result.as_json(), "certificate": found.certificate.as_json()})
            await reached(Point.BOOTSTRAP_ADOPTED)
    if not dry_run:
        await target.flush()
    return result


class _Watch:
    """Tells progress, with a guess at what is left from how it went so far."""

    def __init__(self, told: Callable[[Progress], None]) -> None:
        self._told, self._doing, self._began_s = told, "", 0.0

    def copying(self, done: int, total: int | None) -> None:
        self._tell("copying", done, total)

    def verifying(self, done: int, total: int | None) -> None:
        self._tell("verifying", done, total)

    def _tell(self, doing: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if doing != self._doing:
            self._doing, self._began_s = doing, now
        left = (now - self._began_s) * max(0, total - done) / done if total is not None and done else None
        self._told(Progress(doing=doing, done=done, total=total, left_s=left))


def _refuse_missing(peer: Database) -> None:
    """Raises DatabaseUnavailableError for a peer's file that is not there: to open it would make it."""
    if isinstance(peer, SqliteDatabase) and not Path(peer.path).exists():
        raise DatabaseUnavailableError(database=peer.name, seen="there is no such file", remedy="check the address")


async def same_database(target: Database, peer: Database) -> bool:
    """Whether two are one database, however each was addressed; on PostgreSQL one schema of it. Raises what is away."""
    if target.dialect != peer.dialect:
        return False
    if isinstance(target, SqliteDatabase) and isinstance(peer, SqliteDatabase):
        return _is_file(target.path, peer.path)
    places = []
    for one in (target, peer):
        async with one.snapshot() as connection:
            places += await connection.fetch("SELECT pg_postmaster_start_time()::text, current_database(), current_schema()")
    return places[0] == places[1]


def _is_file(one: str, other: str) -> bool:
    return Path(one).exists() and Path(one).samefile(other)


async def _found(
    source: Connection, projection: Projection[Any], peer: Database, refuse: Callable[[Refusal], Exception]
) -> Inheritance:
    meta = await read_meta(source, name=peer.name)
    try:
        if not check(meta, projection):
            raise UnknownProjectionError(f"peer {peer.name} holds no {projection.id}; name a replica that does")
    except ProjectionError as fault:
        remedy = "bring app and peer to one declaration, or give this one the next number"
        raise refuse((f"it was declared otherwise ({fault})", remedy)) from fault
    snapshot = SqlSnapshot(source, meta, name=peer.name)
    try:
        certificate = await newest_certificate(projection, snapshot)
    except (InvalidCertificateError, NewerFormatError) as fault:
        raise refuse((f"its certificate can't be read ({fault})", "certify it anew")) from fault
    return Inheritance(
        states=await snapshot.states(projection.id),
        checkpoints=await snapshot.checkpoints(projection.id),
        waiting=await snapshot.waiting(projection.id),
        certificate=certificate,
        amendments=await snapshot.amendments(projection.id),
    )


async def _tails(log: Log, topic: str, found: Inheritance) -> dict[int, Tail]:
    """Read the log between the peer's last marks and its positions."""
    tails = {p: Tail() for p in found.states}
    at, upto = ({p: bounds[end] for p, bounds in found.tails().items()} for end in (0, 1))
    reader = log.reader(topic)
    stalls_at = time.monotonic() + REPLAY_STALL_S
    try:
        while left := {p: offset for p, offset in at.items() if offset < upto[p]}:
            records = await reader.read(left, records_max=READ_RECORDS_MAX, wait_s=READ_WAIT_S)
            if records:
                stalls_at = time.monotonic() + REPLAY_STALL_S
            elif time.monotonic() > stalls_at:
                raise LogUnavailableError(log=topic, seen=f"no record for {REPLAY_STALL_S:.0f} s below offsets {upto}")
            elif isinstance(reader, Passing):
                at |= {p: max(at[p], offset) for p, offset in reader.passed().items() if p in left}
            for record in records:
                at[record.partition] = record.offset + 1
                if record.offset < upto[record.partition]:
                    tails[record.partition].take(record)
    finally:
        await reader.close()
    return tails


async def _recount(connection: Connection, room: Room, watched: Collection[str], watch: _Watch) -> Recount:
    recount = Recount(room.projection, watched)
    total = int((await connection.fetch(f'SELECT COUNT(*) FROM "{room.rows.name}"'))[0][0])
    async for rows in room.all_rows(connection):
        recount.take_rows(rows)
        watch.verifying(recount.rows, total)
    async for keys in room.all_keys(connection):
        recount.take_keys(keys)
    return recount


def _moved_on(was: TopicState, now: TopicState) -> Refusal | None:
    if was.incarnation == now.incarnation:
        return None
    seen = f"the topic was made anew while it was copied (incarnation {was.incarnation}, now {now.incarnation})"
    return seen, "let workers fill the replica from the log"


def _result(
    projection: Projection[Any],
    target: Database,
    peer: Database,
    found: Inheritance,
    recount: Recount,
    pace: Pace,
    *,
    applied: bool,
) -> Bootstrap:
    certificate = found.certificate
    assert certificate is not None
    positions = {p: state.position for p, state in found.states.items()}
    return Bootstrap(
        projection=projection.id,
        replica=target.name,
        peer=peer.name,
        incarnation=certificate.incarnation,
        positions=positions,
        count=sum(state.count for state in found.states.values()),
        rows=recount.rows,
        parked=tuple(recount.parked),
        beyond=sum(positions.values()) - sum(certificate.positions.values()),
        issued_at_ms=certificate.issued_at_ms,
        public_key=certificate.public_key,
        copied_bytes=pace.done_bytes,
        applied=applied,
    )
