"""`truecopy demo`: real purchases, a killed worker, a proof, a damaged row, a repair; `demo git`: a repository's history."""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, count
from truecopy_services.errors import UsageError

__all__ = ["DEMO"]

DECLARED = "truecopy_services.demo.git.declared"
"""The app of `demo git`, for other verbs on a folder that was kept."""


def _arguments(parser: ArgumentParser) -> None:
    told = "git: replicate the history of a git repository, and hold the replica against git at many commits"
    parser.add_argument("what", nargs="?", choices=("git",), help=told)
    parser.add_argument("repository", nargs="?", metavar="REPO", type=Path, help="git: the repository; here if left out")
    parser.add_argument("--kafka", action="store_true", help="on a real Kafka: the one in TRUECOPY_LOG, or its own")
    parser.add_argument("--postgres", action="store_true", help="on a real PostgreSQL: in TRUECOPY_REPLICA, or its own")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="leave files, databases and topics to be looked at")
    parser.add_argument("--rev", metavar="REV", help="git: the last commit that is replicated; HEAD if left out")
    parser.add_argument("--commits", metavar="N", type=count, default=20, help="git: prove so many commits, chosen by --seed")
    parser.add_argument("--every", action="store_true", help="git: prove every commit")
    parser.add_argument("--at", metavar="COMMIT", help="git: prove this one")
    parser.add_argument(
        "--rollback", metavar="COMMIT", help="git: roll back to this one, and forward again; the middle if left out"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="git: chooses the commits")


async def _demo(arguments: Namespace, screen: Screen) -> Exit:
    on_kafka = arguments.kafka or os.environ.get("TRUECOPY_LOG", "").startswith("kafka:")
    named = (os.environ.get(name, "") for name in ("TRUECOPY_STORE", "TRUECOPY_REPLICA"))
    on_postgres = arguments.postgres or any(address.startswith("postgres") for address in named)
    if arguments.what == "git":
        return await _git(arguments, screen, on_kafka=on_kafka, on_postgres=on_postgres)
    if arguments.rev or arguments.at or arguments.rollback or arguments.every:
        raise UsageError("--rev, --at, --rollback and --every are of `truecopy demo git`")
    from truecopy_services.demo.story import tell

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


async def _git(arguments: Namespace, screen: Screen, *, on_kafka: bool, on_postgres: bool) -> Exit:
    from truecopy_services.demo.git.declared import FILES, HISTORY, app
    from truecopy_services.demo.git.telling import Asked, tell
    from truecopy_services.demo.places import places

    asked = Asked(
        repository=arguments.repository or Path(),
        rev=arguments.rev or "HEAD",
        commits=None if arguments.every else max(2, arguments.commits),
        at=arguments.at,
        back=arguments.rollback,
        seed=arguments.seed,
    )
    async with (
        places(
            keep=arguments.keep,
            on_kafka=on_kafka,
            on_postgres=on_postgres,
            settings={},
            say=screen.say,
            services=(app.service,),
            topics=(FILES, HISTORY),
            resumes=True,
        ) as where,
        app.at(where.settings(app.service)).open() as service,
    ):
        with screen.console.status(f"reading {asked.repository}") as status:
            outcome = await tell(asked, service, screen.say, status.update)
    for fault in outcome.faults:
        screen.say(f"NOT AS PROMISED: {fault}")
    if not outcome.faults:
        screen.say(f"EQUAL: {outcome.events:,} events, {outcome.proven:,} commits proven, rolled back and forward again")
    if arguments.keep is not None:
        screen.say(f"look around: TRUECOPY_HOME={arguments.keep} truecopy status {DECLARED}")
    screen.finish(outcome.as_json())
    return Exit.FAILED if outcome.faults else Exit.GOOD


DEMO = Verb(name="demo", purpose="watch it work on real data, through a kill", arguments=_arguments, act=_demo)
