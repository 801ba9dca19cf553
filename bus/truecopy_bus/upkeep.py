"""What operators ask of a log's topics beyond the port, where the log is one that others can change under us.

Optional: only Kafka offers it. A log without it has no settings but those that nobody can change, and its topics are
judged by existence, life and number of partitions alone.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from truecopy_bus.record import TopicSpec

__all__ = ["Upkeep"]


@runtime_checkable
class Upkeep(Protocol):
    """Questions and repairs by an operator. All raise LogUnavailableError; those about a topic TopicMissingError."""

    def completed(self, topic: TopicSpec) -> TopicSpec:
        """The topic with every setting and the number of copies that `create` would make it with."""
        ...

    async def settings(self, topic: str) -> Mapping[str, str]:
        """The topic's settings as they are in force, by their Kafka names."""
        ...

    async def copies(self, topic: str) -> Mapping[int, tuple[int, int]]:
        """Partition -> (copies, those that are in step)."""
        ...

    async def mend(self, topic: str, settings: Mapping[str, str]) -> None:
        """Change these settings and leave all others. Raises ValueError for those that the log refuses."""
        ...

    async def since(self, topic: str, at_ms: int) -> Mapping[int, int]:
        """Partition -> the first offset whose record is of `at_ms` (ms since 1970) or later; the end if there is none."""
        ...

    async def brokers(self) -> Mapping[int, Mapping[str, str]]:
        """Node id -> its settings."""
        ...
