"""Certificates and keys that can't be used: one sentence each, which names the part and the file, and no password."""

import shutil
from pathlib import Path

import pytest
from tests.security.conftest import KEY_PASSWORD, Certificates

from truecopy_bus.tls import Handshake, TlsFileError, TlsFiles, handshake

BROKEN = [
    pytest.param({"ca": "missing.pem"}, "ca", "missing.pem can't be read: No such file", id="no such file"),
    pytest.param({"ca": "."}, "ca", "can't be read: Is a directory", id="a folder"),
    pytest.param({"ca": "client.key"}, "ca", "holds no certificate", id="a key where an authority should be"),
    pytest.param({"cert": "client.key"}, "cert", "holds no certificate", id="a key where a certificate should be"),
    pytest.param({"cert": "client.crt"}, "key", "client.crt holds no private key", id="no key at all"),
    pytest.param({"cert": "client.crt", "key": "ca.pem"}, "key", "ca.pem holds no private key", id="no key in the file"),
    pytest.param({"cert": "client.crt", "key": "gone.key"}, "key", "gone.key can't be read", id="a key that is not there"),
    pytest.param({"cert": "client.crt", "key": "stranger.key"}, "key", "not that of the certificate", id="another's key"),
    pytest.param({"cert": "client.crt", "key": "locked.key"}, "key_password", "no password is given", id="a locked key"),
    pytest.param({"key": "client.key"}, "key", "without a certificate", id="a key alone"),
]


def of(certificates: Certificates, files: dict[str, str], **more: str) -> TlsFiles:
    return TlsFiles(**{part: certificates.folder / name for part, name in files.items()}, **more)


@pytest.mark.parametrize(("files", "part", "seen"), BROKEN)
def test_what_can_not_be_used_is_named(certificates: Certificates, files: dict[str, str], part: str, seen: str) -> None:
    with pytest.raises(TlsFileError, match=seen) as refused:
        of(certificates, files).context()

    assert refused.value.part == part


@pytest.mark.parametrize("password", ["wr0ng-S3cret", "l0ng-S3cret" * 200], ids=["another", "too long"])
def test_a_password_that_does_not_open_the_key_is_told_but_not_shown(certificates: Certificates, password: str) -> None:
    files = of(certificates, {"cert": "client.crt", "key": "locked.key"}, key_password=password)

    with pytest.raises(TlsFileError) as refused:
        files.context()

    assert refused.value.part == "key_password"
    assert "S3cret" not in f"{refused.value!r} {files!r}"


def test_what_is_right_is_taken(certificates: Certificates) -> None:
    of(certificates, {}).context()
    of(certificates, {"ca": "ca.pem"}).context()
    of(certificates, {"ca": "ca.pem", "cert": "client.pem"}).context()
    of(certificates, {"cert": "client.crt", "key": "locked.key"}, key_password=KEY_PASSWORD).context()


def test_a_renewed_file_is_taken_up(certificates: Certificates, tmp_path: Path) -> None:
    files = TlsFiles(ca=Path(shutil.copy(certificates.ca, tmp_path / "ca.pem")))
    before = files.context().get_ca_certs()
    shutil.copy(certificates.other_ca, tmp_path / "ca.pem")

    assert files.context().get_ca_certs() != before


def test_an_error_without_a_handshake_has_none() -> None:
    assert handshake(ConnectionResetError()) is None
    assert len({each.value for each in Handshake}) == len(Handshake)
