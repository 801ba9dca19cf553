"""What a log promises of topics: who makes them, what they are, and whose life they live."""

import asyncio
import uuid

import pytest

from truecopy_bus.errors import PositionLostError, TopicMismatchError, TopicMissingError
from truecopy_bus.genesis import control_of
from truecopy_bus.log import Log
from truecopy_bus.record import TopicSpec
from truecopy_bus.testing.log_steps import LogSteps, made, marking, numbered, reading, spec
from truecopy_schemas.control import Genesis

__all__ = ["TopicPromises"]


class TopicPromises(LogSteps):
    """Part of LogSuite."""

    async def test_every_partition_begins_with_a_genesis_of_one_incarnation(self, log: Log) -> None:
        state = await log.create(spec(partitions=4))

        records = await self.stored(log, state.name, dict.fromkeys(range(4), 0), 4)

        assert state.incarnation
        assert sorted(record.partition for record in records) == [0, 1, 2, 3]
        for record in records:
            said = control_of(record)
            assert isinstance(said, Genesis)
            assert (record.offset, said.partition, said.partitions) == (0, record.partition, 4)
            assert (said.topic, said.incarnation) == (state.name, state.incarnation)

    async def test_creating_again_changes_nothing(self, log: Log) -> None:
        wanted = spec(partitions=2)
        created = await log.create(wanted)
        await log.append(wanted.name, 1, numbered(3))
        before = await log.describe(wanted.name)

        assert await log.create(wanted) == before
        assert before.incarnation == created.incarnation

    async def test_creators_who_race_agree(self, log: Log) -> None:
        wanted = spec(partitions=3)

        states = await asyncio.gather(*(log.create(wanted) for _ in range(5)))
        after = await log.describe(wanted.name)

        assert {state.incarnation for state in states} == {after.incarnation}
        genesis = await self.stored(log, wanted.name, dict.fromkeys(range(3), 0), 3)
        at_zero = [control_of(record) for record in genesis if record.offset == 0]
        assert {said.incarnation for said in at_zero if said is not None} == {after.incarnation}
        assert len(at_zero) == 3

    async def test_another_number_of_partitions_is_refused_and_changes_nothing(self, log: Log) -> None:
        before = await log.create(spec(partitions=2))

        for partitions in (1, 3):
            with pytest.raises(TopicMismatchError):
                await log.create(TopicSpec(name=before.name, partitions=partitions))

        assert await log.describe(before.name) == before

    async def test_a_partition_that_the_topic_does_not_have_is_refused(self, log: Log) -> None:
        topic = await made(log, partitions=2)

        with pytest.raises(TopicMismatchError):
            await log.append(topic, 2, numbered(1))

    async def test_describing_a_missing_topic_does_not_make_it(self, log: Log) -> None:
        for _ in range(2):
            with pytest.raises(TopicMissingError):
                await log.describe("missing." + uuid.uuid4().hex)

    async def test_appending_to_a_missing_topic_does_not_make_it(self, log: Log) -> None:
        missing = spec().name
        with pytest.raises(TopicMissingError):
            await log.append(missing, 0, numbered(1))

        with pytest.raises(TopicMissingError):
            await log.describe(missing)

    async def test_reading_a_missing_topic_does_not_make_it(self, log: Log) -> None:
        missing = spec().name
        async with reading(log, missing) as reader:
            with pytest.raises(TopicMissingError):
                await reader.read({0: 0}, records_max=10, wait_s=0.1)

        with pytest.raises(TopicMissingError):
            await log.describe(missing)

    async def test_a_topic_made_anew_is_empty_and_has_another_incarnation(self, log: Log) -> None:
        wanted = spec(partitions=2)
        before = await log.create(wanted)
        await log.append(wanted.name, 0, numbered(20))
        await self.delete_topic(log, wanted.name)
        with pytest.raises(TopicMissingError):
            await log.describe(wanted.name)

        after = await log.create(wanted)

        assert after.incarnation not in (None, before.incarnation)
        assert after.bounds == before.bounds
        async with reading(log, wanted.name) as reader:
            with pytest.raises(PositionLostError):
                await reader.read({0: 21}, records_max=10, wait_s=0.1)

    async def test_the_incarnation_outlives_its_genesis_in_a_mark(self, log: Log) -> None:
        state = await log.create(spec())
        await log.append(state.name, 0, numbered(5))
        mark = await log.append(state.name, 0, [marking(state)])
        await self.trim(log, state.name, 0, mark.first)

        found = await (await self.reopened(log)).describe(state.name)

        assert found.incarnation == state.incarnation
        assert found.bounds[0] == (mark.first, mark.first + 1)
