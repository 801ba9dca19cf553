"""The fold of a few keys in a process of its own, in which sets iterate in another order.

Python seeds the hashes of text anew in each process, so a reducer that depends on the order of a set gives the same rows as
often as one process asks, and others in the next. The child finds the projection by the module that holds it.
"""

import asyncio
import json
import os
import sys
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from truecopy_projections.columns import encode
from truecopy_projections.projection import Change, Projection
from truecopy_projections.reference import Rows, reduced

__all__ = ["Encoded", "KeyEvents", "encoded_rows", "folded_afresh", "main", "place_of"]

_ANSWER_S = 30.0
"""Seconds until a child has imported the module and folded, or is given up."""
_EVENTS_MAX = 10_000
"""Events of a key that are folded: where a reducer is not deterministic, the first few show it."""

KeyEvents = Sequence[tuple[int, Mapping[str, Any], bytes]]
"""The events of a key: version, Avro schema ({} of one that was skipped), Avro body."""
Encoded = Mapping[int, Mapping[str, tuple[str, ...]]]
"""Rows by version and sub key, with all values as hexadecimal text of their canonical bytes."""


def place_of(projection: Projection[Any]) -> tuple[str, str] | None:
    """Module and name under which the projection can be imported; None for one that no module holds."""
    for handler in projection.handlers.values():
        module = sys.modules.get(handler.reduce.__module__)
        if module is not None and module.__name__ != "__main__":
            for name, value in vars(module).items():
                if value is projection:
                    return module.__name__, name
    return None


def encoded_rows(rows: Rows) -> dict[str, tuple[str, ...]]:
    """The rows of a key as text."""
    return {b"".join(map(encode, sub)).hex(): tuple(encode(value).hex() for value in values) for sub, values in rows.items()}


async def folded_afresh(projection: Projection[Any], keys: Mapping[str, KeyEvents]) -> Mapping[str, Encoded]:
    """What a fresh process makes of these keys; nothing where the projection can't be imported there, or it fails.

    A set of two words has the same order in both half of the times, one of five words hardly ever.
    """
    if (place := place_of(projection)) is None or projection.foreign is not None:
        return {}
    told = {
        key: [(version, schema, b64encode(body).decode()) for version, schema, body in events[:_EVENTS_MAX]]
        for key, events in keys.items()
    }
    asked = json.dumps({"place": place, "path": sys.path, "keys": told}).encode()
    return await _child(asked)


async def _child(asked: bytes) -> Mapping[str, Encoded]:
    program = f"import sys, json; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONHASHSEED": "random"},
    )
    try:
        async with asyncio.timeout(_ANSWER_S):
            answer, _ = await child.communicate(asked)
    except TimeoutError:
        return {}
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        return {}
    said = json.loads(answer.splitlines()[-1])  # the module may have printed something before
    return {
        key: {int(version): {sub: tuple(row) for sub, row in rows.items()} for version, rows in versions.items()}
        for key, versions in said.items()
    }


def main() -> None:
    """The child: fold what standard input tells, and answer in one line of JSON."""
    asked = json.load(sys.stdin)
    module, name = asked["place"]
    projection: Projection[Any] = getattr(import_module(module), name)
    found: dict[str, dict[int, dict[str, tuple[str, ...]]]] = {}
    for key, events in asked["keys"].items():
        found[key] = {}
        rows: Rows = {}
        for version, schema, body in events:
            if (reads := projection.reads(schema)) is not None:
                handler, decoder = reads
                event = decoder.decode_event(b64decode(body))
                rows = reduced(projection, rows, handler, event, Change(key, version, ()))
            elif schema.get("truecopy.deletes"):
                rows = {}
            found[key][version] = encoded_rows(rows)
    print("\n" + json.dumps(found), flush=True)
