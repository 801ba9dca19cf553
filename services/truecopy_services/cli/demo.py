"""`truecopy demo`: real purchases, a killed worker, a proof, a damaged row and its repair."""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb

__all__ = ["DEMO"]


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--kafka", action="store_true", help="on a real Kafka: the one in TRUECOPY_LOG, or its own")
    parser.add_argument("--postgres", action="store_true", help="on a real PostgreSQL: in TRUECOPY_REPLICA, or its own")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="leave files, databases and topics to be looked at")


async def _demo(arguments: Namespace, screen: Screen) -> Exit:
    from truecopy_services.demo.story import tell

    on_kafka = arguments.kafka or os.environ.get("TRUECOPY_LOG", "").startswith("kafka:")
    named = (os.environ.get(name, "") for name in ("TRUECOPY_STORE", "TRUECOPY_REPLICA"))
    on_postgres = arguments.postgres or any(address.startswith("postgres") for address in named)
    outcome, faults = await tell(screen, on_kafka=on_kafka, on_postgres=on_postgres, keep=arguments.keep)
    for fault in faults:
        screen.say(f"NOT AS PROMISED: {fault}")
    if not faults:
        screen.say(
            f"EQUAL: {outcome.published} events, 4 replicas, {outcome.redelivered} redelivered and none applied twice, "
            f"{outcome.oracle_equal} of {outcome.oracle_rows} rows as published, 1 damaged row found and repaired, "
            f"certified, in {outcome.seconds} s"
        )
    screen.finish(outcome.as_json())
    return Exit.FAILED if faults else Exit.GOOD


DEMO = Verb(name="demo", purpose="watch it work on real data, through a kill", arguments=_arguments, act=_demo)
