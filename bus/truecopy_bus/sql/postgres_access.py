"""Why a PostgreSQL does not let us in, told from how a connection to it ended: pure, but for a look at the address's files.

The address says all about TLS, by libpq's options (sslmode, sslrootcert, sslcert, sslkey, sslpassword) or its variables.
"""

import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from truecopy_bus.errors import AddressError, DatabaseAccessError
from truecopy_bus.tls import Handshake, TlsFileError, TlsFiles, handshake
from truecopy_schemas.errors import TruecopyError

__all__ = ["NO_LOGIN", "NO_PRIVILEGE", "refusal"]

# SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
NO_LOGIN = "28"
BROKEN = "08"
NO_PRIVILEGE = "42501"
FILES = {"ca": "sslrootcert", "cert": "sslcert", "key": "sslkey"}
"""Options of an address by the fields of TlsFiles; the variable of each is in capitals, after PG."""
KEY_PASSWORD = "sslpassword"
REMEDIES = {
    Handshake.UNTRUSTED: "name its authority's certificate as sslrootcert in the address",
    Handshake.OTHER_HOST: "use a name that it holds as the host in the address, or have one issued for this name",
    Handshake.EXPIRED: "renew the server's certificate, or correct the clock here",
    Handshake.NEEDS_CERTIFICATE: "give one as sslcert, and its key as sslkey, in the address",
    Handshake.CERTIFICATE_REFUSED: "give one that the server's ssl_ca_file vouches for as sslcert in the address",
    Handshake.NO_TLS: "switch ssl on at the server, or name another sslmode in the address",
    Handshake.OTHER: "compare the server's ssl settings with the ssl options of the address",
}


def refusal(name: str, url: str, error: Exception) -> TruecopyError | None:
    """The error that says so, AddressError or DatabaseAccessError; None when the database is merely away."""
    state = getattr(error, "sqlstate", None)
    found: tuple[str, str] | None = None
    if isinstance(state, str) and state.startswith(NO_LOGIN):
        found = _login(state, str(error))
    elif isinstance(state, str) and state.startswith(BROKEN) and _options(url)["cert"]:
        # Under TLS 1.3 a certificate is refused after the handshake, and the alert that says so can be lost.
        how = Handshake.CERTIFICATE_REFUSED
        found = f"it hangs up after the TLS handshake, as where {how.value}", REMEDIES[how]
    elif isinstance(error, OSError):
        # Files are read before anything is connected: who got as far as a broken connection has read them.
        if not isinstance(error, (ConnectionError, TimeoutError)) and (seen := _broken_file(url)) is not None:
            return AddressError(database=name, seen=seen)
        if "rejected SSL upgrade" in str(error):
            found = f"{Handshake.NO_TLS.value}, and the address's sslmode expects it", REMEDIES[Handshake.NO_TLS]
        elif (failed := handshake(error)) is not None:
            how, words = failed
            found = f"{how.value} ({words})", REMEDIES[how]
    return None if found is None else DatabaseAccessError(database=name, seen=found[0], remedy=found[1])


def _login(state: str, said: str) -> tuple[str, str]:
    if "client certificate" in said:
        return f"{state} {said}", REMEDIES[Handshake.NEEDS_CERTIFICATE]
    if "no encryption" in said or "SSL off" in said:
        return f"{state} {said}", "ask for TLS by sslmode=verify-full in the address, or allow this host in pg_hba.conf"
    if "pg_hba.conf" in said:
        return f"{state} {said}", "allow host, user and database in the server's pg_hba.conf, or correct them in the address"
    return f"{state} {said}", "correct user and password in the address, or the password in PGPASSFILE"


def _broken_file(url: str) -> str | None:
    """Which file of the address can't be used, and why; OpenSSL and the system name none."""
    given = _options(url)
    files = {part: Path(path) if (path := given[part]) else None for part in FILES}
    try:
        TlsFiles(**files, key_password=given[KEY_PASSWORD]).context()
    except TlsFileError as fault:
        return f"{FILES.get(fault.part, KEY_PASSWORD)}: {fault}"
    return None


def _options(url: str) -> dict[str, str | None]:
    """The files by the fields of TlsFiles, and the password of the key, as asyncpg finds them."""
    query = {name: values[-1] for name, values in parse_qs(urlsplit(url).query).items()}
    given = {part: query.get(option) or os.environ.get(f"PG{option.upper()}") for part, option in FILES.items()}
    return {**given, KEY_PASSWORD: query.get(KEY_PASSWORD)}
