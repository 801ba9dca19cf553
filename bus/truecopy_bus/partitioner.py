"""Which partition a key lives in: murmur2 as Apache Kafka's Java client computes it.

Source: org.apache.kafka.common.utils.Utils.murmur2 (MurmurHash 2.0, 32 bit, seed 0x9747b28c). librdkafka's default
partitioner differs; a producer there needs `partitioner=murmur2_random` to agree with us.
"""

from functools import lru_cache

__all__ = ["murmur2", "partition_of"]

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF
_KEYS_CACHED = 65_536
"""Keys whose partition is remembered, some 100 bytes each."""


def murmur2(data: bytes) -> int:
    """The signed 32-bit hash that Java prints."""
    h = (_SEED ^ len(data)) & _MASK
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = (int.from_bytes(data[i : i + 4], "little") * _M) & _MASK
        k ^= k >> 24
        h = ((h * _M) & _MASK) ^ ((k * _M) & _MASK)
    if rest := data[whole:]:
        h = ((h ^ int.from_bytes(rest, "little")) * _M) & _MASK
    h ^= h >> 13
    h = (h * _M) & _MASK
    h ^= h >> 15
    return h - (1 << 32) if h & 0x80000000 else h


@lru_cache(maxsize=_KEYS_CACHED)
def partition_of(key: str, partitions: int) -> int:
    """The partition of `key` in a topic of `partitions`: murmur2 without its sign bit, modulo."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions
