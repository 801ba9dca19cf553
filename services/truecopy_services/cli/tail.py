"""`truecopy tail`: the records of an app's entities as they come, decoded, or shown with what is wrong with them."""

import asyncio
import logging
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from truecopy_bus.errors import IncarnationError, LogUnavailableError, TopicMissingError, UnavailableError
from truecopy_bus.limits import READ_WAIT_S
from truecopy_bus.outage import Outage
from truecopy_bus.record import Record, TopicState
from truecopy_bus.upkeep import Upkeep
from truecopy_schemas.errors import TruecopyError
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_argument, app_of, count
from truecopy_services.operating.beginnings import Beginning, Since, beginning
from truecopy_services.operating.entities import declared_entities, named_among
from truecopy_services.operating.lines import Lines, Wanted, as_json, as_text
from truecopy_services.service import Service
from truecopy_services.working import answering_within, first_error, stopped_by_signals

__all__ = ["TAIL"]

BATCH_RECORDS = 1_000
"""Records that one read takes: a signal or a limit is noticed after each."""

_log = logging.getLogger("truecopy.tail")


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)
    parser.add_argument("entity", metavar="ENTITY", nargs="*", help="all of the app's that have a topic if left out")
    told = (
        "beginning, end, an offset, or a time ago such as 90s, 15m, 2h, 1d; the end if left out, with --no-follow the beginning"
    )
    parser.add_argument("--from", dest="begin", metavar="WHERE", help=told)
    parser.add_argument("--key", metavar="KEY", help="only this key")
    parser.add_argument("--type", metavar="TYPE", help="only this event type, by its full name or its last part")
    parser.add_argument("--control", action="store_true", help="show genesis records and marks too")
    parser.add_argument("--limit", type=count, metavar="N", help="end after N records were shown")
    parser.add_argument("--no-follow", action="store_true", help="end where the log stood at the start")


async def _tail(arguments: Namespace, screen: Screen) -> Exit:
    app = app_of(arguments.app)
    entities = named_among(declared_entities(app), arguments.entity)
    begin = beginning(arguments.begin or ("beginning" if arguments.no_follow else "end"))
    stop = asyncio.Event()
    with stopped_by_signals(stop, say=lambda _: None):
        async with app.open(store=False) as service:
            topics = await _topics(service, entities, named=bool(arguments.entity), screen=screen)
            async with answering_within(service.settings.timeout_s, "the registry of schemas on the log"):
                with suppress(TopicMissingError):  # then nobody has claimed an id
                    await service.registry.refresh()
            wanted = Wanted(key=arguments.key, type=arguments.type, control=arguments.control)
            shown = _Shown(screen, wanted, arguments.limit, stop)
            tails = [_Tail(service, topic, shown) for topic in topics]
            for one in tails:
                await one.begin(begin)
            await _until(stop, [one.run(follow=not arguments.no_follow) for one in tails])
    screen.finish(
        {
            "shown": shown.shown,
            "read": shown.read,
            "unreadable": shown.unreadable,
            "positions": {one.topic.name: one.at for one in tails},
        }
    )
    return Exit.GOOD


async def _topics(service: Service, entities: Sequence[str], *, named: bool, screen: Screen) -> list[TopicState]:
    """The topics that there are. Raises TopicMissingError if one that was named is not there, or none is."""
    found: list[TopicState] = []
    missing: TopicMissingError | None = None
    for entity in entities:
        try:
            async with answering_within(service.settings.timeout_s, "the log"):
                found.append(await service.log.describe(service.settings.topic_prefix + entity))
        except TopicMissingError as fault:
            if named:
                raise
            missing = fault
            screen.say(f"{entity} has no topic yet, and is left out")
    if not found and missing is not None:
        raise missing
    return found


async def _until(stop: asyncio.Event, tails: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all to their end, or until `stop` is set. Raises what one of them raises."""
    running = asyncio.create_task(_all(tails))
    tasks: set[asyncio.Task[Any]] = {running, asyncio.create_task(stop.wait())}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not running.cancelled():
        running.result()


async def _all(tails: Sequence[Coroutine[Any, Any, None]]) -> None:
    with first_error():
        async with asyncio.TaskGroup() as group:
            for one in tails:
                group.create_task(one)


class _Shown:
    """What was shown so far; sets `stop` at the limit."""

    def __init__(self, screen: Screen, wanted: Wanted, limit: int | None, stop: asyncio.Event) -> None:
        self._screen, self._wanted, self._limit, self._stop = screen, wanted, limit, stop
        self.read = self.shown = self.unreadable = 0
        if limit == 0:
            stop.set()

    def show(self, lines: Lines, record: Record) -> bool:
        """Whether more may be shown."""
        if self._limit is not None and self.shown >= self._limit:
            return False
        line = lines.read(record)
        self.read += 1
        if self._wanted(line):
            self._screen.line(as_json(line) if self._screen.json else as_text(line))
            self.shown += 1
            self.unreadable += bool(line.why)
            if self.shown == self._limit:
                self._stop.set()
        return True


class _Tail:
    """One topic on its way to the screen. `at` is the next offset of each partition."""

    def __init__(self, service: Service, topic: TopicState, shown: _Shown) -> None:
        self._service, self.topic, self._shown = service, topic, shown
        self._lines = Lines(topic.name, service.registry.state)
        self._since: Since | None = None
        self._outage = Outage(_log, topic.name)
        self.at: dict[int, int] = {}

    async def begin(self, begin: Beginning) -> None:
        """Find the first offsets. Raises LogUnavailableError."""
        self.at = begin.positions(self.topic.bounds)
        if begin.ago_ms is not None:
            at_ms = time.time_ns() // 1_000_000 - begin.ago_ms
            if isinstance(self._service.log, Upkeep):
                self.at |= await self._service.log.since(self.topic.name, at_ms)
            else:
                self._since = Since(at_ms)

    async def run(self, *, follow: bool) -> None:
        """Show until the end as it was known at the start, or for ever: then what goes away is waited for."""
        reader = self._service.log.reader(self.topic.name)
        stalls_at = time.monotonic() + self._service.settings.timeout_s
        try:
            while left := self.at if follow else self._left():
                try:
                    records = await reader.read(left, records_max=BATCH_RECORDS, wait_s=READ_WAIT_S)
                    await self._learn(records)
                except UnavailableError as fault:
                    if not follow:
                        raise
                    await asyncio.sleep(self._outage.strike(fault))
                    await self._same_life()
                    continue
                self._outage.over()
                if records:
                    stalls_at = time.monotonic() + self._service.settings.timeout_s
                elif not follow and time.monotonic() > stalls_at:
                    seen = f"nothing was read from {left} on, below {self.topic.bounds}"
                    raise LogUnavailableError(log=self.topic.name, seen=seen)
                if not self._show(records, follow=follow):
                    return
                await asyncio.sleep(0)  # for the other topics, and for a signal
        finally:
            await reader.close()

    def _left(self) -> dict[int, int]:
        return {partition: at for partition, at in self.at.items() if at < self.topic.bounds[partition][1]}

    def _show(self, records: Sequence[Record], *, follow: bool) -> bool:
        """Whether more may be shown."""
        for record in records:
            due = follow or record.offset < self.topic.bounds[record.partition][1]
            if due and (self._since is None or self._since(record)) and not self._shown.show(self._lines, record):
                return False
            self.at[record.partition] = record.offset + 1
        return True

    async def _learn(self, records: Sequence[Record]) -> None:
        """Read the registry on for ids that nobody had claimed yet; a registry that can't be read leaves them unknown."""
        if self._lines.unknown(records):
            try:
                await self._service.registry.refresh()
            except UnavailableError:
                raise
            except TruecopyError as fault:
                _log.warning("schemas of %s stay unknown: %s", self.topic.name, fault)

    async def _same_life(self) -> None:
        """Raises IncarnationError if the topic was made anew while it was away."""
        with suppress(UnavailableError):
            seen = (await self._service.log.describe(self.topic.name)).incarnation
            if seen is not None and self.topic.incarnation not in (None, seen):
                raise IncarnationError(topic=self.topic.name, known=str(self.topic.incarnation), seen=seen)


TAIL = Verb(name="tail", purpose="show an app's records as they come, like tail -f", arguments=_arguments, act=_tail)
