"""Verifying: what the log alone makes of a certificate, without the replica, and without the app unless it is given.

Looked for in this order: the signature over what is stated, whose key that is, the certificate's place in its chain on the
topic of certificates, and the history: the log's records below the stated positions must give the stated counts and input
digests, and the owner's marks at those counts must state the same. Rulings by which the history was amended must be on the log
as the certificate names them. With the projection at hand also the row digests, by an
independent fold. What the log no longer holds can't be proven from it, which is said by name and refutes nothing.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from truecopy_bus.errors import TopicMissingError
from truecopy_bus.fold import DIGEST_ALGORITHM
from truecopy_bus.log import Log
from truecopy_bus.record import TopicState
from truecopy_bus.schema_sources import SchemaSource
from truecopy_projections.amendment import NO_AMENDMENTS, Amendments
from truecopy_projections.amendments_topic import AMENDMENTS_TOPIC, published_amendments
from truecopy_projections.certificate_chain import Finding, Standing, judge_chain
from truecopy_projections.certificate_form import CANONICAL_FORM, Certificate
from truecopy_projections.certificates_topic import CERTIFICATES_TOPIC, published
from truecopy_projections.digest import bucket_of, row_hash, total, vector
from truecopy_projections.projection import Projection
from truecopy_projections.reference import replay
from truecopy_projections.retracing import retrace

__all__ = ["Verification", "verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found of a certificate, in the order in which it was looked for: a wrong signature ends the search."""

    certificate: Certificate
    findings: Sequence[Finding]

    @property
    def standing(self) -> Standing:
        """The worst of the findings."""
        return min((one.standing for one in self.findings), key=list(Standing).index)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        findings = [{"about": one.about, "standing": one.standing.name, "why": one.why} for one in self.findings]
        told = {"standing": self.standing.name, "id": self.certificate.id, "findings": findings}
        return {**told, "certificate": self.certificate.as_json()}


async def verify(
    certificate: Certificate,
    log: Log,
    schemas: SchemaSource,
    *,
    trusted: Collection[str] | None,
    namespace: str = "",
    projection: Projection[Any] | None = None,
) -> Verification:
    """Hold a certificate against the log: signature, signer, its place in its chain, and the history that it states.

    `trusted` are public keys (64 hexadecimal digits), None for any. With the projection also that an independent fold gives
    the stated row digests. In memory is the chain, and one partition's share of the history at a time. Raises
    LogUnavailableError, SchemasUnavailableError.
    """
    if not certificate.is_signed():
        wrong = Finding(about="signature", standing=Standing.REFUTED, why="it is not the stated key's over what is stated here")
        return Verification(certificate=certificate, findings=[wrong])
    findings = [
        Finding(about="signature", standing=Standing.VALID, why="Ed25519, by the stated key"),
        _signer(certificate, trusted),
    ]
    known = await published(log, lambda one: one.chain == certificate.chain, topic=namespace + CERTIFICATES_TOPIC)
    findings += judge_chain(certificate, known, trusted=trusted)
    topic = namespace + certificate.entity
    delivered = await _delivered(certificate, log, schemas, topic)
    findings.append(delivered)
    amendments = None
    if certificate.amendments:
        amended, amendments = await _amended(certificate, log, namespace + AMENDMENTS_TOPIC)
        findings.append(amended)
    if projection is not None:
        findings.append(await _computed(certificate, delivered, amendments, projection, log, schemas, topic))
    return Verification(certificate=certificate, findings=findings)


def _signer(certificate: Certificate, trusted: Collection[str] | None) -> Finding:
    if trusted is None:
        why = f"{certificate.public_key}, which nobody vouches for: any signer was allowed"
    elif certificate.public_key in trusted:
        why = f"{certificate.public_key}, which is trusted here"
    else:
        why = f"{certificate.public_key}, an unknown key: give the signer's public key, or pin it among the trusted ones"
        return Finding(about="signer", standing=Standing.UNKNOWN_SIGNER, why=why)
    return Finding(about="signer", standing=Standing.VALID, why=why)


async def _delivered(certificate: Certificate, log: Log, schemas: SchemaSource, topic: str) -> Finding:
    """Whether the log's records below the positions give the stated counts and input digests, and the marks say so too."""
    try:
        state = await log.describe(topic)
    except TopicMissingError:
        why = f"the log has no topic {topic}; is this the log that it was issued on?"
        return Finding(about="delivered", standing=Standing.UNPROVEN, why=why)
    if (unmeant := _unmeant(certificate, state)) is not None:
        return unmeant
    marks = 0
    for p, upto in sorted(certificate.positions.items()):
        found = await retrace(log, schemas, topic=topic, partition=p, upto=upto, mark=certificate.marks[p])
        told = f"the log holds {found.count} events below offset {upto} of partition {p}"
        if found.overflowed:
            why = f"{told} and more that wait for a version before them than is kept in memory"
            return Finding(about="delivered", standing=Standing.UNPROVEN, why=why)
        if (found.count, f"{found.digest:064x}") != (certificate.counts[p], certificate.input_digests[p]):
            why = f"{told}, the certificate states {certificate.counts[p]}, or their digests differ"
            return Finding(about="delivered", standing=Standing.REFUTED, why=why)
        mark = certificate.marks[p]
        if found.other is not None or not found.met:
            other = (
                f"states another digest (epoch {found.other.epoch}, number {found.other.number})"
                if found.other
                else "is not there"
            )
            why = f"the owner's mark {mark.number} of epoch {mark.epoch} over {mark.count} events of partition {p} {other}"
            return Finding(about="delivered", standing=Standing.REFUTED, why=why)
        marks += found.equal
    why = (
        f"{certificate.count} events of the log give the stated counts and input digests, and {marks} marks of the owner agree"
    )
    return Finding(about="delivered", standing=Standing.VALID, why=why)


def _unmeant(certificate: Certificate, state: TopicState) -> Finding | None:
    """Why the topic, as it is, can't be what the certificate speaks of, or is no longer all of it."""
    refuted = unproven = ""
    beyond = [p for p, at in certificate.positions.items() if at > state.bounds.get(p, (0, 0))[1]]
    if certificate.digest_algorithm != DIGEST_ALGORITHM:
        unproven = f"its digests are of algorithm {certificate.digest_algorithm}, this release knows {DIGEST_ALGORITHM}"
    elif state.incarnation not in (None, certificate.incarnation):
        refuted = f"it is of incarnation {certificate.incarnation}, the topic is {state.incarnation}: it was made anew since"
    elif certificate.positions.keys() != state.bounds.keys():
        refuted = f"it states partitions {sorted(certificate.positions)}, the topic has {sorted(state.bounds)}"
    elif beyond:
        refuted = f"it states offsets beyond the log's end in partitions {beyond}: the log lost records, or is another"
    elif starts := {p: start for p, (start, _) in sorted(state.bounds.items()) if start > 0}:
        unproven = f"the log no longer begins at its beginning (first stored offsets {starts}), so it can't be folded"
    elif state.incarnation is None:
        unproven = "the topic has no genesis, so nobody can say which life of it this is"
    if not (refuted or unproven):
        return None
    return Finding(about="delivered", standing=Standing.REFUTED if refuted else Standing.UNPROVEN, why=refuted or unproven)


async def _amended(certificate: Certificate, log: Log, topic: str) -> tuple[Finding, Amendments | None]:
    """The rulings that the certificate states, and what they are as they were published; None where one is missing."""
    known = await published_amendments(log, {one.id for one in certificate.amendments}, topic=topic)
    named = "; ".join(map(str, certificate.amendments))
    if missing := [one for one in certificate.amendments if one.id not in known]:
        why = f"it rests on {len(certificate.amendments)} rulings, of which {topic} does not hold {missing[0]}"
        return Finding(about="amendments", standing=Standing.UNPROVEN, why=why), None
    for one in certificate.amendments:
        found = known[one.id]
        if (found.event.hex(), found.ruling.name, found.replacement) != (one.event, one.ruling, one.replacement):
            why = f"{topic} holds another ruling under the id that it states for {one}"
            return Finding(about="amendments", standing=Standing.REFUTED, why=why), None
    why = f"the history that it proves is amended by {len(known)} rulings, which {topic} holds: {named}"
    return Finding(about="amendments", standing=Standing.VALID, why=why), Amendments(known.values())


async def _computed(
    certificate: Certificate,
    delivered: Finding,
    amendments: Amendments | None,
    projection: Projection[Any],
    log: Log,
    schemas: SchemaSource,
    topic: str,
) -> Finding:
    """Whether an independent fold of the log up to the positions gives the stated row digests."""
    if projection.id != certificate.projection:
        why = f"it is of {certificate.projection}, and the app's projection is {projection.id}"
        return Finding(about="computed", standing=Standing.UNPROVEN, why=why)
    if certificate.canonical_form != CANONICAL_FORM:
        why = f"its rows are of canonical form {certificate.canonical_form}, this release knows {CANONICAL_FORM}"
        return Finding(about="computed", standing=Standing.UNPROVEN, why=why)
    if delivered.standing is not Standing.VALID:
        why = "the history that it states is not proven, so there is nothing to fold"
        return Finding(about="computed", standing=Standing.UNPROVEN, why=why)
    if certificate.amendments and amendments is None:
        why = "the rulings that its rows rest on are not proven, so there is nothing to fold by"
        return Finding(about="computed", standing=Standing.UNPROVEN, why=why)
    rows = 0
    for p, upto in sorted(certificate.positions.items()):
        found = await replay(projection, log, schemas, topic=topic, upto={p: upto}, amendments=amendments or NO_AMENDMENTS)
        hashes = [
            (bucket_of(key), row_hash(projection.id, key, values))
            for key, kept in found.rows.items()
            for values in kept.values()
        ]
        rows += len(hashes)
        if f"{total(vector(hashes)):064x}" != certificate.row_digests[p]:
            why = f"the rows of partition {p} by this app's reducers have another digest than the certificate states"
            return Finding(about="computed", standing=Standing.REFUTED, why=why)
    why = f"digests of {rows} rows equal an independent fold of the log by this app's reducers"
    return Finding(about="computed", standing=Standing.VALID, why=why)
