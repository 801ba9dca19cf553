"""Records of a log as an operator sees them: decoded by whatever schema claimed their id, or shown with what is wrong.

Nothing here raises for a record. What somebody else wrote may hold anything, and is shown escaped: a terminal obeys control
characters, and right-to-left marks make a text look like another.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import to_jsonable_python

from truecopy_bus.genesis import control_of
from truecopy_bus.record import Record
from truecopy_schemas.avro_schema import full_name
from truecopy_schemas.codec import Decoder, read_version
from truecopy_schemas.control import CONTROL_KEY, Mark
from truecopy_schemas.errors import ForeignRecordError, InvalidSchemaError, TruecopyError
from truecopy_schemas.framing import unframe
from truecopy_schemas.registry import RegistryState

__all__ = ["Line", "Lines", "Wanted", "as_json", "as_text", "escaped"]

BYTES_SHOWN = 64
"""Bytes of a value that can't be decoded which are shown, so that one foreign record does not fill a screen."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One record. `type` is an event's full name, "genesis" or "mark"; "" where it is not known. `why` says what is wrong."""

    topic: str
    partition: int
    offset: int
    at_ms: int
    key: str | None
    control: bool = False
    schema_id: int | None = None
    type: str = ""
    version: int | None = None
    data: Mapping[str, Any] | None = None
    why: str = ""
    value: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines are shown. A type is named in full or by its last part; what has no known type is of none."""

    key: str | None = None
    type: str | None = None
    control: bool = False

    def __call__(self, line: Line) -> bool:
        if line.control:
            return self.control
        named = self.type is None or self.type in (line.type, line.type.rpartition(".")[2])
        return named and self.key in (None, line.key)


class Lines:
    """Reads the records of one topic by the schemas of one registry."""

    def __init__(self, topic: str, registry: RegistryState) -> None:
        self._topic, self._registry = topic, registry
        self._decoders: dict[int, tuple[str, Decoder[Any] | None, str]] = {}

    def unknown(self, records: Iterable[Record]) -> frozenset[int]:
        """The schema ids among these records that the registry has not told of yet."""
        heads = {record.value[:5] for record in records if record.value and record.key != CONTROL_KEY}
        ids = {int.from_bytes(head[1:]) for head in heads if len(head) == 5 and head[0] == 0}
        return frozenset(one for one in ids if self._decoder(one) is None)

    def read(self, record: Record) -> Line:
        """What the record says, or why that can't be told."""
        control = record.key == CONTROL_KEY
        found: dict[str, Any] = {"key": None if record.key is None else record.key.decode(errors="backslashreplace")}
        try:
            found |= self._control(record) if control else self._event(record, found)
        except TruecopyError as fault:
            found |= {"why": str(fault), "value": record.value}
        return Line(
            topic=self._topic,
            partition=record.partition,
            offset=record.offset,
            at_ms=record.timestamp_ms,
            control=control,
            **found,
        )

    def _control(self, record: Record) -> dict[str, Any]:
        said = control_of(record)
        if said is None:
            raise ForeignRecordError("it has not the key of a control record")
        return {"type": "mark" if isinstance(said, Mark) else "genesis", "data": asdict(said)}

    def _event(self, record: Record, found: dict[str, Any]) -> dict[str, Any]:
        """Fills `found` as far as it gets."""
        schema_id, body = unframe(record.value)
        found["schema_id"] = schema_id
        known = self._decoder(schema_id)
        if known is None:
            found["version"] = read_version(body)
            raise ForeignRecordError(f"schema id {schema_id} is not in the registry, where its writer should have claimed it")
        found["type"], decoder, problem = known
        found["version"] = read_version(body)
        if decoder is None:
            raise ForeignRecordError(f"the schema behind id {schema_id} can't be used: {problem}")
        found["data"] = decoder.decode(body)[2]
        if record.key is None:
            raise ForeignRecordError("its key is null")
        return {}

    def _decoder(self, schema_id: int) -> tuple[str, Decoder[Any] | None, str] | None:
        if schema_id not in self._decoders:
            try:
                schema = self._registry.by_id(schema_id).schema
            except TruecopyError:
                return None
            try:
                self._decoders[schema_id] = full_name(schema), Decoder(schema), ""
            except InvalidSchemaError as fault:
                self._decoders[schema_id] = full_name(schema), None, str(fault)
        return self._decoders[schema_id]


def escaped(text: str) -> str:
    """The text with everything but printable characters spelt out, as `\\x1b` or `\\u202e`."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def as_json(line: Line) -> str:
    """One line of JSON in ASCII, so that it can't move a cursor either. Bytes are in hexadecimal, NaN is a text."""
    return json.dumps({**_plain(asdict(line)), "time": _time(line.at_ms)})


def as_text(line: Line) -> str:
    """One line for a person."""
    place = f"{_time(line.at_ms)} {line.topic}[{line.partition}]@{line.offset}"
    if line.control:
        named = f"control {line.type}" if line.type else "control"
    else:
        version = "?" if line.version is None else line.version
        named = f"{json.dumps(line.key, ensure_ascii=False)} v{version} {line.type or '?'}"
    said = "" if line.data is None else " " + json.dumps(_plain(line.data), ensure_ascii=False)
    if line.why:
        value = line.value or b""
        more = f" and {len(value) - BYTES_SHOWN} bytes more" if len(value) > BYTES_SHOWN else ""
        shown = "null" if line.value is None else value[:BYTES_SHOWN].hex() or "empty"
        said += f" NOT READABLE: {line.why}; value: {shown}{more}"
    return escaped(f"{place} {named}{said}")


def _plain(value: Any) -> Any:
    return to_jsonable_python(value, bytes_mode="hex", inf_nan_mode="strings")


def _time(at_ms: int) -> str:
    """As text in UTC; a foreign record's may lie beyond every calendar."""
    try:
        return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:
        return f"{at_ms} ms"
