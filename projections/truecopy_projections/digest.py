"""Order-free digests: sums of 256-bit hashes, kept by bucket so that a difference can be found without comparing all rows.

A vector holds the sum of each of BUCKETS buckets, 32 bytes each, big-endian; its total is the digest of the table's share of
one partition. Rows go to the bucket of their source key, so all rows of a key are looked at together.
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any
from zlib import crc32

from truecopy_bus.fold import DIGEST_MODULUS
from truecopy_projections.columns import encode, encoded
from truecopy_projections.limits import BUCKETS

__all__ = [
    "EMPTY",
    "Tally",
    "bucket_of",
    "bucket_of_name",
    "buckets_of",
    "differing",
    "row_hash",
    "row_hashes",
    "shifted",
    "sum_of",
    "total",
    "vector",
    "with_buckets",
]

_HASH_BYTES = 32
_ROW_LABEL = b"truecopy/row/1"
EMPTY = bytes(BUCKETS * _HASH_BYTES)


def bucket_of(key: str) -> int:
    """The bucket of a source key: CRC-32, which is independent of the partition's murmur2."""
    return bucket_of_name(key.encode())


def buckets_of(keys: Iterable[str]) -> list[int]:
    """`bucket_of` many keys, without a call for each."""
    return [crc32(key.encode()) % BUCKETS for key in keys]


def bucket_of_name(name: bytes) -> int:
    """`bucket_of` the key with this UTF-8 name."""
    return crc32(name) % BUCKETS


def row_hash(table: str, key: str, values: Iterable[Any]) -> bytes:
    """The 32-byte hash of one row of canonical `values`, of `table` (`name@version`) and source `key`."""
    fields = b"".join(map(encode, values))
    return blake2b(encode(table) + encode(key) + fields, digest_size=_HASH_BYTES, key=_ROW_LABEL).digest()


def row_hashes(table: str, keys: Sequence[str], columns: Sequence[Sequence[bytes]]) -> list[bytes]:
    """`row_hash` of many rows at once, from their source keys and the `encoded` columns of their values."""
    labelled = blake2b(encode(table), digest_size=_HASH_BYTES, key=_ROW_LABEL)
    copied, hashes = labelled.copy, []
    for told in map(b"".join, zip(encoded(keys), *columns, strict=True)):
        one = copied()
        one.update(told)
        hashes.append(one.digest())
    return hashes


def shifted(sums: bytes, moves: Mapping[int, int]) -> bytes:
    """The vector after each bucket of `moves` (bucket -> signed difference) has moved."""
    if not moves:
        return sums
    changed = bytearray(sums)
    for bucket, move in moves.items():
        at = slice(bucket * _HASH_BYTES, (bucket + 1) * _HASH_BYTES)
        changed[at] = ((int.from_bytes(changed[at]) + move) % DIGEST_MODULUS).to_bytes(_HASH_BYTES)
    return bytes(changed)


def vector(hashes: Iterable[tuple[int, bytes]]) -> bytes:
    """The vector of (bucket, hash) pairs, from nothing."""
    tally = Tally()
    for bucket, one in hashes:
        tally.add(bucket, one)
    return tally.vector()


def with_buckets(sums: bytes, others: bytes, buckets: Iterable[int]) -> bytes:
    """The vector with these buckets as `others` has them."""
    changed = bytearray(sums)
    for bucket in buckets:
        at = slice(bucket * _HASH_BYTES, (bucket + 1) * _HASH_BYTES)
        changed[at] = others[at]
    return bytes(changed)


class Tally:
    """A vector that is summed row by row: 1,024 numbers in memory, however many rows."""

    def __init__(self) -> None:
        self._sums: dict[int, int] = {}

    def add(self, bucket: int, one: bytes) -> None:
        """Count one hash in."""
        self._sums[bucket] = self._sums.get(bucket, 0) + int.from_bytes(one)

    def vector(self) -> bytes:
        """The vector of what was counted."""
        return shifted(EMPTY, self._sums)


def total(sums: bytes) -> int:
    """The digest: the sum of all buckets, modulo 2^256."""
    parts = (sums[at : at + _HASH_BYTES] for at in range(0, len(sums), _HASH_BYTES))
    return sum(map(int.from_bytes, parts)) % DIGEST_MODULUS


def sum_of(sums: bytes, bucket: int) -> int:
    """The sum of one bucket of a vector."""
    return int.from_bytes(sums[bucket * _HASH_BYTES : (bucket + 1) * _HASH_BYTES])


def differing(one: bytes, other: bytes) -> frozenset[int]:
    """The buckets in which two vectors differ."""
    if one == other:
        return frozenset()
    width = _HASH_BYTES
    return frozenset(b for b in range(BUCKETS) if one[b * width : (b + 1) * width] != other[b * width : (b + 1) * width])
