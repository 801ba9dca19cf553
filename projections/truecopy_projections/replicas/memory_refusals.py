"""What a replica in memory refuses, because a database would."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from truecopy_bus.sql import Column, Kind
from truecopy_projections.projection import Projection
from truecopy_projections.state import PartitionPlan

__all__ = ["refused_rows"]

_TYPES: Mapping[Kind, type] = {
    Kind.TEXT: str,
    Kind.INTEGER: int,
    Kind.REAL: float,
    Kind.BOOLEAN: bool,
    Kind.BYTES: bytes,
    Kind.DECIMAL: Decimal,
    Kind.DATE: date,
    Kind.TIMESTAMP: datetime,
    Kind.UUID: UUID,
    Kind.JSON: str,
}


def refused_rows(projection: Projection[Any], plans: Sequence[PartitionPlan]) -> dict[str, str]:
    """What a database would refuse: by source key, with the reason."""
    columns = [f.column for f in projection.fields]
    return {
        key: reason
        for plan in plans
        for (key, _), row in plan.puts.items()
        for column, value in zip(columns, row.values, strict=True)
        if (reason := _refusal(column, value))
    }


def _refusal(column: Column, value: Any) -> str:
    if value is None:
        return "" if column.nullable else f"column {column.name!r} must not be null"
    if not isinstance(value, _TYPES[column.kind]):
        return f"column {column.name!r} holds {column.kind.value}, seen {value!r:.80}"
    return f"column {column.name!r}: no text holds U+0000" if type(value) is str and "\0" in value else ""
