"""Errors of projections and replicas: one class for each thing that its caller does next."""

from pathlib import Path

from truecopy_schemas.errors import TruecopyError

__all__ = [
    "AmendmentRefusedError",
    "BootstrapRefusedError",
    "CutError",
    "EffectRejectedError",
    "InvalidAmendmentError",
    "InvalidCertificateError",
    "NotCaughtUpError",
    "NotEqualError",
    "NotReachedError",
    "OtherServiceError",
    "ProjectionError",
    "RebuildRefusedError",
    "RepairRefusedError",
    "ReplayRefusedError",
    "RestoreRefusedError",
    "RollbackConflictError",
    "RollbackRefusedError",
    "RowRejectedError",
    "SigningKeyError",
    "SnapshotError",
    "StateUnknownError",
    "StoppedError",
    "SwapRefusedError",
    "UnknownProjectionError",
    "UnknownVersionError",
]


class ProjectionError(TruecopyError):
    """A projection is declared wrongly. Change its declaration."""


class OtherServiceError(ProjectionError):
    """The replica's database holds a projection of this name for another service. Part the two."""

    def __init__(self, *, replica: str, projection: str, owner: str, service: str) -> None:
        super().__init__(
            f"replica {replica} holds {projection.partition('@')[0]} for service {owner!r}, expected {service!r}: two services "
            "can't write one table; give each a database (or a PostgreSQL schema, by search_path), or another name"
        )
        self.replica, self.projection, self.owner, self.service = replica, projection, owner, service


class RowRejectedError(TruecopyError):
    """A reducer's row has a value that its column can't hold. The key is parked; change the reducer."""


class UnknownProjectionError(TruecopyError):
    """The replica holds no such projection. Start a worker for it, or look for the name that is meant."""


class NotReachedError(TruecopyError):
    """A read waited for a token that the replica did not reach in time. Wait longer, or look at the worker's lag."""

    def __init__(self, *, key: str, wanted: int, seen: int, waited_s: float, why: str) -> None:
        super().__init__(
            f"{key!r}: wanted version {wanted}, the replica has {seen} after {waited_s:.1f} s ({why}); "
            "wait longer, or see `truecopy status` for what holds it"
        )
        self.key, self.wanted, self.seen, self.why = key, wanted, seen, why


class CutError(TruecopyError):
    """A point of the history that is not there. Name one that is, as the message says; nothing was done."""


class RepairRefusedError(TruecopyError):
    """A repair that would change too much, or has no truth to repair from. Nothing was changed."""


class RestoreRefusedError(TruecopyError):
    """A way back whose end can't be proven, or that can't be gone now. Nothing was changed; do what the message says."""


class AmendmentRefusedError(TruecopyError):
    """A ruling about an event that does not wait, or that would not let its key go on. Nothing was changed."""


class InvalidAmendmentError(TruecopyError):
    """A text that is no amendment, or one that can't be. Use the one that the replica or the log holds."""

    def __init__(self, seen: str) -> None:
        super().__init__(f"this is no amendment: {seen}; expected one as `truecopy quarantine` made it, whole")
        self.seen = seen


class BootstrapRefusedError(TruecopyError):
    """A replica is not filled from this peer, or not now. What was there is as it was; do what the message says."""

    def __init__(self, *, projection: str, replica: str, peer: str, seen: str, remedy: str) -> None:
        super().__init__(f"{projection}: {replica} is not filled from {peer}: {seen}; {remedy}")
        self.projection, self.replica, self.peer, self.seen, self.remedy = projection, replica, peer, seen, remedy


class NotEqualError(TruecopyError):
    """A certificate was asked for what is not proven equal. Check, repair, and ask again."""


class InvalidCertificateError(TruecopyError):
    """A text that is no certificate, or one that can't be. Use the text that was issued, or the one on the log."""

    def __init__(self, seen: str) -> None:
        super().__init__(f"this is no certificate: {seen}; expected one as `truecopy certify` issued it, whole")
        self.seen = seen


class SigningKeyError(TruecopyError):
    """A file of keys that can't be used. Name another, or bring it back."""

    def __init__(self, *, path: Path, seen: str) -> None:
        super().__init__(f"keys in {path}: {seen}; expected keys of Ed25519: name another file, or bring this one back")
        self.path, self.seen = path, seen


class UnknownVersionError(TruecopyError):
    """A key has no such version, or none at all. Look at its history."""

    def __init__(self, *, entity: str, key: str, wanted: int, head: int) -> None:
        has = f"its versions are 1 to {head}" if head else "nothing was ever published under it"
        super().__init__(f"{entity} {key!r}: no version {wanted}, {has}; see `truecopy history` for what there is")
        self.entity, self.key, self.wanted, self.head = entity, key, wanted, head


class StateUnknownError(TruecopyError):
    """The state of a key at a version can't be made of its events. Correct the fold that is asked for it."""

    def __init__(self, *, entity: str, key: str, version: int, why: str) -> None:
        super().__init__(
            f"{entity} {key!r}: its state can't be folded beyond version {version - 1}: {why}; expected a reducer that takes "
            "every event, name another projection or correct this one"
        )
        self.entity, self.key, self.version, self.why = entity, key, version, why


class RollbackRefusedError(TruecopyError):
    """What would bring a key back can't be made, or does not bring it back. Nothing was published."""

    def __init__(self, *, entity: str, key: str, to: int, seen: str, remedy: str) -> None:
        super().__init__(f"{entity} {key!r}: not rolled back to version {to}: {seen}; {remedy}")
        self.entity, self.key, self.to, self.seen, self.remedy = entity, key, to, seen, remedy


class RollbackConflictError(TruecopyError):
    """A key has changed since the version that a rollback is about. Nothing was published; look at both changes, and decide.

    `undone` is what the rollback would have changed, `newer` what was changed meanwhile.
    """

    def __init__(self, *, entity: str, key: str, expected: int, head: int, undone: object, newer: object) -> None:
        super().__init__(
            f"{entity} {key!r}: expected version {expected}, it is at {head}. The rollback would have changed: {undone}. "
            f"Changed meanwhile: {newer}. Nothing was overwritten; decide which holds, and expect version {head} or leave it"
        )
        self.entity, self.key, self.expected, self.head = entity, key, expected, head
        self.undone, self.newer = undone, newer


class SnapshotError(TruecopyError):
    """A snapshot of a key is not what its events fold to. It is forgotten; number the reducer that changed."""

    def __init__(self, *, entity: str, key: str, seen: str) -> None:
        super().__init__(
            f"{entity} {key!r}: from its snapshot to the fold of all its events: {seen}; the reducer changed under its number: "
            "the snapshots of this key are forgotten, give the changed projection the next number"
        )
        self.entity, self.key, self.seen = entity, key, seen


class NotCaughtUpError(TruecopyError):
    """A worker that goes up to a point did not get there. Look at what holds it."""

    def __init__(self, *, projection: str, left: int, why: str) -> None:
        super().__init__(
            f"{projection}: {left} offsets to go, expected none, {why}; see what holds log or database up, and try again"
        )
        self.projection, self.left, self.why = projection, left, why


class StoppedError(TruecopyError):
    """An event can't be applied, where nothing is put aside. Mend reducer, schema or row and run it again: it goes on there."""

    def __init__(self, *, projection: str, key: str, version: int | None, partition: int, offset: int, why: str) -> None:
        super().__init__(
            f"{projection} stops at {key!r} version {version}, offset {offset} of partition {partition}: {why}; mend it and "
            "run this again: it goes on from there"
        )
        self.projection, self.key, self.version = projection, key, version
        self.partition, self.offset, self.why = partition, offset, why


class ReplayRefusedError(TruecopyError):
    """A replay that would touch what is live, or what no replay made. Nothing was changed; do what the message says."""

    def __init__(self, *, sandbox: str, seen: str, remedy: str) -> None:
        super().__init__(f"sandbox {sandbox}: {seen}; {remedy}")
        self.sandbox, self.seen, self.remedy = sandbox, seen, remedy


class SwapRefusedError(TruecopyError):
    """A projection's number does not take the place of the live one, or is not dropped. Everything is as it was."""

    def __init__(self, *, new: str, old: str, seen: str, remedy: str) -> None:
        super().__init__(f"{new} does not take the place of {old}: {seen}; {remedy}")
        self.new, self.old, self.seen, self.remedy = new, old, seen, remedy


class RebuildRefusedError(TruecopyError):
    """A projection's number is not built beside the live one, or not now. Everything is as it was."""

    def __init__(self, *, projection: str, seen: str, remedy: str) -> None:
        super().__init__(f"{projection} is not rebuilt: {seen}; {remedy}")
        self.projection, self.seen, self.remedy = projection, seen, remedy


class EffectRejectedError(TruecopyError):
    """An event's effects are not what can be kept. Its key waits; mend the function that makes them."""

    def __init__(self, projection: str, key: str, version: int, why: str) -> None:
        super().__init__(f"{projection}, {key!r} at version {version}: {why}; mend the function that makes its effects")
        self.projection, self.key, self.version, self.why = projection, key, version, why
