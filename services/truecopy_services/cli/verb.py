"""The shape of a verb, and the arguments that verbs share."""

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from truecopy_services.app import Truecopy
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.errors import UsageError
from truecopy_services.loading import load_app

__all__ = ["APP_VARIABLE", "Verb", "app_argument", "app_of", "count", "http_argument", "peers_argument", "seconds", "share"]

APP_VARIABLE = "TRUECOPY_APP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A verb of the command line. `arguments` declares what it takes, `act` does it and returns the exit code."""

    name: str
    purpose: str
    arguments: Callable[[ArgumentParser], None]
    act: Callable[[Namespace, Screen], Awaitable[Exit]]


def app_argument(parser: ArgumentParser) -> None:
    """APP, which may be left out when TRUECOPY_APP names it."""
    told = f"module or module:attribute; {APP_VARIABLE} stands in for it"
    parser.add_argument("app", metavar="APP", nargs="?", help=told)


def http_argument(parser: ArgumentParser) -> None:
    """--http, which wins over TRUECOPY_HTTP."""
    told = "answer /metrics, /health and /ready there; TRUECOPY_HTTP stands in for it; a port alone is on the loopback"
    parser.add_argument("--http", metavar="HOST:PORT", help=told)


def peers_argument(parser: ArgumentParser) -> None:
    """--peer, any number of times."""
    told = "another replica of the projection, to be compared with: sqlite:PATH or postgresql://...; may be given again"
    parser.add_argument("--peer", action="append", default=[], metavar="ADDRESS", help=told)


def app_of(given: str | None) -> Truecopy:
    """The app that was named. Raises UsageError, and whatever the app's module raises."""
    name = given or os.environ.get(APP_VARIABLE, "")
    if not name:
        raise UsageError(f"no app was named; give module or module:attribute, or set {APP_VARIABLE}")
    return load_app(name)


def count(text: str) -> int:
    """A number of an option that can't be below 0."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def share(text: str) -> float:
    """A share of an option, from 0 to 1."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise ArgumentTypeError(f"{text!r} is no share from 0 to 1")
    return found


def seconds(text: str) -> float:
    """A time of an option, above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return found
