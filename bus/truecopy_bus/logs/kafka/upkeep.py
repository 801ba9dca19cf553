"""What operators ask of a cluster and change in it: copies, brokers, offsets by time, and single settings of a topic.

aiokafka 0.14 has only the old request for settings, which takes back every setting that it does not name; the one of
KIP-339, which changes what it names, is spelt out here.
"""

from collections.abc import Mapping
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.types import Array, Boolean, Int8, Int16, Int32, Schema, String

from truecopy_bus.errors import TopicMissingError
from truecopy_bus.logs.kafka.wire import Cluster

__all__ = ["KeptCluster"]

INCREMENTAL_ALTER_CONFIGS, SET = 44, 0
REFUSALS = (kafka_errors.InvalidConfigurationError, kafka_errors.PolicyViolationError, kafka_errors.InvalidRequestError)


class _Answer(Response):  # type: ignore[misc]
    API_KEY, API_VERSION = INCREMENTAL_ALTER_CONFIGS, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("responses", Array(("code", Int16), ("said", String("utf-8")), ("type", Int8), ("name", String("utf-8")))),
    )


class _Altering(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION, RESPONSE_TYPE = INCREMENTAL_ALTER_CONFIGS, 0, _Answer
    SCHEMA = Schema(
        (
            "resources",
            Array(
                ("type", Int8),
                ("name", String("utf-8")),
                ("configs", Array(("name", String("utf-8")), ("operation", Int8), ("value", String("utf-8")))),
            ),
        ),
        ("validate_only", Boolean),
    )


class _Alter(Request[_Altering]):  # type: ignore[misc]
    API_KEY = INCREMENTAL_ALTER_CONFIGS

    def __init__(self, topic: str, settings: Mapping[str, str]) -> None:
        self._resource = (int(ConfigResourceType.TOPIC), topic, [(name, SET, value) for name, value in settings.items()])

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class([self._resource], False)


class KeptCluster(Cluster):
    """A Cluster with the questions of Upkeep; topics are expected to exist."""

    async def copies(self, topic: str) -> dict[int, tuple[int, int]]:
        async with self._asking(f"asking for the copies of {topic}") as admin:
            answer = await admin._send_request(MetadataRequest([topic], allow_auto_topic_creation=False))
            [found] = answer.to_object()["topics"]
            if kafka_errors.for_code(found["error_code"]) is kafka_errors.UnknownTopicOrPartitionError:
                raise TopicMissingError(log=self._settings.name, topic=topic)
            return {each["partition"]: (len(each["replicas"]), len(each["isr"])) for each in found["partitions"]}

    async def mend(self, topic: str, settings: Mapping[str, str]) -> None:
        async with self._asking(f"changing the settings of {topic}") as admin:
            answer = await admin._send_request(_Alter(topic, settings))
            for code, said, *_ in answer.responses:
                error = kafka_errors.for_code(code)
                if error in REFUSALS:
                    raise ValueError(f"{self._settings.name} refuses to change topic {topic!r}: {said}")
                if error is not kafka_errors.NoError:
                    raise error(f"{topic}: {said}")

    async def since(self, topic: str, leaders: Mapping[int, int], at_ms: int) -> dict[int, int]:
        """Partition -> first offset of that time or later; one that has none is left out."""
        found: dict[int, int] = {}
        async with self._asking(f"asking for the offsets of a time in {topic}") as admin:
            for partition, leader in leaders.items():
                found |= await self._offsets(admin, topic, leader, [partition], max(at_ms, 0))
        return {partition: offset for partition, offset in found.items() if offset >= 0}

    async def brokers(self) -> dict[int, dict[str, str]]:
        async with self._asking("asking for the settings of the brokers") as admin:
            nodes = sorted(broker.nodeId for broker in admin._client.cluster.brokers())
            answers = await admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, str(node)) for node in nodes])
            found: dict[int, dict[str, str]] = {}
            for answer in answers:
                for code, said, _, name, entries in answer.resources:
                    if code:
                        raise kafka_errors.for_code(code)(f"broker {name}: {said}")
                    found[int(name)] = {entry[0]: entry[1] or "" for entry in entries}
            return found
