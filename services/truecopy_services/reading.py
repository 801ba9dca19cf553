"""Reading a replica with a stated consistency: what it holds now, or what it holds once it has reached a token.

A read that demands a token waits a bounded time for the replica to apply it, and then returns rows of one snapshot. It never
returns older rows instead: a token that is not reached, or whose key is parked, is an error that says which. Where commits
are not flushed, it flushes before it answers, so that a crash of the database can't take back what was promised.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from truecopy_bus.errors import InvalidTokenError
from truecopy_bus.token import Token
from truecopy_projections.errors import NotReachedError, ProjectionError, UnknownProjectionError
from truecopy_projections.gathered import Gathered, GatheredRow, Group
from truecopy_projections.limits import READ_AT_LEAST_S, READ_POLL_S
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica, Snapshot
from truecopy_projections.state import KeyState, StoredRow

__all__ = ["GatheredReader", "Look", "ReplicaReader", "WaitingReader"]

R = TypeVar("R")
T = TypeVar("T")

Look = tuple[T | None, int, str]
"""What was asked for, if the token is reached; else None, the version that is, and why; why is "" without a projection."""


class WaitingReader:
    """What readers share. `projection` is what tokens are reached by, `wait_s` bounds waits, in seconds.

    `before` is awaited before each look for a token.
    """

    def __init__(
        self,
        projection: Projection[Any],
        replica: Replica,
        *,
        wait_s: float = READ_AT_LEAST_S,
        before: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.replica, self.wait_s = replica, wait_s
        self._applied, self._before = projection, before

    async def _waited(
        self, look: Callable[[Token | None], Awaitable[Look[T]]], at_least: Token | str | None, wait_s: float | None
    ) -> T:
        token = self._token(at_least)
        waits_s = self.wait_s if wait_s is None else wait_s
        began = time.monotonic()
        while True:
            if token is not None and self._before is not None:
                await self._before()
            found, seen, why = await look(token)
            if found is not None:
                if token is not None:
                    await self.replica.flush()  # a crash must not take back what was promised
                return found
            waited_s = time.monotonic() - began
            if waited_s >= waits_s or why.startswith("parked"):
                break
            await asyncio.sleep(READ_POLL_S)
        if token is None or not why:
            raise UnknownProjectionError(
                f"replica {self.replica.name} holds no projection {self._applied.id}; start a worker for it, "
                "or look for the name that is meant"
            )
        raise NotReachedError(key=token.key, wanted=token.version, seen=seen, waited_s=waited_s, why=why)

    def _token(self, at_least: Token | str | None) -> Token | None:
        token = Token.parse(at_least) if isinstance(at_least, str) else at_least
        if token is not None and token.entity != self._applied.entity:
            raise InvalidTokenError(seen=f"a token of {token.entity}, where {self._applied.entity} is read")
        return token


class ReplicaReader(WaitingReader, Generic[R]):
    """Reads the rows of one projection. `wait_s` bounds its waits, in seconds."""

    def __init__(
        self,
        projection: Projection[R],
        replica: Replica,
        *,
        wait_s: float = READ_AT_LEAST_S,
        before: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(projection, replica, wait_s=wait_s, before=before)
        self.projection = projection

    async def get(self, key: str, *row: Hashable, at_least: Token | str | None = None, wait_s: float | None = None) -> R | None:
        """The row of a key, or None. Where a key has several rows, `row` are the values of the projection's `key` fields.

        `at_least` is a token that a publish of the same entity returned. Raises NotReachedError when the replica has not
        applied it within `wait_s` seconds, InvalidTokenError for a token of another entity, UnknownProjectionError when the
        replica holds no such projection, ProjectionError when `row` does not fit the projection.
        """
        self._refuse_other_row(key, row)
        return self.one_of(await self.rows(key, at_least=at_least, wait_s=wait_s), key, row)

    def one_of(self, found: Sequence[R], key: str, row: tuple[Hashable, ...]) -> R | None:
        """The one of a key's rows that has these values of `key` fields. Raises ProjectionError when they do not fit."""
        self._refuse_other_row(key, row)
        named = (one for one in found if tuple(getattr(one, name) for name in self.projection.key) == row)
        return next(named, None)

    def _refuse_other_row(self, key: str, row: tuple[Hashable, ...]) -> None:
        if len(row) != len(self.projection.key):
            raise ProjectionError(
                f"{self.projection.id}: asked for row {row} of {key!r}, expected values of {self.projection.key}; "
                "`rows` reads all of a key's rows"
            )

    async def rows(self, key: str, *, at_least: Token | str | None = None, wait_s: float | None = None) -> list[R]:
        """All rows of a key, in the order of the projection's `key` fields. Raises like `get`."""
        return self.restored(await self._waited(partial(self._look, key), at_least, wait_s))

    def restored(self, stored: Sequence[StoredRow]) -> list[R]:
        """A key's rows as they were declared, in the order of the projection's `key` fields."""
        ordered = sorted(stored, key=lambda one: self.projection.sub_key(one.values))
        return [self.projection.restored(one.values) for one in ordered]

    async def _look(self, key: str, token: Token | None) -> Look[Sequence[StoredRow]]:
        async with self.replica.snapshot() as snapshot:
            return await self.look_in(snapshot, key, token)

    async def look_in(self, snapshot: Snapshot, key: str, token: Token | None) -> Look[Sequence[StoredRow]]:
        """What a snapshot has of a key, if the token is reached there."""
        state, rows = await snapshot.get(self.projection, key)
        if state is None and not await snapshot.states(self.projection.id):
            return None, 0, ""
        if token is not None and token.key != key:
            state, _ = await snapshot.get(self.projection, token.key)
        return _judged(rows, state, token)


class GatheredReader(WaitingReader, Generic[R]):
    """Reads gathered rows of one kind. `wait_s` bounds its waits, in seconds."""

    def __init__(
        self,
        gathered: Gathered[R],
        replica: Replica,
        *,
        wait_s: float = READ_AT_LEAST_S,
        before: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(gathered.of, replica, wait_s=wait_s, before=before)
        self.gathered = gathered

    async def get(self, *group: Any, at_least: Token | str | None = None, wait_s: float | None = None) -> R | None:
        """The row of the group with these values of its fields, in the order of `by`; None where nothing contributes to it.

        `at_least` is a token of the entity: what it stands for is then in the row, whichever group it contributes to. Raises
        NotReachedError, InvalidTokenError and UnknownProjectionError like ReplicaReader.get, ProjectionError and
        RowRejectedError for values that can't be those of a group.
        """
        stored = await self._waited(partial(self._look, self.gathered.as_group(*group)), at_least, wait_s)
        return self.gathered.restored(stored[0].values) if stored else None

    async def rows(self, *, at_least: Token | str | None = None, wait_s: float | None = None) -> list[R]:
        """The rows of all groups, in the order of these, all in memory. Raises like `get`."""
        stored = await self._waited(partial(self._look, None), at_least, wait_s)
        return [self.gathered.restored(one.values) for one in sorted(stored, key=lambda one: self.gathered.sub_key(one.values))]

    async def _look(self, group: Group | None, token: Token | None) -> Look[Sequence[GatheredRow]]:
        projection = self.gathered.of
        async with self.replica.snapshot() as snapshot:
            if not await snapshot.states(projection.id):
                return None, 0, ""
            state = None if token is None else (await snapshot.get(projection, token.key))[0]
            rows = [row async for batch in snapshot.gathered(self.gathered, group) for row in batch]
        return _judged(rows, state, token)


def _judged(found: T, state: KeyState | None, token: Token | None) -> Look[T]:
    """What was found, if a key in this state has reached the token, or none is asked for."""
    if token is None:
        return found, 0, ""
    if state is None:
        return None, 0, "nothing of this key was applied yet"
    if state.applied >= token.version:
        return found, state.applied, ""
    if state.parked is not None:
        return None, state.applied, f"parked: {state.parked.value}"
    return None, state.applied, "not applied yet"
