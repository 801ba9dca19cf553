"""The topic of certificates: where they are published, for ever, and read back by whoever verifies one.

One topic for all replicas of a log, in the order in which they were issued. A record's value is a certificate's one form in
bytes, so that its SHA-256 is the certificate's hash; its key is the projection's id, for people with other tools.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from truecopy_bus.errors import LogUnavailableError, TopicMissingError
from truecopy_bus.lasting import ensure_lasting
from truecopy_bus.limits import READ_RECORDS_MAX, READ_WAIT_S
from truecopy_bus.log import Log
from truecopy_bus.record import Outgoing
from truecopy_projections.certificate_form import Certificate, read
from truecopy_projections.errors import InvalidCertificateError
from truecopy_projections.limits import REPLAY_STALL_S
from truecopy_schemas.control import CONTROL_KEY
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
    await ensure_lasting(log, topic)
    for one in certificates:
        await log.append(topic, 0, [Outgoing(one.projection.encode(), one.canonical(), one.issued_at_ms)])


async def published(log: Log, wanted: Callable[[Certificate], bool], *, topic: str) -> Published:
    """Read the topic to its end. Of one that is missing, nothing. In memory is what is `wanted`. Raises LogUnavailableError."""
    try:
        start, end = (await log.describe(topic)).bounds[0]
    except TopicMissingError:
        return Published(topic=topic, is_there=False)
    found: dict[str, Certificate] = {}
    newer = refused = 0
    reader = log.reader(topic)
    at, stalls_at = start, time.monotonic() + REPLAY_STALL_S
    try:
        while at < end:
            records = await reader.read({0: at}, records_max=READ_RECORDS_MAX, wait_s=READ_WAIT_S)
            if records:
                stalls_at = time.monotonic() + REPLAY_STALL_S
            elif time.monotonic() > stalls_at:
                raise LogUnavailableError(log=topic, seen=f"no record for {REPLAY_STALL_S:.0f} s at {at} of {end}")
            for record in records:
                at = record.offset + 1
                if record.key == CONTROL_KEY:
                    continue
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
    finally:
        await reader.close()
    return Published(topic=topic, found=tuple(found.values()), is_whole=start == 0, newer=newer, refused=refused)
