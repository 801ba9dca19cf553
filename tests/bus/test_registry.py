"""The registry over a log: ids are unique whoever races for them, survive a copy of the log, and are never made up."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from truecopy_bus.errors import (
    IncarnationError,
    LogUnavailableError,
    PositionLostError,
    TopicMismatchError,
    TopicMissingError,
)
from truecopy_bus.limits import CLAIM_ATTEMPTS_MAX
from truecopy_bus.log import Log
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.record import Outgoing, TopicSpec
from truecopy_bus.registry import SCHEMAS_TOPIC, Registry
from truecopy_schemas.compatibility import Compatibility
from truecopy_schemas.control import CONTROL_KEY, FIRST_CLAIMABLE_ID
from truecopy_schemas.errors import IncompatibleSchemaError, UnknownSchemaError
from truecopy_schemas.registry import RegistryState

REGISTRANT = """
import asyncio, sys
from truecopy_bus.logs.sqlite import SQLiteLog
from truecopy_bus.registry import Registry

async def main(path, name):
    log = SQLiteLog(path)
    registry = Registry(log)
    await registry.ensure()
    for number in range(4):
        for owner in (name, "shared"):
            fields = [{"name": "_version", "type": "long"}]
            schema = {"type": "record", "name": f"{owner}{number}", "fields": fields, "truecopy.entity": "shop.cart"}
            print(owner, number, await registry.register(schema), flush=True)
    await registry.close()
    await log.close()

asyncio.run(main(*sys.argv[1:]))
"""


def schema(name: str, *fields: str, entity: str = "shop.cart") -> dict[str, Any]:
    """A record schema with a version, its transaction, and mandatory text fields."""
    head: list[dict[str, Any]] = [
        {"name": "_version", "type": "long"},
        {"name": "_tx", "type": ["null", "string"], "default": None},
    ]
    return {
        "type": "record",
        "name": name,
        "fields": head + [{"name": field, "type": "string"} for field in fields],
        "truecopy.entity": entity,
        "truecopy.kind": "state",
    }


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MemoryLog | SQLiteLog]:
    log = MemoryLog() if request.param == "memory" else SQLiteLog(tmp_path / "log.db")
    yield log
    await log.close()


async def ensured(log: Log) -> Registry:
    registry = Registry(log)
    await registry.ensure()
    return registry


async def test_a_schema_gets_an_id_that_every_other_registry_finds(log: Log) -> None:
    registry, other = await ensured(log), Registry(log)

    schema_id = await registry.register(schema("Filled"))

    assert (await other.schema(schema_id)).schema == schema("Filled")
    assert (await other.schema(schema_id)).subject == "shop.cart-Filled"


async def test_the_same_schema_has_one_id_and_is_written_once(log: Log) -> None:
    registry, other = await ensured(log), await ensured(log)

    ids = [await each.register(schema("Filled")) for each in (registry, other, registry)]

    assert ids == [FIRST_CLAIMABLE_ID] * 3
    assert (await log.describe(SCHEMAS_TOPIC)).bounds[0] == (0, 2)


async def test_an_incompatible_schema_is_refused_and_nothing_is_written(log: Log) -> None:
    registry = await ensured(log)
    await registry.register(schema("Filled"))
    before = (await log.describe(SCHEMAS_TOPIC)).bounds

    with pytest.raises(IncompatibleSchemaError):
        await registry.register(schema("Filled", "demanded"))

    assert (await log.describe(SCHEMAS_TOPIC)).bounds == before
    assert await registry.register(schema("Filled", "demanded"), compatibility=Compatibility.NONE) == FIRST_CLAIMABLE_ID + 1


async def test_a_changed_mode_binds_every_later_registrant(log: Log) -> None:
    registry, other = await ensured(log), await ensured(log)
    await registry.register(schema("Filled"))
    await registry.configure("shop.cart-Filled", Compatibility.NONE)

    assert await other.register(schema("Filled", "demanded")) == FIRST_CLAIMABLE_ID + 1


async def test_registrants_who_race_get_one_id_for_each_schema(log: Log) -> None:
    registries = [await ensured(log) for _ in range(5)]

    async def register(number: int, registry: Registry) -> dict[str, int]:
        names = [f"Own{number}", "Shared", f"Mine{number}"]
        return {name: await registry.register(schema(name)) for name in names}

    told = await asyncio.gather(*(register(number, registry) for number, registry in enumerate(registries)))

    ids = {name: schema_id for each in told for name, schema_id in each.items()}
    assert all(each["Shared"] == ids["Shared"] for each in told)
    assert sorted(ids.values()) == list(range(FIRST_CLAIMABLE_ID, FIRST_CLAIMABLE_ID + 11))
    reader = Registry(log)
    for name, schema_id in ids.items():
        assert (await reader.schema(schema_id)).schema == schema(name)


async def test_one_registry_may_be_used_by_many_tasks(log: Log) -> None:
    registry = await ensured(log)

    ids = await asyncio.gather(*(registry.register(schema(f"Event{number % 7}")) for number in range(21)))

    assert sorted(set(ids)) == list(range(FIRST_CLAIMABLE_ID, FIRST_CLAIMABLE_ID + 7))
    assert (await log.describe(SCHEMAS_TOPIC)).bounds[0] == (0, 8)


async def test_processes_that_race_on_one_file_agree(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", REGISTRANT, path, f"own{number}", stdout=PIPE)
        for number in range(4)
    ]
    told = [(await process.communicate())[0].decode().split("\n") for process in started]
    assert [process.returncode for process in started] == [0] * 4

    ids = {said.rpartition(" ")[0]: said.rpartition(" ")[2] for lines in told for said in lines if said}

    assert all(ids[said.rpartition(" ")[0]] == said.rpartition(" ")[2] for lines in told for said in lines if said)
    assert sorted(map(int, ids.values())) == list(range(FIRST_CLAIMABLE_ID, FIRST_CLAIMABLE_ID + 20))


class Crowded(MemoryLog):
    """A log on which somebody else always claims first."""

    async def append(self, topic: str, partition: int, records: Any) -> Any:
        for record in records:
            stated = RegistryState()
            reader = self.reader(topic)
            for seen in await reader.read({0: 0}, records_max=1_000, wait_s=0):
                stated.apply(seen.key, seen.value)
            rival = schema(f"Rival{stated.next_id}")
            claim = stated.claim(f"shop.cart-{rival['name']}", rival)
            assert isinstance(claim, bytes)
            await super().append(topic, partition, [Outgoing(f"shop.cart-{rival['name']}".encode(), claim, 0), record])


async def test_claims_that_are_always_lost_end_in_an_error_that_may_be_retried() -> None:
    log = Crowded()
    registry = await ensured(log)

    with pytest.raises(LogUnavailableError, match=f"lost {CLAIM_ATTEMPTS_MAX} claims"):
        await registry.register(schema("Filled"))

    assert (await log.describe(SCHEMAS_TOPIC)).bounds[0] == (0, 1 + 2 * CLAIM_ATTEMPTS_MAX)


async def test_an_id_that_nobody_claimed_is_unknown_after_reading_on(log: Log) -> None:
    registry, other = await ensured(log), await ensured(log)
    known = await other.register(schema("Filled"))

    assert (await registry.schema(known)).id == known
    with pytest.raises(UnknownSchemaError):
        await registry.schema(known + 1)


async def test_ids_survive_copying_the_log_to_other_offsets(log: Log) -> None:
    registry = await ensured(log)
    ids = [await registry.register(schema(name)) for name in ("Filled", "Emptied", "Paid")]
    copy = MemoryLog()
    await copy.create(TopicSpec(name=SCHEMAS_TOPIC, partitions=1))
    await copy.append(SCHEMAS_TOPIC, 0, [Outgoing(b"of a mirror", b"moves every offset", 0)])
    for record in await log.reader(SCHEMAS_TOPIC).read({0: 0}, records_max=100, wait_s=0):
        if record.key != CONTROL_KEY:
            await copy.append(SCHEMAS_TOPIC, 0, [Outgoing(record.key, record.value, record.timestamp_ms)])

    found = [await Registry(copy).schema(schema_id) for schema_id in ids]

    assert [held.schema["name"] for held in found] == ["Filled", "Emptied", "Paid"]


async def test_a_reader_does_not_make_the_topic(log: Log) -> None:
    with pytest.raises(TopicMissingError):
        await Registry(log).refresh()
    with pytest.raises(TopicMissingError):
        await Registry(log).schema(FIRST_CLAIMABLE_ID)

    with pytest.raises(TopicMissingError):
        await log.describe(SCHEMAS_TOPIC)


async def test_a_namespace_keeps_registries_apart(log: Log) -> None:
    blue, green = Registry(log, topic="blue." + SCHEMAS_TOPIC), Registry(log, topic="green." + SCHEMAS_TOPIC)
    await blue.ensure()
    await green.ensure()

    assert await blue.register(schema("Filled")) == await green.register(schema("Emptied")) == FIRST_CLAIMABLE_ID


async def test_a_topic_that_may_forget_is_refused(log: Log) -> None:
    await log.create(TopicSpec(name=SCHEMAS_TOPIC, partitions=1, settings={"cleanup.policy": "compact"}))

    with pytest.raises(TopicMismatchError, match=r"cleanup\.policy=compact"):
        await Registry(log).ensure()


async def test_a_topic_with_other_partitions_is_refused(log: Log) -> None:
    await log.create(TopicSpec(name=SCHEMAS_TOPIC, partitions=2))

    with pytest.raises(TopicMismatchError):
        await Registry(log).ensure()
    with pytest.raises(TopicMismatchError):
        await Registry(log).refresh()


async def test_a_topic_that_lost_its_head_is_an_error_and_not_an_empty_registry(log: MemoryLog | SQLiteLog) -> None:
    registry = await ensured(log)
    await registry.register(schema("Filled"))
    await registry.register(schema("Emptied"))
    await log.trim(SCHEMAS_TOPIC, 0, 2)

    with pytest.raises(PositionLostError):
        await Registry(log).refresh()


async def test_a_topic_that_was_made_anew_is_an_error_for_whoever_knew_the_old_one(log: MemoryLog | SQLiteLog) -> None:
    registry = await ensured(log)
    await registry.register(schema("Filled"))
    await log.delete(SCHEMAS_TOPIC)
    another = await ensured(log)
    await another.register(schema("Emptied"))

    with pytest.raises(IncarnationError):
        await registry.register(schema("Paid"))
    with pytest.raises(IncarnationError):
        await registry.refresh()
