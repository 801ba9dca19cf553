"""From the names that are given on a command line to apps and event types."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from truecopy_schemas import Event
from truecopy_services.app import Truecopy
from truecopy_services.errors import AppNotFoundError, UsageError

__all__ = ["event_type", "event_types", "load_app"]


def load_app(name: str) -> Truecopy:
    """The app `module:attribute`, or the only one of `module`, importable from here too.

    Raises AppNotFoundError, also for what the module itself raises.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as fault:
        raise AppNotFoundError(app=name, seen=f"there is no module {fault.name!r}") from None
    except Exception as fault:  # the user's module; whatever it raises, this app can't be had
        raise AppNotFoundError(app=name, seen=f"its module raised {type(fault).__name__}: {fault}") from fault
    if attribute:
        found = getattr(module, attribute, None)
        if not isinstance(found, Truecopy):
            raise AppNotFoundError(app=name, seen=f"{attribute!r} in it is {type(found).__name__}, expected a Truecopy")
        return found
    apps = {key: value for key, value in vars(module).items() if isinstance(value, Truecopy)}
    if len({id(app) for app in apps.values()}) != 1:
        raise AppNotFoundError(app=name, seen=f"the module has {', '.join(apps) or 'no Truecopy'}, expected one")
    return next(iter(apps.values()))


def event_type(name: str) -> type[Event]:
    """The event class of a full name, a class name, or an entity that has one event type. Raises UsageError.

    Event classes are known once their module is imported.
    """
    known = event_types()
    found = {full: cls for full, cls in known.items() if name in (full, cls.__name__, cls.__entity__)}
    if len(found) != 1:
        seen = f"{len(found)} event types are meant by {name!r}" if found else f"no event type is called {name!r}"
        raise UsageError(f"{seen}; name one of {', '.join(sorted(found or known)) or 'those that the app imports'}")
    return next(iter(found.values()))


def event_types() -> dict[str, type[Event]]:
    """Every event class of an entity that this process has imported, by full name."""
    return {cls.__event_name__: cls for cls in _subclasses(Event) if cls.__entity__}


def _subclasses(cls: type[Event]) -> Iterator[type[Event]]:
    for one in cls.__subclasses__():
        yield one
        yield from _subclasses(one)
