"""Truecopy: events published in your own transactions, and replicas that are proven equal to them."""

from truecopy_bus.errors import UnavailableError, VersionConflictError
from truecopy_bus.token import Token
from truecopy_projections.effects import Effect
from truecopy_projections.errors import NotReachedError, UnknownProjectionError
from truecopy_projections.foreign import ForeignTopic
from truecopy_projections.gathered import Gathered
from truecopy_projections.projection import EVERY_ROW, Change, ForeignRecord, Projection
from truecopy_projections.verdicts import Report, Verdict
from truecopy_schemas import Event, InvalidEventError, Record, TruecopyError, upcasts
from truecopy_services.app import Truecopy
from truecopy_services.config import Settings
from truecopy_services.reading import GatheredReader, ReplicaReader
from truecopy_services.service import Service

__all__ = [
    "EVERY_ROW",
    "Change",
    "Effect",
    "Event",
    "ForeignRecord",
    "ForeignTopic",
    "Gathered",
    "GatheredReader",
    "InvalidEventError",
    "NotReachedError",
    "Projection",
    "Record",
    "ReplicaReader",
    "Report",
    "Service",
    "Settings",
    "Token",
    "Truecopy",
    "TruecopyError",
    "UnavailableError",
    "UnknownProjectionError",
    "Verdict",
    "VersionConflictError",
    "upcasts",
]
