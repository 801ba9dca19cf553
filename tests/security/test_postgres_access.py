"""The ways into a PostgreSQL that asks who comes, and one clear sentence for each way to be left out, in bounded time."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.security.conftest import GUEST, KEY_PASSWORD, PASSWORD, SECRET_OF_GUEST, USER, Certificates, SecuredPostgres

from truecopy_bus.errors import AddressError, DatabaseAccessError, DatabaseUnavailableError
from truecopy_bus.sql import connect

# One loop for all: TLS says goodbye to who was left out after the test has ended.
pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT_S = 20.0
TRUSTED = {"sslmode": "verify-full", "sslrootcert": "ca.pem"}
OURS = {**TRUSTED, "sslcert": "client.crt", "sslkey": "client.key"}
STRANGERS = {"sslcert": "stranger.crt", "sslkey": "stranger.key"}
FILES = ("sslrootcert", "sslcert", "sslkey")
MUTUAL = {"database": "mutual"}
WAYS_IN = [
    pytest.param(TRUSTED, id="TLS and a password"),
    pytest.param(OURS | MUTUAL, id="mutual TLS"),
    pytest.param(OURS | MUTUAL | {"sslkey": "locked.key", "sslpassword": KEY_PASSWORD}, id="mutual TLS with a locked key"),
]
# options; then what is seen, and what mends it
LEFT_OUT = [
    pytest.param(TRUSTED | {"sslrootcert": "other_ca.pem"}, "not vouched for", "sslrootcert", id="wrong authority"),
    pytest.param(TRUSTED | {"host": "localhost"}, "not valid for 'localhost'", "host", id="another host"),
    pytest.param(TRUSTED | MUTUAL, "valid client certificate", "sslcert", id="no client certificate"),
    pytest.param(OURS | STRANGERS | MUTUAL, "refuses our client certificate", "sslcert", id="a certificate of strangers"),
    pytest.param({"sslmode": "disable"}, "no encryption", "sslmode=verify-full", id="plain to TLS"),
    pytest.param(TRUSTED | {"password": "wr0ng/S3cret"}, 'failed for user "bank"', "PGPASSFILE", id="password"),
    pytest.param(TRUSTED | {"password": ""}, 'failed for user "bank"', "PGPASSFILE", id="no password"),
    pytest.param(TRUSTED | {"user": "nobody"}, 'failed for user "nobody"', "user and password", id="no such user"),
    pytest.param(
        TRUSTED | {"user": GUEST, "password": SECRET_OF_GUEST}, "42501 permission denied", "grant", id="a user without rights"
    ),
]
UNUSABLE = [
    pytest.param(TRUSTED | {"sslrootcert": "missing.pem"}, r"sslrootcert: .*missing\.pem can't be read", id="no file"),
    pytest.param(TRUSTED | {"sslrootcert": "client.key"}, "sslrootcert: .*holds no certificate", id="no certificate"),
    pytest.param(OURS | {"sslkey": "stranger.key"}, "sslkey: .*not that of the certificate", id="another's key"),
    pytest.param(OURS | {"sslkey": "locked.key"}, "sslpassword: .*no password is given", id="a locked key"),
    pytest.param(OURS | {"sslkey": "locked.key", "sslpassword": "wr0ng-S3cret"}, "sslpassword: .*another password", id="key"),
    pytest.param({"sslmode": "full"}, "sslmode", id="no mode"),
]


def at(server: SecuredPostgres, certificates: Certificates, options: dict[str, Any]) -> str:
    return server.url(**options | {name: certificates.folder / options[name] for name in FILES if name in options})


async def asked(url: str) -> None:
    database = await connect(url, timeout_s=10)
    try:
        async with asyncio.timeout(LIMIT_S):
            await database.install([], ["CREATE TABLE IF NOT EXISTS asked (a int)"])
    finally:
        await database.close()


@pytest.mark.parametrize("options", WAYS_IN)
async def test_who_may_enter_does(
    secured_postgres: SecuredPostgres, certificates: Certificates, options: dict[str, Any]
) -> None:
    database = await connect(at(secured_postgres, certificates, options))
    async with database.transaction() as connection:
        ((encrypted,),) = await connection.fetch("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await database.close()

    assert encrypted


async def test_a_password_may_lie_in_a_file(
    secured_postgres: SecuredPostgres, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "passwords"
    file.touch(mode=0o600)
    file.write_text(f"127.0.0.1:*:*:{USER}:{PASSWORD}\n")
    monkeypatch.setenv("PGPASSFILE", str(file))

    await asked(at(secured_postgres, certificates, TRUSTED | {"password": ""}))


@pytest.mark.parametrize(("options", "seen", "mended_by"), LEFT_OUT)
async def test_who_is_left_out_is_told_why_and_what_to_do(
    secured_postgres: SecuredPostgres, certificates: Certificates, options: dict[str, Any], seen: str, mended_by: str
) -> None:
    with pytest.raises(DatabaseAccessError, match=f"does not let us in: .*{seen}") as refused:
        await asked(at(secured_postgres, certificates, options))

    assert mended_by in refused.value.remedy
    assert "S3cret" not in str(refused.value)


async def test_an_expired_certificate_is_told(expired_postgres: SecuredPostgres, certificates: Certificates) -> None:
    with pytest.raises(DatabaseAccessError, match=r"certificate has expired.*renew the server's certificate"):
        await asked(at(expired_postgres, certificates, TRUSTED))


async def test_a_server_without_tls_is_told(postgres_url: str, certificates: Certificates) -> None:
    with pytest.raises(DatabaseAccessError, match=r"does not speak TLS.*switch ssl on"):
        await asked(f"{postgres_url}?sslmode=verify-full&sslrootcert={certificates.ca}")


@pytest.mark.parametrize(("options", "seen"), UNUSABLE)
async def test_options_that_can_not_work_are_the_addresses_fault(
    secured_postgres: SecuredPostgres, certificates: Certificates, options: dict[str, Any], seen: str
) -> None:
    with pytest.raises(AddressError, match=seen) as refused:
        await asked(at(secured_postgres, certificates, options))

    assert "S3cret" not in str(refused.value)


async def test_a_server_that_is_merely_away_is_not_called_strict(certificates: Certificates) -> None:
    with pytest.raises(DatabaseUnavailableError) as away:
        await asked(f"postgresql://u@127.0.0.1:1/x?sslmode=verify-full&sslrootcert={certificates.ca}")

    assert away.value.waiting_helps
