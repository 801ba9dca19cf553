"""`truecopy doctor`: looks at everything around an app, and says of each thing whether it is well and what to do if not."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from typing import Any

import apsw
from rich.markup import escape
from rich.table import Table

from truecopy_services.app import Truecopy
from truecopy_services.cli.examination import Examination
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import APP_VARIABLE, Verb, app_argument, app_of
from truecopy_services.config import Settings
from truecopy_services.errors import UsageError
from truecopy_services.operating.findings import Finding, Level, failed, warning, well
from truecopy_services.operating.installation import misspelt_variables, normal, packages, python, settings_told
from truecopy_services.operating.lines import escaped
from truecopy_services.sources import origin

__all__ = ["DOCTOR"]

COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILED: "red"}


def _arguments(parser: ArgumentParser) -> None:
    app_argument(parser)


async def _doctor(arguments: Namespace, screen: Screen) -> Exit:
    """Exit code 3 if something does not answer, else 1 if something failed; warnings are 0."""
    named = bool(arguments.app or os.environ.get(APP_VARIABLE))
    # Without an app the log can still be looked at, and what is installed and set.
    app = app_of(arguments.app) if named else Truecopy("doctor")
    found = python(sys.version_info[:3], apsw.sqlite_lib_version())
    try:
        settings = app.settings()
        found += _packages(settings, app.service)
        told = settings_told(settings, stated=app.stated, origin=partial(origin, known=Settings.model_fields))
        found += [*told, *misspelt_variables(os.environ)]
        async with app.open(store=False, make=False) as service:
            with screen.console.status("looking at log, store and replica"):
                found += await Examination(app, service).everything(with_app=named)
    except UsageError as fault:
        found.append(failed("settings", str(fault), "correct it and ask again: nothing that it is about was looked at"))
    return _shown(found, screen)


def _packages(settings: Settings, service: str) -> list[Finding]:
    databases = (settings.store_of(service), settings.replica_of(service))
    needed = {"kafka"} if settings.log_of().startswith("kafka:") else set()
    needed |= {"postgres"} if any(each.startswith("postgres") for each in databases) else set()
    installed = {normal(str(one.metadata["Name"])): one.version for one in metadata.distributions()}
    if "truecopy" not in installed:
        return [
            warning("Truecopy", "not installed as a distribution", "pip install it, so that its requirements can be checked")
        ]
    return [well("Truecopy", installed["truecopy"]), *packages(metadata.requires("truecopy") or [], installed, needed)]


def _shown(found: Sequence[Finding], screen: Screen) -> Exit:
    table = Table()
    for column in ("", "what", "seen", "what to do"):
        table.add_column(column, overflow="fold")
    for one in found:
        colour = COLOURS[one.level]
        told = (escape(escaped(text)) for text in (one.check, one.seen, one.remedy))
        table.add_row(f"[{colour}]{one.level.value}[/{colour}]", *told)
    screen.console.print(table)
    counts = {level.value: sum(one.level is level for one in found) for level in Level}
    screen.say(", ".join(f"{count} {name}" for name, count in counts.items()))
    screen.finish({"well": not counts[Level.FAILED.value], **counts, "checks": [_as_json(one) for one in found]})
    if any(one.away for one in found):
        return Exit.UNREACHABLE
    return Exit.FAILED if counts[Level.FAILED.value] else Exit.GOOD


def _as_json(one: Finding) -> dict[str, Any]:
    return {"check": one.check, "level": one.level.value, "seen": one.seen, "remedy": one.remedy}


DOCTOR = Verb(name="doctor", purpose="look at everything around an app", arguments=_arguments, act=_doctor)
