"""Where the schemas behind the ids of a foreign topic are found: a Confluent registry's REST, a folder, or our own log.

A source only answers; it keeps what it found, and for a moment what it did not find. Files and HTTP are read beside the
event loop. What a source gives may be anything in JSON: whether it is a schema that can be read, its reader says.
"""

import asyncio
import base64
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import orjson

from truecopy_bus.errors import SchemasUnavailableError
from truecopy_bus.limits import SCHEMA_ANSWER_BYTES_MAX, SCHEMA_MISSING_S, SCHEMA_WAIT_S
from truecopy_schemas.avro_schema import fingerprint
from truecopy_schemas.compatibility import Compatibility
from truecopy_schemas.errors import UnknownSchemaError
from truecopy_schemas.registry import Registered

__all__ = ["OWN_LOG", "SchemaSource", "schema_source"]

OWN_LOG = "log:"
"""The address of our own registry, for others that take their ids from it."""
_NO_SUCH_SCHEMA = 40403
"""Confluent's error code: the registry is there and does not know the id. Another 404 is from something else."""
_PIECE_BYTES = 64 * 1024


class SchemaSource(Protocol):
    """What Registry offers to readers, and so do the sources of foreign topics."""

    async def refresh(self) -> None:
        """Learn what is new, where that is not done one by one."""
        ...

    async def schema(self, schema_id: int) -> Registered:
        """The schema of an id. Raises UnknownSchemaError, UnavailableError."""
        ...


def schema_source(address: str, registry: SchemaSource) -> SchemaSource:
    """The source at `http(s)://[user:password@]host[:port][/path]`, `folder:PATH` or `log:`, which is `registry`.

    Nothing is touched before the first question. Raises ValueError for another address, which it does not quote.
    """
    scheme, _, rest = address.partition(":")
    if address == OWN_LOG:
        return registry
    if scheme == "folder" and rest:
        return _Asked(address, _Folder(address, Path(rest)))
    if scheme in ("http", "https") and urlsplit(address).hostname:
        rest_api = _Rest(address)
        return _Asked(rest_api.name, rest_api)
    raise ValueError("no schema source has an address like it, expected http(s)://host:port, folder:PATH or log:")


class _Asked:
    """A source that is asked for one schema at a time. `ask` blocks, and is called in a thread."""

    def __init__(self, name: str, ask: Callable[[int], Any]) -> None:
        self._name, self._ask = name, ask
        self._found: dict[int, Registered] = {}
        self._missing: dict[int, float] = {}

    async def refresh(self) -> None:
        """Nothing: it is asked when an id is met."""

    async def schema(self, schema_id: int) -> Registered:
        if schema_id in self._found:
            return self._found[schema_id]
        now = time.monotonic()
        self._missing = {one: until for one, until in self._missing.items() if until > now}
        if schema_id in self._missing:
            raise UnknownSchemaError(schema_id)
        schema = await asyncio.to_thread(self._ask, schema_id)
        if schema is None:
            self._missing[schema_id] = time.monotonic() + SCHEMA_MISSING_S
            raise UnknownSchemaError(schema_id)
        found = self._found[schema_id] = Registered(
            id=schema_id,
            subject=self._name,
            version=1,
            fingerprint=fingerprint(schema),
            schema=schema,
            compatibility=Compatibility.NONE,
            rules=0,
        )
        return found


class _Folder:
    """`<id>.avsc` in a folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder

    def __call__(self, schema_id: int) -> Any:
        try:
            with (self._folder / f"{schema_id}.avsc").open("rb") as file:
                text = file.read(SCHEMA_ANSWER_BYTES_MAX + 1)
        except FileNotFoundError:
            if self._folder.is_dir():
                return None
            raise SchemasUnavailableError(source=self._name, seen="there is no such folder") from None
        except OSError as fault:
            raise SchemasUnavailableError(source=self._name, seen=str(fault)) from fault
        if len(text) > SCHEMA_ANSWER_BYTES_MAX:
            seen = f"{schema_id}.avsc has more than {SCHEMA_ANSWER_BYTES_MAX} bytes"
            raise SchemasUnavailableError(source=self._name, seen=seen)
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as fault:  # being written, or one to mend: it is read again
            raise SchemasUnavailableError(source=self._name, seen=f"{schema_id}.avsc holds no JSON: {fault}") from None


class _Rest:
    """The part of Confluent's registry API that a reader needs: GET /schemas/ids/{id}."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        login, _, host = parts.netloc.rpartition("@")
        self.name = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        self._login = f"Basic {base64.b64encode(unquote(login).encode()).decode()}" if login else ""

    def __call__(self, schema_id: int) -> Any:
        accepted = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        request = urllib.request.Request(f"{self.name}/schemas/ids/{schema_id}", headers=accepted)
        if self._login:  # not for whom the answer may refer to
            request.add_unredirected_header("Authorization", self._login)
        try:
            status, said = _answered(request)
        except (OSError, HTTPException, ValueError) as fault:  # no connection, no time, no HTTP, no end
            raise SchemasUnavailableError(source=self.name, seen=str(fault) or repr(fault)) from fault
        stated = _object(said)
        if status == HTTPStatus.NOT_FOUND and stated.get("error_code") == _NO_SUCH_SCHEMA:
            return None
        if status != HTTPStatus.OK or "schema" not in stated:
            raise SchemasUnavailableError(source=self.name, seen=f"it answered {status}, and no schema")
        if (kind := stated.get("schemaType") or "AVRO") != "AVRO":
            return {"type": str(kind)}
        try:
            return orjson.loads(str(stated["schema"]))
        except orjson.JSONDecodeError:
            return {"type": "unreadable"}


def _answered(request: urllib.request.Request) -> tuple[int, bytes]:
    """Status and body of an answer, whatever it is."""
    deadline = time.monotonic() + SCHEMA_WAIT_S
    try:
        answer = urllib.request.urlopen(request, timeout=SCHEMA_WAIT_S)
    except urllib.error.HTTPError as refusal:
        answer = refusal
    with answer:
        return answer.status, _read(answer, deadline)


def _read(answer: Any, deadline: float) -> bytes:
    """A whole body. Raises TimeoutError, ValueError above SCHEMA_ANSWER_BYTES_MAX."""
    found = b""
    while piece := answer.read1(_PIECE_BYTES):
        found += piece
        if len(found) > SCHEMA_ANSWER_BYTES_MAX:
            raise ValueError(f"its answer has more than {SCHEMA_ANSWER_BYTES_MAX} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError(f"its answer took more than {SCHEMA_WAIT_S:g} s")
    return found


def _object(said: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(said)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
