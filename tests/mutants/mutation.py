"""A mutant: a few words of one function exchanged, in memory and for a while, wherever the function is already known."""

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """`old` stands in the function `where` (`module:qualified.name`) exactly once, and becomes `new`."""

    where: str
    old: str
    new: str

    def function(self) -> Any:
        module, _, path = self.where.partition(":")
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
        return found

    def edited(self) -> Any:
        """The code of the function with the edit. Raises AssertionError if the words are not there once."""
        function = self.function()
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(self.old) == 1, f"{self.where} has {self.old!r} {source.count(self.old)} times"
        scope = dict(function.__globals__)
        exec(compile(source.replace(self.old, self.new), self.where, "exec"), scope)
        return scope[function.__name__].__code__


@contextmanager
def mutated(*edits: Edit) -> Iterator[None]:
    """The product with these edits, until the block ends."""
    codes = [(edit.function(), edit.function().__code__, edit.edited()) for edit in edits]
    for function, _, code in codes:
        function.__code__ = code
    try:
        yield
    finally:
        for function, code, _ in codes:
            function.__code__ = code
