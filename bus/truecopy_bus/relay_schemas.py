"""The relay's schema ids: claimed at the registry when the first event of a type is due, and refused types remembered."""

import asyncio
import logging
from collections.abc import Collection, Mapping

import orjson

from truecopy_bus.limits import REFUSED_RETRY_S
from truecopy_bus.registry import Registry
from truecopy_bus.sql.port import Database
from truecopy_bus.store_tables import SCHEMAS
from truecopy_schemas.errors import IncompatibleSchemaError, InvalidSchemaError

__all__ = ["SchemaClaims"]

_log = logging.getLogger("truecopy.relay")


class SchemaClaims:
    """Which schema id stands for a fingerprint on this log, and which fingerprints the registry refuses, and why.

    A refused schema holds back its own events, and later events of their keys, and nothing else.
    """

    def __init__(self, database: Database, registry: Registry) -> None:
        self._database, self._registry = database, registry
        self._ids: dict[bytes, int] = {}
        self._refused: dict[bytes, str] = {}
        self._subjects: dict[bytes, str] = {}
        self._retry_at: dict[bytes, float] = {}

    @property
    def ids(self) -> Mapping[bytes, int]:
        """Claimed ids (32-byte fingerprint -> id)."""
        return self._ids

    @property
    def refused(self) -> Mapping[bytes, str]:
        """Refused fingerprints and the registry's reasons."""
        return self._refused

    def halts(self) -> dict[str, str]:
        """Subjects whose schema is refused, and the registry's reasons."""
        return {self._subjects[fingerprint]: reason for fingerprint, reason in self._refused.items()}

    async def claim(self, fingerprints: Collection[bytes]) -> None:
        """Afterwards each of `fingerprints` is in `ids` or in `refused`. Raises LogUnavailableError."""
        now = asyncio.get_running_loop().time()
        due = [each for each in fingerprints if each not in self._ids and now >= self._retry_at.get(each, 0.0)]
        if not due:
            return
        async with self._database.snapshot() as read:
            found = await read.pick(SCHEMAS, ("fingerprint",), [(each,) for each in due])
        schemas = {fingerprint: schema for fingerprint, _, schema in found}
        self._subjects |= {fingerprint: subject for fingerprint, subject, _ in found}
        for fingerprint in due:
            try:
                self._ids[fingerprint] = await self._registry.register(orjson.loads(schemas[fingerprint]))
            except (IncompatibleSchemaError, InvalidSchemaError) as error:
                self._retry_at[fingerprint] = now + REFUSED_RETRY_S
                if self._refused.get(fingerprint) != str(error):
                    self._refused[fingerprint] = str(error)
                    _log.error("events of one type wait in the outbox, others flow: %s", error)
                continue
            if self._refused.pop(fingerprint, None):
                _log.info("the registry takes schema %s now; its events flow", fingerprint.hex())
