"""What of a text is a certificate, and that no change of one goes unseen; and what certificates say of each other."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from truecopy_bus.limits import RECORD_BYTES_MAX
from truecopy_projections.certificate_chain import Standing, judge_chain, line
from truecopy_projections.certificate_form import Certificate, read, sign
from truecopy_projections.certificates_topic import Published
from truecopy_projections.errors import InvalidCertificateError
from truecopy_schemas.errors import NewerFormatError

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (1, 2))
OWN, STRANGE = (key.public_key().public_bytes_raw().hex() for key in (KEY, OTHER))
STATED: dict[str, Any] = {
    "format": 1,
    "chain": "c" * 32,
    "previous": "",
    "entity": "bank.account",
    "projection": "balance@1",
    "replica": "sqlite:replica.db",
    "incarnation": "1" * 32,
    "positions": {0: 12, 1: 30},
    "counts": {0: 10, 1: 20},
    "marks": {p: {"epoch": 1, "number": 7, "count": count, "digest": "a" * 64} for p, count in ((0, 10), (1, 20))},
    "input_digests": {0: "a" * 64, 1: "b" * 64},
    "row_digests": {0: "c" * 64, 1: "d" * 64},
    "digest_algorithm": 1,
    "canonical_form": 1,
    "schema_fingerprints": ["e" * 64],
    "oldest_scrub_at_ms": 1_700_000_000_000,
    "parked": [],
    "amendments": [
        {
            "id": "f" * 64,
            "partition": 1,
            "offset": 4,
            "key": "k1",
            "version": 2,
            "event": "a" * 64,
            "ruling": "SKIPPED",
            "replacement": "",
            "by": "ops",
            "why": "paid twice",
            "at_ms": 1_700_000_000_000,
        }
    ],
    "repairs": 0,
    "because": "",
    "issued_at_ms": 1_700_000_000_001,
}


def issued(key: Ed25519PrivateKey = KEY, **changed: Any) -> Certificate:
    return sign(STATED | changed, key)


ONE = issued()


def after(previous: Certificate, key: Ed25519PrivateKey = KEY, *, more: int = 1, **changed: Any) -> Certificate:
    """A certificate that goes on from another, `more` events later in each partition."""
    moved = {name: {p: n + more for p, n in getattr(previous, name).items()} for name in ("positions", "counts")}
    return issued(key, **{"previous": previous.id, **moved, **changed})


def test_it_reads_back_in_any_order_of_keys_and_with_blanks() -> None:
    said = json.loads(ONE.canonical())
    turned = json.dumps(dict(reversed(said.items())), indent=2).encode()

    assert read(turned) == ONE
    assert read(turned).id == ONE.id == hashlib.sha256(ONE.canonical()).hexdigest()
    assert read(turned).is_signed()


def test_the_form_is_the_one_that_was_published() -> None:
    """Hash and signature of a certificate of format 1, once and for all: another release must come to the same."""
    assert ONE.id == "1f37e1c7ce1a612754463d6057375418fd4a58adf746730a665647d2347c9e9f"
    assert ONE.signature.startswith("4153830782f782484342f42a888f56a1")


def _other(value: Any) -> Any:
    """Something else of the same kind."""
    if isinstance(value, dict):
        first = next(iter(value))
        return {**value, first: _other(value[first])}
    if isinstance(value, list):
        return [_other(value[0])] if value and isinstance(value[0], dict) else [*value, "f" * 64]
    if isinstance(value, int):
        return value + 1
    return ("0" if value[:1] != "0" else "1") + value[1:] if len(value) in (32, 64, 128) else value + "x"


@pytest.mark.parametrize("field", [name for name in ONE.as_json() if name not in ("format", "previous")])
def test_a_changed_field_is_seen(field: str) -> None:
    said = json.loads(ONE.canonical())
    forged = read(json.dumps({**said, field: _other(said[field])}).encode())

    assert not forged.is_signed()
    assert forged.id != ONE.id


def test_a_changed_predecessor_is_seen() -> None:
    said = json.loads(ONE.canonical())

    assert not read(json.dumps({**said, "previous": "0" * 64}).encode()).is_signed()


def test_another_key_signs_another_certificate() -> None:
    theirs = issued(OTHER)

    assert theirs.is_signed()
    assert (theirs.public_key, theirs.id == ONE.id) == (STRANGE, False)
    assert not ONE.model_copy(update={"signature": theirs.signature}).is_signed()
    assert not ONE.model_copy(update={"public_key": STRANGE}).is_signed()


def test_a_newer_format_is_refused_by_name() -> None:
    with pytest.raises(NewerFormatError, match="certificate: format 2 was seen, up to 1 is known"):
        read(b'{"format": 2, "anything": "else"}')


MALFORMED: list[Any] = [
    pytest.param(lambda _: b"", id="empty"),
    pytest.param(lambda _: b"\xff", id="no text"),
    pytest.param(lambda _: b"[" * 100_000, id="nested deeply"),
    pytest.param(lambda _: b"[]", id="no object"),
    pytest.param(lambda said: said.pop("counts"), id="a field is missing"),
    pytest.param(lambda said: said.update(more=1), id="a field too many"),
    pytest.param(lambda said: said.update(repairs=0.0), id="a float"),
    pytest.param(lambda said: said.update(repairs=True), id="a boolean"),
    pytest.param(lambda said: said.update(repairs=-1), id="below zero"),
    pytest.param(lambda said: said.update(repairs=2**63), id="beyond 64 bits"),
    pytest.param(lambda said: said.update(format=0), id="format 0"),
    pytest.param(lambda said: said.update(chain="g" * 32), id="no hexadecimal digits"),
    pytest.param(lambda said: said.update(signature=said["signature"] + "\n"), id="a line break in a hash"),
    pytest.param(lambda said: said["counts"].pop("1"), id="other partitions"),
    pytest.param(lambda said: said["counts"].update(x=1), id="no partition"),
]


@pytest.mark.parametrize("broken", MALFORMED)
def test_what_is_no_certificate_is_refused(broken: Callable[[dict[str, Any]], Any]) -> None:
    said = json.loads(ONE.canonical())
    text = broken(said)

    with pytest.raises(InvalidCertificateError, match="no certificate"):
        read(text if isinstance(text, bytes) else json.dumps(said).encode())


def test_a_text_that_is_too_long_is_not_parsed_and_not_issued() -> None:
    text = ONE.canonical()
    assert read(text + b" " * (RECORD_BYTES_MAX - len(text))) == ONE

    with pytest.raises(InvalidCertificateError, match="1,000,001 bytes or more"):
        read(text + b" " * (RECORD_BYTES_MAX + 1 - len(text)))
    with pytest.raises(InvalidCertificateError, match="taken at the most"):
        issued(replica="x" * (RECORD_BYTES_MAX // 2))


def test_those_that_lost_a_race_in_the_journal_count_nothing() -> None:
    two, rival = after(ONE), after(ONE, more=2)

    assert line([ONE, two, rival, after(two)]) == [ONE, two, after(two)]
    assert line([issued(repairs=9), ONE, two]) == [issued(repairs=9)]


TWO = after(ONE)
THREE = after(TWO)
RIVAL = after(ONE, more=5)
STRANGER = after(ONE, OTHER)
BACK = after(TWO, more=-1)
WHY = after(TWO, more=-1, because="restored from Monday's backup")
HEALED = after(RIVAL, because="restored")
ANEW = after(TWO, more=-9, incarnation="2" * 32)
FOREIGN = after(ONE, projection="entries@1")
PLACES: list[Any] = [
    pytest.param(ONE, [ONE], {}, "VALID VALID", "certificate 1 of its chain", id="the first"),
    pytest.param(THREE, [ONE, TWO, THREE], {}, "VALID VALID", "certificate 3 of its chain", id="the third"),
    pytest.param(TWO, [THREE, TWO, ONE], {}, "VALID VALID", "certificate 2", id="in whatever order the topic has them"),
    pytest.param(TWO, [ONE], {}, "UNPROVEN", "was never published", id="not published"),
    pytest.param(TWO, [], {"is_there": False}, "UNPROVEN", "has no topic", id="no topic"),
    pytest.param(TWO, [], {"is_whole": False}, "UNPROVEN", "no longer begins", id="the topic forgot it"),
    pytest.param(THREE, [ONE, THREE], {}, "VALID REFUTED", "were left out", id="one was left out"),
    pytest.param(THREE, [TWO, THREE], {}, "VALID REFUTED", "were left out", id="the chain was cut"),
    pytest.param(THREE, [TWO, THREE], {"is_whole": False}, "VALID UNPROVEN", "no longer begins", id="the first is forgotten"),
    pytest.param(THREE, [TWO, THREE], {"newer": 1}, "VALID UNPROVEN", "newer format", id="the first may be a newer one"),
    pytest.param(TWO, [ONE, TWO, RIVAL], {}, "VALID REFUTED", f"forks after {ONE.id[:12]}", id="a fork"),
    pytest.param(RIVAL, [ONE, TWO, RIVAL], {}, "VALID REFUTED", f"forks after {ONE.id[:12]}", id="the other side of it"),
    pytest.param(THREE, [ONE, TWO, RIVAL, THREE], {}, "VALID REFUTED", "forks after", id="behind a fork"),
    pytest.param(ONE, [ONE, TWO, RIVAL], {}, "VALID VALID", "certificate 1", id="before a fork"),
    pytest.param(HEALED, [ONE, TWO, RIVAL, HEALED], {}, "VALID VALID", "certificate 3", id="a fork that was explained"),
    pytest.param(TWO, [ONE, issued(repairs=1), TWO], {}, "VALID REFUTED", "at its beginning", id="two beginnings"),
    pytest.param(TWO, [ONE, issued(chain="d" * 32), TWO], {}, "VALID VALID", "certificate 2", id="another chain"),
    pytest.param(TWO, [ONE, TWO, STRANGER], {}, "VALID VALID", f"trusted here: {STRANGER.id[:12]}", id="a stranger's fork"),
    pytest.param(BACK, [ONE, TWO, BACK], {}, "VALID REFUTED", "nothing says why it went back", id="it went back"),
    pytest.param(WHY, [ONE, TWO, WHY], {}, "VALID VALID", "certificate 3", id="it says why it went back"),
    pytest.param(ANEW, [ONE, TWO, ANEW], {}, "VALID VALID", "certificate 3", id="the topic was made anew"),
    pytest.param(FOREIGN, [ONE, FOREIGN], {}, "VALID REFUTED", "another chain or projection", id="of another projection"),
]  # fmt: skip


@pytest.mark.parametrize(("certificate", "found", "known", "standings", "words"), PLACES)
def test_a_place_in_the_chain(
    certificate: Certificate, found: list[Certificate], known: dict[str, Any], standings: str, words: str
) -> None:
    findings = judge_chain(certificate, Published(topic="certificates", found=found, **known), trusted={OWN})

    assert " ".join(one.standing.name for one in findings) == standings
    assert words in findings[-1].why


def test_to_who_trusts_anybody_a_strangers_fork_is_one() -> None:
    findings = judge_chain(TWO, Published(topic="certificates", found=[ONE, TWO, STRANGER]), trusted=None)

    assert findings[-1].standing is Standing.REFUTED
