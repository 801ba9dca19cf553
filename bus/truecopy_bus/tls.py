"""TLS to servers: the files that it is made with, and why a handshake failed, by what is to be done next.

Files are read for every new connection and never kept, so that a renewed certificate is taken up without a restart. Nothing
here connects; the adapters do, and add which of their settings mends what is found.
"""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

__all__ = ["Handshake", "TlsFileError", "TlsFiles", "causes", "handshake"]


class TlsFileError(ValueError):
    """A file can't be used. `part` is the field of TlsFiles that is to be changed; no text quotes the password."""

    def __init__(self, *, part: str, seen: str) -> None:
        super().__init__(seen)
        self.part = part


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Files in PEM form. Without `ca` the machine's own authorities are trusted; without `key` it lies with the certificate."""

    ca: Path | None = None
    """Certificates of the authorities that vouch for the server."""
    cert: Path | None = None
    """Our own, with those between it and its authority after it."""
    key: Path | None = None
    key_password: str | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        """Whether anything is given."""
        return any((self.ca, self.cert, self.key, self.key_password))

    def context(self) -> ssl.SSLContext:
        """What verifies the server's certificate and host name, and shows ours if there is one. Raises TlsFileError."""
        context = ssl.create_default_context() if self.ca is None else _trusting("ca", self.ca)
        if self.cert is None:
            for part in ("key", "key_password"):
                if getattr(self, part) is not None:
                    raise TlsFileError(part=part, seen="it is given without a certificate, expected both or none")
            return context
        _trusting("cert", self.cert)  # asked for by itself, because OpenSSL does not say which file is broken
        if self.key is not None:
            _readable("key", self.key)
        self._show(context, self.cert, self.key or self.cert)
        return context

    def _show(self, context: ssl.SSLContext, certificate: Path, key: Path) -> None:
        encrypted = False

        def password() -> str:
            # Always handed over: without it OpenSSL asks at the terminal, and a process that nobody watches waits there.
            nonlocal encrypted
            encrypted = True
            return self.key_password or ""

        try:
            context.load_cert_chain(certificate, key, password)
        except ssl.SSLError as fault:
            if fault.reason == "KEY_VALUES_MISMATCH":
                seen = f"the key in {key} is not that of the certificate in {certificate}, expected its own"
                raise TlsFileError(part="key", seen=seen) from None
            if encrypted:
                how = "with another password" if self.key_password else "and no password is given"
                raise TlsFileError(part="key_password", seen=f"the key in {key} is encrypted {how}") from None
            raise TlsFileError(
                part="key", seen=f"{key} holds no private key that can be read, expected one in PEM form"
            ) from None
        except ValueError:  # what it says may quote the password
            raise TlsFileError(part="key_password", seen="it is too long, or no text, for a password of a key") from None


def _readable(part: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as fault:
        raise TlsFileError(part=part, seen=f"{path} can't be read: {fault.strerror}") from None


def _trusting(part: str, path: Path) -> ssl.SSLContext:
    _readable(part, path)
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise TlsFileError(part=part, seen=f"{path} holds no certificate that can be read, expected PEM form") from None


class Handshake(Enum):
    """How a handshake failed."""

    UNTRUSTED = "its certificate is not vouched for by an authority that we trust"
    OTHER_HOST = "its certificate is for another host"
    EXPIRED = "its certificate has expired, or is not valid yet"
    NEEDS_CERTIFICATE = "it wants a client certificate, and we showed none"
    CERTIFICATE_REFUSED = "it refuses our client certificate"
    NO_TLS = "it does not speak TLS"
    OTHER = "the TLS handshake failed"


# Numbers of X509_V_ERR_..., https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
_VERIFICATION = {9: Handshake.EXPIRED, 10: Handshake.EXPIRED, 62: Handshake.OTHER_HOST, 64: Handshake.OTHER_HOST}
_ALERTS = {
    "CERTIFICATE_REQUIRED": Handshake.NEEDS_CERTIFICATE,
    "ALERT_UNKNOWN_CA": Handshake.CERTIFICATE_REFUSED,
    "ALERT_BAD_CERTIFICATE": Handshake.CERTIFICATE_REFUSED,
    "ALERT_CERTIFICATE_": Handshake.CERTIFICATE_REFUSED,
    "ALERT_UNSUPPORTED_CERTIFICATE": Handshake.CERTIFICATE_REFUSED,
    "WRONG_VERSION_NUMBER": Handshake.NO_TLS,
    "RECORD_LAYER_FAILURE": Handshake.NO_TLS,
}
"""Parts of OpenSSL's names of what the other side answered; the first that fits counts."""


def handshake(error: BaseException) -> tuple[Handshake, str] | None:
    """How the handshake behind an error failed, and OpenSSL's own words for it; None if none did."""
    for each in causes(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return _VERIFICATION.get(each.verify_code, Handshake.UNTRUSTED), each.verify_message.rstrip(".")
        if isinstance(each, ssl.SSLError):
            said = each.reason or str(each)
            return next((found for part, found in _ALERTS.items() if part in said), Handshake.OTHER), said
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from, back to the first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
