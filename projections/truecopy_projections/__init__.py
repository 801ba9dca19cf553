"""From the log to rows, and the proof that they are right. See README.md beside it.

The verbs stay in the modules that bear their names: `check.check`, `repair.repair`, `certificate.certify` and `verify`.
"""

from truecopy_projections.errors import (
    NotEqualError,
    NotReachedError,
    ProjectionError,
    RepairRefusedError,
    RowRejectedError,
    UnknownProjectionError,
)
from truecopy_projections.foreign import ForeignTopic
from truecopy_projections.gathered import Gathered
from truecopy_projections.projection import EVERY_ROW, Change, ForeignRecord, Projection
from truecopy_projections.replica import Replica, Snapshot
from truecopy_projections.replicas import MemoryReplica, SqlReplica, open_replica
from truecopy_projections.verdicts import Claim, Difference, Report, Verdict
from truecopy_projections.worker import Worker

__all__ = [
    "EVERY_ROW",
    "Change",
    "Claim",
    "Difference",
    "ForeignRecord",
    "ForeignTopic",
    "Gathered",
    "MemoryReplica",
    "NotEqualError",
    "NotReachedError",
    "Projection",
    "ProjectionError",
    "RepairRefusedError",
    "Replica",
    "Report",
    "RowRejectedError",
    "Snapshot",
    "SqlReplica",
    "UnknownProjectionError",
    "Verdict",
    "Worker",
    "open_replica",
]
