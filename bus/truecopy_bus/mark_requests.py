"""Mark requests: who wants to judge now asks the owner for a mark, and need not wait for the next one that comes by itself.

A request is a record of the topic of requests, which names an entity and who asks. Every relay of the log looks at the topic's
end when it looks at its own topics, once in RELAY_CHECK_S, and marks what it holds of the entities that were asked for. One
mark answers all who asked since the last look, so asking often costs an owner one mark a second and no more. Nobody answers
for a partition that it does not hold, and no answer but the mark is given: who asked reads on, and asks again if none comes.

A relay begins at the end that it finds, because what was asked before it came is answered by the mark of whoever was there,
or was given up. The topic is made by who first asks. It may forget: a request is of no use once it was looked at.
"""

import logging
import time
from collections.abc import Collection, Sequence

import orjson

from truecopy_bus.errors import LogUnavailableError, PositionLostError, TopicMissingError
from truecopy_bus.limits import MARK_REQUESTS_KEPT_MS, READ_RECORDS_MAX, READ_WAIT_S
from truecopy_bus.log import Log
from truecopy_bus.record import Outgoing, Record, TopicSpec
from truecopy_schemas.control import CONTROL_KEY

__all__ = ["REQUESTS_TOPIC", "REQUEST_FORMAT", "MarkRequests", "request_mark", "requests_spec"]

REQUESTS_TOPIC = "_truecopy.requests"
"""The topic's name, which a namespace may precede."""
REQUEST_FORMAT = 1

_log = logging.getLogger("truecopy.relay")


def requests_spec(topic: str) -> TopicSpec:
    """What the topic of the requests is made with. An embedded log keeps all that was ever asked: some hundred bytes each."""
    kept_ms = str(MARK_REQUESTS_KEPT_MS)
    settings = {"cleanup.policy": "delete", "retention.ms": kept_ms, "segment.ms": kept_ms}
    return TopicSpec(name=topic, partitions=1, settings=settings)


async def request_mark(log: Log, entity: str, *, asked_by: str, namespace: str = "") -> int:
    """Ask the owner of `entity` for a mark of each of its partitions; the offset of the request.

    `asked_by` is for people who wonder where marks come from; `namespace` prefixes topics, as in `Relay`. Makes the topic if
    it is missing. Nothing tells whether a relay is there to answer. Raises LogUnavailableError, also for a missing right.
    """
    at_ms = time.time_ns() // 1_000_000
    said = orjson.dumps({"format": REQUEST_FORMAT, "entity": entity, "asked_by": asked_by, "at_ms": at_ms})
    topic, records = namespace + REQUESTS_TOPIC, [Outgoing(entity.encode(), said, at_ms)]
    try:
        return (await log.append(topic, 0, records)).first
    except TopicMissingError:
        await log.create(requests_spec(topic))
    return (await log.append(topic, 0, records)).first


class MarkRequests:
    """The relay's side: what was asked for since the last look."""

    def __init__(self, log: Log, *, topic: str = REQUESTS_TOPIC) -> None:
        self._log, self._topic = log, topic
        self._position: int | None = None
        self._told: set[str] = set()

    async def asked(self, entities: Collection[str]) -> set[str]:
        """Which of `entities` a mark was asked for since the last call; nothing on the first.

        A missing topic costs one question, and so does one at whose end nothing is new. Without the right to read it, or
        while it alone is away, nobody is answered, which is said once: relaying does not depend on it.
        """
        try:
            start, end = (await self._log.describe(self._topic)).bounds[0]
            if self._position is None:
                self._position = end
            if self._position > end:  # made anew
                self._position = 0
            self._position = max(start, self._position)
            return await self._read_to(end, entities) if self._position < end else set()
        except TopicMissingError:
            self._position = 0  # all that will lie there is yet to be asked
        except PositionLostError:
            pass  # retention was faster; the next look begins where the topic does
        except LogUnavailableError as fault:
            self._tell("requests for marks are not answered: %s", fault)
        return set()

    async def _read_to(self, end: int, entities: Collection[str]) -> set[str]:
        found: set[str] = set()
        reader = self._log.reader(self._topic)
        try:
            at = self._position or 0
            while at < end and (records := await reader.read({0: at}, records_max=READ_RECORDS_MAX, wait_s=READ_WAIT_S)):
                found.update(self._entities_of(records))
                self._position = at = records[-1].offset + 1
        finally:
            await reader.close()
        return found & set(entities)

    def _entities_of(self, records: Sequence[Record]) -> list[str]:
        found = []
        for record in records:
            if record.key != CONTROL_KEY:
                try:
                    found.append(_entity_of(record.value))
                except ValueError as fault:
                    at = f"{self._topic} at offset {record.offset}"
                    self._tell("%s is no request for a mark and is left out, like others to come: %s", at, fault)
        return found

    def _tell(self, text: str, *about: object) -> None:
        # Once: who may write to the topic could fill our log otherwise.
        _log.log(logging.DEBUG if text in self._told else logging.WARNING, text, *about)
        self._told.add(text)


def _entity_of(value: bytes | None) -> str:
    """Raises ValueError for what is no request, or of a newer format."""
    said = orjson.loads(value or b"")
    if not isinstance(said, dict) or not isinstance(said.get("entity"), str) or not isinstance(said.get("format"), int):
        raise ValueError("expected an object with `format` and `entity`")
    if said["format"] != REQUEST_FORMAT:
        raise ValueError(f"format {said['format']}, this release knows {REQUEST_FORMAT}; upgrade the relay")
    return str(said["entity"])
