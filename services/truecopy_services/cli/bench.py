"""`truecopy bench`: how fast this machine publishes, relays, catches up and shows, each of it proven equal."""

import tempfile
from argparse import ArgumentParser, Namespace
from contextlib import AsyncExitStack
from dataclasses import asdict

from rich.table import Table

from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, count
from truecopy_services.config import Settings
from truecopy_services.errors import UsageError
from truecopy_services.real_servers import real_server
from truecopy_services.working import spare_collector

__all__ = ["BENCH"]

EVENTS = 50_000
RATE, PACED = 200.0, 1_000
"""Events a second, and how many, whose way from commit to commit is timed."""


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--kafka", action="store_true", help="on a Kafka of its own, in place of the embedded log")
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL of its own, in place of SQLite files")
    parser.add_argument("--events", type=count, default=EVENTS, help=f"by default {EVENTS}")


async def _bench(arguments: Namespace, screen: Screen) -> Exit:
    """In a folder and on servers of its own, which end with it: no setting and nobody's data is touched."""
    # Not before: to import it is to declare its entity, which is no user's.
    from truecopy_services.benchmark import workload
    from truecopy_services.benchmark.measuring import catch_up, fill, latency, proven

    events = arguments.events
    if events < workload.VERSIONS:
        raise UsageError(f"--events is {events}, expected {workload.VERSIONS} or more")
    spare_collector()
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="truecopy-bench-"))
        given = {
            "log": f"sqlite:{folder}/log.db",
            "store": f"sqlite:{folder}/store.db",
            "replica": f"sqlite:{folder}/replica.db",
        }
        for kind, names in (("kafka", ("log",)), ("postgres", ("store", "replica"))):
            if getattr(arguments, kind):
                server = await real_server(kind, given=None, stack=stack, say=screen.say)
                screen.say(server.told)
                given |= dict.fromkeys(names, server.url)
        service = await stack.enter_async_context(workload.app(Settings.load(**given)).open())
        figures: dict[str, float] = dict(await fill(service, "repeating", events))
        for name, projection in (("copied", workload.copied), ("reduced", workload.reduced)):
            with screen.console.status(f"catching up, {name}"):
                figures[f"catch_up_{name}"] = events / await catch_up(service, projection, events)
                await proven(service, projection)
        with screen.console.status("timing single events"):
            shown = await latency(service, workload.copied, rate=RATE, events=PACED)
    screen.console.print(_table(figures, shown.p50_ms, shown.p99_ms))
    screen.finish({"events": events, "events_per_second": figures, "latency": asdict(shown)})
    return Exit.GOOD


def _table(figures: dict[str, float], p50_ms: float, p99_ms: float) -> Table:
    table = Table(show_header=False)
    told = {
        "publish": "published through the event store, 5,000 a transaction",
        "relay": "relayed from outbox to log",
        "catch_up_copied": "caught up by a projection that copies, and proven EQUAL",
        "catch_up_reduced": "caught up by a reducer in Python, and proven EQUAL",
    }
    for name, words in told.items():
        table.add_row(words, f"{figures[name]:,.0f} events/s")
    table.add_row(
        f"from the owner's commit to the replica's, at {RATE:.0f} events/s", f"p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms"
    )
    return table


BENCH = Verb(name="bench", purpose="measure publish, relay, catch-up and latency here", arguments=_arguments, act=_bench)
