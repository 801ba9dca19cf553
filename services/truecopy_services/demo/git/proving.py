"""Proving trees: the log is read once to see where each step ends, and once more into a sandbox, which stops where asked.

Steps ascend within a partition, so that what a commit's tree is made of ends in each before the first event of a later step.
The sandbox is a replica in memory that a worker as any other fills; nobody else sees it.
"""

import random
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from truecopy_bus.limits import READ_RECORDS_MAX
from truecopy_bus.log import identified
from truecopy_bus.record import Record
from truecopy_projections.bounded import BoundedWorker
from truecopy_projections.replica import Replica
from truecopy_projections.replicas.memory import MemoryReplica
from truecopy_schemas.codec import Decoder
from truecopy_schemas.control import CONTROL_KEY
from truecopy_schemas.framing import unframe
from truecopy_services.demo.git.app import tree
from truecopy_services.demo.git.line import Line
from truecopy_services.demo.git.order import Commit
from truecopy_services.service import Service

__all__ = ["Entry", "Sandbox", "Steps", "differing", "entries", "sampled", "steps_of"]

STEP_TIMEOUT_S = 600.0
"""Seconds for the sandbox to come from one step that is looked at to the next."""
READ_WAIT_S = 0.2
"""Seconds to wait for records that are on the log already."""
NOTABLE_SHARE = 5
"""At least one in so many of the commits that are sampled is a merge, one a root, and one removes or renames."""
Entry = tuple[str, str]
"""Mode and id."""


@dataclass(slots=True, kw_only=True)
class Steps:
    """Where each step begins: by partition the steps that have events there, in their order, and the first offset of each."""

    ends: Mapping[int, int]
    steps: dict[int, list[int]] = field(default_factory=dict)
    offsets: dict[int, list[int]] = field(default_factory=dict)
    removing: set[int] = field(default_factory=set)
    """Steps that remove or rename."""

    def cut(self, step: int) -> dict[int, int]:
        """By partition the offset of the first event of a later step, or the end."""
        found = dict(self.ends)
        for p, steps in self.steps.items():
            at = bisect_right(steps, step)
            if at < len(steps):
                found[p] = self.offsets[p][at]
        return found


async def steps_of(service: Service) -> Steps:
    """Read the log from its beginning to where it ends now."""
    topic = service.topic(tree)
    state = await identified(service.log, topic)
    found = Steps(ends={p: end for p, (_, end) in state.bounds.items()})
    decoders: dict[int, tuple[Decoder[Any], bool]] = {}
    reader = service.log.reader(topic)
    at = {p: start for p, (start, _) in state.bounds.items()}
    try:
        while left := {p: offset for p, offset in at.items() if offset < found.ends[p]}:
            for record in await reader.read(left, records_max=READ_RECORDS_MAX, wait_s=READ_WAIT_S):
                at[record.partition] = record.offset + 1
                if record.offset < found.ends[record.partition] and record.key != CONTROL_KEY:
                    await _note(service, found, decoders, record)
    finally:
        await reader.close()
    return found


async def _note(service: Service, found: Steps, decoders: dict[int, tuple[Decoder[Any], bool]], record: Record) -> None:
    assert record.value is not None, "events have values, and this topic is ours"
    schema_id, body = unframe(record.value)
    if schema_id not in decoders:
        schema = (await service.registry.schema(schema_id)).schema
        decoders[schema_id] = Decoder(schema), bool(schema.get("truecopy.deletes"))
    decoder, removes = decoders[schema_id]
    step = decoder.decode(bytes(body))[2]["step"]
    if removes:
        found.removing.add(step)
    steps = found.steps.setdefault(record.partition, [])
    if not steps or steps[-1] < step:
        steps.append(step)
        found.offsets.setdefault(record.partition, []).append(record.offset)


def sampled(line: Line, commits: Mapping[str, Commit], steps: Steps, *, number: int, seed: int) -> list[int]:
    """So many steps, drawn by `seed`: the first and the last, some merges, roots and removals, and any others."""
    there = range(1, len(line.steps) + 1)
    parents = {
        step: len(commits[line.steps[step - 1].commit].parents) for step in there if line.steps[step - 1].commit in commits
    }
    draw = random.Random(seed)
    merges = [step for step, count in parents.items() if count > 1]
    roots = [step for step, count in parents.items() if not count]
    chosen = {1, len(line.steps)}
    for notable in (merges, roots, sorted(steps.removing)):
        chosen.update(draw.sample(notable, min(len(notable), max(1, number // NOTABLE_SHARE))))
    others = [step for step in there if step not in chosen]
    chosen.update(draw.sample(others, min(len(others), max(0, number - len(chosen)))))
    return sorted(chosen)


class Sandbox:
    """A replica in memory that is brought on from step to step."""

    def __init__(self, service: Service, steps: Steps) -> None:
        self.replica = MemoryReplica()
        self._steps = steps
        self._worker = BoundedWorker(
            tree,
            self.replica,
            service.log,
            service.registry,
            upto={},
            topic=service.topic(tree),
            holder="proof",
            stops=True,
            wait_s=READ_WAIT_S,
            records_max=READ_RECORDS_MAX,
        )

    async def arrive(self, step: int) -> None:
        """Apply all up to a step, which is not before the last one. Raises StoppedError, NotCaughtUpError."""
        self._worker.upto = self._steps.cut(step)
        if self._worker.left:
            await self._worker.arrive(within_s=STEP_TIMEOUT_S)

    async def tree(self) -> dict[str, tuple[str, Entry]]:
        """What it holds, like `entries`."""
        return await entries(self.replica) if self._worker.positions else {}

    async def versions(self) -> dict[str, int]:
        """The version of each key."""
        if not self._worker.positions:
            return {}
        async with self.replica.snapshot() as snapshot:
            return {key: state.applied async for some in snapshot.keys(tree) for key, _, state in some}


async def entries(replica: Replica) -> dict[str, tuple[str, Entry]]:
    """The tree that a replica holds: by path its key, mode and id."""
    names = [f.column.name for f in tree.fields]
    path, mode, blob = (names.index(name) for name in ("path", "mode", "blob"))
    async with replica.snapshot() as snapshot:
        return {
            row.values[path]: (key, (row.values[mode], row.values[blob]))
            async for some in snapshot.rows(tree)
            for key, _, row in some
        }


def differing(held: Mapping[str, tuple[str, Entry]], listed: Mapping[str, Entry]) -> list[str]:
    """What a replica's tree differs in from git's, a line for each path; nothing where they are equal."""
    found = []
    for path in sorted({*held, *listed}):
        ours, gits = held[path][1] if path in held else None, listed.get(path)
        if ours != gits:
            found.append(f"{path!r}: the replica has {_told(ours)}, git has {_told(gits)}")
    return found


def _told(entry: Entry | None) -> str:
    return " ".join(entry) if entry else "nothing"
