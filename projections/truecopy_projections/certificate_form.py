"""The form of a certificate: its fields, the bytes that are signed, its hash, and what of a text is one.

A certificate is a JSON object. Its one form in bytes is that of sorted keys and no blanks (which for the values that it has is
RFC 8785's): its hash, SHA-256 (FIPS 180-4), is taken over it, and so is the signature, Ed25519 (RFC 8032), without
`signature`. So neither the order of keys nor blanks say anything, and any other change of a text is another certificate.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from truecopy_bus.limits import RECORD_BYTES_MAX
from truecopy_projections.errors import InvalidCertificateError
from truecopy_projections.limits import BECAUSE_CHARS_MAX
from truecopy_schemas.errors import NewerFormatError

__all__ = ["CANONICAL_FORM", "CERTIFICATE_FORMAT", "AmendmentStated", "Certificate", "MarkStated", "read", "sign"]

CERTIFICATE_FORMAT = 1
CANONICAL_FORM = 1
"""Number of the canonical form of row values (see columns)."""

_WORD_MAX = 2**63 - 1
_Count = Annotated[int, Field(ge=0, le=_WORD_MAX)]


def _hex(digits: int, *, or_none: bool = False) -> Any:
    return StringConstraints(pattern=rf"^[0-9a-f]{{{digits}}}$" if not or_none else rf"^([0-9a-f]{{{digits}}})?$")


_Hash = Annotated[str, _hex(64)]
_Partition = Annotated[int, Field(ge=0, le=2**31 - 1)]
_STRICT = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)


class MarkStated(BaseModel):
    """The owner's mark that proves a partition's history: equal to the replica's figures when it was passed."""

    model_config = _STRICT

    epoch: _Count
    number: _Count
    count: _Count
    digest: _Hash


class AmendmentStated(BaseModel):
    """A ruling by which the log was folded. `event` is the hash of the event that it is about, `replacement` that of what
    stands in its place ("" for nothing), `id` the hash of the whole ruling, as it was published."""

    model_config = _STRICT

    id: _Hash
    partition: _Partition
    offset: _Count
    key: str | None
    version: _Count | None
    event: _Hash
    ruling: Literal["SKIPPED", "REPLACED"]
    replacement: Annotated[str, _hex(64, or_none=True)]
    by: str
    why: Annotated[str, Field(max_length=BECAUSE_CHARS_MAX)]
    at_ms: _Count

    def __str__(self) -> str:
        name = "a foreign record" if self.key is None else f"{self.key!r} version {self.version}"
        return f"{name} was {self.ruling.lower()} by {self.by}: {self.why}"


class Certificate(BaseModel):
    """A signed statement: at these positions the replica's rows equalled the fold of the log. Times are ms since 1970, UTC.

    `chain` is made with a replica's first certificate and stays; `previous` is the hash of the one before, "" in the first.
    What is by partition has the same partitions throughout. `because` says why positions or counts go back, or why a chain
    goes on behind a fork. `oldest_scrub_at_ms` is when the row was hashed again that was so longest ago.
    """

    model_config = _STRICT

    format: Annotated[int, Field(ge=1, le=CERTIFICATE_FORMAT)]
    chain: Annotated[str, _hex(32)]
    previous: Annotated[str, _hex(64, or_none=True)]
    entity: str
    projection: str
    replica: str
    incarnation: Annotated[str, _hex(32)]
    positions: dict[_Partition, _Count]
    counts: dict[_Partition, _Count]
    marks: dict[_Partition, MarkStated]
    input_digests: dict[_Partition, _Hash]
    row_digests: dict[_Partition, _Hash]
    digest_algorithm: _Count
    canonical_form: _Count
    schema_fingerprints: tuple[_Hash, ...]
    oldest_scrub_at_ms: _Count
    parked: tuple[str, ...]
    amendments: tuple[AmendmentStated, ...]
    repairs: _Count
    because: Annotated[str, Field(max_length=BECAUSE_CHARS_MAX)]
    issued_at_ms: _Count
    public_key: _Hash
    signature: Annotated[str, _hex(128)]

    @model_validator(mode="after")
    def _same_partitions(self) -> "Certificate":
        parts = self.positions.keys()
        for told in (self.counts, self.marks, self.input_digests, self.row_digests):
            if told.keys() != parts:
                raise ValueError(f"it states partitions {sorted(parts)} and {sorted(told)}")
        return self

    @property
    def id(self) -> str:
        """Its hash, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def count(self) -> int:
        """Events of all partitions."""
        return sum(self.counts.values())

    def canonical(self) -> bytes:
        """The one form in bytes."""
        return _canonical(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return self.model_dump(mode="json")

    def is_signed(self) -> bool:
        """Whether the signature is that of the stated key over all the rest. It does not say whose key that is."""
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
            key.verify(bytes.fromhex(self.signature), _signed(self.as_json()))
        except (InvalidSignature, ValueError):
            return False
        return True


def sign(stated: Mapping[str, Any], key: Ed25519PrivateKey) -> Certificate:
    """The certificate that states this: all fields but `public_key` and `signature`. Raises InvalidCertificateError."""
    whole = {**stated, "public_key": key.public_key().public_bytes_raw().hex()}
    draft = _validated(orjson.dumps({**whole, "signature": "0" * 128}, option=orjson.OPT_NON_STR_KEYS))
    signed = draft.model_copy(update={"signature": key.sign(_signed(draft.as_json())).hex()})
    if (size := len(signed.canonical())) > RECORD_BYTES_MAX // 2:
        # Half of a record: the key beside it and the frame of the log must have room too.
        raise InvalidCertificateError(f"it would have {size:,} bytes, {RECORD_BYTES_MAX // 2:,} are taken at the most")
    return signed


def read(text: bytes) -> Certificate:
    """The certificate in a text.

    Raises NewerFormatError for one of a newer Truecopy, and InvalidCertificateError for what is none or is too long.
    """
    if len(text) > RECORD_BYTES_MAX:
        raise InvalidCertificateError(f"it has {len(text):,} bytes or more, {RECORD_BYTES_MAX:,} are read at the most")
    try:
        said = orjson.loads(text)
    except ValueError as fault:
        raise InvalidCertificateError(f"it is no JSON: {fault}") from None
    seen = said.get("format") if isinstance(said, dict) else None
    if isinstance(seen, int) and seen > CERTIFICATE_FORMAT:
        raise NewerFormatError(what="certificate", seen=seen, known=CERTIFICATE_FORMAT)
    return _validated(text)


def _validated(text: bytes) -> Certificate:
    try:
        return Certificate.model_validate_json(text)
    except ValidationError as fault:
        first = fault.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise InvalidCertificateError(f"{where}: {first['msg']}") from None


def _signed(stated: Mapping[str, Any]) -> bytes:
    return _canonical({name: value for name, value in stated.items() if name != "signature"})


def _canonical(stated: Mapping[str, Any]) -> bytes:
    return orjson.dumps(stated, option=orjson.OPT_SORT_KEYS)
