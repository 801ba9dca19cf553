"""The token: what a write returns and a read may demand, "at least this version of this key"."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

import orjson

from truecopy_bus.errors import InvalidTokenError

__all__ = ["Token"]

_PREFIX = "tc1."


@dataclass(frozen=True, slots=True, order=True)
class Token:
    """A version of a key. `str(token)` is safe in URLs and headers; it is no secret and carries no right."""

    entity: str
    key: str
    version: int

    def __str__(self) -> str:
        stated = orjson.dumps([self.entity, self.key, self.version])
        return _PREFIX + urlsafe_b64encode(stated).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Token":
        """The inverse of `str`. Raises InvalidTokenError for any other text."""
        prefix, coded = text[: len(_PREFIX)], text[len(_PREFIX) :]
        try:
            stated = orjson.loads(urlsafe_b64decode(coded + "=" * (-len(coded) % 4)))
        except ValueError as fault:
            raise InvalidTokenError(seen=text) from fault
        match stated:
            case [str(entity), str(key), int(version)] if prefix == _PREFIX and type(version) is int and version > 0:
                return cls(entity, key, version)
        raise InvalidTokenError(seen=text)
