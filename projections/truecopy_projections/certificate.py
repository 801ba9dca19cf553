"""Certificates: signed statements that a replica equals the log, at a count and a position.

A certificate is a JSON object; its signature is Ed25519 (RFC 8032) over the object without `signature`, as JSON with sorted
keys and no blanks. It says what was compared and under which algorithm numbers, so that others can do it again. It does not
say that the owner put the truth into the log.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from truecopy_bus.fold import DIGEST_ALGORITHM
from truecopy_projections.errors import NotEqualError
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.verdicts import Report, Verdict
from truecopy_schemas.errors import NewerFormatError

__all__ = ["CANONICAL_FORM", "CERTIFICATE_FORMAT", "certify", "signing_key", "verify"]

CERTIFICATE_FORMAT = 1
CANONICAL_FORM = 1
"""Number of the canonical form of row values (see columns)."""


def signing_key(path: Path) -> Ed25519PrivateKey:
    """The key in the PEM file at `path`; made there, readable by its owner alone, if there is none."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            made = Ed25519PrivateKey.generate()
            file.write(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            return made
    except FileExistsError:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        found = load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(found, Ed25519PrivateKey):
            raise NotEqualError(f"{path} holds no Ed25519 key; name another file") from None
        return found


async def certify(projection: Projection[Any], replica: Replica, report: Report, key: Ed25519PrivateKey) -> Mapping[str, Any]:
    """Sign what `report` found, and keep the certificate in the replica's journal.

    Raises NotEqualError unless the report's verdict is EQUAL: nothing else is certified.
    """
    if report.verdict is not Verdict.EQUAL:
        raise NotEqualError(f"{report.projection} in {report.replica} is {report.verdict.name}, and only EQUAL is certified")
    async with replica.snapshot() as snapshot:
        repairs = len([one for one in await snapshot.journal("repair") if one["projection"] == projection.id])
    stated = {
        "format": CERTIFICATE_FORMAT,
        "digest_algorithm": DIGEST_ALGORITHM,
        "canonical_form": CANONICAL_FORM,
        "entity": report.entity,
        "projection": report.projection,
        "replica": report.replica,
        "incarnation": report.incarnation,
        "positions": {str(p): offset for p, offset in sorted(report.positions.items())},
        "count": report.count,
        "marks_compared": report.marks_compared,
        "input_digests": report.delivered.facts["digests"],
        "row_digests": report.computed.facts["digests"],
        "schema_fingerprints": list(report.fingerprints),
        "scrubbed_at_ms": report.checked_at_ms,
        "parked": list(report.parked),
        "repairs": repairs,
        "previous": "",
        "issued_at_ms": time.time_ns() // 1_000_000,
        "public_key": key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex(),
    }
    certificate = {**stated, "signature": key.sign(_signed(stated)).hex()}
    await replica.apply(projection, (), journal=[("certificate", certificate)])
    return certificate


def verify(certificate: Mapping[str, Any], *, public_key: str | None = None) -> bool:
    """Whether the signature is right, and by `public_key` (hex) where one is given.

    Raises NewerFormatError for a certificate of a newer Truecopy.
    """
    if certificate.get("format", 0) > CERTIFICATE_FORMAT:
        raise NewerFormatError(what="certificate", seen=certificate["format"], known=CERTIFICATE_FORMAT)
    signer = certificate["public_key"]
    if public_key not in (None, signer):
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer))
        key.verify(bytes.fromhex(certificate["signature"]), _signed(certificate))
    except (InvalidSignature, ValueError):
        return False
    return True


def _signed(certificate: Mapping[str, Any]) -> bytes:
    return orjson.dumps({k: v for k, v in certificate.items() if k != "signature"}, option=orjson.OPT_SORT_KEYS)
