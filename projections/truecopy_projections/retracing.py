"""Retracing: what the log alone says of a history, by folding the heads of its keys; no reducer, no app, no replica.

One partition after the other, because a key lives in one: in memory are the heads of one partition's keys, some 300 bytes
each, and what waits for a version before it. The owner's marks are met on the way, and each that states the count reached so
far must state the digest too.
"""

import time
from dataclasses import dataclass

from truecopy_bus.errors import LogUnavailableError
from truecopy_bus.fold import DIGEST_ALGORITHM, UNKNOWN, Head, Verdict, fold, moved
from truecopy_bus.genesis import control_of
from truecopy_bus.limits import READ_RECORDS_MAX, READ_WAIT_S
from truecopy_bus.log import Log, Reader
from truecopy_bus.record import Record
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.certificate_form import MarkStated
from truecopy_projections.limits import REPLAY_STALL_S, WAITING_BYTES_MAX
from truecopy_projections.marks import judge
from truecopy_projections.state import MarkVerdict
from truecopy_schemas.codec import read_version
from truecopy_schemas.control import CONTROL_KEY, Mark
from truecopy_schemas.errors import ForeignRecordError, UndecodableError, UnknownSchemaError
from truecopy_schemas.framing import unframe
from truecopy_schemas.limits import KEY_BYTES_MAX

__all__ = ["Retraced", "retrace"]


@dataclass(slots=True, kw_only=True)
class Retraced:
    """A partition of the log before an offset: its count of events, its input digest, and the owner's marks on the way.

    `equal` and `diverged` count the marks that state what was reached there, or something else. `met`: the mark that was
    asked about is among the equal ones; `other` is one that states the same count and another digest. `overflowed`: more
    waits than is kept.
    """

    count: int = 0
    digest: int = 0
    equal: int = 0
    diverged: int = 0
    met: bool = False
    other: Mark | None = None
    overflowed: bool = False


async def retrace(log: Log, schemas: SchemaSource, *, topic: str, partition: int, upto: int, mark: MarkStated) -> Retraced:
    """Fold a partition from offset 0 to before `upto`, and look for `mark`.

    Raises PositionLostError when it does not reach from 0 to there, TopicMissingError, LogUnavailableError.
    """
    fold_one = _Heads(schemas, mark)
    reader = log.reader(topic)
    at = 0
    try:
        while at < upto and not fold_one.found.overflowed:
            for record in await _some(reader, topic, partition, at):
                if record.offset < upto:
                    await fold_one.take(record)
                at = record.offset + 1
    finally:
        await reader.close()
    return fold_one.found


async def _some(reader: Reader, topic: str, partition: int, at: int) -> list[Record]:
    stalls_at = time.monotonic() + REPLAY_STALL_S
    while True:
        if records := await reader.read({partition: at}, records_max=READ_RECORDS_MAX, wait_s=READ_WAIT_S):
            return list(records)
        if time.monotonic() > stalls_at:
            raise LogUnavailableError(log=topic, seen=f"no record for {REPLAY_STALL_S:.0f} s at {at} of partition {partition}")


class _Heads:
    """The state of a retracing."""

    def __init__(self, schemas: SchemaSource, mark: MarkStated) -> None:
        self.found, self._mark = Retraced(), mark
        self._schemas = schemas
        self._fingerprints: dict[int, bytes | None] = {}
        self._heads: dict[str, Head] = {}
        self._waiting: dict[str, dict[int, tuple[int, bytes]]] = {}
        self._waiting_bytes = self._waiting_records = self._epoch = 0

    async def take(self, record: Record) -> None:
        if record.key == CONTROL_KEY:
            self._control(record)
            return
        if record.key is None or record.value is None or b"\0" in record.key or len(record.key) > KEY_BYTES_MAX:
            return
        try:
            key = record.key.decode()
            schema_id, framed = unframe(record.value)
            body = bytes(framed)
            version = read_version(body)
        except (UnicodeDecodeError, ForeignRecordError, UndecodableError):
            return  # no change event: see arrival
        await self._event(key, version, schema_id, body)
        while (waiting := self._waiting.get(key, {}).pop(self._head(key).version + 1, None)) is not None:
            self._waiting_bytes -= len(waiting[1])
            self._waiting_records -= 1
            before = self._head(key).version
            await self._event(key, before + 1, *waiting)
            if self._head(key).version == before:
                break

    def _head(self, key: str) -> Head:
        return self._heads.get(key, UNKNOWN)

    async def _event(self, key: str, version: int, schema_id: int, body: bytes) -> None:
        known = self._head(key)
        fingerprint = await self._fingerprint(schema_id)
        if fingerprint is None:
            if version > known.version:
                self._wait(key, version, schema_id, body)
            return
        verdict, head = fold(known, key, version, fingerprint, body)
        if verdict is Verdict.GAP:
            self._wait(key, version, schema_id, body)
        elif verdict is Verdict.APPLY:
            self._heads[key] = head
            self.found.count += 1
            self.found.digest = moved(self.found.digest, old=known.element, new=head.element)

    def _wait(self, key: str, version: int, schema_id: int, body: bytes) -> None:
        mine = self._waiting.setdefault(key, {})
        if version not in mine:
            mine[version] = schema_id, body
            self._waiting_bytes += len(body)
            self._waiting_records += 1
            self.found.overflowed = self._waiting_bytes > WAITING_BYTES_MAX

    async def _fingerprint(self, schema_id: int) -> bytes | None:
        if schema_id not in self._fingerprints:
            try:
                self._fingerprints[schema_id] = (await self._schemas.schema(schema_id)).fingerprint
            except UnknownSchemaError:
                self._fingerprints[schema_id] = None
        return self._fingerprints[schema_id]

    def _control(self, record: Record) -> None:
        try:
            mark = control_of(record)
        except (ForeignRecordError, UndecodableError):
            return
        if not isinstance(mark, Mark) or mark.digest_algorithm != DIGEST_ALGORITHM:
            return
        verdict = judge(mark, self.found.count, self.found.digest, self._epoch, self._waiting_records)
        self._epoch = max(self._epoch, mark.epoch)
        self.found.equal += verdict is MarkVerdict.EQUAL
        self.found.diverged += verdict is MarkVerdict.DIVERGED
        wanted = self._mark
        if mark.count == wanted.count and mark.digest.hex() != wanted.digest:
            self.found.other = mark
        elif (mark.epoch, mark.number, mark.count) == (wanted.epoch, wanted.number, wanted.count):
            self.found.met = self.found.met or verdict is MarkVerdict.EQUAL
