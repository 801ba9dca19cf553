"""A stage of the drill: a log, an owner and a replica with the flow of a process of its own, and what is done to the replica.

A stage has one projection. A round alters many things at once, some while its worker is at work, some while that rests; then it
is checked, repaired, and certified, while events flow.
"""

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.corruption.behind import Behind, BehindSqlite
from tests.corruption.injections import (
    AT_REST,
    OF_FIGURES,
    OF_RECORDS,
    OF_ROWS,
    OLDER,
    OLDER_KEYS,
    SHIFT_MAX,
    Inject,
    Injection,
    Target,
    index_overwritten,
    older_page,
    older_rows,
)
from tests.corruption.intended import Intent
from tests.corruption.judging import Judgement, Named, judged
from tests.corruption.ledger import PARTITIONS, app

from truecopy_bus.errors import DatabaseCorruptError, TopicMissingError, UnavailableError
from truecopy_bus.partitioner import partition_of
from truecopy_bus.record import Outgoing
from truecopy_projections.digest import bucket_of
from truecopy_projections.errors import UnknownProjectionError
from truecopy_projections.limits import CHECK_POLL_S
from truecopy_projections.projection import Projection
from truecopy_projections.verdicts import Report, Verdict
from truecopy_services import Service, Settings

ROOT = Path(__file__).parent.parent.parent
ENTITY = "bank.account"
ANSWERS_WITHIN_S = 180.0
CERTIFIED_WITHIN_S = 240.0
MOVING_SHARE = 0.3
"""Share of the altered rows that the flow goes on writing."""
FOREIGN_RECORDS = 40
"""Records without a key on the log: they wait in quarantine and park nobody."""
QUICK = {
    "TRUECOPY_LEASE_S": "1.5",
    "TRUECOPY_READ_WAIT_S": "0.2",
    "TRUECOPY_MARK_WRITING_S": "0.5",
    "TRUECOPY_MARK_IDLE_S": "1",
    "TRUECOPY_CHECK_WAIT_S": "3",
    "TRUECOPY_STATEMENT_TIMEOUT_S": "60",
    "TRUECOPY_TIMEOUT_S": "30",
}


class FlowProcess:
    """The flow, spoken to in lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.committed = 0
        self.done: Counter[str] = Counter()

    @staticmethod
    async def start(
        settings: Mapping[str, str], intent: Intent, *, rate: int, roles: str, trouble: bool = False
    ) -> "FlowProcess":
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRUECOPY_")}
        figures = (intent.seed, intent.quiet, intent.moving, rate)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.corruption.flow",
            roles,
            *map(str, figures),
            "yes" if trouble else "no",
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**inherited, **settings},
        )
        flow = FlowProcess(process)
        await flow._hears("begun")
        return flow

    async def ask(self, word: str) -> int:
        """Say a word, and wait until it is done. The events committed by then."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())
        await self._hears(word)
        return self.committed

    async def _hears(self, word: str) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            line = (await self._process.stdout.readline()).decode().split()
        assert line[:1] == [word], f"the flow was to say {word!r}, it said {line}; its errors are above"
        if len(line) > 1:
            self.committed = int(line[1])
            self.done = Counter({name: int(number) for name, _, number in (told.partition("=") for told in line[2:])})

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one injection. `found_s` are seconds until the report that names it; None: cured, or missed."""

    injection: Injection
    found_s: float | None
    located: bool
    cured: bool
    repaired: bool
    certified: bool


@dataclass(slots=True, kw_only=True)
class Stage:
    """See the module's text."""

    settings: Settings
    projection: Projection[Any]
    intent: Intent
    flow: FlowProcess
    behind: Behind
    draw: random.Random
    outcomes: list[Outcome] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    last: Report | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Service]:
        async with app.at(self.settings).open(store=False) as service:
            yield service

    async def prepare(self) -> None:
        """Put records of others on the log, and keep older copies. The quiet keys have one version less than they will have."""
        async with self.opened() as service:
            await self.settled(service)
            for number in range(FOREIGN_RECORDS):
                value = f"what another program wrote, number {number}".encode()
                await service.log.append(self.settings.topic_prefix + ENTITY, number % PARTITIONS, [Outgoing(None, value, 0)])
            await self.settled(service)
        await self.flow.ask("rest")
        if not self.projection.key:
            await self.behind.fetch(f"CREATE TABLE {OLDER} AS SELECT * FROM {self.projection.table}")
        await self.behind.keep()
        await self.flow.ask("work")
        await self.flow.ask("go")
        async with self.opened() as service:
            # A position that is moved back must not have the last versions of quiet keys applied once more.
            while (await self.settled(service)).count < self.intent.first + 2 * SHIFT_MAX * PARTITIONS:
                pass

    async def round(self, live: Sequence[Inject], resting: Sequence[Inject], *, files: bool) -> None:
        """Alter, check, repair, certify."""
        injected: list[Injection] = []
        free = Free(self)
        for inject in live:
            await free.inject(inject, injected, moving=self.draw.random() < MOVING_SHARE)
        await self.flow.ask("rest")
        for inject in resting:
            await free.inject(inject, injected, moving=inject in OF_ROWS and self.draw.random() < MOVING_SHARE)
        if files:
            await free.inject(older_page if isinstance(self.behind, BehindSqlite) else index_overwritten, injected)
        await self.flow.ask("work")
        async with self.opened() as service:
            await self.examine(service, injected)

    async def examine(self, service: Service, injected: Sequence[Injection]) -> None:
        """Check, judge, repair, certify."""
        errors: list[str] = []
        report = await self.reported(service, errors)
        found_s = time.monotonic()
        if report.stored.facts.get("keys_unreachable"):
            await self.behind.reindex(self.projection.table)
        repaired = await service.repair(self.projection, apply=True, share_max=1.0)
        named = Named.of(report, repaired, errors)
        judgement = judged(injected, named, PARTITIONS)
        self.note(judgement, named, found_s, certified=await self.certified(service))

    async def reported(self, service: Service, errors: list[str]) -> Report:
        """One deep check. What the database says itself of a damaged index is noted, and the remedy applied that it names."""
        while True:
            try:
                (report,) = await service.check(self.projection, deep=True)
            except DatabaseCorruptError as fault:
                if errors:
                    raise
                errors.append(str(fault))
                await self.behind.reindex(self.projection.table)
            else:
                if "beyond the end" not in report.computed.why:
                    return report
                await asyncio.sleep(
                    CHECK_POLL_S
                )  # a position was moved ahead of what the log holds by now: nothing can be folded

    async def certified(self, service: Service) -> bool:
        """Check until it is EQUAL, as parked keys are tried again by the workers; sign."""
        report: Report | None = None
        try:
            async with asyncio.timeout(CERTIFIED_WITHIN_S):
                report = await self.settled(service)
        except TimeoutError:
            return False
        return bool(await service.certify(report))

    async def settled(self, service: Service) -> Report:
        """The first deep check that says EQUAL."""
        while True:
            try:
                (report,) = await service.check(self.projection, deep=True)
            except (TopicMissingError, UnavailableError, UnknownProjectionError) as fault:
                if isinstance(fault, DatabaseCorruptError):
                    raise
                await asyncio.sleep(CHECK_POLL_S)  # the flow has not come that far
                continue
            self.last = report
            if report.verdict is Verdict.EQUAL:
                return report

    def note(self, judgement: Judgement, named: Named, at_s: float, *, certified: bool) -> None:
        projection = self.projection
        for one in (*judgement.found, *judgement.cured, *judgement.missed):
            found, cured = one in judgement.found, one in judgement.cured
            outcome = Outcome(
                injection=one,
                found_s=at_s - one.at_s if found else None,
                located=one in judgement.located,
                cured=cured,
                repaired=certified,
                certified=certified,
            )
            self.outcomes.append(outcome)
            if not (cured or (found and outcome.located)):
                self.faults.append(
                    f"{projection.id}: {'not located' if found else 'missed'}: {one}, without {named.lacking(one)}"
                )
        self.faults += [f"{projection.id}: named and not altered: {one}" for one in judgement.extra]
        if not certified and self.last is not None:
            claims = (self.last.delivered, self.last.computed, self.last.stored)
            self.faults.append(
                f"{projection.id}: not certified: {[claim.why for claim in claims]}, {self.last.differences[:5]}"
            )

    async def end(self) -> int:
        """Let all arrive, prove all, and compare every row with what was intended. The events."""
        events = await self.flow.ask("end")
        projection = self.projection
        async with self.opened() as service:
            async with asyncio.timeout(CERTIFIED_WITHIN_S):
                while (await self.settled(service)).count != events:
                    pass
            async with service.replica_adapter.snapshot() as snapshot:
                rows = {
                    (key, projection.sub_key(row.values)): row.values
                    async for batch in snapshot.rows(projection)
                    for key, _, row in batch
                }
        if rows != self.intent.rows(events)[projection.name]:
            self.faults.append(f"{projection.id}: its rows are not those that were intended")
        return events


class Free:
    """Rows and partitions of a round that nothing was done to yet: no two injections meet."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._taken: set[str] = set()
        self._figures = set(range(PARTITIONS))

    async def inject(self, inject: Inject, injected: list[Injection], *, moving: bool = False) -> None:
        stage, draw = self._stage, self._stage.draw
        several = OLDER_KEYS if inject is older_rows else 1
        if (inject in (older_rows, older_page) and stage.projection.key) or (inject in OF_FIGURES and not self._figures):
            return
        key = self._key(several, moving=moving)
        partition = partition_of(key, PARTITIONS)
        if inject in OF_FIGURES:
            partition = draw.choice(sorted(self._figures))
            self._figures.remove(partition)
        target = Target(
            behind=stage.behind,
            projection=stage.projection,
            key=key,
            sub=(1,) if stage.projection.key else (),
            partition=partition,
            partitions=PARTITIONS,
            moving=moving,
            draw=draw,
            aside=await self._is_aside(key),
        )
        done = await inject(target)
        if done is not None:
            injected.append(done)

    async def _is_aside(self, key: str) -> bool:
        sql = f"SELECT 1 FROM {self._stage.projection.table}_keys WHERE bucket = $1 AND key = $2"
        return bool(self._stage.projection.key or await self._stage.behind.fetch(sql, bucket_of(key), key))

    def _key(self, several: int, *, moving: bool) -> str:
        """The first of so many neighbouring keys that are free."""
        intent, draw = self._stage.intent, self._stage.draw
        while True:
            number = draw.randrange((intent.moving if moving else intent.quiet) - several)
            keys = [f"{'m' if moving else 'q'}{number + more:05d}" for more in range(several)]
            if self._taken.isdisjoint(keys):
                self._taken.update(keys)
                return keys[0]


def plan(draw: random.Random, injections: int) -> tuple[list[Inject], list[Inject]]:
    """The kinds of a round: each at least once if there is room, half of those of rows while workers are at work."""
    kinds = [*OF_ROWS, *OF_FIGURES, *OF_RECORDS, *AT_REST]
    chosen = [kinds[at % len(kinds)] for at in range(injections)]
    live = [one for at, one in enumerate(chosen) if one in OF_ROWS and at // len(kinds) % 2 == 0]
    resting = [one for at, one in enumerate(chosen) if one not in OF_ROWS or at // len(kinds) % 2]
    draw.shuffle(live)
    draw.shuffle(resting)
    return live, resting


@asynccontextmanager
async def staged(
    projection: Projection[Any],
    addresses: Mapping[str, str],
    folder: Path,
    behind: Behind,
    *,
    intent: Intent,
    rate: int,
    namespace: str,
) -> AsyncIterator[Stage]:
    """A stage at these addresses, prepared."""
    variables = {"TRUECOPY_NAMESPACE": namespace, "TRUECOPY_HOME": str(folder), **QUICK, **addresses}
    given = {name.removeprefix("TRUECOPY_").lower(): value for name, value in variables.items()}
    flow = await FlowProcess.start(variables, intent, rate=rate, roles=f"publish,{projection.name}")
    try:
        stage = Stage(
            settings=Settings.load(**given),
            projection=projection,
            intent=intent,
            flow=flow,
            behind=behind,
            draw=random.Random(intent.seed),
        )
        await stage.prepare()
        yield stage
    finally:
        await flow.kill()
