"""Every error of this package: one root, one class for each thing that its reader does next."""

from __future__ import annotations

__all__ = [
    "ForeignRecordError",
    "IncompatibleSchemaError",
    "InvalidEventError",
    "InvalidSchemaError",
    "NewerFormatError",
    "OversizeEventError",
    "TruecopyError",
    "UndecodableError",
    "UnknownSchemaError",
    "UpcastError",
]


class TruecopyError(Exception):
    """Base of every error raised on purpose."""


class InvalidEventError(TruecopyError):
    """An event was refused at publish. Correct the event; nothing was written."""

    def __init__(self, *, event_name: str, problem: str) -> None:
        super().__init__(f"{event_name}: {problem}; correct the event and publish it again")
        self.event_name, self.problem = event_name, problem


class OversizeEventError(InvalidEventError):
    """An event's body is larger than a log takes. Publish a reference to the large part instead."""

    def __init__(self, *, event_name: str, seen_bytes: int, limit_bytes: int) -> None:
        problem = f"the body has {seen_bytes} bytes, the limit is {limit_bytes}; store the large part elsewhere"
        super().__init__(event_name=event_name, problem=problem)
        self.seen_bytes, self.limit_bytes = seen_bytes, limit_bytes


class InvalidSchemaError(TruecopyError):
    """A class can't be stated as an Avro schema. Change its declaration as the message says."""

    def __init__(self, *, where: str, problem: str, remedy: str) -> None:
        super().__init__(f"{where}: {problem}; {remedy}")
        self.where, self.problem, self.remedy = where, problem, remedy


class IncompatibleSchemaError(TruecopyError):
    """A schema breaks readers or writers of an earlier version of its subject. Change it as the message says."""

    def __init__(self, *, subject: str, version: int, mode: str, path: str, reason: str, remedy: str) -> None:
        place = path or "the event"
        super().__init__(f"{subject}: clashes with version {version} under {mode}: {place}: {reason}; {remedy}")
        self.subject, self.version, self.mode = subject, version, mode
        self.path, self.reason, self.remedy = path, reason, remedy


class UnknownSchemaError(TruecopyError):
    """No schema has claimed this id. Read the schema topic to its end, then decode again."""

    def __init__(self, schema_id: int) -> None:
        super().__init__(f"schema id {schema_id} is claimed by no record; read the schema topic to its end")
        self.schema_id = schema_id


class UndecodableError(TruecopyError):
    """The bytes are not what their schema says. Quarantine the record with this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"undecodable: {reason}; quarantine the record")
        self.reason = reason


class UpcastError(TruecopyError):
    """An upcaster could not make today's event of an old one. Mend it; the key waits, and is tried again."""

    def __init__(self, *, event_name: str, problem: str) -> None:
        super().__init__(f"{event_name}: {problem}; mend the upcaster and start the worker again")
        self.event_name, self.problem = event_name, problem


class ForeignRecordError(TruecopyError):
    """A record that no publisher of ours wrote. Quarantine it and look for its writer."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"foreign record: {reason}; quarantine it and look for its writer")
        self.reason = reason


class NewerFormatError(TruecopyError):
    """Something was written by a newer release. Upgrade this process before it reads on."""

    def __init__(self, *, what: str, seen: int, known: int) -> None:
        super().__init__(f"{what}: format {seen} was seen, up to {known} is known; upgrade this process")
        self.what, self.seen, self.known = what, seen, known
