"""The quarantine in a file: all that waits as JSON lines, to be looked at and ruled about elsewhere, and taken in again.

A line is one record, whole: its bytes in base64, its fields where they can be read, and the hash that names its event. Whoever
edits the file rules by it: `"skip": true`, or other `fields` (or another `type`), each with its `why`. A line that was not
touched says nothing.

All lines are judged before any is applied; then key by key, each key's rulings in one transaction. So an import that was ended
half-way is done again as a whole: a ruling that holds already is not made twice. A line about an event that does not wait, and
about which nothing like it was ruled, is refused.
"""

import json
import os
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from truecopy_projections.amending import Amending, Held
from truecopy_projections.amendment import Amendment, Ruling
from truecopy_projections.errors import AmendmentRefusedError
from truecopy_projections.limits import QUARANTINE_LINE_BYTES_MAX
from truecopy_projections.state import Reason, Waiting
from truecopy_services.errors import UsageError
from truecopy_services.operating.bodies import Said, plain
from truecopy_services.quarantine import Quarantine

__all__ = ["Imported", "exported", "imported"]


@dataclass(slots=True, kw_only=True)
class Imported:
    """What came of an import: lines that ruled, rulings made and those that held already, and keys that are parked still."""

    lines: int = 0
    made: int = 0
    held: int = 0
    parked: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A line that rules."""

    number: int
    key: str | None
    partition: int
    offset: int
    event: bytes
    skip: bool
    type: str
    fields: Any
    why: str


async def exported(quarantine: Quarantine, path: Path) -> int:
    """Write all that waits to a new file; the number of its lines. Raises UsageError for a file that is there."""
    part, lines = path.with_name(f"{path.name}.part"), 0
    with _new(path, part) as file:
        async with quarantine.ruling(dry_run=True) as at, quarantine.all_waiting() as batches:
            async for batch in batches:
                for waiting in batch:
                    held = await at.read(waiting)
                    file.write(json.dumps(_line(waiting, held, await quarantine.said(waiting))) + "\n")
                    lines += 1
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return lines


def _new(path: Path, part: Path) -> TextIO:
    """The file `part`, which becomes `path`. Raises UsageError."""
    if path.exists():
        raise UsageError(f"{path} is there already; name another file, or move it away")
    try:
        return part.open("w", encoding="utf-8")
    except OSError as fault:
        raise UsageError(f"{path} can't be written: {fault.strerror}") from None


async def imported(quarantine: Quarantine, path: Path, *, why: str = "", dry_run: bool = False) -> Imported:
    """Rule by a file; `why` stands for lines that give no reason. Raises UsageError, AmendmentRefusedError."""
    async with quarantine.ruling(dry_run=True) as at:
        for lines in _by_key(path, why):
            await _rulings(quarantine, at, lines)
    done = Imported()
    async with quarantine.ruling(dry_run=dry_run) as at:
        for lines in _by_key(path, why):
            await _apply(quarantine, at, lines, done)
    return done


def _by_key(path: Path, why: str) -> Iterator[list[_Line]]:
    """The lines that rule about one key, or about one foreign record, as they follow each other."""
    for _, lines in groupby(_read(path, why), lambda one: (one.key, one.number if one.key is None else 0)):
        yield list(lines)


async def _apply(quarantine: Quarantine, at: Amending, lines: Sequence[_Line], done: Imported) -> None:
    found = await _rulings(quarantine, at, lines)
    done.lines += len(lines)
    done.held += len(lines) - len(found)
    done.made += len(found)
    if not found:
        return
    rulings = [ruling for _, ruling in found]
    if (key := lines[0].key) is not None:
        done.parked += (await at.treat([key], rulings)).keys[key].parked is not None
    else:
        await at.dismiss(rulings, [held.waiting.size for held, _ in found])


async def _rulings(quarantine: Quarantine, at: Amending, lines: Sequence[_Line]) -> list[tuple[Held, Amendment]]:
    """What these lines rule about, and the rulings, without those that hold already."""
    first = lines[0]
    if first.key is None:
        waits = [held for held in [await at.foreign(first.partition, first.offset)] if held is not None]
    else:
        waits = (await at.look(first.key))[1]
    by_event = {held.event: held for held in waits}
    found = []
    for line in lines:
        held = by_event.get(line.event)
        ruling = await _ruling(quarantine, at, line, held)
        if held is not None and ruling is not None:
            found.append((held, ruling))
    return found


async def _ruling(quarantine: Quarantine, at: Amending, line: _Line, held: Held | None) -> Amendment | None:
    """The ruling of a line about what waits; None where just that holds already."""
    before = at.ruled(line.event)
    if before is not None and line.skip and before.ruling is Ruling.SKIPPED:
        return None
    if held is None:
        if before is not None and before.ruling is Ruling.REPLACED and not line.skip:
            _refuse_another(quarantine, line, before)
            return None
        known = f"it was ruled otherwise: {before}" if before else "its event does not wait (any more)"
        raise AmendmentRefusedError(f"line {line.number}, {line.key!r}, offset {line.offset}: {known}")
    try:
        if line.skip:
            return at.ruling(held, line.why)
        if held.arrival is None or held.waiting.reason is Reason.CONFLICT:
            raise UsageError('a foreign record, or what contradicts its version, can only be skipped: "skip": true')
        was = await quarantine.said(held.waiting)
        return quarantine.replacing(at, held, was, line.fields, line.why, kind=line.type)
    except (UsageError, AmendmentRefusedError) as fault:
        raise type(fault)(f"line {line.number}, {line.key!r}, offset {line.offset}: {fault}") from None


def _refuse_another(quarantine: Quarantine, line: _Line, before: Amendment) -> None:
    """Raises AmendmentRefusedError unless the line says what was ruled about its event before."""
    ruled = quarantine.replaced_by(before)
    if plain(line.fields) != ruled.fields or line.type not in ("", ruled.type):
        raise AmendmentRefusedError(f"line {line.number}, {line.key!r}, offset {line.offset}: it was ruled otherwise: {before}")


def _line(waiting: Waiting, held: Held, said: Said) -> dict[str, Any]:
    return {
        "partition": waiting.partition,
        "offset": waiting.offset,
        "key": waiting.key,
        "version": waiting.version,
        "reason": waiting.reason.name,
        "detail": waiting.detail or said.why,
        "event": held.event.hex() if held.event else None,
        "timestamp_ms": waiting.timestamp_ms,
        "type": said.type,
        "fields": None if said.fields is None else plain(said.fields),
        "as_exported": [said.type, None if said.fields is None else plain(said.fields)],
        "skip": False,
        "why": "",
        "record_key": _text(waiting.record_key),
        "record_value": _text(waiting.record_value),
        "headers": [[name, _text(value)] for name, value in waiting.headers],
    }


def _text(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()


def _read(path: Path, why: str) -> Iterator[_Line]:
    """The lines that rule. Raises UsageError for a file or a line that can't be read."""
    try:
        with path.open("rb") as file:
            number = 0
            while text := file.readline(QUARANTINE_LINE_BYTES_MAX + 1):
                number += 1
                if len(text) > QUARANTINE_LINE_BYTES_MAX:
                    raise UsageError(f"line {number} is longer than {QUARANTINE_LINE_BYTES_MAX:,} bytes, which no export is")
                if text.strip() and (one := _ruled(number, text, why)) is not None:
                    yield one
    except OSError as fault:
        raise UsageError(f"{path} can't be read: {fault.strerror}") from None


def _ruled(number: int, text: bytes, why: str) -> _Line | None:
    try:
        said = json.loads(text)
        touched = said["skip"] is True or [said["type"], said["fields"]] != said["as_exported"]
        if not touched:
            return None
        if said["event"] is None:
            raise UsageError(f"line {number}: its schema is not known, so nothing can be ruled about it; register it")
        line = _Line(
            number=number,
            key=said["key"],
            partition=int(said["partition"]),
            offset=int(said["offset"]),
            event=bytes.fromhex(said["event"]),
            skip=said["skip"] is True,
            type=str(said["type"]),
            fields=said["fields"],
            why=str(said.get("why") or why),
        )
    except (ValueError, TypeError, KeyError) as fault:
        raise UsageError(f"line {number} is none of an export: {type(fault).__name__}: {fault}") from None
    if not line.why.strip():
        raise UsageError(f'line {number}, {line.key!r}: it rules and says no reason; give "why" there, or --why for all')
    return line
