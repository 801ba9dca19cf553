"""The mutants: apply loops, relays and proofs that are broken by a few words each, and what each of them would do."""

from dataclasses import dataclass

from tests.mutants.mutation import Edit

from truecopy_projections.testing.simulation import Fault, Strike

Script = tuple[Strike, ...]


def _often(fault: Fault, every: int = 60) -> Script:
    return tuple(Strike(at, fault, at) for at in range(150, 900, every))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """`seed` and `script` are those under which the simulator looks for it; `suite` is a test of the shipped suite instead."""

    edits: tuple[Edit, ...]
    seed: int = 1
    script: Script = ()
    suite: str = ""


def _edit(where: str, old: str, new: str) -> Edit:
    package = "truecopy_bus" if where.split(".")[0].split(":")[0] in _BUS else "truecopy_projections"
    return Edit(where=f"{package}.{where}", old=old, new=new)


_BUS = {"fold", "relay", "relay_plan", "outbox", "leases"}
_PLAN = "plan:_Partition"
_HELD = """held = self.__dict__.setdefault("held", {})
        if key not in held and arrival.version % 3 == 2:
            held[key] = arrival
        else:
            self.dirty.update(self.rows.reduce(arrival))
            if key in held:
                self.dirty.update(self.rows.reduce(held.pop(key)))"""

MUTANTS: dict[str, Mutant] = {
    "skips one event of seven": Mutant(
        edits=(_edit(f"{_PLAN}.take", "self._event(item)", "item.record.offset % 7 == 3 or self._event(item)"),)
    ),
    "applies an event twice": Mutant(
        edits=(
            _edit(
                f"{_PLAN}._effect",
                "self.dirty.update(self.rows.reduce(arrival))",
                "self.dirty.update(self.rows.reduce(arrival)); self.dirty.update(self.rows.reduce(arrival))",
            ),
        )
    ),
    "swaps two events of a key": Mutant(
        edits=(_edit(f"{_PLAN}._effect", "self.dirty.update(self.rows.reduce(arrival))", _HELD),)
    ),
    "forgets a tombstone": Mutant(seed=4, edits=(_edit("rows:Rows.outcome", "drops.add(address)", "pass"),)),
    "ignores the fence": Mutant(
        edits=(
            _edit(
                "replicas.sql:_current",
                "await leases.hold(tx, projection.id, [plan.fence for plan in plans])",
                "frozenset(plan.fence.partition for plan in plans)",
            ),
        ),
        suite="test_a_lost_fence_drops_its_partition_and_the_rest_commits",
    ),
    "ignores the position that a plan was made on": Mutant(
        edits=(
            _edit(
                "replicas.sql:_current",
                "and at.get(plan.was.partition) == (plan.was.incarnation, plan.was.position)",
                "",
            ),
        ),
        suite="test_a_plan_is_applied_once_however_often_it_is_sent",
    ),
    "drops a digest's move": Mutant(
        edits=(_edit("rows:Rows.moves", "- int.from_bytes(old) + int.from_bytes(new)", "+ int.from_bytes(new)"),)
    ),
    "takes the XOR instead of the sum": Mutant(
        edits=(
            _edit(
                "fold:moved",
                "(digest - int.from_bytes(old) + int.from_bytes(new)) % DIGEST_MODULUS",
                "digest ^ int.from_bytes(old) ^ int.from_bytes(new)",
            ),
        )
    ),
    "goes on at the log's start when its position is lost": Mutant(
        seed=3,
        edits=(
            _edit(
                "worker:Worker._read",
                'plan = halted(self._fences[fault.partition], self._states[fault.partition], f"position lost: {fault}")',
                "plan = passed(self._fences[fault.partition], self._states[fault.partition], fault.start)",
            ),
            _edit("following:standstill", "if not start <= state.position <= end:", "if False:"),
        ),
        script=(Strike(60, Fault.REPLICA_AWAY, 7), Strike(70, Fault.TRIMMED_UNREAD, 3)),
    ),
    "takes a topic that was made anew for the same": Mutant(
        seed=3,
        edits=(
            _edit("following:standstill", "if topic.incarnation != state.incarnation:", "if False:"),
            _edit(f"{_PLAN}._control", "if said.incarnation != self.was.incarnation and", "if False and"),
        ),
        script=(Strike(60, Fault.MADE_ANEW, 3),),
    ),
    "marks more than lies on the log": Mutant(
        edits=(_edit("relay:Relay._mark", "count=figures.events,", "count=figures.events + 1,"),)
    ),
    "keeps checkpoints of another count": Mutant(
        edits=(
            _edit(
                "marks:checkpoint",
                "judge(mark, count, input_digest",
                "judge(mark, count - 1, input_digest",
            ),
        )
    ),
    "repairs rows and leaves their figures": Mutant(
        seed=3,
        edits=(_edit("log_truth:_plans", "state=_mended(found, state)", "state=state"),),
        script=(Strike(90, Fault.POSITION_FORWARD, 3),),
    ),
    "scrubs rows and compares them with themselves": Mutant(
        seed=12,
        edits=(_edit("claims:stored", "found.scrubbed[p] != found.states[p].rows", "found.scrubbed[p] != found.scrubbed[p]"),),
    ),
    "commits the position before the rows": Mutant(
        seed=4,
        script=_often(Fault.FAILED),
        edits=(
            _edit(
                "replicas.sql:SqlReplica.apply",
                "        if current:\n            try:\n",
                "        if current:\n"
                "            await tx.put(PARTITIONS, [state_row(projection.id, plan.state) for plan in current])\n"
                "    async with self._database.transaction(durable=durable) as tx:\n"
                "        if current:\n            try:\n",
            ),
        ),
    ),
    "judges a mark by its place and not by its count": Mutant(
        seed=44,
        script=_often(Fault.FROZEN, 150),
        edits=(
            _edit(
                "marks:judge",
                "if mark.epoch < relay_epoch:\n        return MarkVerdict.SUPERSEDED\n    if count > mark.count:\n"
                "        return MarkVerdict.LATE\n    if count == mark.count:",
                "if True:",
            ),
        ),
    ),
    "records as sent what is not appended yet": Mutant(
        script=_often(Fault.FAILED),
        edits=(
            _edit(
                "relay:Relay._relay",
                "    await append(self._log",
                "    entity.unrecorded = held, decided\n    moved = await self._record(entity)\n    await append(self._log",
            ),
        ),
    ),
    "counts duplicates as events": Mutant(
        script=_often(Fault.SENT_AGAIN),
        edits=(_edit(f"{_PLAN}.finished", "count=self.count,", "count=self.count + self.duplicates - self.was.duplicates,"),),
    ),
    "calls diverged what waits for its schema": Mutant(
        script=_often(Fault.SCHEMA_MISSING),
        edits=(_edit("claims:_delivered_in", " and not 0 < missing <= state.uncounted", ""),),
    ),
}
