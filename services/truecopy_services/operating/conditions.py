"""Conditions on the fields of an event or a row, as an operator writes them: `amount>=100`, `customer.country=DE`.

Several of them hold together. A value is read as JSON where it is JSON and as text else, and compared with what the field holds
as JSON would show it: numbers and decimals by value, times and ids as their texts. A field that is missing meets no condition
but `!=`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import orjson
from pydantic_core import to_jsonable_python

from truecopy_services.errors import UsageError

__all__ = ["Where", "where"]

Where = Callable[[Mapping[str, Any]], bool]

_CONDITION = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)\s*(>=|<=|!=|=|>|<|~)\s*(.*?)\s*", re.DOTALL)
_MISSING = object()
_COMPARED: Mapping[str, Callable[[Any, Any], bool]] = {"=": eq, "!=": ne, ">": gt, ">=": ge, "<": lt, "<=": le}


def where(conditions: Iterable[str]) -> Where:
    """A predicate over fields, true where all of these hold. Raises UsageError for what is no condition.

    `=`, `!=`, `<`, `<=`, `>`, `>=` compare, `~` looks for a part of a text. Dots go into records.
    """
    tests = [_condition(text) for text in conditions]
    return lambda fields: all(test(fields) for test in tests)


def _condition(text: str) -> Where:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise UsageError(f"--where {text!r}: write FIELD=VALUE, or one of != < <= > >= ~ in place of =, such as 'amount>=100'")
    path, operator, meant = found[1].split("."), found[2], found[3]
    wanted = _comparable(_read(meant))

    def holds(fields: Mapping[str, Any]) -> bool:
        value: Any = fields
        for name in path:
            value = value.get(name, _MISSING) if isinstance(value, Mapping) else getattr(value, name, _MISSING)
        if value is _MISSING:
            return operator == "!="
        if operator == "~":
            return meant in str(to_jsonable_python(value))
        seen = _comparable(value)
        if type(seen) is not type(wanted):
            return operator == "!="
        return _COMPARED[operator](seen, wanted) if isinstance(seen, Decimal | str) or operator in ("=", "!=") else False

    return holds


def _read(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _comparable(value: Any) -> Any:
    plain = value if isinstance(value, Decimal) else to_jsonable_python(value)
    if isinstance(plain, bool) or plain is None:
        return plain
    if isinstance(plain, int | float | Decimal | str):
        try:
            number = Decimal(str(plain))
        except InvalidOperation:
            return str(plain)
        return number if number.is_finite() else str(plain)
    return plain
