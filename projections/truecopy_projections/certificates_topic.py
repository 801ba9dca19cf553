"""The topic of certificates: where they are published, for ever, and read back by whoever verifies one.

One topic for all replicas of a log, in the order in which they were issued. A record's value is a certificate's one form in
bytes, so that its SHA-256 is the certificate's hash; its key is the projection's id, for people with other tools.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from truecopy_bus.log import Log
from truecopy_bus.record import Outgoing, Record
from truecopy_projections.certificate_form import Certificate, read
from truecopy_projections.errors import InvalidCertificateError
from truecopy_projections.statements import read_back, state
from truecopy_schemas.errors import NewerFormatError

__all__ = ["CERTIFICATES_TOPIC", "Published", "publish", "published"]

CERTIFICATES_TOPIC = "_truecopy.certificates"
"""The topic's name, which a namespace may precede."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a topic of certificates holds.

    `found` are those that were looked for and are rightly signed by the key that they state, each once, in their order.
    `is_whole`: the topic begins at its beginning. `newer` counts records of a newer format, `refused` those that are no
    certificate, or not rightly signed.
    """

    topic: str
    found: Sequence[Certificate] = ()
    is_whole: bool = True
    is_there: bool = True
    newer: int = 0
    refused: int = 0


async def publish(log: Log, certificates: Sequence[Certificate], *, topic: str) -> None:
    """Append these; make the topic if it is missing. Raises TopicMismatchError for one that may forget, LogUnavailableError."""
    said = [Outgoing(one.projection.encode(), one.canonical(), one.issued_at_ms) for one in certificates]
    await state(log, said, topic=topic)


async def published(log: Log, wanted: Callable[[Certificate], bool], *, topic: str) -> Published:
    """Read the topic to its end. Of one that is missing, nothing. In memory is what is `wanted`. Raises LogUnavailableError."""
    found: dict[str, Certificate] = {}
    newer = refused = 0

    def take(record: Record) -> None:
        nonlocal newer, refused
        try:
            one = read(record.value or b"")
        except NewerFormatError:
            newer += 1
        except InvalidCertificateError:
            refused += 1
        else:
            if wanted(one) and one.is_signed():
                found[one.id] = one
            else:
                refused += wanted(one)

    is_there, is_whole = await read_back(log, take, topic=topic)
    return Published(
        topic=topic, found=tuple(found.values()), is_whole=is_whole, is_there=is_there, newer=newer, refused=refused
    )
