"""Events as values: their classes, Avro bodies, schemas, ids and control records. Pure: no I/O."""

from __future__ import annotations

from truecopy_schemas import control
from truecopy_schemas.avro_schema import AvroSchema, avro_schema, fingerprint, full_name, subject
from truecopy_schemas.codec import Decoder, encode, read_version
from truecopy_schemas.compatibility import RULES_NUMBER, Compatibility, judge
from truecopy_schemas.control import ControlRecord, Genesis, Mark
from truecopy_schemas.errors import (
    ForeignRecordError,
    IncompatibleSchemaError,
    InvalidEventError,
    InvalidSchemaError,
    NewerFormatError,
    OversizeEventError,
    TruecopyError,
    UndecodableError,
    UnknownSchemaError,
    UpcastError,
)
from truecopy_schemas.event import Event, Kind
from truecopy_schemas.framing import frame, unframe
from truecopy_schemas.record import Record
from truecopy_schemas.registry import Outcome, Registered, RegistryState
from truecopy_schemas.upcasting import upcasts

__all__ = [
    "RULES_NUMBER",
    "AvroSchema",
    "Compatibility",
    "ControlRecord",
    "Decoder",
    "Event",
    "ForeignRecordError",
    "Genesis",
    "IncompatibleSchemaError",
    "InvalidEventError",
    "InvalidSchemaError",
    "Kind",
    "Mark",
    "NewerFormatError",
    "Outcome",
    "OversizeEventError",
    "Record",
    "Registered",
    "RegistryState",
    "TruecopyError",
    "UndecodableError",
    "UnknownSchemaError",
    "UpcastError",
    "avro_schema",
    "control",
    "encode",
    "fingerprint",
    "frame",
    "full_name",
    "judge",
    "read_version",
    "subject",
    "unframe",
    "upcasts",
]
