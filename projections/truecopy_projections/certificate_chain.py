"""What certificates say of each other: whether one hangs on those before it, back to the first, and whether a chain forks.

Each names its predecessor by hash, so that none can be changed, left out or put in afterwards. What can still happen is that a
replica goes on from an older copy of itself: then two certificates name the same predecessor. That is a fork, and both sides
show it. It is behind those that come after one that says why (`because`).

Pure: over values that were read already.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from truecopy_projections.certificate_form import Certificate
from truecopy_projections.certificates_topic import Published

__all__ = ["Finding", "Standing", "is_linked", "judge_chain", "line"]


class Standing(Enum):
    """How a certificate stands, or one thing about it; the worst first. Only VALID is proven."""

    REFUTED = "what is there says otherwise"
    UNKNOWN_SIGNER = "signed by an unknown key"
    UNPROVEN = "what would prove it is not there"
    VALID = "proven"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing about a certificate: `about` names it, `why` is a sentence for people."""

    about: str
    standing: Standing
    why: str


def line(journal: Sequence[Certificate]) -> list[Certificate]:
    """Of a replica's certificates in the order of its journal, those that hang together; others lost a race and count nothing.

    Two who certify at once name the same predecessor; the first in the journal holds the place, and the other issues anew.
    """
    kept: list[Certificate] = []
    for one in journal:
        if one.previous == (kept[-1].id if kept else ""):
            kept.append(one)
    return kept


def is_linked(certificate: Certificate, previous: Certificate) -> bool:
    """Whether the two can be neighbours: of one chain, one projection, one entity."""
    return all(getattr(certificate, name) == getattr(previous, name) for name in ("chain", "projection", "entity"))


def judge_chain(certificate: Certificate, known: Published, *, trusted: Collection[str] | None) -> list[Finding]:
    """What the topic says of a certificate's place. `trusted` are public keys, None for any."""
    by_id = {one.id: one for one in known.found}
    followers: dict[tuple[str, str], list[Certificate]] = {}
    for one in known.found:
        followers.setdefault((one.chain, one.previous), []).append(one)
    about_newer = f"; {known.newer} of a newer format were left out" if known.newer else ""
    if certificate.id not in by_id:
        return [Finding(about="published", standing=Standing.UNPROVEN, why=_unpublished(known) + about_newer)]
    findings = [Finding(about="published", standing=Standing.VALID, why=f"{known.topic} holds it{about_newer}")]
    steps, explained, at = 1, False, certificate
    forks: list[str] = []
    strangers = set()
    while True:
        explained = explained or bool(at.because)
        rivals = [one for one in followers.get((at.chain, at.previous), []) if one.id != at.id]
        mine = [one for one in rivals if trusted is None or one.public_key in trusted]
        if mine and not explained:
            forks.append(_fork(at, mine))
        strangers |= {one.id for one in rivals if one not in mine}
        if at is not certificate and trusted is not None and at.public_key not in trusted:
            strangers.add(at.id)
        if not at.previous:
            break
        before = by_id.get(at.previous)
        if before is None:
            return [*findings, _broken(at, known)]
        if not is_linked(at, before):
            why = f"{at.id[:12]} names {before.id[:12]} as its predecessor, which is of another chain or projection"
            return [*findings, Finding(about="chain", standing=Standing.REFUTED, why=why)]
        if back := _back(before, at):
            return [*findings, Finding(about="chain", standing=Standing.REFUTED, why=back)]
        steps, at = steps + 1, before
    if forks:
        return [*findings, Finding(about="chain", standing=Standing.REFUTED, why="; ".join(forks))]
    told = f"certificate {steps} of its chain, whose first is {at.id[:12]} of {at.count} events"
    if strangers:
        told += f"; in or beside it, by keys that are not trusted here: {', '.join(sorted(one[:12] for one in strangers))}"
    return [*findings, Finding(about="chain", standing=Standing.VALID, why=told)]


def _unpublished(known: Published) -> str:
    if not known.is_there:
        return f"the log has no topic {known.topic}; is this the log that it was issued on?"
    if not known.is_whole:
        return f"{known.topic} does not hold it, and no longer begins at its beginning"
    return f"{known.topic} does not hold it: it was never published there, or the next `certify` of that replica publishes it"


def _broken(at: Certificate, known: Published) -> Finding:
    why = f"{at.id[:12]} names {at.previous[:12]} as its predecessor, and {known.topic} does not hold that"
    if known.is_whole and not known.newer:
        return Finding(about="chain", standing=Standing.REFUTED, why=f"{why}: certificates were left out")
    gone = "no longer begins at its beginning" if not known.is_whole else "holds some of a newer format"
    return Finding(about="chain", standing=Standing.UNPROVEN, why=f"{why}, which {gone}")


def _fork(at: Certificate, rivals: Sequence[Certificate]) -> str:
    told = ", ".join(f"{one.id[:12]} ({one.count} events)" for one in rivals)
    where = f"after {at.previous[:12]}" if at.previous else "at its beginning"
    return (
        f"the chain forks {where}: {at.id[:12]} ({at.count} events) and {told}: a replica went on from an older copy of "
        "itself, or there are two; `certify --because` says why and goes on from the newest"
    )


def _back(before: Certificate, after: Certificate) -> str:
    """Why the later of two neighbours can't be, "" if it can: in one life of the topic nothing goes back without a reason."""
    if before.incarnation != after.incarnation or after.because:
        return ""
    for what, was, is_ in (("offset", before.positions, after.positions), ("count", before.counts, after.counts)):
        for p, figure in sorted(was.items()):
            if is_.get(p, 0) < figure:
                return (
                    f"{after.id[:12]} states {what} {is_.get(p, 0)} in partition {p}, its predecessor {before.id[:12]} stated "
                    f"{figure}, and nothing says why it went back"
                )
    return ""
