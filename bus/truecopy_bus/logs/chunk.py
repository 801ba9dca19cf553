"""How a run of records lies in one blob: by columns, so that thousands are packed and unpacked by a few calls into C.

    head | key sizes | value sizes | timestamps | header sizes | keys | values | headers

Head: format number, first offset, count, bytes that follow. Sizes are 32 bits signed, -1 stands for null; timestamps 64
bits signed; all little-endian. Headers of one record: for each, size of name and of value, name in UTF-8, value.
Chunks that follow each other in one partition may be concatenated as they are.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate, repeat

from truecopy_bus.errors import OversizeRecordError
from truecopy_bus.limits import CHUNK_BYTES_MAX, RECORD_BYTES_MAX
from truecopy_bus.record import Headers, Outgoing, Record

__all__ = ["DamagedError", "checked_size", "checked_sizes", "framed", "pack", "pieces", "unpack"]

FORMAT = 1
_HEAD = struct.Struct("<BqII")
_FIELD = struct.Struct("<HI")


class DamagedError(Exception):
    """Chunks that do not follow each other, or are in a newer format."""


def checked_size(topic: str, record: Outgoing | Record) -> int:
    """Bytes of key, value and headers. Raises OversizeRecordError above RECORD_BYTES_MAX."""
    size = len(record.key or b"") + len(record.value or b"")
    if record.headers:
        size += sum(len(name.encode()) + len(value) for name, value in record.headers)
    if size > RECORD_BYTES_MAX:
        raise OversizeRecordError(topic=topic, size=size, limit=RECORD_BYTES_MAX)
    return size


def checked_sizes(topic: str, records: Sequence[Outgoing]) -> list[int]:
    """`checked_size` of each, for the price of one comparison where none is too large."""
    sizes = [
        len(record[0] or b"") + len(record[1] or b"") if not record[3] else checked_size(topic, record) for record in records
    ]
    if (largest := max(sizes, default=0)) > RECORD_BYTES_MAX:
        checked_size(topic, records[sizes.index(largest)])
    return sizes


def pieces(topic: str, records: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """The records in runs of about CHUNK_BYTES_MAX. Raises ValueError for none, OversizeRecordError before the first run."""
    if not records:
        raise ValueError("an append needs at least one record")
    ends = list(accumulate(checked_sizes(topic, records)))
    return _cut_pieces(records, ends)


def _cut_pieces(records: Sequence[Outgoing], ends: Sequence[int]) -> Iterator[Sequence[Outgoing]]:
    low, before = 0, 0
    while low < len(records):
        high = min(bisect_left(ends, before + CHUNK_BYTES_MAX) + 1, len(records))
        yield records[low:high]
        low, before = high, ends[high - 1]


def pack(records: Sequence[Outgoing]) -> tuple[int, bytes]:
    """(count, columns) of a run that has no offset yet: packing needs no lock, placing does."""
    count = len(records)
    keys = [record.key for record in records]
    values = [record.value for record in records]
    headers = [_pack_headers(record.headers) if record.headers else b"" for record in records]
    sizes = struct.Struct(f"<{count}i")
    return count, b"".join(
        (
            sizes.pack(*[-1 if key is None else len(key) for key in keys]),
            sizes.pack(*[-1 if value is None else len(value) for value in values]),
            struct.pack(f"<{count}q", *[record.timestamp_ms for record in records]),
            sizes.pack(*map(len, headers)),
            *filter(None, keys),
            *filter(None, values),
            *headers,
        )
    )


def framed(first: int, count: int, columns: bytes) -> bytes:
    """The chunk, once it is known that its first record lies at offset `first`."""
    return _HEAD.pack(FORMAT, first, count, len(columns)) + columns


def unpack(blob: bytes, *, partition: int, start: int, records_max: int, bytes_max: int) -> tuple[list[Record], int]:
    """The records from offset `start` on, and their bytes, out of concatenated chunks that begin at or before it.

    At most `records_max`; ends with the record that reaches `bytes_max` bytes. Raises DamagedError.
    """
    records: list[Record] = []
    at, expected, size_all = 0, start, 0
    while at < len(blob) and len(records) < records_max and size_all < bytes_max:
        form, first, count, size = _HEAD.unpack_from(blob, at)
        if form != FORMAT:
            raise DamagedError(f"a chunk of format {form}, this version reads format {FORMAT}: upgrade")
        if first > expected:
            raise DamagedError(f"partition {partition}: records {expected} to {first - 1} are missing from the file")
        low, high = expected - first, min(count, expected - first + records_max - len(records))
        part, used = _columns(blob, at + _HEAD.size, partition, first, count, low, high, bytes_max - size_all)
        records += part
        size_all += used
        at += _HEAD.size + size
        expected += len(part)
    return records, size_all


def _columns(
    blob: bytes, at: int, partition: int, first: int, count: int, low: int, high: int, bytes_max: int
) -> tuple[list[Record], int]:
    """Records `low` to `high` of the chunk whose columns begin at `at`, and their bytes."""
    if low >= high:
        return [], 0
    sizes = struct.Struct(f"<{count}i")
    key_sizes = sizes.unpack_from(blob, at)
    value_sizes = sizes.unpack_from(blob, at + 4 * count)
    times = struct.unpack_from(f"<{count}q", blob, at + 8 * count)
    header_sizes = sizes.unpack_from(blob, at + 16 * count)
    keys_at = at + 20 * count
    key_ends = _ends(keys_at, key_sizes)
    value_ends = _ends(key_ends[-1], value_sizes)
    header_ends = _ends(value_ends[-1], header_sizes)

    def used(end: int) -> int:
        return sum(ends[end] - ends[low] for ends in (key_ends, value_ends, header_ends))

    if used(high) > bytes_max:
        high = low + 1 + bisect_left(range(low + 1, high), bytes_max, key=used)
    if header_ends[high] == header_ends[low]:
        headers: Sequence[Headers] | Iterator[Headers] = repeat(())
    else:
        headers = [
            _unpack_headers(blob, *pair) for pair in zip(header_ends[low:high], header_ends[low + 1 : high + 1], strict=True)
        ]
    rows = zip(
        repeat(partition),
        range(first + low, first + high),
        _fields(blob, key_sizes, key_ends, low, high),
        _fields(blob, value_sizes, value_ends, low, high),
        times[low:high],
        headers,
        strict=False,
    )
    # Record._make, without its Python frame for each row.
    return list(map(tuple.__new__, repeat(Record), rows)), used(high)


def _ends(at: int, sizes: Sequence[int]) -> list[int]:
    """Where each field of a column begins, and where the last one ends: one more than there are sizes."""
    if min(sizes) < 0:
        sizes = [max(size, 0) for size in sizes]
    return list(accumulate(sizes, initial=at))


def _fields(blob: bytes, sizes: Sequence[int], ends: Sequence[int], low: int, high: int) -> list[bytes | None]:
    """Fields `low` to `high` of a column whose sizes and ends are given."""
    fields = [blob[begin:end] for begin, end in zip(ends[low:high], ends[low + 1 : high + 1], strict=True)]
    if min(sizes) < 0:
        return [None if size < 0 else field for size, field in zip(sizes[low:high], fields, strict=True)]
    return list(fields)


def _pack_headers(headers: Headers) -> bytes:
    packed = []
    for name, value in headers:
        text = name.encode()
        packed += [_FIELD.pack(len(text), len(value)), text, value]
    return b"".join(packed)


def _unpack_headers(blob: bytes, at: int, end: int) -> Headers:
    headers = []
    while at < end:
        name_size, value_size = _FIELD.unpack_from(blob, at)
        name_at = at + _FIELD.size
        value_at = name_at + name_size
        at = value_at + value_size
        headers.append((blob[name_at:value_at].decode(), blob[value_at:at]))
    return tuple(headers)
