"""The command line: one table of verbs, `--json` for each, five exit codes, and no traceback that was not asked for."""

import asyncio
import os
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from truecopy_bus.errors import AddressError, DatabaseCorruptError, InvalidTokenError, TopicMissingError, UnavailableError
from truecopy_projections.errors import NotReachedError, ProjectionError, UnknownProjectionError, UnknownVersionError
from truecopy_schemas.errors import InvalidEventError, InvalidSchemaError, TruecopyError
from truecopy_services.cli.bench import BENCH
from truecopy_services.cli.bootstrap import BOOTSTRAP
from truecopy_services.cli.certify import CERTIFY
from truecopy_services.cli.check import CHECK
from truecopy_services.cli.demo import DEMO
from truecopy_services.cli.dev import DEV
from truecopy_services.cli.doctor import DOCTOR
from truecopy_services.cli.get import GET
from truecopy_services.cli.history import HISTORY
from truecopy_services.cli.publish import PUBLISH
from truecopy_services.cli.quarantine import QUARANTINE
from truecopy_services.cli.rebuild import REBUILD
from truecopy_services.cli.repair import REPAIR
from truecopy_services.cli.replay import REPLAY
from truecopy_services.cli.restore import RESTORE
from truecopy_services.cli.rollback import ROLLBACK
from truecopy_services.cli.run import RUN
from truecopy_services.cli.schema import SCHEMA
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.scrub import SCRUB
from truecopy_services.cli.status import STATUS
from truecopy_services.cli.swap import SWAP
from truecopy_services.cli.tail import TAIL
from truecopy_services.cli.topics import TOPICS
from truecopy_services.cli.verify import VERIFY
from truecopy_services.config import Settings
from truecopy_services.errors import DeclarationError, SettingError, UsageError
from truecopy_services.logs import configure

__all__ = ["VERBS", "main"]

VERBS = (
    *(DEV, RUN, PUBLISH, GET, STATUS, TAIL),
    *(CHECK, SCRUB, CERTIFY, VERIFY, REPAIR, BOOTSTRAP, QUARANTINE),
    *(HISTORY, ROLLBACK, REPLAY, RESTORE, REBUILD, SWAP),
    *(TOPICS, SCHEMA, DOCTOR, BENCH, DEMO),
)

EXITS: tuple[tuple[tuple[type[BaseException], ...], Exit], ...] = (
    ((DatabaseCorruptError,), Exit.FAILED),
    ((UnavailableError, TopicMissingError, NotReachedError, UnknownProjectionError), Exit.UNREACHABLE),
    (
        (
            UsageError,
            AddressError,
            DeclarationError,
            InvalidEventError,
            InvalidSchemaError,
            InvalidTokenError,
            ProjectionError,
            UnknownVersionError,
        ),
        Exit.USAGE,
    ),
    ((TruecopyError,), Exit.FAILED),
)
"""The first row that an error is of decides its exit code."""


DEBUG_VARIABLE = "TRUECOPY_DEBUG"


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def main(words: Sequence[str] | None = None) -> int:
    """Run the verb that `words` name, by default those of this process. Returns the exit code."""
    given = sys.argv[1:] if words is None else list(words)
    screen = Screen(json="--json" in given)
    try:
        arguments = _parser().parse_args(given)
        with suppress(SettingError):  # the verb says so itself, if it needs settings at all
            settings = Settings.load()
            configure(settings.log_format, settings.log_level)
            screen.logs = settings.log_format == "json"
        return int(asyncio.run(arguments.act(arguments, screen)))
    except TruecopyError as fault:
        code = next(code for classes, code in EXITS if isinstance(fault, classes))
        _trace()
        screen.fail(str(fault), code, kind=type(fault).__name__)
        return int(code)
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter's last flush must not complain of it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.FAILED)
    except KeyboardInterrupt:
        return 130
    except Exception as fault:  # the last resort: a script reads an object and a code here too
        _trace()
        screen.fail(_unexpected(fault), Exit.UNEXPECTED, kind="unexpected")
        return int(Exit.UNEXPECTED)


def _trace() -> None:
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exc()


def _unexpected(fault: Exception) -> str:
    """What is no error of ours, by class and place: its text may quote an address with its password."""
    place = traceback.extract_tb(fault.__traceback__)[-1]
    return (
        f"unexpected {type(fault).__name__} at {os.path.basename(place.filename)}:{place.lineno}, expected none: a fault of "
        f"Truecopy or of the app; set {DEBUG_VARIABLE}=1 and do it again to see the traceback, which may quote data"
    )


def _parser() -> ArgumentParser:
    parser = _Parser(prog="truecopy", description="Keeps every service's copy of the data in step, and proves it.")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for verb in VERBS:
        one = verbs.add_parser(verb.name, help=verb.purpose, description=verb.purpose)
        verb.arguments(one)
        one.add_argument("--json", action="store_true", help="print one object as the last line of standard output")
        one.set_defaults(act=verb.act)
    return parser
