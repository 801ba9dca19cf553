"""The register of drives: for each bound of the packages what takes it to its limit and one beyond, through the real code."""

import importlib
import inspect
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

__all__ = ["BOUNDS", "BRIEF_S", "DRIVES", "Drive", "default", "drives"]

LAYERS = ("schemas", "bus", "projections", "services")
Drive: TypeAlias = Callable[..., Awaitable[None] | None]
D = TypeVar("D", bound=Drive)

_LIMITS: dict[str, ModuleType] = {
    layer: importlib.import_module(f"truecopy_{layer}.limits") for layer in LAYERS if find_spec(f"truecopy_{layer}.limits")
}
BOUNDS = [f"{layer}.{name}" for layer, limits in _LIMITS.items() for name in limits.__all__]
"""`package.NAME` of every bound there is."""
DRIVES: dict[str, list[Drive]] = {}
"""By bound. A drive asks for pytest's fixtures by the names of its parameters; one that asks for `clock` runs on its time."""
BRIEF_S = 0.001
"""Seconds between just before a limit and the limit."""


def default(of: Callable[..., Any], parameter: str) -> Any:
    """What a call gets that does not say otherwise."""
    return inspect.signature(of).parameters[parameter].default


def drives(bound: str) -> Callable[[D], D]:
    """Register a drive of `bound` (`package.NAME`). A bound may have several: one for each place that it binds."""

    def register(drive: D) -> D:
        DRIVES.setdefault(bound, []).append(drive)
        return drive

    return register
