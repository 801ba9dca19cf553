"""The drill's judgement: what a check and a repair named, held against the injector's own record.

Nothing here asks why; it compares sets. Found: something of an injection is named. Located: all that the record says is named.
Extra: what is named and no record says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.corruption.injections import Injection

from truecopy_bus.partitioner import partition_of
from truecopy_projections.projection import Address
from truecopy_projections.repair import Repair
from truecopy_projections.verdicts import Report


@dataclass(slots=True, kw_only=True)
class Named:
    """What of one projection was named."""

    rows: frozenset[Address] = frozenset()
    keys: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    records: frozenset[tuple[int, int]] = frozenset()
    unreachable: frozenset[str] = frozenset()
    errors: Sequence[str] = ()

    @staticmethod
    def of(report: Report, repair: Repair, errors: Sequence[str]) -> "Named":
        facts: Mapping[str, Any] = report.stored.facts
        return Named(
            rows=frozenset((one.key, one.row) for one in report.differences),
            keys=frozenset(repair.keys) | frozenset(report.parked),
            partitions=frozenset(repair.digests),
            records=frozenset(facts.get("records_differing", ())),
            unreachable=frozenset(facts.get("keys_unreachable", ())),
            errors=errors,
        )

    def lacking(self, one: Injection) -> list[Any]:
        """What the injection's record says and was not named."""
        return [
            *(one.rows - self.rows),
            *(one.keys - self.keys),
            *(one.partitions - self.partitions),
            *(one.records - self.records),
        ]


@dataclass(slots=True, kw_only=True)
class Judgement:
    """Of the injections of one round into one projection. `cured`: written anew before anybody looked."""

    found: list[Injection] = field(default_factory=list)
    located: list[Injection] = field(default_factory=list)
    cured: list[Injection] = field(default_factory=list)
    missed: list[Injection] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)


def judged(injections: Sequence[Injection], named: Named, partitions: int) -> Judgement:
    """Compare."""
    judgement = Judgement()
    shifted = {p for one in injections if one.kind == "position altered" for p in one.partitions}
    for one in injections:
        if one.kind == "index damaged" and named.errors:  # the database told of it, and REINDEX mended all of the index
            found = located = any("REINDEX" in error for error in named.errors)
        else:
            pairs = (
                (one.rows, named.rows),
                (one.keys, named.keys),
                (one.partitions, named.partitions),
                (one.records, named.records),
                (one.unreachable, named.unreachable),
            )
            found = any(mine & theirs for mine, theirs in pairs)
            located = all(mine <= theirs for mine, theirs in pairs)
            if one.moving and not found:  # a repair names what a parked key left behind by its partition alone
                keys = one.keys | {key for key, _ in one.rows}
                found = located = bool(keys & named.keys)
        if found:
            judgement.found.append(one)
            if located or one.moving:
                judgement.located.append(one)
        elif one.moving or (one.records and {p for p, _ in one.records} <= shifted):  # it is read, and so written, once more
            judgement.cured.append(one)
        else:
            judgement.missed.append(one)
    judgement.extra = _extra(injections, named, partitions)
    return judgement


def _extra(injections: Sequence[Injection], named: Named, partitions: int) -> list[str]:
    """What no record accounts for. Where a position was moved, or a key that moves, what follows from it is accounted for."""
    keys = {key for one in injections for key in (*one.keys, *(key for key, _ in one.rows))}
    rows = {row for one in injections for row in one.rows}
    moving = {key for one in injections if one.moving for key in (*one.keys, *(key for key, _ in one.rows))}
    shifted = {p for one in injections if one.kind == "position altered" for p in one.partitions}
    known = {p for one in injections for p in one.partitions} | {partition_of(key, partitions) for key in moving}
    records = {record for one in injections for record in one.records}
    unreachable = {key for one in injections for key in one.unreachable}

    def follows(key: str) -> bool:
        return key in moving or (key.startswith("m") and partition_of(key, partitions) in shifted)

    found = [f"row {row}" for row in sorted(named.rows - rows, key=repr) if not follows(row[0])]
    found += [f"key {key}" for key in sorted(named.keys - keys) if not follows(key)]
    found += [f"partition {p}" for p in sorted(named.partitions - known)]
    found += [f"record {record}" for record in sorted(named.records - records) if record[0] not in shifted]
    found += [f"unreachable {key}" for key in sorted(named.unreachable - unreachable)]
    return found
