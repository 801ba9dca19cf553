"""`truecopy certify` and `truecopy verify`, as an owner and an auditor use them: exit codes, what is said, and the files."""

import asyncio
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.services.bank import Deposited, app, balances

from truecopy_services.cli import main
from truecopy_services.config import Settings


class Said(NamedTuple):
    code: int
    object: Any
    text: str


class Desk:
    """A bank whose replica has all that was published, and the command line beside it, in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.home = folder / ".truecopy"

    def publish(self, *amounts: int) -> None:
        async def settled() -> None:
            async with app.at(Settings(home=self.home, read_wait_s=0.01)).open() as service:
                for number, amount in enumerate(amounts):
                    await service.publish(f"a{number}", Deposited(amount=amount))
                relay, worker = service.relay(), service.worker(balances)
                await relay.drain()
                await relay.mark()
                while await worker.step():
                    pass
                await worker.leave()
                await relay.leave()

        asyncio.run(settled())

    def __call__(self, *words: str) -> Said:
        code = main([*words, "--json"])
        said = self._capsys.readouterr()
        return Said(code, json.loads(said.out.splitlines()[-1]), said.err)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    shutil.copy(Path(__file__).with_name("bank.py"), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TRUECOPY_CHECK_WAIT_S", "0")
    found = Desk(tmp_path, capsys)
    found.publish(5, 7, 9)
    return found


def test_what_an_owner_certifies_an_auditor_verifies(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first = desk("certify", "bank")
    desk.publish(1)
    second = desk("certify", "bank", "balance")
    assert (first.code, second.code) == (0, 0), (first, second)
    [certificate], [name] = second.object["certificates"], second.object["ids"]
    assert certificate["previous"] == first.object["ids"][0]
    text = json.dumps(certificate, indent=2)
    (desk.folder / "certificate.json").write_text(text)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    for given in (name, name[:8], "balance", "balance@1", "certificate.json", "-"):
        found = desk("verify", given)
        assert (found.code, found.object["valid"], found.object["id"]) == (0, True, name), given
    whole = desk("verify", name, "--app", "bank")
    assert (whole.code, whole.object["findings"][-1]["about"]) == (0, "computed")
    assert "VALID: at 4 events the replica was a true copy of bank.account" in whole.text
    assert "balance@1: certified through 4 events, " in desk("status", "bank").text


def test_a_signer_is_trusted_by_its_key_and_not_by_its_word(desk: Desk) -> None:
    [certificate] = desk("certify", "bank").object["certificates"]
    key = certificate["public_key"]
    (desk.home / "trusted.keys").unlink()
    pem = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (desk.folder / "key.pem").write_bytes(pem)

    unknown = desk("verify", "balance")
    assert (unknown.code, unknown.object["standing"]) == (1, "UNKNOWN_SIGNER")
    assert "signed by an unknown key" in unknown.text
    assert desk("verify", "balance", "--public-key", "0" * 64).code == 1
    assert [desk("verify", "balance", "--public-key", given).code for given in (key, "key.pem")] == [0, 0]
    assert desk("verify", "balance", "--any-signer").code == 0


def test_what_is_not_equal_is_not_certified_and_named(desk: Desk) -> None:
    behind = apsw.Connection(str(desk.home / "bank.replica.db"))
    behind.execute("UPDATE balance__v1 SET amount = 999 WHERE _key = 'a1'")
    behind.close()

    found = desk("certify", "bank")

    assert (found.code, found.object["certified"], found.object["certificates"]) == (1, False, [])
    assert "'a1' at version 1 is different: amount: stored 999, expected 7" in found.text
    assert "not certified: balance@1" in found.text


def test_why_it_went_back_stands_in_the_certificate(desk: Desk) -> None:
    desk("certify", "bank")

    found = desk("certify", "bank", "--because", "the replica was restored")

    assert found.object["certificates"][0]["because"] == "the replica was restored"
    assert desk("verify", "balance").code == 0


TEXTS = [
    pytest.param(lambda said: {**said, "repairs": 1}, 1, "REFUTED: it is not the stated key's", id="altered"),
    pytest.param(lambda said: {**said, "format": 2}, 1, "format 2 was seen, up to 1 is known", id="a newer format"),
    pytest.param(lambda _: {"format": 1}, 1, "this is no certificate: chain: Field required", id="no certificate"),
    pytest.param(lambda said: {**said, "because": "x" * 1_000_000}, 1, "are read at the most", id="too long"),
]


@pytest.mark.parametrize(("change", "code", "words"), TEXTS)
def test_a_text_that_is_not_what_was_issued(desk: Desk, change: Any, code: int, words: str) -> None:
    [certificate] = desk("certify", "bank").object["certificates"]
    (desk.folder / "other.json").write_text(json.dumps(change(certificate)))

    found = desk("verify", "other.json")

    assert found.code == code
    assert words in found.text


WRONG = [
    pytest.param(["verify", "balance"], {}, 2, "has no certificate", id="nothing was certified"),
    pytest.param(["verify", "00000000"], {}, 2, "has no certificate", id="no such id"),
    pytest.param(["verify", "x", "--any-signer", "--public-key", "0" * 64], {}, 2, "give one of them", id="two ways to trust"),
    pytest.param(["verify", "x", "--public-key", "nowhere"], {}, 1, "can't be read", id="no key"),
    pytest.param(["certify", "bank", "nothing"], {}, 2, "declares no projection", id="no projection"),
    pytest.param(["verify", "balance"], {"TRUECOPY_LOG": "kafka://127.0.0.1:1"}, 3, "unavailable", id="verify: no log"),
    pytest.param(["verify", "balance"], {"TRUECOPY_LOG": "sqlite:none/log.db"}, 3, "no such file", id="verify: no file"),
    pytest.param(["certify", "bank"], {"TRUECOPY_LOG": "kafka://127.0.0.1:1"}, 3, "unavailable", id="certify: no log"),
]


@pytest.mark.parametrize(("words", "settings", "code", "told"), WRONG)
def test_what_can_not_be_done_has_its_exit_code(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, words: list[str], settings: dict[str, str], code: int, told: str
) -> None:
    monkeypatch.setenv("TRUECOPY_TIMEOUT_S", "1")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    found = desk(*words)

    assert (found.code, found.object["exit"]) == (code, code), found
    assert told in found.text
    assert not (desk.folder / "none").exists()


def test_the_topic_of_certificates_is_among_those_that_operators_see(desk: Desk) -> None:
    of = ("bank", "bank.account")  # other tests of this process may declare more
    assert len(desk("topics", "describe", *of).object["topics"]) == 2
    desk("certify", "bank")

    described, planned = desk("topics", "describe", *of), desk("topics", "plan", *of)

    assert described.code == planned.code == 0, (described, planned)
    assert [one["topic"] for one in described.object["topics"]][2:] == ["_truecopy.certificates"]
    assert planned.object["as_needed"] is True
    doctor = desk("doctor", "bank")
    assert not [line for line in doctor.text.splitlines() if "certificates" in line and "marks" in line]


def test_no_private_key_is_said_or_readable_by_others(desk: Desk) -> None:
    found = desk("certify", "bank")

    assert os.stat(desk.home / "signing.key").st_mode & 0o077 == 0
    assert "PRIVATE" not in found.text + json.dumps(found.object)
