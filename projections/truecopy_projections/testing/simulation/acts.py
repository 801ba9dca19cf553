"""Faults that concern no operation of a process: what an operator, a clock, a disk or chance does to log and databases."""

import asyncio
from collections.abc import Awaitable
from random import Random
from typing import Any

from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.record import Outgoing, Record, TopicSpec
from truecopy_projections.projection import Projection
from truecopy_projections.testing.simulation.database import Disk
from truecopy_projections.testing.simulation.faults import Fault, Strike
from truecopy_projections.testing.simulation.log import bit_flipped, is_event
from truecopy_projections.testing.simulation.world import World

__all__ = ["AT_REST", "act", "altered"]

_SKEW_S = (0.1, 3.0)
_CRASH_S = (0.01, 0.3)
AT_REST = {
    Fault.ROW_ALTERED,
    Fault.ROW_GONE,
    Fault.HASH_ALTERED,
    Fault.ROWS_DIGEST_ALTERED,
    Fault.INPUT_DIGEST_ALTERED,
    Fault.POSITION_BACK,
    Fault.POSITION_FORWARD,
}
"""What alters a stored replica."""


def act(world: World, strike: Strike) -> bool:
    """Do it. False if there is nothing yet that it could be done to."""
    random = Random(strike.draw)
    topic = world.projections[0].entity
    match strike.fault:
        case Fault.CLOCK_FORWARD:
            random.choice([world.store_disk, world.replica_disk]).skew_s += random.uniform(*_SKEW_S)
            return True
        case Fault.CLOCK_BACK:
            random.choice([world.store_disk, world.replica_disk]).skew_s -= random.uniform(*_SKEW_S)
            return True
        case Fault.REWOUND:
            crash = None if world.plan.in_memory else _crash(world.replica_disk, random.uniform(*_CRASH_S))
            return crash is not None and _soon(world, crash)
        case Fault.MADE_ANEW:
            return _soon(world, _made_anew(world.log, topic, world.plan.partitions)) if _there(world, topic) else False
        case fault if fault in AT_REST:
            return altered(world, random.choice(world.projections), strike)
    places = [p for p, kept in enumerate(_records(world.log, topic)) if sum(map(is_event, kept)) > 1]
    if not places:
        return False
    partition = random.choice(places)
    kept = _records(world.log, topic)[partition]
    events = [at for at, record in enumerate(kept) if is_event(record)]
    match strike.fault:
        case Fault.SENT_AGAIN:
            first = random.choice(events)
            again = [kept[at] for at in events if at >= first][: random.randint(1, 5)]
            return _soon(world, world.log.append(topic, partition, [_outgoing(record) for record in again]))
        case Fault.FOREIGN:
            stranger = Outgoing(random.choice([None, b"k", b"k0"]), random.choice([None, b"", b"{}", random.randbytes(3)]), 0)
            return _soon(world, world.log.append(topic, partition, [stranger]))
        case Fault.LOST_ON_LOG:
            at = random.choice(events[1:])
            kept[at] = kept[max(one for one in events if one < at)]._replace(offset=kept[at].offset)
        case Fault.ALTERED_ON_LOG:
            at = random.choice(events)
            kept[at] = kept[at]._replace(value=bit_flipped(kept[at].value or b"", random))
        case Fault.TRIMMED | Fault.TRIMMED_UNREAD:
            start, end = kept[0].offset, kept[-1].offset + 1
            before = end if strike.fault is Fault.TRIMMED_UNREAD else start + max(1, (end - start) // 2)
            return _soon(world, world.log.trim(topic, partition, before))
    return True


def altered(world: World, projection: Projection[Any], strike: Strike) -> bool:
    """Alter what is stored of one projection, behind its back. Only a replica in SQL can be."""
    random, connection = Random(strike.draw), world.replica_disk.connection
    if world.plan.in_memory or connection.in_transaction or not _has(connection, projection.table):
        return False
    states = connection.execute("SELECT part FROM truecopy_partitions WHERE count > 1 AND halted = '' ORDER BY part").fetchall()
    rows = connection.execute(f'SELECT rowid FROM "{projection.table}" ORDER BY _key').fetchall()
    if not states or not rows:
        return False
    part, rowid, shift = int(str(random.choice(states)[0])), random.choice(rows)[0], random.randint(1, 5)
    of_row, of_part = f"WHERE rowid = {rowid}", f"WHERE projection = '{projection.id}' AND part = {part}"
    names = [field.column.name for field in projection.fields if field.column.name not in projection.key]
    match strike.fault:
        case Fault.ROW_ALTERED:
            return _change(world, projection.table, random.choice(names), of_row, random)
        case Fault.ROW_GONE:
            connection.execute(f'DELETE FROM "{projection.table}" {of_row}')
        case Fault.HASH_ALTERED:
            return _change(world, projection.table, "_hash", of_row, random)
        case Fault.ROWS_DIGEST_ALTERED:
            return _change(world, "truecopy_partitions", "rows", of_part, random)
        case Fault.INPUT_DIGEST_ALTERED:
            return _change(world, "truecopy_partitions", "input_digest", of_part, random)
        case Fault.POSITION_BACK:
            connection.execute(f'UPDATE truecopy_partitions SET "position" = MAX(0, "position" - {shift}) {of_part}')
        case Fault.POSITION_FORWARD:
            end = _records(world.log, projection.entity)[part][-1].offset + 1
            connection.execute(f'UPDATE truecopy_partitions SET "position" = MIN({end}, "position" + {shift}) {of_part}')
    world.replica_disk.commits += 1
    world.replica_disk.flush()
    return True


def _change(world: World, table: str, column: str, where: str, random: Random) -> bool:
    connection = world.replica_disk.connection
    (value,) = connection.execute(f'SELECT "{column}" FROM "{table}" {where}').fetchall()[0]
    if (other := _other(value, random)) == value:
        return False
    connection.execute(f'UPDATE "{table}" SET "{column}" = ? {where}', (other,))
    world.replica_disk.commits += 1
    world.replica_disk.flush()
    return True


def _other(value: Any, random: Random) -> Any:
    """Another value of the same kind; the same one where it can't be said without knowing more."""
    match value:
        case int():
            return value ^ (1 << random.randrange(8))
        case float():
            return value + 1.0
        case bytes() if value:
            return bit_flipped(value, random)
        case str() if digits := [at for at, sign in enumerate(value) if sign.isdigit()]:
            at = random.choice(digits)
            return value[:at] + str((int(value[at]) + 1) % 10) + value[at + 1 :]
        case str() if value.isalpha():
            return value.swapcase()
    return value


def _has(connection: Any, table: str) -> bool:
    return bool(connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)).fetchall())


def _there(world: World, topic: str) -> bool:
    return any(is_event(record) for kept in _records(world.log, topic) for record in kept)


def _records(log: MemoryLog, topic: str) -> list[list[Record]]:
    """The records of a topic, by partition, to be altered; none if it is not there."""
    found = (log._topics or {}).get(topic)
    return [held.records for held in found.partitions] if found else []


def _outgoing(record: Record) -> Outgoing:
    return Outgoing(record.key, record.value, record.timestamp_ms, record.headers)


def _soon(world: World, work: Awaitable[Any]) -> bool:
    world.begin(work)
    return True


async def _crash(disk: Disk, after_s: float) -> None:
    async with disk.turn:
        disk.expect_crash()
    await asyncio.sleep(after_s)
    async with disk.turn:
        disk.crash()


async def _made_anew(log: MemoryLog, topic: str, partitions: int) -> None:
    await log.delete(topic)
    await log.create(TopicSpec(name=topic, partitions=partitions))
