"""Publishing as values: from (key, event) pairs to outbox rows. All judging and encoding happens before the first statement.

A body begins with its version, which only the database can give. So an event is encoded as version 1, and the leading
number is replaced once the version is taken: no lock is held while a batch is encoded, and what can't be encoded never
takes a version.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple, TypeAlias

import orjson

from truecopy_bus.errors import VersionConflictError
from truecopy_bus.limits import PUBLISH_EVENTS_MAX
from truecopy_schemas.avro_schema import avro_schema, fingerprint, subject
from truecopy_schemas.codec import encode
from truecopy_schemas.errors import InvalidEventError
from truecopy_schemas.event import Event
from truecopy_schemas.limits import KEY_BYTES_MAX

__all__ = ["Change", "Declared", "Prepared", "demands", "numbered", "prepare", "versioned"]

Change: TypeAlias = tuple[str, Event] | tuple[str, Event, int | None]
"""A key, its event and, if it matters, the version that the key must have before it (0: none yet)."""
_VERSION_ONE = b"\x02"


class Declared(NamedTuple):
    """What the store keeps of an event class: its schema as JSON, and what names it."""

    entity: str
    fingerprint: bytes
    subject: str
    schema: str


class Prepared(NamedTuple):
    """An event that is ready but for its version: `body` is encoded as version 1."""

    declared: Declared
    key: str
    expected: int | None
    body: bytes


def prepare(changes: Iterable[Change], tx: str | None) -> list[Prepared]:
    """Validate and encode. Raises InvalidEventError or OversizeEventError for the first event that can't be published.

    That is also the first beyond PUBLISH_EVENTS_MAX: no more of `changes` is taken, which may have no end.
    """
    prepared: list[Prepared] = []
    for key, event, *expected in changes:
        declared = _declared(type(event))
        if len(prepared) == PUBLISH_EVENTS_MAX:
            problem = f"more than {PUBLISH_EVENTS_MAX} events in one call; publish them in several"
            raise InvalidEventError(event_name=declared.subject, problem=problem)
        _refuse_odd_key(key, declared)
        body = encode(event, version=1, tx=tx)
        prepared.append(Prepared(declared, key, expected[0] if expected else None, body))
    return prepared


def demands(prepared: Iterable[Prepared]) -> list[tuple[str, str, int]]:
    """(entity, key, how many versions) of a batch, in the one order in which everybody locks heads."""
    return [(entity, key, many) for (entity, key), many in sorted(_wanted(prepared).items())]


def _wanted(prepared: Iterable[Prepared]) -> Counter[tuple[str, str]]:
    return Counter((declared.entity, key) for declared, key, _, _ in prepared)


def numbered(prepared: Sequence[Prepared], heads: Mapping[tuple[str, str], int]) -> list[int]:
    """The version of each event, from the heads after the whole batch has taken its versions.

    Raises VersionConflictError for the first event that expected another version before it.
    """
    bases = {place: heads[place] - many for place, many in _wanted(prepared).items()}
    versions = []
    for declared, key, expected, _ in prepared:
        place = declared.entity, key
        if expected is not None and expected != bases[place]:
            raise VersionConflictError(entity=declared.entity, key=key, expected=expected, actual=bases[place])
        bases[place] += 1
        versions.append(bases[place])
    return versions


def versioned(body: bytes, version: int) -> bytes:
    """A body of version 1 as one of `version`. Avro 1.12, "Binary encoding": zigzag, then groups of seven bits."""
    if version == 1:
        return body
    if body[:1] != _VERSION_ONE:
        raise AssertionError(f"a body of version 1 begins with {_VERSION_ONE!r}, this one with {body[:1]!r}")
    raw, front = version << 1, bytearray()
    while raw > 0x7F:
        front.append(raw & 0x7F | 0x80)
        raw >>= 7
    front.append(raw)
    return bytes(front) + body[1:]


@cache
def _declared(cls: type) -> Declared:
    if not issubclass(cls, Event) or not cls.__entity__:
        problem = "it is no event of an entity"
        raise InvalidEventError(event_name=cls.__name__, problem=problem)
    schema = avro_schema(cls)
    return Declared(cls.__entity__, fingerprint(schema), subject(schema), orjson.dumps(schema).decode())


def _refuse_odd_key(key: str, declared: Declared) -> None:
    try:
        if 0 < len(key.encode()) <= KEY_BYTES_MAX and "\x00" not in key:
            return
        problem = f"key {key!r:.80} has U+0000 or not 1 to {KEY_BYTES_MAX} bytes"
    except (UnicodeEncodeError, AttributeError):
        problem = f"key {key!r:.80} is no text that UTF-8 can hold"
    raise InvalidEventError(event_name=declared.subject, problem=problem)
