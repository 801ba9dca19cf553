"""Amendments: rulings of people about single events that a projection could not apply, or could not take for one.

A ruling says that one event has no effect on rows (SKIPPED), or the effect of another body (REPLACED), in one replica. What was
delivered stays what was delivered: count, chain and input digest take the bytes of the log. Only what becomes of the rows
is amended, and whoever folds the log for a replica, or for whom it stands, is given its amendments. Of an event that
contradicts the one of its version, SKIPPED says that the first one stands; of a foreign record, that it is dismissed.

A ruling names its event by a hash of it, so that it never hits another one that came under the same version. It is never taken
back: what it did is in the rows, and later events were reduced on top of it.
"""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import orjson

from truecopy_bus.fold import element
from truecopy_bus.record import Record
from truecopy_projections.errors import InvalidAmendmentError
from truecopy_schemas.errors import NewerFormatError

__all__ = [
    "AMENDMENT_FORMAT",
    "NO_AMENDMENTS",
    "Amendment",
    "Amendments",
    "Effect",
    "Ruling",
    "event_of",
    "foreign_of",
    "schema_of",
]

AMENDMENT_FORMAT = 1
_FOREIGN_LABEL = b"truecopy/foreign/1"
_SIZE_BYTES = 8

Effect = tuple[str, str, str]
"""What a ruling does to rows: the hash of its event, the ruling's name, the hash of what replaces the event."""


class Ruling(Enum):
    """What is ruled about an event. There is no third."""

    SKIPPED = "it has no effect on rows"
    REPLACED = "it has the effect of another body"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amendment:
    """A ruling about one event of `key`, or about a foreign record (then key and version are None).

    `event` is the event's hash, see event_of and foreign_of; `reason` is the name of why it waited. `schema` (Avro, as JSON)
    and `body` replace it, if it is REPLACED. `replica` is where the ruling was made, `by` whoever made it, and `why`.
    """

    projection: str
    replica: str
    partition: int
    offset: int
    key: str | None
    version: int | None
    event: bytes
    reason: str
    ruling: Ruling
    by: str
    why: str
    at_ms: int
    schema: str = ""
    body: bytes = b""

    @property
    def id(self) -> str:
        """Its hash, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def replacement(self) -> str:
        """The hash of what replaces the event; "" for a skip."""
        if self.ruling is Ruling.SKIPPED:
            return ""
        told = self.schema.encode()
        return hashlib.sha256(len(told).to_bytes(_SIZE_BYTES) + told + self.body).hexdigest()

    @property
    def effect(self) -> Effect:
        """Two rulings of one effect do the same to rows, whoever made them."""
        return self.event.hex(), self.ruling.name, self.replacement

    def as_json(self) -> dict[str, Any]:
        """Plain values: bytes in base64, hashes in hexadecimal digits."""
        return {
            "format": AMENDMENT_FORMAT,
            "projection": self.projection,
            "replica": self.replica,
            "partition": self.partition,
            "offset": self.offset,
            "key": self.key,
            "version": self.version,
            "event": self.event.hex(),
            "reason": self.reason,
            "ruling": self.ruling.name,
            "by": self.by,
            "why": self.why,
            "at_ms": self.at_ms,
            "schema": self.schema,
            "body": b64encode(self.body).decode(),
        }

    def canonical(self) -> bytes:
        """The one form in bytes. Raises InvalidAmendmentError for text that is none in UTF-8."""
        try:
            return orjson.dumps(self.as_json(), option=orjson.OPT_SORT_KEYS)
        except TypeError as fault:
            raise InvalidAmendmentError(str(fault)) from None

    @classmethod
    def read(cls, text: bytes | str) -> "Amendment":
        """The amendment in a text. Raises NewerFormatError, InvalidAmendmentError."""
        try:
            said = orjson.loads(text)
            if (seen := said.pop("format")) > AMENDMENT_FORMAT:
                raise NewerFormatError(what="amendment", seen=seen, known=AMENDMENT_FORMAT)
            said["event"], said["body"] = bytes.fromhex(said["event"]), b64decode(said["body"], validate=True)
            said["ruling"] = Ruling[said["ruling"]]
            return cls(**said)
        except (ValueError, TypeError, KeyError, AttributeError) as fault:
            raise InvalidAmendmentError(f"{type(fault).__name__}: {fault}") from None

    def __str__(self) -> str:
        name = f"{self.key!r} version {self.version}" if self.key is not None else "a foreign record"
        return (
            f"{name} (partition {self.partition}, offset {self.offset}) was {self.ruling.name.lower()} by {self.by}: {self.why}"
        )


def event_of(key: str, version: int, fingerprint: bytes, body: bytes) -> bytes:
    """The hash that names an event by itself, whatever came before it in its key."""
    return element(b"", key, version, fingerprint, body)


def foreign_of(record: Record) -> bytes:
    """The hash that names a foreign record, by its place and its bytes."""
    parts = (f"{record.partition}:{record.offset}".encode(), record.key, record.value)
    told = b"".join(b"-" if part is None else b"+" + len(part).to_bytes(_SIZE_BYTES) + part for part in parts)
    return hashlib.blake2b(told, digest_size=32, key=_FOREIGN_LABEL).digest()


class Amendments:
    """The rulings of one projection in one replica, by partition and offset, and found by the event that each is about."""

    def __init__(self, rulings: Iterable[Amendment] = ()) -> None:
        self._by_event = {one.event: one for one in rulings}
        self.all = tuple(sorted(self._by_event.values(), key=lambda one: (one.partition, one.offset, one.event)))
        self.latest: dict[str, int] = {}
        """The highest version of each key that a ruling is about."""
        for one in self.all:
            if one.key is not None and one.version is not None:
                self.latest[one.key] = max(one.version, self.latest.get(one.key, 0))

    def __len__(self) -> int:
        return len(self.all)

    def about(self, key: str, version: int, fingerprint: bytes, body: bytes) -> Amendment | None:
        """The ruling about an event, if there is one."""
        if version > self.latest.get(key, 0):
            return None
        return self._by_event.get(event_of(key, version, fingerprint, body))

    def about_foreign(self, record: Record) -> Amendment | None:
        """The ruling about a foreign record, if there is one."""
        return self._by_event.get(foreign_of(record)) if self._by_event else None

    def and_also(self, more: Iterable[Amendment]) -> "Amendments":
        """These and more. A ruling that is there is not made again."""
        return Amendments([*more, *self.all])

    @cached_property
    def effects(self) -> dict[Effect, Amendment]:
        """What they do to rows. A foreign record never had an effect."""
        return {one.effect: one for one in self.all if one.key is not None}

    def differing(self, other: "Amendments") -> Amendment | None:
        """One that is here and not in `other`, or the other way round; None where both do the same to rows."""
        apart = self.effects.keys() ^ other.effects.keys()
        found = [one for side in (self, other) for effect, one in side.effects.items() if effect in apart]
        return min(found, key=lambda one: (one.partition, one.offset), default=None)


NO_AMENDMENTS = Amendments()


def schema_of(amendment: Amendment) -> dict[str, Any]:
    """The Avro schema of what replaces the event."""
    found: dict[str, Any] = json.loads(amendment.schema)
    return found
