"""Topics of others: what a projection says of a topic that no relay of ours fills.

Its values are Avro in Confluent's frame. Its records state no versions: the n-th record of a key is its version n. So a record
that never arrived can't be missed, and of the claims of a check, `delivered` stays UNPROVEN.
"""

from dataclasses import dataclass

from truecopy_projections.errors import ProjectionError

__all__ = ["ForeignTopic"]


@dataclass(frozen=True, slots=True)
class ForeignTopic:
    """A topic by its whole name, which no namespace precedes.

    `schemas` is where the ids in its frames are looked up: `http(s)://...` of a Confluent schema registry, `folder:PATH` of
    files `<id>.avsc`, or `log:` for our own registry; TRUECOPY_SCHEMAS if left out. Raises ProjectionError without a name.
    """

    name: str
    schemas: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise ProjectionError("a foreign topic needs the name that it has on the log")
