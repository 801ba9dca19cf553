"""The log of our own keeps every promise of the port: that is what the shipped suite says. And it counts."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from truecopy_bus import Log, MemoryLog
from truecopy_bus.testing import LogSuite

from services.metered_log import MeteredLog
from services.shop import place, restock
from services.warehouse import warehouse


class TestMeteredLog(LogSuite):
    @pytest.fixture
    async def log(self) -> AsyncIterator[Log]:
        log = MeteredLog(MemoryLog())
        yield log
        await log.close()

    async def delete_topic(self, log: Any, topic: str) -> None:
        await log.inner.delete(topic)

    async def trim(self, log: Any, topic: str, partition: int, before_offset: int) -> None:
        await log.inner.trim(topic, partition, before_offset)


async def test_it_counts_what_passes_through_it() -> None:
    log = MeteredLog(MemoryLog())
    async with warehouse.test(log=log) as reader:
        await restock(reader, "apple", 10)
        await place(reader, "o1", "c1", {"apple": 1})
        await reader.settle()

        assert log.appended["shop.order"] >= 2
        assert log.read["shop.order"] >= log.appended["shop.order"]
