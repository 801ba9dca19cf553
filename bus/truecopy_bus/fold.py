"""The one decision of replication: what a change is to somebody who knows a key up to some version.

The relay puts each outbox row through it against its ledger, a worker each record against its replica, so both count
and chain alike. That is what makes their figures comparable at a mark.

A key's history is a hash chain: element(v) = H(element(v-1), key, v, schema fingerprint, body), element(0) empty.
The body is the Avro body without its frame, because schema ids differ between logs. The chain runs per key and not per
partition, because order between keys is no part of the history. Sums of the latest elements, modulo 2^256, are the input
digest: a sum and not an XOR, under which a change applied twice would cancel itself.

H is BLAKE2b-256 (RFC 7693) keyed with a public label, for domain separation.
"""

from collections.abc import Iterable
from enum import Enum
from hashlib import blake2b
from typing import NamedTuple

from truecopy_schemas.limits import KEY_BYTES_MAX

__all__ = ["DIGEST_ALGORITHM", "DIGEST_MODULUS", "UNKNOWN", "Head", "Verdict", "element", "fold", "follow", "moved"]

DIGEST_ALGORITHM = 1
"""Number of (BLAKE2b-256, sum modulo 2^256), as marks and certificates state it."""
DIGEST_MODULUS = 1 << 256
_ELEMENT_LABEL = b"truecopy/element/1"
_LINK = blake2b(digest_size=32, key=_ELEMENT_LABEL)
_SIZED = [length.to_bytes(4) for length in range(KEY_BYTES_MAX + 1)]


class Head(NamedTuple):
    """A key as far as it is known: its latest version, that version's element, and the element before it.

    `previous` is kept because it alone lets the latest version be told from a forgery of it when it is seen again.
    """

    version: int
    element: bytes
    previous: bytes


UNKNOWN = Head(0, b"", b"")


class Verdict(Enum):
    """What a change is to somebody who knows its key. There is no fifth case."""

    APPLY = "the next version"
    DUPLICATE = "known already"
    GAP = "a version is missing before it"
    CONFLICT = "the latest version again, with other content"


def element(previous: bytes, key: str, version: int, fingerprint: bytes, body: bytes) -> bytes:
    """The 32-byte hash that stands for the key's history up to `version`. Fields are length-prefixed."""
    name = key.encode()
    return blake2b(
        b"".join(
            (
                len(previous).to_bytes(4),
                previous,
                len(name).to_bytes(4),
                name,
                version.to_bytes(8),
                len(fingerprint).to_bytes(4),
                fingerprint,
                body,
            )
        ),
        digest_size=32,
        key=_ELEMENT_LABEL,
    ).digest()


def fold(known: Head, key: str, version: int, fingerprint: bytes, body: bytes) -> tuple[Verdict, Head]:
    """Decide; do nothing. Returns the verdict and the head after it, which only APPLY moves.

    A duplicate older than the latest version is taken for what it says it is: the elements around it are no longer known, so
    its content is not compared. Whatever it says, it changes neither rows nor digests; what was applied under its version
    is in the chain, which marks compare.
    """
    if version == known.version + 1:
        return Verdict.APPLY, Head(version, element(known.element, key, version, fingerprint, body), known.element)
    if version > known.version:
        return Verdict.GAP, known
    if version == known.version and element(known.previous, key, version, fingerprint, body) != known.element:
        return Verdict.CONFLICT, known
    return Verdict.DUPLICATE, known


def follow(
    heads: dict[bytes, tuple[int, bytes, bytes]],
    names: Iterable[bytes],
    versions: Iterable[int],
    fingerprints: Iterable[bytes],
    bodies: Iterable[bytes],
) -> bool:
    """`fold` over a run of changes, each of which is expected to be the next of its key; False at the first that isn't.

    `heads` has a (version, element, previous) for the UTF-8 name of each key among `names`, and is moved on in place.
    """
    for name, version, fingerprint, body in zip(names, versions, fingerprints, bodies, strict=True):
        known, latest, _ = heads[name]
        if version != known + 1:
            return False
        sizes = _SIZED[len(latest)], _SIZED[len(name)], _SIZED[len(fingerprint)]
        told = b"".join((sizes[0], latest, sizes[1], name, version.to_bytes(8), sizes[2], fingerprint, body))
        link = _LINK.copy()  # cheaper than taking in the label again
        link.update(told)
        heads[name] = (version, link.digest(), latest)
    return True


def moved(digest: int, *, old: bytes, new: bytes) -> int:
    """The sum after one of its hashes was replaced; b"" stands for none."""
    return (digest - int.from_bytes(old) + int.from_bytes(new)) % DIGEST_MODULUS
