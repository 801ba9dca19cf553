"""Errors of the processes: one class for each thing that whoever started one does next."""

from truecopy_bus.errors import UnavailableError
from truecopy_schemas.errors import TruecopyError

__all__ = ["AppNotFoundError", "DeclarationError", "NoAnswerError", "SettingError", "UnprovenError", "UsageError"]


class UsageError(TruecopyError):
    """What was asked for can't be meant. Ask again as the message says; nothing was done."""


class SettingError(UsageError):
    """A setting can't work. Change it where the message says that it came from."""

    def __init__(self, *, setting: str, seen: str, remedy: str, origin: str = "") -> None:
        super().__init__(f"{setting}{f' ({origin})' if origin else ''}: {seen}; {remedy}")
        self.setting, self.seen, self.remedy, self.origin = setting, seen, remedy, origin


class AppNotFoundError(UsageError):
    """No app of that name can be imported. Name it as `module` or `module:attribute`."""

    def __init__(self, *, app: str, seen: str) -> None:
        super().__init__(f"app {app!r}: {seen}; name it as module or module:attribute, importable from here")
        self.app, self.seen = app, seen


class DeclarationError(TruecopyError):
    """An app declares something twice, or is asked for what it does not declare. Change its code."""


class NoAnswerError(UnavailableError):
    """Log, store and replica did not all answer within the time limit. Try again, or raise TRUECOPY_TIMEOUT_S."""

    def __init__(self, *, what: str, waited_s: float) -> None:
        super().__init__(
            f"{what}: no answer in {waited_s:g} s (TRUECOPY_TIMEOUT_S); check the addresses, or wait until it is back"
        )
        self.what, self.waited_s = what, waited_s


class UnprovenError(TruecopyError):
    """What was measured is not a true copy, so its speed means nothing. Run `truecopy check` to see where it differs."""

    def __init__(self, *, projection: str, verdict: str) -> None:
        super().__init__(f"{projection}: seen {verdict}, expected EQUAL; nothing is measured of a copy that is not proven")
        self.projection, self.verdict = projection, verdict
