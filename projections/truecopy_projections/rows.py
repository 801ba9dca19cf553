"""The rows that a plan works on: loaded once, reduced in memory, hashed only when a digest is needed.

Between any two events a row is brought to its canonical form, so that what a reducer sees does not depend on where a batch
ended. A loaded row is held against its own hash before it is used: one that rotted must not become the input of the next.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from truecopy_projections.arrival import Arrival
from truecopy_projections.digest import bucket_of, row_hash
from truecopy_projections.effects import Effect, FiredEffect, fired
from truecopy_projections.errors import RowRejectedError
from truecopy_projections.projection import Address, Change, Handler, Projection, SubKey
from truecopy_projections.state import Known, StoredRow

__all__ = ["RottenRowError", "Rows"]

_Values = tuple[Any, ...]


class RottenRowError(Exception):
    """A stored row differs from the hash that was stored beside it."""


class Rows:
    """The rows of one batch: as they were known, and as they are by now."""

    def __init__(self, projection: Projection[Any], known: Known) -> None:
        self._projection, self._known = projection, known
        self._now: dict[Address, tuple[_Values, Any] | None] = {}
        self._hashes: dict[Address, bytes] = {}
        self.effects: dict[int, list[FiredEffect]] = {}
        self._subs: dict[str, set[SubKey]] = {}
        if projection.key:
            for key, sub in known.rows:
                self._subs.setdefault(key, set()).add(sub)

    def reduce(self, arrival: Arrival) -> Iterable[Address]:
        """Apply an event to the rows that it touches, to all of them or to none. Returns their addresses.

        Raises what the reducer raises, RowRejectedError, RottenRowError.
        """
        if arrival.handler is None:
            return ()
        key, reduce = arrival.key, arrival.handler.reduce
        touched = self._every(key) if arrival.touches is None else arrival.touches
        staged: dict[Address, tuple[_Values, Any] | None] = {}
        for sub in touched:
            address = (key, sub)
            try:
                new = reduce(self._before(arrival.handler, address), arrival.event, Change(key, arrival.version, sub))
                staged[address] = None if new is None else self._canonical(new, address)
            except BaseException:
                self._forget(touched, key)
                raise
        try:
            effects = self._effects(arrival, staged)
        except BaseException:
            self._forget(touched, key)
            raise
        if effects:
            self.effects.setdefault(arrival.record.partition, []).extend(effects)
        self._now.update(staged)
        return staged

    def _effects(self, arrival: Arrival, staged: Mapping[Address, tuple[_Values, Any] | None]) -> list[FiredEffect]:
        """What the event asks for. Rows are made of their values: the reducer may have changed the one that it was given."""
        projection, key = self._projection, arrival.key
        function = projection.effectors.get(type(arrival.event))
        if function is None:
            return []
        made: list[Effect] = []
        for address, after in staged.items():
            stored = self._known.rows.get(address)
            known = self._now.get(address, stored and (stored.values, None))
            before, row = (None if one is None else projection.restored(one[0]) for one in (known, after))
            made += function(before, arrival.event, row, Change(key, arrival.version, address[1]))
        return fired(projection.name, key, arrival.version, made)

    def moves(self, addresses: Collection[Address]) -> dict[int, int]:
        """How far each bucket moved since the rows were last hashed."""
        moves: dict[int, int] = {}
        for address in addresses:
            old = self._hashes.get(address, b"")
            row = self._now[address]
            new = b"" if row is None else row_hash(self._projection.id, address[0], row[0])
            if new != old:
                self._hashes[address] = new
                bucket = bucket_of(address[0])
                moves[bucket] = moves.get(bucket, 0) - int.from_bytes(old) + int.from_bytes(new)
        return moves

    def outcome(self, addresses: Collection[Address]) -> tuple[Mapping[Address, StoredRow], frozenset[Address]]:
        """The rows to put and those to drop, after `moves` of the same addresses."""
        puts: dict[Address, StoredRow] = {}
        drops: set[Address] = set()
        for address in addresses:
            row = self._now[address]
            if row is not None:
                puts[address] = StoredRow(row[0], self._hashes[address])
            elif address in self._known.rows or address[0] in self._known.hashes:
                drops.add(address)
        return puts, frozenset(drops)

    def _before(self, handler: Handler, address: Address) -> Any:
        """The row that a reducer is given. Of one that is replaced unseen only the hash counts."""
        if not handler.copies:
            return self._row(address)
        if address not in self._now and (known := self._known.hashes.get(address[0])) is not None:
            self._hashes[address] = known
        return None

    def _row(self, address: Address) -> Any:
        if address in self._now:
            row = self._now[address]
            if row is None:
                return None
            if row[1] is None:
                row = self._now[address] = (row[0], self._projection.restored(row[0]))
            return row[1]
        stored = self._known.rows.get(address)
        if stored is None:
            return None
        if row_hash(self._projection.id, address[0], stored.values) != stored.hash:
            raise RottenRowError(
                f"the stored row {address} differs from the hash stored beside it; `truecopy check` names its fields, "
                "`truecopy repair --apply` mends it"
            )
        self._hashes[address] = stored.hash
        return self._projection.restored(stored.values)

    def _canonical(self, row: Any, address: Address) -> tuple[_Values, Any]:
        values = self._projection.stored(row)
        if self._projection.sub_key(values) != address[1]:
            raise RowRejectedError(
                f"{self._projection.id}: asked for row {address[1]} of {address[0]!r}, the reducer returned row "
                f"{self._projection.sub_key(values)}; return the row that was asked for"
            )
        return values, None

    def _every(self, key: str) -> list[SubKey]:
        """All sub keys that the key has now, in one order everywhere."""
        subs = {sub for sub in self._subs.get(key, ()) if (key, sub) not in self._now}
        subs |= {sub for (k, sub), row in self._now.items() if k == key and row is not None}
        return sorted(subs)

    def _forget(self, touched: Collection[SubKey], key: str) -> None:
        # A reducer that raised may have changed the row it was given: what is kept are its values.
        for sub in touched:
            if (row := self._now.get((key, sub))) is not None:
                self._now[(key, sub)] = (row[0], None)
