"""`truecopy demo`: real purchases, a killed worker, a proof, a damaged row and its repair; or a git repository's history."""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, count
from truecopy_services.errors import UsageError

__all__ = ["DEMO"]


COMMITS = 20
"""Commits whose trees are compared, unless another number is asked for."""
SEED = 1
"""What draws them, unless told."""


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", nargs="?", choices=["purchases", "git"], default="purchases",
                        help="purchases (by default), or git: the history of a repository")  # fmt: skip
    parser.add_argument(
        "repository", metavar="REPO", nargs="?", type=Path, help="with git: a local repository; by default here"
    )
    parser.add_argument("--kafka", action="store_true", help="on a real Kafka: the one in TRUECOPY_LOG, or its own")
    parser.add_argument("--postgres", action="store_true", help="on a real PostgreSQL: in TRUECOPY_REPLICA, or its own")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="leave files, databases and topics to be looked at")

    of_git = parser.add_argument_group("with git")
    of_git.add_argument("--rev", default="HEAD", metavar="REV", help="replicate all that this commit descends from")
    of_git.add_argument("--commits", type=count, default=COMMITS, metavar="N", help="compare the trees of so many commits")
    of_git.add_argument("--seed", type=count, default=SEED, metavar="N", help="draw them by this number")
    of_git.add_argument("--every", action="store_true", help="compare the trees of all commits")
    of_git.add_argument("--at", metavar="COMMIT", help="compare the tree of this commit alone")
    of_git.add_argument("--rollback", metavar="COMMIT", help="then bring the replica back to this commit, and forward again")


async def _demo(arguments: Namespace, screen: Screen) -> Exit:
    on_kafka = arguments.kafka or os.environ.get("TRUECOPY_LOG", "").startswith("kafka:")
    named = (os.environ.get(name, "") for name in ("TRUECOPY_STORE", "TRUECOPY_REPLICA"))
    on_postgres = arguments.postgres or any(address.startswith("postgres") for address in named)
    if arguments.source == "git":
        return await _git(arguments, screen, on_kafka=on_kafka, on_postgres=on_postgres)
    of_git = [name for name in ("at", "rollback", "every", "repository") if getattr(arguments, name)]
    if of_git:
        raise UsageError(f"{', '.join(of_git)}: the demo of purchases has no repository; say `truecopy demo git`")
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
    from truecopy_services.demo.git.story import Asked, tell

    asked = Asked(
        repository=arguments.repository or Path(),
        rev=arguments.rev,
        number=arguments.commits,
        seed=arguments.seed,
        every=arguments.every,
        at=arguments.at,
        rollback=arguments.rollback,
    )
    outcome, faults = await tell(screen, asked, on_kafka=on_kafka, on_postgres=on_postgres, keep=arguments.keep)
    for fault in faults:
        screen.say(f"NOT AS PROMISED: {fault}")
    if not faults and outcome.commits:
        screen.say(
            f"EQUAL: {outcome.commits} commits, the replica's tree as of {len(outcome.proven)} of them and of the last one is "
            f"git's, {outcome.entries} entries, in {outcome.seconds} s"
        )
    screen.finish(outcome.as_json())
    return Exit.FAILED if faults else Exit.GOOD


DEMO = Verb(name="demo", purpose="watch it work on real data, through a kill", arguments=_arguments, act=_demo)
