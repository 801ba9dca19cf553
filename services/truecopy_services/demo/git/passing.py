"""One pass over the log of files: where each of some commits ends in each partition, and which version its paths had there.

Within a partition the steps of commits ascend, because one publisher wrote them in their order. A rollback states old files
again: its events bear steps that their keys have passed, and belong to no commit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from truecopy_bus.limits import READ_RECORDS_MAX, READ_WAIT_S
from truecopy_bus.log import Log
from truecopy_bus.registry import Registry
from truecopy_projections.errors import NotCaughtUpError
from truecopy_schemas.codec import Decoder
from truecopy_schemas.control import CONTROL_KEY
from truecopy_schemas.framing import unframe

__all__ = ["Ends", "back_to", "ends_of"]


@dataclass(slots=True)
class Ends:
    """Of each step that was asked for the offsets before which its events lie, and of some the versions of their keys."""

    cuts: dict[int, dict[int, int]]
    versions: dict[int, dict[str, int]] = field(default_factory=dict)
    latest: dict[str, int] = field(default_factory=dict)


async def ends_of(log: Log, registry: Registry, topic: str, steps: Sequence[int], *, versions: Sequence[int] = ()) -> Ends:
    """Read the topic once. `versions` are steps of which the versions are wanted too: one number for each path, in memory."""
    asked = sorted({*steps, *versions})
    bounds = (await log.describe(topic)).bounds
    found = Ends(cuts={step: {} for step in asked}, versions={step: {} for step in versions})
    at = {p: start for p, (start, _) in bounds.items()}
    due = dict.fromkeys(at, 0)
    passed: dict[str, int] = {}
    decoders: dict[int, Decoder] = {}  # type: ignore[type-arg]
    reader = log.reader(topic)
    try:
        while left := {p: offset for p, offset in at.items() if offset < bounds[p][1]}:
            records = await reader.read(left, records_max=READ_RECORDS_MAX, wait_s=READ_WAIT_S)
            if not records:
                raise NotCaughtUpError(projection=topic, left=len(left), why="the log gave no record below its end")
            for record in records:
                p = record.partition
                at[p] = record.offset + 1
                if record.key == CONTROL_KEY or record.key is None or record.value is None:
                    continue
                schema_id, body = unframe(record.value)
                if schema_id not in decoders:
                    decoders[schema_id] = Decoder((await registry.schema(schema_id)).schema)
                version, _, values = decoders[schema_id].decode(bytes(body))
                key, step = record.key.decode(), int(values["step"])
                found.latest[key] = max(version, found.latest.get(key, 0))
                if step <= passed.get(key, 0):
                    continue
                passed[key] = step
                while due[p] < len(asked) and asked[due[p]] < step:
                    found.cuts[asked[due[p]]][p] = record.offset
                    due[p] += 1
                for wanted, known in found.versions.items():
                    if step <= wanted:
                        known[key] = version
    finally:
        await reader.close()
    for p, nth in due.items():
        for step in asked[nth:]:
            found.cuts[step][p] = bounds[p][1]
    return found


def back_to(found: Ends, step: int) -> Mapping[str, int]:
    """Keys whose version at a step is not their latest, with that version; 0 for one that came later."""
    known = found.versions[step]
    return {key: known.get(key, 0) for key, latest in found.latest.items() if known.get(key, 0) != latest}
