"""Reading a replica with a stated consistency: what it holds now, or what it holds once it has reached a token.

A read that demands a token waits a bounded time for the replica to apply it, and then returns rows of one snapshot. It never
returns older rows instead: a token that is not reached, or whose key is parked, is an error that says which. Where commits
are not flushed, it flushes before it answers, so that a crash of the database can't take back what was promised.
"""

import asyncio
import time
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from truecopy_bus.errors import InvalidTokenError
from truecopy_bus.token import Token
from truecopy_projections.errors import NotReachedError, ProjectionError, UnknownProjectionError
from truecopy_projections.limits import READ_AT_LEAST_S, READ_POLL_S
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.state import StoredRow

__all__ = ["ReplicaReader"]

R = TypeVar("R")


class ReplicaReader(Generic[R]):
    """Reads the rows of one projection. `wait_s` bounds its waits, in seconds."""

    def __init__(self, projection: Projection[R], replica: Replica, *, wait_s: float = READ_AT_LEAST_S) -> None:
        self.projection, self.replica, self.wait_s = projection, replica, wait_s

    async def get(self, key: str, *row: Hashable, at_least: Token | str | None = None, wait_s: float | None = None) -> R | None:
        """The row of a key, or None. Where a key has several rows, `row` are the values of the projection's `key` fields.

        `at_least` is a token that a publish of the same entity returned. Raises NotReachedError when the replica has not
        applied it within `wait_s` seconds, InvalidTokenError for a token of another entity, UnknownProjectionError when the
        replica holds no such projection, ProjectionError when `row` does not fit the projection.
        """
        if len(row) != len(self.projection.key):
            raise ProjectionError(
                f"{self.projection.id}: asked for row {row} of {key!r}, expected values of {self.projection.key}; "
                "`rows` reads all of a key's rows"
            )
        found = await self.rows(key, at_least=at_least, wait_s=wait_s)
        named = (one for one in found if tuple(getattr(one, name) for name in self.projection.key) == row)
        return next(named, None)

    async def rows(self, key: str, *, at_least: Token | str | None = None, wait_s: float | None = None) -> list[R]:
        """All rows of a key, in the order of the projection's `key` fields. Raises like `get`."""
        token = self._token(at_least)
        waits_s = self.wait_s if wait_s is None else wait_s
        began = time.monotonic()
        while True:
            stored, seen, why = await self._look(key, token)
            if stored is not None:
                if token is not None:
                    await self.replica.flush()  # a crash must not take back what was promised
                ordered = sorted(stored, key=lambda one: self.projection.sub_key(one.values))
                return [self.projection.restored(one.values) for one in ordered]
            waited_s = time.monotonic() - began
            if waited_s >= waits_s or why.startswith("parked"):
                break
            await asyncio.sleep(READ_POLL_S)
        if token is None or not why:
            raise UnknownProjectionError(
                f"replica {self.replica.name} holds no projection {self.projection.id}; start a worker for it, "
                "or look for the name that is meant"
            )
        raise NotReachedError(key=token.key, wanted=token.version, seen=seen, waited_s=waited_s, why=why)

    def _token(self, at_least: Token | str | None) -> Token | None:
        token = Token.parse(at_least) if isinstance(at_least, str) else at_least
        if token is not None and token.entity != self.projection.entity:
            raise InvalidTokenError(seen=f"a token of {token.entity}, where {self.projection.entity} is read")
        return token

    async def _look(self, key: str, token: Token | None) -> tuple[Sequence[StoredRow] | None, int, str]:
        """The key's rows if the token is reached; else None, the version that is, and why; why is "" without a projection."""
        async with self.replica.snapshot() as snapshot:
            state, rows = await snapshot.get(self.projection, key)
            if state is None and not await snapshot.states(self.projection.id):
                return None, 0, ""
            if token is None:
                return rows, 0, ""
            if token.key != key:
                state, _ = await snapshot.get(self.projection, token.key)
        if state is None:
            return None, 0, "nothing of this key was applied yet"
        if state.applied >= token.version:
            return rows, state.applied, ""
        if state.parked is not None:
            return None, state.applied, f"parked: {state.parked.value}"
        return None, state.applied, "not applied yet"
