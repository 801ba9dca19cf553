"""Topics that must never forget: what they are made with, and the refusal of one that may."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from truecopy_bus.errors import TopicMismatchError
from truecopy_bus.log import Log
from truecopy_bus.record import TopicSpec

__all__ = ["SettingsKept", "ensure_lasting", "lasting_spec"]

_SETTINGS = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}


@runtime_checkable
class SettingsKept(Protocol):
    """A log that can say which settings a topic really has. Not part of the port."""

    async def settings(self, topic: str) -> Mapping[str, str]: ...


def lasting_spec(topic: str) -> TopicSpec:
    """What a topic that keeps all for ever is made with. It has one partition: its order is the order of what it states."""
    return TopicSpec(name=topic, partitions=1, settings=_SETTINGS)


async def ensure_lasting(log: Log, topic: str) -> None:
    """Make the topic, or find it with the settings that it needs.

    Raises TopicMismatchError for a topic that may forget, LogUnavailableError.
    """
    await log.create(lasting_spec(topic))
    if isinstance(log, SettingsKept):
        kept = await log.settings(topic)
        for name, value in _SETTINGS.items():
            if kept.get(name) != value:
                raise TopicMismatchError(topic=topic, seen=f"{name}={kept.get(name)}", expected=f"{name}={value}")
