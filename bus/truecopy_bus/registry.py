"""The schema registry's way to the log: read to the end, claim, read back.

All rules are in `RegistryState`, a fold over one topic; this is the loop around it. The topic is read from its beginning
each time a process starts, and must therefore keep all that was ever written to it: `ensure` refuses other settings, and a
topic whose head is gone, or which was made anew, is an error and never an empty registry.
"""

import asyncio
import time

from truecopy_bus.errors import IncarnationError, LogUnavailableError, TopicMismatchError
from truecopy_bus.lasting import ensure_lasting
from truecopy_bus.limits import APPEND_TIMEOUT_S, CLAIM_ATTEMPTS_MAX, READ_RECORDS_MAX, READ_WAIT_S
from truecopy_bus.log import Log, Reader
from truecopy_bus.points import Point, reached
from truecopy_bus.record import Incarnation, Outgoing, TopicState
from truecopy_schemas.avro_schema import AvroSchema, subject
from truecopy_schemas.compatibility import Compatibility
from truecopy_schemas.control import CONTROL_KEY
from truecopy_schemas.errors import UnknownSchemaError
from truecopy_schemas.registry import Registered, RegistryState

__all__ = ["SCHEMAS_TOPIC", "Registry"]

SCHEMAS_TOPIC = "_truecopy.schemas"
"""The topic's name, which a namespace may precede."""


class Registry:
    """The schemas of one log. For one event loop; any number of registries, here or elsewhere, may share the log."""

    def __init__(self, log: Log, *, topic: str = SCHEMAS_TOPIC) -> None:
        self._log, self._topic = log, topic
        self._state = RegistryState()
        self._reader: Reader | None = None
        self._position = 0
        self._incarnation: Incarnation | None = None
        self._reading = asyncio.Lock()
        self._claiming = asyncio.Lock()

    @property
    def state(self) -> RegistryState:
        """What was read so far."""
        return self._state

    async def ensure(self) -> None:
        """Make the topic, or find it with the settings that it needs, and read it. For owners; readers only `refresh`.

        Raises TopicMismatchError for a topic that may forget, LogUnavailableError, and what `refresh` raises.
        """
        await ensure_lasting(self._log, self._topic)
        await self.refresh()

    async def refresh(self) -> None:
        """Read to the end as it is now.

        Raises TopicMissingError, PositionLostError if records were deleted, IncarnationError if the topic was re-created,
        NewerFormatError for a record that this release does not know, LogUnavailableError.
        """
        async with self._reading:
            state = await self._log.describe(self._topic)
            self._expect(state)
            await self._read_to(state.bounds[0][1])

    def _expect(self, state: TopicState) -> None:
        if state.partitions != 1:
            raise TopicMismatchError(topic=self._topic, seen=f"{state.partitions} partitions", expected="1")
        if state.incarnation is None:
            raise TopicMismatchError(topic=self._topic, seen="no genesis", expected="a topic that its owner made")
        if self._incarnation not in (None, state.incarnation):
            raise IncarnationError(topic=self._topic, known=str(self._incarnation), seen=state.incarnation)
        self._incarnation = state.incarnation

    async def _read_to(self, end: int) -> None:
        if self._reader is None:
            self._reader = self._log.reader(self._topic)
        give_up_at = asyncio.get_running_loop().time() + APPEND_TIMEOUT_S
        while self._position < end:
            records = await self._reader.read({0: self._position}, records_max=READ_RECORDS_MAX, wait_s=READ_WAIT_S)
            for record in records:
                if record.key != CONTROL_KEY:
                    self._state.apply(record.key, record.value)
                self._position = record.offset + 1
            if not records and asyncio.get_running_loop().time() > give_up_at:
                seen = f"nothing was read at {self._position} of {end}"
                raise LogUnavailableError(log=self._topic, seen=seen)

    async def register(self, schema: AvroSchema, *, compatibility: Compatibility | None = None) -> int:
        """The id of an event's schema under its own subject: the one that it has, or a new one.

        `compatibility` overrides the subject's mode. Raises IncompatibleSchemaError and InvalidSchemaError, before anything
        is written; what `refresh` raises; LogUnavailableError, after which a claim may stand: the next call finds it.
        """
        name = subject(schema)
        async with self._claiming:
            for _ in range(CLAIM_ATTEMPTS_MAX):
                await self.refresh()
                claim = self._state.claim(name, schema, compatibility)
                if isinstance(claim, Registered):
                    return claim.id
                await self._append(name, claim)
                await reached(Point.RELAY_CLAIMED)
            await self.refresh()
            claim = self._state.claim(name, schema, compatibility)
            if isinstance(claim, Registered):
                return claim.id
        raise LogUnavailableError(log=self._topic, seen=f"lost {CLAIM_ATTEMPTS_MAX} claims of an id to others")

    async def configure(self, subject: str, compatibility: Compatibility) -> None:
        """Change the mode by which later claims under a subject are judged. Raises what `refresh` raises."""
        await self._append(subject, self._state.configure(subject, compatibility))
        await self.refresh()

    async def schema(self, schema_id: int) -> Registered:
        """The schema that holds an id. Reads on once if it is unknown, then raises UnknownSchemaError."""
        try:
            return self._state.by_id(schema_id)
        except UnknownSchemaError:
            await self.refresh()
        return self._state.by_id(schema_id)

    async def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    async def _append(self, subject: str, value: bytes) -> None:
        record = Outgoing(subject.encode(), value, time.time_ns() // 1_000_000)
        await self._log.append(self._topic, 0, [record])
