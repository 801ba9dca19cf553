"""Explanations: for a differing row the first event after which what is stored and what the log yields part.

The log is folded twice more for it: whole, with an eye on the differing keys and on the replica's figures at its marks, and for
those keys alone. The stored row is looked for among the rows that the key had, version by version; the marks tell whether the
digest that the replica maintained was right when the row was written. Where the folds themselves part, the reducer depends on
more than row and event, and that is what is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, takewhile
from typing import Any

from truecopy_bus.fold import DIGEST_MODULUS
from truecopy_bus.log import Log
from truecopy_bus.record import Record
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.amendment import Amendments, Ruling, schema_of
from truecopy_projections.columns import encode
from truecopy_projections.digest import row_hash
from truecopy_projections.evidence import Evidence, is_waiting
from truecopy_projections.fresh_fold import Encoded, KeyEvents, encoded_rows, folded_afresh
from truecopy_projections.limits import EXPLAINED_KEYS_MAX
from truecopy_projections.projection import Projection
from truecopy_projections.reference import Rows, replay
from truecopy_projections.state import Checkpoint
from truecopy_projections.verdicts import Difference, Explanation, Values
from truecopy_schemas.codec import read_version
from truecopy_schemas.control import CONTROL_KEY
from truecopy_schemas.errors import TruecopyError
from truecopy_schemas.framing import unframe

__all__ = ["History", "Parting", "explained", "explanation"]


@dataclass(slots=True)
class History:
    """What a fold made of one key: its rows after each version, and the record that brought each (offset, schema id, time)."""

    rows: dict[int, Rows] = field(default_factory=lambda: {0: {}})
    records: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    events: dict[int, str] = field(default_factory=dict)
    schemas: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    bodies: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """Where the digest that a replica maintained parts from the fold: the last mark of a partition at which they were equal,
    and the first after it at which they were not."""

    right: Checkpoint | None = None
    wrong: Checkpoint | None = None


async def explained(
    projection: Projection[Any],
    log: Log,
    schemas: SchemaSource,
    *,
    topic: str,
    found: Evidence,
    afresh: bool,
) -> list[Difference]:
    """The differences of a whole check, those of the first keys with their explanation. Raises like replay.

    With `afresh` the keys are folded in other processes too: worth the time where a worker came to other rows than the fold.
    """
    if not found.differences or found.reference is None:
        return list(found.differences)
    keys = list(dict.fromkeys(one.key for one in found.differences))[:EXPLAINED_KEYS_MAX]
    homes = {one.key: one.partition for one in found.differences if one.key in keys}
    upto = {p: state.position for p, state in found.states.items() if p in homes.values() or projection.foreign is not None}
    stops = {key: state.applied for key, state in found.keys.items() if state.parked and is_waiting(key, state, found.waiting)}
    whole, alone = _Looking(projection, keys, found.checkpoints), _Looking(projection, keys, None)
    for watch in (whole, alone):
        await replay(projection, log, schemas, topic=topic, upto=upto, stops=stops, watch=watch, amendments=found.amendments)
    for key in keys:
        await _name_events(whole.histories[key], schemas)
        _amend(whole.histories[key], key, found.amendments)
    others = await _afresh(projection, whole.histories) if afresh else {}
    told = []
    for one in found.differences:
        if one.key in homes:
            history = whole.histories[one.key]
            said = explanation(
                projection, one, (history, alone.histories[one.key]), whole.partings.get(one.partition, Parting())
            )
            if not said.parted:
                said = _parted_afresh(projection, one, history, others.get(one.key, {})) or said
            told.append(replace(one, explanation=said))
        else:
            told.append(one)
    return told


async def _afresh(projection: Projection[Any], histories: Mapping[str, History]) -> Mapping[str, Encoded]:
    """What a fresh process makes of the keys, each through its last version without a hole."""
    events: dict[str, KeyEvents] = {}
    for key, history in histories.items():
        whole = takewhile(lambda v, known=history: v in known.schemas and v in known.rows, count(1))  # type: ignore[misc]
        events[key] = [(version, history.schemas[version], history.bodies[version]) for version in whole]
    return await folded_afresh(projection, events)


def _parted_afresh(projection: Projection[Any], one: Difference, history: History, other: Encoded) -> Explanation | None:
    """That a fresh process comes to other rows, if it does."""
    for version, rows in sorted(other.items()):
        own = encoded_rows(history.rows[version])
        if rows != own:
            pairs = [(own[sub], rows[sub]) for sub in own.keys() & rows.keys()]
            names = [field.column.name for field in projection.fields]
            parted = tuple(name for at, name in enumerate(names) if any(mine[at] != theirs[at] for mine, theirs in pairs))
            why = (
                "the reducer is not deterministic: another process folds the same events to something else from "
                f"{_event(history, version)} on, in {', '.join(parted) or 'which rows there are'}; does it depend on the order "
                "of a set?"
            )
            return _told(history, version, one, why, parted=parted)
    return None


def explanation(projection: Projection[Any], one: Difference, folds: Sequence[History], parting: Parting) -> Explanation:
    """Explain one differing row by the folds of its key, the first of which names the events. Pure."""
    history = folds[0]
    last = max(history.rows)
    meant = [{version: rows.get(one.row) for version, rows in fold.rows.items()} for fold in folds]
    meant.append({last: one.meant})
    if (version := _first_parting(meant)) is not None:
        values = [fold[version] for fold in meant if version in fold]
        names = _parted(projection, values)
        why = f"the reducer is not deterministic: folds of the same events differ from {_event(history, version)} on"
        return _told(history, version, one, f"{why}, in {', '.join(names) or 'whether there is a row'}", parted=names)
    if not history.records:
        return Explanation(why=f"the log holds no event of this key; {_when(parting)}", replica=(None, one.stored))
    if one.stored == one.meant:
        why = f"its values are right, what is kept beside them is not; {_when(parting)}"
        return _told(history, last, one, why)
    earlier = [version for version in range(last) if meant[0].get(version) == one.stored and version in history.rows]
    if earlier and (one.stored is not None or parting.wrong is not None):
        version = next(v for v in sorted(history.rows) if v > earlier[-1])
        lost = f"the effect of {_event(history, version)} is missing, or an older page was restored"
        state = f"it is as after version {earlier[-1]}" if one.stored is not None else "there is no row"
        return _told(history, version, one, f"{state}: {lost}; {_when(parting)}", before=one.stored)
    version = _written(meant[0], last)
    if parting.wrong is not None:
        inside = [v for v, (offset, _, _) in sorted(history.records.items()) if _within(offset, parting)]
        version = inside[0] if inside else version
    what = "it was removed" if one.stored is None else "it equals no version of its key: it was altered"
    return _told(history, version, one, f"{what} after {_event(history, version)}; {_when(parting)}")


def _told(
    history: History, version: int, one: Difference, why: str, *, before: Values | None = None, parted: Sequence[str] = ()
) -> Explanation:
    offset, _, at_ms = history.records.get(version, (None, 0, None))
    earlier = max((v for v in history.rows if v < version), default=0)
    was = history.rows.get(earlier, {}).get(one.row)
    return Explanation(
        why=why,
        version=version,
        offset=offset,
        event=history.events.get(version, ""),
        at_ms=at_ms,
        log=(was, history.rows.get(version, {}).get(one.row)),
        replica=(was if before is None else before, one.stored),
        parted=tuple(parted),
    )


def _first_parting(folds: Sequence[Mapping[int, Values | None]]) -> int | None:
    """The first version of which two folds say different things."""
    for version in sorted({version for fold in folds for version in fold}):
        told = [_bytes(fold[version]) for fold in folds if version in fold]
        missing = any(version not in fold for fold in folds[:2])
        if len(set(told)) > 1 or missing:
            return version
    return None


def _bytes(values: Values | None) -> bytes | None:
    return None if values is None else b"".join(map(encode, values))


def _parted(projection: Projection[Any], rows: Sequence[Values | None]) -> tuple[str, ...]:
    there = [row for row in rows if row is not None]
    names = [f.column.name for f in projection.fields]
    return tuple(name for at, name in enumerate(names) if len({encode(row[at]) for row in there}) > 1)


def _written(rows: Mapping[int, Values | None], last: int) -> int:
    """The last version that changed the row."""
    versions = sorted(rows)
    for before, version in zip(reversed(versions[:-1]), reversed(versions[1:]), strict=True):
        if rows[before] != rows[version]:
            return version
    return last


def _within(offset: int, parting: Parting) -> bool:
    return (
        (parting.right is None or offset > parting.right.offset) and parting.wrong is not None and offset < parting.wrong.offset
    )


def _event(history: History, version: int) -> str:
    if version not in history.records:
        return f"version {version}"
    return f"version {version} ({history.events.get(version) or 'an event'}, offset {history.records[version][0]})"


def _when(parting: Parting) -> str:
    """What the marks say of when it happened."""
    right, wrong = parting.right, parting.wrong
    if wrong is not None:
        since = f"after mark {right.number} (offset {right.offset})" if right is not None else "from the first mark kept"
        return f"the maintained digest parts from the log {since} to mark {wrong.number} (offset {wrong.offset})"
    if right is not None:
        through = f"through mark {right.number} (offset {right.offset})"
        return f"it was written right: the maintained digest is that of the log {through}"
    return "no mark tells when"


class _Looking:
    """Who looks on while a log is folded. With `checkpoints` all keys are folded, and their rows summed up to each of these;
    else only `keys` are."""

    def __init__(self, projection: Projection[Any], keys: Sequence[str], checkpoints: Sequence[Checkpoint] | None) -> None:
        self._projection, self._foreign = projection, projection.foreign is not None
        self.histories = {key: History() for key in keys}
        self.partings: dict[int, Parting] = {}
        self._names = {key.encode() for key in keys}
        self._marks = None if checkpoints is None else {(c.partition, c.offset): c for c in checkpoints}
        self._sums: dict[str, int] = {}
        self._digests: dict[int, int] = {}
        self._at = -1

    def wants(self, record: Record) -> bool:
        self._at = record.partition
        if self._marks is not None and (mark := self._marks.get((record.partition, record.offset))) is not None:
            self._pass(mark)
        mine = record.key in self._names
        if mine:
            self._note(record)
        return mine or (self._marks is not None) or record.key == CONTROL_KEY

    def step(self, key: str, version: int, rows: Rows) -> None:
        if key in self.histories:
            self.histories[key].rows[version] = rows
        if self._marks is not None:
            now = sum(int.from_bytes(row_hash(self._projection.id, key, values)) for values in rows.values())
            moved = now - self._sums.get(key, 0)
            self._sums[key] = now
            self._digests[self._at] = (self._digests.get(self._at, 0) + moved) % DIGEST_MODULUS

    def _pass(self, mark: Checkpoint) -> None:
        # The last run counts: while a key was parked the replica was behind the fold, and rightly so.
        p = mark.partition
        known = self.partings.get(p, Parting())
        equal = self._digests.get(p, 0) == mark.row_digest
        self.partings[p] = Parting(right=mark) if equal else replace(known, wrong=known.wrong or mark)

    def _note(self, record: Record) -> None:
        assert record.key is not None
        history = self.histories[record.key.decode()]
        schema_id, version = 0, len(history.records) + 1
        if not self._foreign:
            try:
                schema_id, body = unframe(record.value or b"")
                version = read_version(bytes(body))
            except TruecopyError:
                return
            history.bodies.setdefault(version, bytes(body))
        history.records.setdefault(version, (record.offset, schema_id, record.timestamp_ms))


def _amend(history: History, key: str, amendments: Amendments) -> None:
    """What the events are folded as, in a fresh process too, and their names with what was ruled about them."""
    for one in amendments.all:
        if one.key == key and one.version in history.events:
            history.events[one.version] += f", {one.ruling.name.lower()} by {one.by}"
            if one.ruling is Ruling.SKIPPED:
                history.schemas[one.version] = {}
            else:
                history.schemas[one.version], history.bodies[one.version] = schema_of(one), one.body


async def _name_events(history: History, schemas: SchemaSource) -> None:
    for version, (_, schema_id, _) in history.records.items():
        try:
            schema = (await schemas.schema(schema_id)).schema
        except TruecopyError:
            continue
        history.schemas[version] = schema
        history.events[version] = f"{schema.get('namespace', '')}.{schema['name']}".lstrip(".")
