"""Makes aiokafka's consumer hand out our records, where it would first make its own: half of the time of a fetch.

aiokafka 0.14 turns each record of a fetched batch into a ConsumerRecord, through a generator and four calls. Here it is shown
each batch as if that were one record, and all records of the batch become ours at once. Which batches count (checksums, aborted
transactions, control batches) stays its own business. To be put in place where the fetcher files what it fetched.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from truecopy_bus.record import Headers, Record

__all__ = ["hand_out_plain", "plain"]


def hand_out_plain(fetcher: Any) -> None:
    """To be called before the first fetch."""
    if fetcher._records:
        raise RuntimeError("the fetcher holds records already; call this right after the consumer's start")
    fetcher._records = _Filed()


def plain(records: Any) -> list[Record]:
    """All that a PartitionRecords holds."""
    return _Plain(records).take(None)


class _Filed(OrderedDict[Any, Any]):
    """Fetch results by partition, as the fetcher keeps them; errors are filed among them."""

    def __setitem__(self, partition: Any, result: Any) -> None:
        if (records := getattr(result, "_partition_records", None)) is not None:
            result._partition_records = _Plain(records)
            result.getall = _Getall(result)
        super().__setitem__(partition, result)


class _Getall:
    """`FetchResult.getall`."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def __call__(self, max_records: int | None = None) -> list[Record]:
        result = self._result
        if not result.check_assignment(result._topic_partition) or not result.has_more():
            return []
        records: _Plain = result._partition_records
        found = records.take(max_records)
        result._update_position()
        if records.done:
            result._partition_records = None
        return found


class _Plain:
    """A PartitionRecords whose records are taken by the batch. `next_fetch_offset` is the one behind those that were taken."""

    def __init__(self, records: Any) -> None:
        records._records = _Batches(records._records)
        records._consumer_record = _unpacked
        self._records, self._rest = records, list[Record]()
        self.next_fetch_offset: int = records.next_fetch_offset
        self.done = False

    def take(self, most: int | None) -> list[Record]:
        found, self._rest = self._rest, []
        while most is None or len(found) < most:
            batch = next(self._records, None)
            if batch is None:
                self.next_fetch_offset, self.done = self._records.next_fetch_offset, True
                return found
            if batch and batch[0][1] < self.next_fetch_offset:  # a broker sends whole batches, also from their middle
                batch = [record for record in batch if record[1] >= self.next_fetch_offset]
            found += batch
        found, self._rest = found[:most], found[most:]
        self.next_fetch_offset = found[-1][1] + 1
        return found


class _Batches:
    """A MemoryRecords that hands out batches which show themselves as one record."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self.has_next = records.has_next

    def next_batch(self) -> Any:
        return _Batch(self._records.next_batch())


class _Batch:
    def __init__(self, batch: Any) -> None:
        self._batch, self.offset = batch, batch.next_offset - 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)  # the record inside of a control batch

    def __iter__(self) -> Iterator["_Batch"]:
        yield self


def _unpacked(partition: Any, shown: _Batch, new: Any = tuple.__new__) -> list[Record]:
    number = partition[1]
    return [
        new(Record, (number, each.offset, each.key, each.value, each.timestamp, _headers(each.headers) if each.headers else ()))
        for each in shown._batch
    ]


def _headers(found: Any) -> Headers:
    return tuple([(name, value or b"") for name, value in found])
