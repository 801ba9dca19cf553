"""What every log promises, as tests. Bind an adapter to it like this:

    class TestMyLog(LogSuite):
        @pytest.fixture
        async def log(self) -> AsyncIterator[Log]:
            log = MyLog(...)
            yield log
            await log.close()

Test functions are coroutines (pytest-asyncio in auto mode, or anyio's plugin). Topics get names that no other test uses, so
a real server can be shared. Override `reopened`, `delete_topic` and `trim` where the adapter differs.
"""

import uuid

import pytest

from truecopy_bus.errors import LogUnavailableError
from truecopy_bus.log import Log
from truecopy_bus.testing.log_reading import ReadingPromises
from truecopy_bus.testing.log_records import RecordPromises
from truecopy_bus.testing.log_steps import made, numbered
from truecopy_bus.testing.log_topics import TopicPromises

__all__ = ["LogSuite"]


class LogSuite(RecordPromises, TopicPromises, ReadingPromises):
    """Every Log passes this unchanged. Subclass it, give a `log` fixture, add nothing."""

    async def test_a_report_raises_nothing_even_about_nothing(self, log: Log) -> None:
        topic = await made(log)

        await log.report("group", topic, {0: 1})
        await log.report("group", topic, {7: 1_000_000})
        await log.report("group", "missing." + uuid.uuid4().hex, {0: 1})

    async def test_a_closed_log_says_so_and_may_be_closed_again(self, log: Log) -> None:
        topic = await made(log)
        await log.close()
        await log.close()

        with pytest.raises(LogUnavailableError):
            await log.describe(topic)
        with pytest.raises(LogUnavailableError):
            await log.append(topic, 0, numbered(1))

    async def test_a_closed_reader_says_so_and_may_be_closed_again(self, log: Log) -> None:
        topic = await made(log)
        reader = log.reader(topic)
        await self.read(reader, {0: 0}, 1)
        await reader.close()
        await reader.close()

        with pytest.raises(LogUnavailableError):
            await reader.read({0: 0}, records_max=1, wait_s=0)
