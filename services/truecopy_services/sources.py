"""Where settings come from, besides arguments: the environment, a folder of secrets, a file. Earlier ones win.

The folder `TRUECOPY_SECRETS_DIR` holds one file for each setting, called `kafka_password` or `truecopy_kafka_password`, as
container engines, Kubernetes and systemd lay them out; other files in it are left alone. One newline at the end is no part of
the value. The file is `TRUECOPY_CONFIG`, or `truecopy.toml` in the working directory if there is one: a table `[truecopy]`, or
the settings at its top level.

Errors name the setting and the place that it came from, and quote no value: any of them may be a secret.
"""

import difflib
import logging
import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from truecopy_services.errors import SettingError

__all__ = ["CONFIG_VARIABLE", "PREFIX", "SECRETS_VARIABLE", "configured", "misspelt", "origin", "secrets", "warn_of_misspelt"]

PREFIX = "TRUECOPY_"
CONFIG_VARIABLE = "TRUECOPY_CONFIG"
SECRETS_VARIABLE = "TRUECOPY_SECRETS_DIR"
CONFIG_FILE = "truecopy.toml"
CONFIG_TABLE = "truecopy"
BYTES_MAX = 1024 * 1024
"""Bytes of a file of settings or of one secret: more is another kind of file."""
NEAR = 0.8
"""Likeness from which on an unknown name is taken for a misspelt one. Others' variables may share our prefix."""
NO_SETTINGS = (
    *(CONFIG_VARIABLE, SECRETS_VARIABLE, "TRUECOPY_APP", "TRUECOPY_CACHE", "TRUECOPY_DEBUG", "TRUECOPY_HOLD"),
    *("TRUECOPY_KAFKA", "TRUECOPY_POSTGRES", "TRUECOPY_TEST_KAFKA", "TRUECOPY_TEST_POSTGRES"),
    *("TRUECOPY_REQUIRE_SERVERS", "TRUECOPY_SERVERS_REPORT"),
)
"""Variables with our prefix that are read elsewhere."""

_log = logging.getLogger("truecopy.settings")
_warned: set[str] = set()


def secrets(known: Collection[str]) -> dict[str, str]:
    """The settings among `known` that have a file in the folder of secrets. Raises SettingError."""
    return {name: _secret(path) for name, path in _secret_files(known).items()}


def configured(known: Collection[str]) -> dict[str, Any]:
    """What the file says of settings, which are all `known`. Raises SettingError, also for a key that is none of them."""
    path = _config_path()
    if path is None:
        return {}
    table = _table(path)
    for key in table:
        if key not in known:
            near = _nearest(key.lower().removeprefix(PREFIX.lower()), known)
            remedy = f"did you mean {near!r}?" if near else "remove it, or look the name up"
            raise SettingError(setting=f"key {key!r}", origin=str(path), seen="there is no such setting", remedy=remedy)
    return dict(table)


def origin(name: str, known: Collection[str]) -> str:
    """Where the setting `name` came from, if it was no argument: in words, for errors."""
    if any(variable.lower() == f"{PREFIX}{name}".lower() for variable in os.environ):
        return "environment variable"
    if path := _secret_files(known).get(name):
        return f"file {path}"
    config = _config_path()
    if config is not None and name in _table(config):
        return f"key {name!r} of {config}"
    return "default"


def misspelt(variables: Collection[str], known: Collection[str]) -> dict[str, str]:
    """The variables with our prefix that are nearly the name of a setting, each with that."""
    names = [f"{PREFIX}{name.upper()}" for name in known]
    ours = [name for name in variables if name.upper().startswith(PREFIX) and name.upper() not in (*names, *NO_SETTINGS)]
    return {name: near for name in sorted(ours) if (near := _nearest(name.upper(), [*names, *NO_SETTINGS]))}


def warn_of_misspelt(known: Collection[str]) -> None:
    """Say once in this process which variables look misspelt."""
    for name, near in misspelt(os.environ, known).items():
        if name not in _warned:
            _warned.add(name)
            _log.warning("environment variable %s is no setting and changes nothing; did you mean %s?", name, near)


def _nearest(name: str, known: Collection[str]) -> str:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=NEAR)), "")


def _secret_files(known: Collection[str]) -> dict[str, Path]:
    if not (folder := os.environ.get(SECRETS_VARIABLE, "")):
        return {}
    try:
        there = {path.name: path for path in Path(folder).iterdir()}
    except OSError as fault:
        seen = f"the folder {folder} can't be read: {fault.strerror}"
        raise SettingError(
            setting=SECRETS_VARIABLE, origin="environment variable", seen=seen, remedy="name a folder that this user can read"
        ) from None
    found: dict[str, Path] = {}
    for name in known:
        paths = [there[one] for one in (name, f"{PREFIX.lower()}{name}") if one in there]
        if len(paths) > 1:
            seen = f"{paths[0].name} and {paths[1].name} are both there"
            raise SettingError(setting=f"{PREFIX}{name.upper()}", origin=f"folder {folder}", seen=seen, remedy="keep one")
        if paths:
            found[name] = paths[0]
    return found


def _secret(path: Path) -> str:
    # Not by strip(): blanks may be a part of a password.
    return (
        _text(path, setting=f"{PREFIX}{path.name.removeprefix(PREFIX.lower()).upper()}").removesuffix("\n").removesuffix("\r")
    )


def _config_path() -> Path | None:
    if named := os.environ.get(CONFIG_VARIABLE, ""):
        return Path(named)
    here = Path(CONFIG_FILE)
    return here if here.exists() else None


def _table(path: Path) -> Mapping[str, Any]:
    try:
        found = tomllib.loads(_text(path, setting=CONFIG_VARIABLE))
    except tomllib.TOMLDecodeError as fault:
        raise SettingError(setting=CONFIG_VARIABLE, origin=f"file {path}", seen=str(fault), remedy="write it as TOML") from None
    ours = found.get(CONFIG_TABLE)
    if not isinstance(ours, dict):
        return found
    outside = next((key for key, value in found.items() if not isinstance(value, dict)), None)
    if outside is not None:
        seen = f"it stands outside of the table [{CONFIG_TABLE}]"
        raise SettingError(setting=f"key {outside!r}", origin=str(path), seen=seen, remedy="move it into the table")
    return ours


def _text(path: Path, *, setting: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES_MAX + 1)
        if len(raw) > BYTES_MAX:
            raise OSError(0, f"it is larger than {BYTES_MAX} bytes")
        return raw.decode()
    except OSError as fault:
        seen = f"it can't be read: {fault.strerror}"
    except UnicodeDecodeError:
        seen = "it is no text in UTF-8"
    raise SettingError(setting=setting, origin=f"file {path}", seen=seen, remedy="correct the file, or what names it")
