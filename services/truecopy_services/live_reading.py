"""Reading a projection by its name alone: the rows of whichever number is live, found in the snapshot that they are read in.

So a read that meets a swap sees either number, and never a mixture. A token that is reached in one is reached in the other,
since a swap is refused unless both stand at one position.
"""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from functools import partial
from typing import Any

from truecopy_bus.token import Token
from truecopy_projections.errors import UnknownProjectionError
from truecopy_projections.limits import READ_AT_LEAST_S
from truecopy_projections.projection import Projection
from truecopy_projections.replica import Replica
from truecopy_projections.stages import live_number
from truecopy_services.reading import Look, ReplicaReader, WaitingReader

__all__ = ["LiveReader"]


class LiveReader(WaitingReader):
    """Reads the live one of `numbers`, the declared numbers of one projection. `wait_s` bounds its waits, in seconds."""

    def __init__(
        self,
        numbers: Mapping[int, Projection[Any]],
        replica: Replica,
        *,
        wait_s: float = READ_AT_LEAST_S,
        before: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(numbers[max(numbers)], replica, wait_s=wait_s, before=before)
        self._readers = {number: ReplicaReader(one, replica, wait_s=wait_s) for number, one in numbers.items()}
        self.name = self._applied.name

    async def get(self, key: str, *row: Hashable, at_least: Token | str | None = None, wait_s: float | None = None) -> Any:
        """The row of a key in the live number, or None; like ReplicaReader.get, which says what `row` is and what is raised."""
        reader, found = await self.read(key, at_least=at_least, wait_s=wait_s)
        return reader.one_of(found, key, row)

    async def rows(self, key: str, *, at_least: Token | str | None = None, wait_s: float | None = None) -> list[Any]:
        """All rows of a key in the live number, in the order of its `key` fields. Raises like `get`."""
        return (await self.read(key, at_least=at_least, wait_s=wait_s))[1]

    async def read(
        self, key: str, *, at_least: Token | str | None = None, wait_s: float | None = None
    ) -> tuple[ReplicaReader[Any], list[Any]]:
        """The reader of the number that was live, and the rows of a key in it.

        Raises like `get`, and UnknownProjectionError when a number is live that is not declared here.
        """
        reader, stored = await self._waited(partial(self._look, key), at_least, wait_s)
        return reader, reader.restored(stored)

    async def _look(self, key: str, token: Token | None) -> Look[tuple[ReplicaReader[Any], Any]]:
        async with self.replica.snapshot() as snapshot:
            live = live_number(await snapshot.stages(self.name))
            if live is None:
                return None, 0, ""
            if (reader := self._readers.get(live)) is None:
                told = ", ".join(f"{self.name}@{number}" for number in sorted(self._readers))
                raise UnknownProjectionError(
                    f"replica {self.replica.name}: {self.name}@{live} is live, this app declares {told}; "
                    "declare that number here too, or swap back"
                )
            found, seen, why = await reader.look_in(snapshot, key, token)
        return None if found is None else (reader, found), seen, why
