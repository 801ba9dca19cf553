"""What is installed, and what is set and where from: findings about this process alone. No secret is ever shown."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from urllib.parse import urlsplit

from pydantic import SecretStr

from truecopy_services.config import Settings
from truecopy_services.opening import shown
from truecopy_services.operating.findings import Finding, failed, warning, well
from truecopy_services.sources import PREFIX, misspelt

__all__ = ["misspelt_variables", "normal", "packages", "python", "settings_told"]

PYTHON_MIN = (3, 11)
SQLITE_MIN = "3.51.3"
"""Older ones can corrupt a write-ahead log under several connections."""
EXTRAS = ("kafka", "postgres", "fast", "control", "servers")
"""The extras of an installation that runs; those for work on Truecopy itself are nobody's concern here."""
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*([^;]*)(?:;(.*))?")
_BOUND = re.compile(r"(>=|<)\s*([0-9][0-9.]*)")


def python(version: tuple[int, int, int], sqlite: str) -> list[Finding]:
    """The interpreter, and the SQLite that apsw brings."""
    told = ".".join(map(str, version))
    old = failed("Python", told, "install Python 3.11 or later, and Truecopy into it")
    stale = failed("SQLite of apsw", sqlite, f"install an apsw that brings {SQLITE_MIN} or later: pip install -U apsw")
    return [
        well("Python", told) if version[:2] >= PYTHON_MIN else old,
        well("SQLite of apsw", sqlite) if _numbers(sqlite) >= _numbers(SQLITE_MIN) else stale,
    ]


def packages(required: Sequence[str], installed: Mapping[str, str], needed: Collection[str]) -> list[Finding]:
    """One for what everything needs, one for each extra. `required` is the distribution's own list, `needed` the extras that
    the settings ask for, `installed` versions by the name that `normal` gives."""
    found = []
    for extra in ("", *EXTRAS):
        check = f"extra {extra}" if extra else "packages"
        mine = [(name, bounds) for name, bounds, marker in map(_parsed, required) if _is_of(marker, extra)]
        missing = [name for name, _ in mine if name not in installed]
        there = [(name, installed[name], bounds) for name, bounds in mine if name in installed]
        wrong = [f"{name} {version} (not {bounds})" for name, version, bounds in there if not _fits(version, bounds)]
        remedy = f"run: pip install 'truecopy[{extra}]'" if extra else "run: pip install truecopy"
        if wrong:
            found.append(failed(check, f"other versions than expected: {', '.join(wrong)}", remedy))
        elif missing and (extra in needed or not extra):
            found.append(failed(check, f"not installed: {', '.join(missing)}", remedy))
        elif missing:
            found.append(well(check, "not installed, and no setting asks for it"))
        else:
            found.append(well(check, ", ".join(f"{name} {installed[name]}" for name, _ in mine)))
    return found


def normal(name: str) -> str:
    """The name of a distribution as all spell it alike (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def settings_told(settings: Settings, *, stated: Collection[str], origin: Callable[[str], str]) -> list[Finding]:
    """Each setting, and whether the app states it, or else the `origin` of a setting of that name."""
    found = []
    for name, about in type(settings).model_fields.items():
        variable = PREFIX + name.upper()
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            told = "set, and not shown"
        elif about.repr:
            told = str(value) if value not in ("", None) else "not set"
        else:
            told = _address(value) if value else "not set"
        found.append(well(variable, f"{told} ({'the app' if name in stated else origin(name)})"))
    return found


def misspelt_variables(environment: Collection[str]) -> list[Finding]:
    """Variables that are nearly a setting's: a misspelt one is otherwise a default that nobody meant."""
    found = misspelt(environment, Settings.model_fields)
    return [warning(name, "no setting of that name", f"is {near} meant? If not, unset it") for name, near in found.items()]


def _address(address: str) -> str:
    """Without credentials and options; an odd one, of which nobody knows where its password ends, is not shown at all."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "set, not an address, and not shown"
    plain = parts.scheme == "sqlite" or address.count("@") == parts.netloc.count("@") <= 1
    return shown(address) if plain else "set, not an address, and not shown"


def _parsed(requirement: str) -> tuple[str, str, str]:
    """(name, bounds, marker)."""
    found = _REQUIREMENT.match(requirement)
    return (normal(found[1]), found[2].strip(), (found[3] or "").strip()) if found else (normal(requirement), "", "")


def _is_of(marker: str, extra: str) -> bool:
    if "platform_" in marker:
        return False  # needed on some machines only
    return marker == "" if not extra else f"extra == '{extra}'" in marker.replace('"', "'")


def _fits(version: str, bounds: str) -> bool:
    """Whether a version keeps to bounds of the forms >= and <; ours have no others."""
    seen = _numbers(version)
    return all((seen >= _numbers(to)) if how == ">=" else (seen < _numbers(to)) for how, to in _BOUND.findall(bounds))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:4])
