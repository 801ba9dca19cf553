"""Certificates: what `certify` issues when a replica equals the log, and what `verify` makes of one from the log alone.

A certificate is kept in the replica's journal and published on the log's topic of certificates; each names the one before it
by hash. The journal comes first. A crash between the two leaves a certificate that only the replica has, and the next
`certify` publishes it before its own, so that the chain on the log is whole; one that is published twice is one. So a topic
that holds more of a chain than the replica's own journal is no crash: the replica went back to an older copy of itself. It goes
on from what it knows, and the fork shows; or, told why, from the newest.

Of two who certify at once the journal's order decides, and the other issues anew.

It does not say that the owner put the truth into the log, and it is worth what its signer's key is.
"""

import logging
import secrets
import time
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from truecopy_bus.errors import LogUnavailableError
from truecopy_bus.fold import DIGEST_ALGORITHM
from truecopy_bus.limits import CLAIM_ATTEMPTS_MAX
from truecopy_bus.log import Log
from truecopy_bus.points import Point, reached
from truecopy_projections.amendment import Amendment
from truecopy_projections.amendments_topic import AMENDMENTS_TOPIC, publish_missing
from truecopy_projections.certificate_chain import Finding, Standing, line
from truecopy_projections.certificate_form import CANONICAL_FORM, CERTIFICATE_FORMAT, AmendmentStated, Certificate, read, sign
from truecopy_projections.certificates_topic import CERTIFICATES_TOPIC, Published, publish, published
from truecopy_projections.errors import NotEqualError
from truecopy_projections.projection import Projection
from truecopy_projections.replica import JournalEntry, Replica, Snapshot
from truecopy_projections.verdicts import Report, Verdict
from truecopy_projections.verifying import Verification, verify

__all__ = ["Certificate", "Finding", "Standing", "Verification", "certificates", "certify", "newest_certificate", "verify"]

_log = logging.getLogger("truecopy.check")


async def certificates(projection: Projection[Any], replica: Replica) -> list[Certificate]:
    """A replica's own certificates of a projection, oldest first."""
    async with replica.snapshot() as snapshot:
        return line([_of(entry) for entry in await snapshot.journal(_kind(projection))])


async def newest_certificate(projection: Projection[Any], snapshot: Snapshot) -> Certificate | None:
    """The replica's newest certificate of a projection. Cheap, however many there are."""
    entries = await snapshot.journal(_kind(projection), newest=1)
    return _of(entries[0]) if entries else None


async def certify(
    projection: Projection[Any],
    replica: Replica,
    log: Log,
    report: Report,
    key: Ed25519PrivateKey,
    *,
    namespace: str = "",
    because: str = "",
) -> Certificate:
    """Sign what `report` found, keep it in the replica's journal, and publish it, with those that a crash left unpublished.

    `namespace` prefixes the topic. `because` says why positions go back, or why a chain goes on behind a fork. Raises
    NotEqualError unless the report is a whole one whose verdict is EQUAL, or if positions went back and nothing says why;
    InvalidCertificateError for one that would be too long, with nothing written; TopicMismatchError for a topic of
    certificates that may forget; LogUnavailableError, after which the certificate may stand in the journal.
    """
    if report.verdict is not Verdict.EQUAL:
        raise NotEqualError(f"{report.projection} in {report.replica} is {report.verdict.name}, and only EQUAL is certified")
    if report.quick or "through" in report.computed.facts:
        how = "quickly" if report.quick else "against peers"
        raise NotEqualError(
            f"{report.projection} in {report.replica} was checked {how}, and only what equals the fold of the log is "
            "certified; check it as a whole"
        )
    topic = namespace + CERTIFICATES_TOPIC
    mine = await certificates(projection, replica)
    chain = mine[0].chain if mine else secrets.token_hex(16)
    signers = {key.public_key().public_bytes_raw().hex(), *(one.public_key for one in mine)}
    known = await published(log, lambda one: one.chain == chain and one.public_key in signers, topic=topic)
    if because:
        mine += await _adopted(projection, replica, known, mine)
    issued = await _issued(projection, replica, report, key, chain=chain, mine=mine, because=because)
    await replica.flush()  # what the log states, no crash of the replica may take back
    await reached(Point.CERTIFY_JOURNALED, len(mine) + 1)
    there = {one.id for one in known.found}
    whole = await certificates(projection, replica)
    if ahead := there - {one.id for one in whole}:
        _log.warning(
            "%s in %s: the log has %d certificates of its chain that the replica does not know, so the chain forks: it went "
            "back to an older copy of itself, or there are two; `truecopy certify --because` goes on from the newest",
            *(projection.id, replica.name, len(ahead)),
        )
    await publish_missing(log, report.amendments, topic=namespace + AMENDMENTS_TOPIC)  # a certificate names them
    await publish(log, [one for one in whole if one.id not in there], topic=topic)
    return issued


async def _adopted(
    projection: Projection[Any], replica: Replica, known: Published, mine: Sequence[Certificate]
) -> list[Certificate]:
    """Take over into the journal what the log has of the chain behind its newest certificate, and the replica has not."""
    by_id = {one.id: one for one in known.found}
    at, missing = known.found[-1] if known.found else None, list[Certificate]()
    ends = mine[-1].id if mine else ""
    while at is not None and at.id != ends:
        missing.append(at)
        at = by_id.get(at.previous)
    if at is None or not missing:
        return []  # the newest does not hang on ours: the fork stays, and the reason stands in what follows
    missing.reverse()
    await replica.apply(projection, (), journal=[(_kind(projection), _entry(one)) for one in missing])
    return missing


async def _issued(
    projection: Projection[Any],
    replica: Replica,
    report: Report,
    key: Ed25519PrivateKey,
    *,
    chain: str,
    mine: Sequence[Certificate],
    because: str,
) -> Certificate:
    """A certificate that holds its place in the journal."""
    for _ in range(CLAIM_ATTEMPTS_MAX):
        last = mine[-1] if mine else None
        async with replica.snapshot() as snapshot:
            repairs = len([one for one in await snapshot.journal("repair") if one["projection"] == projection.id])
            scrubbed_ms = (await snapshot.scrubs(projection.id)).oldest_ms
        stated = {
            "format": CERTIFICATE_FORMAT,
            "digest_algorithm": DIGEST_ALGORITHM,
            "canonical_form": CANONICAL_FORM,
            "chain": last.chain if last else chain,
            "previous": last.id if last else "",
            **_stated(report),
            "oldest_scrub_at_ms": min(report.checked_at_ms, scrubbed_ms or report.checked_at_ms),  # a whole check is one
            "repairs": repairs,
            "because": because,
            "issued_at_ms": time.time_ns() // 1_000_000,
        }
        issued = sign(stated, key)
        _refuse_going_back(last, issued)
        await replica.apply(projection, (), journal=[(_kind(projection), _entry(issued))])
        mine = await certificates(projection, replica)
        if issued in mine:
            return issued
    raise LogUnavailableError(log=replica.name, seen=f"{CLAIM_ATTEMPTS_MAX} times another certified it at the same moment")


def _stated(report: Report) -> dict[str, Any]:
    return {
        "entity": report.entity,
        "projection": report.projection,
        "replica": report.replica,
        "incarnation": report.incarnation,
        "positions": dict(report.positions),
        "counts": dict(report.counts),
        "marks": {
            p: {"epoch": c.epoch, "number": c.number, "count": c.mark_count, "digest": f"{c.mark_digest:064x}"}
            for p, c in report.marks.items()
        },
        "input_digests": report.delivered.facts["digests"],
        "row_digests": report.computed.facts["digests"],
        "schema_fingerprints": list(report.fingerprints),
        "parked": list(report.parked),
        "amendments": [_amendment(one) for one in report.amendments],
    }


def _amendment(one: Amendment) -> dict[str, Any]:
    told = {name: value for name, value in one.as_json().items() if name in AmendmentStated.model_fields}
    return {**told, "id": one.id, "replacement": one.replacement}


def _refuse_going_back(last: Certificate | None, issued: Certificate) -> None:
    if last is None or issued.because or last.incarnation != issued.incarnation:
        return
    for p, was in last.positions.items():
        if issued.positions.get(p, 0) < was or issued.counts.get(p, 0) < last.counts[p]:
            raise NotEqualError(
                f"{issued.projection} in {issued.replica} is at offset {issued.positions.get(p, 0)} of partition {p}, its last "
                f"certificate {last.id[:12]} stated {was}; expected it to have gone on: say why it went back, by --because"
            )


def _kind(projection: Projection[Any]) -> str:
    return f"certificate {projection.id}"


def _entry(certificate: Certificate) -> JournalEntry:
    return {"certificate": certificate.canonical().decode()}


def _of(entry: JournalEntry) -> Certificate:
    return read(entry["certificate"].encode())
