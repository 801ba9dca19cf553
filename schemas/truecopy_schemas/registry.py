"""The schema registry as a pure fold over the records of one topic.

A record claims an id for a schema under a subject. The first record that claims a number holds it;
the same fingerprint under the same subject is the same registration, whatever number it asked for.
So every reader of the topic comes to the same table, without a server and without a lock. A
claimant reads to the end, appends what `claim` built, reads on until its record comes back, and
asks `find`: a lost claim is judged and claimed again.

Decoding never depends on compatibility: that is judged by the claimant, and the mode and the
number of the rules it was judged by are part of the record. Changes of a subject's mode are
records too. The schemas of control records are there from the start, under ids that can't be
claimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from truecopy_schemas.avro_schema import AvroSchema, canonical, fingerprint, full_name
from truecopy_schemas.compatibility import RULES_NUMBER, Compatibility, judge
from truecopy_schemas.control import (
    FIRST_CLAIMABLE_ID,
    GENESIS_SCHEMA,
    GENESIS_SCHEMA_ID,
    MARK_SCHEMA,
    MARK_SCHEMA_ID,
)
from truecopy_schemas.errors import InvalidSchemaError, NewerFormatError, UnknownSchemaError
from truecopy_schemas.limits import SCHEMA_BYTES_MAX, SCHEMA_ID_MAX

__all__ = ["DEFAULT_COMPATIBILITY", "REGISTRY_FORMAT", "Outcome", "Registered", "RegistryState"]

REGISTRY_FORMAT = 1
DEFAULT_COMPATIBILITY = Compatibility.BACKWARD_TRANSITIVE


class Outcome(Enum):
    """What a record of the schema topic did. There is no sixth case."""

    CLAIMED = "the number is this schema's from now on"
    LOST = "another record held the number already: judge and claim again"
    SAME = "the subject has this schema already: the same registration"
    CONFIGURED = "the subject's mode is this one from now on"
    IGNORED = "not a record of the registry: it changes nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A schema that holds an id. version counts the schemas of its subject from 1."""

    id: int
    subject: str
    version: int
    fingerprint: bytes
    schema: AvroSchema
    compatibility: Compatibility
    rules: int


class RegistryState:
    """The registry after the records applied so far. Not safe for threads; one reader folds it."""

    def __init__(self) -> None:
        self._by_id: dict[int, Registered] = {}
        self._by_subject: dict[str, list[Registered]] = {}
        self._modes: dict[str, Compatibility] = {}
        for schema_id, schema in ((GENESIS_SCHEMA_ID, GENESIS_SCHEMA), (MARK_SCHEMA_ID, MARK_SCHEMA)):
            subject = f"_truecopy.control-{full_name(schema)}"
            self._hold(schema_id, subject, schema, Compatibility.NONE, RULES_NUMBER)

    def apply(self, key: bytes | None, value: bytes | None) -> Outcome:
        """Folds one record in. Raises NewerFormatError, and only that; unreadable records are IGNORED."""
        stated = _read(key, value)
        if stated is None:
            return Outcome.IGNORED
        match stated:
            case {"type": "claim", "id": int(schema_id), "subject": str(subject), "schema": dict(schema)}:
                return self._claimed(stated, schema_id, subject, schema)
            case {"type": "config", "subject": str(subject)}:
                self._modes[subject] = stated["compatibility"]
                return Outcome.CONFIGURED
        return Outcome.IGNORED

    def by_id(self, schema_id: int) -> Registered:
        """The holder of an id. Raises UnknownSchemaError when no record applied so far claimed it."""
        try:
            return self._by_id[schema_id]
        except KeyError:
            raise UnknownSchemaError(schema_id) from None

    def find(self, subject: str, fingerprint: bytes) -> Registered | None:
        """The registration of a schema under a subject, if it has one."""
        found = (held for held in self._by_subject.get(subject, ()) if held.fingerprint == fingerprint)
        return next(found, None)

    def versions(self, subject: str) -> tuple[Registered, ...]:
        """The subject's schemas in the order in which they were claimed."""
        return tuple(self._by_subject.get(subject, ()))

    @property
    def subjects(self) -> tuple[str, ...]:
        """Every subject with a schema, sorted."""
        return tuple(sorted(self._by_subject))

    @property
    def next_id(self) -> int:
        """The number that the next claim asks for: the highest one held, and one."""
        return max(FIRST_CLAIMABLE_ID, max(self._by_id) + 1)

    def compatibility(self, subject: str) -> Compatibility:
        """The mode that claims under a subject are judged by."""
        return self._modes.get(subject, DEFAULT_COMPATIBILITY)

    def claim(self, subject: str, schema: AvroSchema, compatibility: Compatibility | None = None) -> bytes | Registered:
        """The value to append under the subject's UTF-8 as key, or the registration that exists.

        The subject's own mode judges unless another is given. Raises IncompatibleSchemaError, and
        InvalidSchemaError above SCHEMA_BYTES_MAX or when no id is left below SCHEMA_ID_MAX.
        """
        mark = fingerprint(schema)
        if (held := self.find(subject, mark)) is not None:
            return held
        mode = compatibility or self.compatibility(subject)
        judge(subject, schema, [held.schema for held in self.versions(subject)], mode)
        size = len(canonical(schema))
        if size > SCHEMA_BYTES_MAX:
            problem = f"the schema has {size} bytes, the limit is {SCHEMA_BYTES_MAX}"
            raise InvalidSchemaError(where=subject, problem=problem, remedy="split the event")
        if self.next_id > SCHEMA_ID_MAX:
            problem = f"the highest schema id, {SCHEMA_ID_MAX}, is claimed already"
            raise InvalidSchemaError(where=subject, problem=problem, remedy="find who claimed it, and give them a topic apart")
        return _written(
            "claim",
            subject,
            mode,
            {"id": self.next_id, "fingerprint": mark.hex(), "schema": schema, "rules": RULES_NUMBER},
        )

    def configure(self, subject: str, compatibility: Compatibility) -> bytes:
        """The value to append, under the subject's UTF-8 as key, to change the subject's mode."""
        return _written("config", subject, compatibility, {})

    def _claimed(self, stated: dict[str, Any], schema_id: int, subject: str, schema: AvroSchema) -> Outcome:
        mark = fingerprint(schema)
        if mark.hex() != stated.get("fingerprint") or not FIRST_CLAIMABLE_ID <= schema_id <= SCHEMA_ID_MAX:
            return Outcome.IGNORED
        if self.find(subject, mark) is not None:
            return Outcome.SAME
        if schema_id in self._by_id:
            return Outcome.LOST
        rules = stated.get("rules")
        self._hold(schema_id, subject, schema, stated["compatibility"], rules if isinstance(rules, int) else 0)
        return Outcome.CLAIMED

    def _hold(self, schema_id: int, subject: str, schema: AvroSchema, mode: Compatibility, rules: int) -> None:
        versions = self._by_subject.setdefault(subject, [])
        held = Registered(
            id=schema_id,
            subject=subject,
            version=len(versions) + 1,
            fingerprint=fingerprint(schema),
            schema=schema,
            compatibility=mode,
            rules=rules,
        )
        versions.append(held)
        self._by_id[schema_id] = held


def _written(kind: str, subject: str, mode: Compatibility, rest: dict[str, Any]) -> bytes:
    stated = {"format": REGISTRY_FORMAT, "type": kind, "subject": subject, "compatibility": mode.value}
    return orjson.dumps(stated | rest, option=orjson.OPT_SORT_KEYS)


def _read(key: bytes | None, value: bytes | None) -> dict[str, Any] | None:
    try:
        stated = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    if not isinstance(stated, dict) or type(stated.get("format")) is not int:
        return None
    if stated["format"] > REGISTRY_FORMAT:
        raise NewerFormatError(what="schema record", seen=stated["format"], known=REGISTRY_FORMAT)
    modes = {mode.value: mode for mode in Compatibility}
    subject, mode = stated.get("subject"), stated.get("compatibility")
    if not isinstance(subject, str) or key != subject.encode() or mode not in modes:
        return None
    return stated | {"compatibility": modes[mode]}
