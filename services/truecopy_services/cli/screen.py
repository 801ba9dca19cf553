"""What a verb shows: text for a person, or one JSON object as the last line of standard output, and an exit code."""

import logging
import sys
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from pydantic_core import to_json
from rich.console import Console

__all__ = ["Exit", "Screen"]


PLAIN_COLUMNS = 120
"""Characters of a line that goes to a file or a pipe."""


class Exit(IntEnum):
    """The exit codes. There is no sixth."""

    GOOD = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    UNEXPECTED = 4


class Screen:
    """With `json`, text goes to standard error, and only the object to standard output.

    With `logs`, lines of text are records of the log, whatever its level: they tell what a process does.
    """

    def __init__(self, *, json: bool) -> None:
        self.json, self.logs = json, False
        width = None if (sys.stderr if json else sys.stdout).isatty() else PLAIN_COLUMNS
        self.console = Console(stderr=json, highlight=False, soft_wrap=True, width=width)

    def say(self, text: str) -> None:
        """A line for a person; it is never read as markup."""
        if self.logs:
            _record(logging.INFO, text)
        else:
            self.console.print(text, markup=False)

    def line(self, text: str) -> None:
        """One line of a stream on standard output, flushed: whoever reads it waits for it."""
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stdout.flush()

    def finish(self, found: Mapping[str, Any]) -> None:
        """The object, if one was asked for: the last thing that a verb does, or that it says of each of its rounds."""
        if self.json:
            sys.stdout.write(to_json(dict(found)).decode() + "\n")
            sys.stdout.flush()

    def fail(self, message: str, code: Exit, *, kind: str) -> None:
        """One line that says what is wrong and what to do. `kind` is the error's class, or "unexpected"."""
        told = " ".join(message.split())
        if self.logs:
            _record(logging.ERROR, told, error=kind, exit=int(code))
        else:
            print(f"truecopy: {told}", file=sys.stderr)
        self.finish({"error": message, "kind": kind, "exit": int(code)})


def _record(level: int, text: str, **about: Any) -> None:
    logger = logging.getLogger("truecopy.cli")
    logger.setLevel(logging.INFO)
    logger.log(level, "%s", text, extra=about)
