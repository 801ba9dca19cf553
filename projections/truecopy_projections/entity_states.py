"""Loading the state of an entity from its owner's store: a snapshot, and the events since."""

from typing import NamedTuple

from truecopy_bus.histories import Snapshot, events, head_of, kept_snapshots, newest_snapshot, schemas_of
from truecopy_bus.limits import HISTORY_EVENTS_MAX, SNAPSHOT_STRIDE
from truecopy_bus.sql import Connection
from truecopy_projections.entity_fold import Delta, EntityFold, State, delta, folded, snapshot_of, state_of
from truecopy_projections.errors import StateUnknownError, UnknownVersionError
from truecopy_projections.limits import SNAPSHOT_EVENTS

__all__ = ["Loaded", "differing_snapshot", "learn", "load_state"]


class Loaded(NamedTuple):
    """A state, the key's latest version, and snapshots that would spare the next load what this one folded."""

    state: State
    head: int
    due: list[Snapshot]


async def load_state(
    read: Connection, fold: EntityFold, key: str, *, version: int | None = None, afresh: bool = False
) -> Loaded:
    """The state at `version` (None: the latest), in O(events since the newest snapshot); `afresh` leaves snapshots alone.

    Raises UnknownVersionError, StateUnknownError.
    """
    entity = fold.entity
    start = None if version is None else fold.begins(version)
    kept: Snapshot | None = None
    if afresh or fold.begins(1) is not None:
        head = await head_of(read, entity, key)
    else:
        head, kept = await newest_snapshot(read, entity, key, fold.id, upto=version)
    wanted = head if version is None else version
    if not 0 <= wanted <= head or not head:
        raise UnknownVersionError(entity=entity, key=key, wanted=wanted, head=head)
    if version is None:
        start = fold.begins(wanted)
    state = State(key=key, version=start or 0, rows={})
    if kept is not None:
        state = state_of(fold, key, kept)
    began, due = state.version, list[Snapshot]()
    while state.version < wanted:
        upto = min(wanted, (state.version // SNAPSHOT_STRIDE + 1) * SNAPSHOT_STRIDE - 1) if start is None else wanted
        state = await _advanced(read, fold, state, max(upto, state.version + 1))
        if start is None and not afresh and (state.version + 1) % SNAPSHOT_STRIDE == 0:
            due.append(snapshot_of(fold, state))
    if start is None and not afresh and state.version - (due[-1].version if due else began) >= SNAPSHOT_EVENTS:
        due.append(snapshot_of(fold, state))
    return Loaded(state, head, due)


async def differing_snapshot(read: Connection, fold: EntityFold, key: str) -> tuple[int, Delta | None]:
    """Fold a key from its first event, and hold each kept snapshot against it: the versions, and how the first one differs.

    Every snapshot is held, not the newest alone: whoever asks for an old state builds on an old one. Raises like load_state.
    """
    head = await head_of(read, fold.entity, key)
    if not head:
        raise UnknownVersionError(entity=fold.entity, key=key, wanted=1, head=0)
    state = State(key=key, version=fold.begins(head) or 0, rows={})
    for snapshot in await kept_snapshots(read, fold.entity, key, fold.id):
        state = await _advanced(read, fold, state, snapshot.version)
        kept = state_of(fold, key, snapshot)
        if (kept.rows, kept.element) != (state.rows, state.element):
            return head, delta(fold, kept, state)
    await _advanced(read, fold, state, head)
    return head, None


async def _advanced(read: Connection, fold: EntityFold, state: State, upto: int) -> State:
    while state.version < upto:
        some = await events(read, fold.entity, state.key, after=state.version, upto=upto, rows_max=HISTORY_EVENTS_MAX)
        if not some:
            seen = "the store has no event of this version: its history has a hole"
            raise StateUnknownError(entity=fold.entity, key=state.key, version=state.version + 1, why=seen)
        await learn(read, fold, {one.fingerprint for one in some})
        state = folded(fold, state, some)
    return state


async def learn(read: Connection, fold: EntityFold, fingerprints: set[bytes]) -> None:
    """Tell the fold of these schemas."""
    unknown = {one for one in fingerprints if not fold.knows(one)}
    if unknown:
        for fingerprint, (_, schema) in (await schemas_of(read, unknown)).items():
            fold.learn(fingerprint, schema)
