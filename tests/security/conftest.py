"""One Kafka and one PostgreSQL that let in only who is allowed to, and certificates for both; the session's, never killed."""

import asyncio
import os
import pwd
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
import trustme
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from tests.conftest import rungs

from truecopy_bus.logs.kafka import KafkaLog
from truecopy_bus.tls import TlsFiles
from truecopy_services.servers import Server, kafka, postgres
from truecopy_services.servers.process import free_ports

USER, GUEST = "bank", "guest"
PASSWORD = "Kaf/ka@S3cret?9#x"
KEY_PASSWORD = "K3y%S3cret+1"
SECRET_OF_GUEST = "Gu3st:S3cret"
QUICK = {"connect_timeout_s": 3.0, "request_timeout_s": 3.0, "append_timeout_s": 5.0}
PROTOCOLS = {
    "SSL": "SSL",
    "MUTUAL": "SSL",
    "EXPIRED": "SSL",
    "ELSEWHERE": "SSL",
    "SASL_PLAINTEXT": "SASL_PLAINTEXT",
    "SASL_SSL": "SASL_SSL",
}
"""The listeners beside the plain one. MUTUAL wants a client certificate; the broker's is for `localhost` at ELSEWHERE."""
MECHANISMS = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Files in PEM form. `stranger` is a client whose authority no server knows."""

    folder: Path
    ca: Path
    other_ca: Path
    client: Path
    client_key: Path
    locked_key: Path
    stranger: Path
    stranger_key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuredKafka:
    """A broker, and its ports by listener."""

    server: Server
    ports: dict[str, int]

    def log(self, listener: str, *, host: str = "127.0.0.1", tls: TlsFiles | None = None, **more: object) -> KafkaLog:
        """A log at a listener, with its protocol unless `more` says another."""
        options = {"security_protocol": PROTOCOLS.get(listener, "PLAINTEXT"), **QUICK, **more}
        port = self.ports[listener]
        return KafkaLog.from_url(f"kafka://{host}:{port}", tls=tls or TlsFiles(), **options)


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    """Made anew for each run. The folder can be entered by the user that PostgreSQL runs as."""
    with tempfile.TemporaryDirectory(prefix="truecopy-certificates-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        ca, other = trustme.CA(), trustme.CA()
        ca.cert_pem.write_to_path(folder / "ca.pem")
        other.cert_pem.write_to_path(folder / "other_ca.pem")
        servers = {
            "server": ca.issue_cert("127.0.0.1"),
            "elsewhere": ca.issue_cert("localhost"),
            "expired": ca.issue_cert("127.0.0.1", not_before=datetime(2020, 1, 1), not_after=datetime(2021, 1, 1)),
            "client": ca.issue_cert(f"{USER}.example", common_name=USER),
            "stranger": other.issue_cert(f"{USER}.example", common_name=USER),
        }
        for name, issued in servers.items():
            key = load_pem_private_key(issued.private_key_pem.bytes(), None)
            plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            chain = b"".join(each.bytes() for each in issued.cert_chain_pems)
            (folder / f"{name}.crt").write_bytes(chain)
            (folder / f"{name}.key").write_bytes(plain)
            (folder / f"{name}.key").chmod(0o600)
            (folder / f"{name}.pem").write_bytes(plain + chain)
            if name == "client":
                locked = BestAvailableEncryption(KEY_PASSWORD.encode())
                (folder / "locked.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
        yield Certificates(
            folder=folder,
            ca=folder / "ca.pem",
            other_ca=folder / "other_ca.pem",
            client=folder / "client.crt",
            client_key=folder / "client.key",
            locked_key=folder / "locked.key",
            stranger=folder / "stranger.crt",
            stranger_key=folder / "stranger.key",
        )


@pytest.fixture(scope="session")
def secured_kafka(certificates: Certificates) -> Iterator[SecuredKafka]:
    """One broker with a listener for each way in. `bank` may do all, `guest` may log in and nothing else."""
    ports = dict(zip(PROTOCOLS, free_ports(len(PROTOCOLS)), strict=True))
    module = "org.apache.kafka.common.security"
    properties = {
        "listener.security.protocol.map": ",".join(
            ["PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT", *(f"{name}:{protocol}" for name, protocol in PROTOCOLS.items())]
        ),
        "ssl.keystore.type": "PEM",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.ca),
        "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/,DEFAULT",
        "listener.name.mutual.ssl.client.auth": "required",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "connection.failed.authentication.delay.ms": "1",
        "super.users": f"User:ANONYMOUS;User:{USER}",
    }
    for name, protocol in PROTOCOLS.items():
        listener = f"listener.name.{name.lower()}"
        store = {"EXPIRED": "expired", "ELSEWHERE": "elsewhere"}.get(name, "server")
        properties[f"{listener}.ssl.keystore.location"] = str(certificates.folder / f"{store}.pem")
        if protocol.startswith("SASL"):
            properties[f"{listener}.sasl.enabled.mechanisms"] = ",".join(["PLAIN", *MECHANISMS])
            plain = f'{module}.plain.PlainLoginModule required user_{USER}="{PASSWORD}" user_{GUEST}="{SECRET_OF_GUEST}";'
            properties[f"{listener}.plain.sasl.jaas.config"] = plain
            for mechanism in MECHANISMS:
                scram = f"{module}.scram.ScramLoginModule required;"
                properties[f"{listener}.{mechanism.lower()}.sasl.jaas.config"] = scram
    with kafka(properties=properties, listeners=ports) as server:
        rungs.setdefault("kafka", server.rung)
        admin = AdminClient({"bootstrap.servers": server.url.removeprefix("kafka://"), "log_level": 0})
        for mechanism in MECHANISMS.values():  # one at a time: a request may not name a user twice
            made = UserScramCredentialUpsertion(USER, ScramCredentialInfo(mechanism, 4096), PASSWORD.encode())
            for future in admin.alter_user_scram_credentials([made]).values():
                future.result(10)
        yield SecuredKafka(server=server, ports=ports | {"PLAINTEXT": urlsplit(server.url).port or 0})


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuredPostgres:
    """A server that lets in over TLS alone, with a password; into the database `mutual` with a client certificate too.

    Its maintenance is done without TLS: what asks whether it answers ends its event loop before TLS has said goodbye.
    """

    server: Server

    def url(
        self, *, user: str = USER, password: str = PASSWORD, host: str = "127.0.0.1", database: str = "bank", **options: object
    ) -> str:
        """An address, `options` as they are spelt there."""
        login = f"{user}:{quote(password, safe='')}" if password else user
        port = urlsplit(self.server.url).port
        query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in options.items())
        return f"postgresql://{login}@{host}:{port}/{database}?{query}"


RULES = """\
hostnossl postgres all 127.0.0.1/32 scram-sha-256
hostssl mutual all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca
hostssl all all 127.0.0.1/32 scram-sha-256
"""


@pytest.fixture(scope="session")
def secured_postgres(certificates: Certificates) -> Iterator[SecuredPostgres]:
    with _postgres(certificates, "server") as secured:
        yield secured


@pytest.fixture
def expired_postgres(certificates: Certificates) -> Iterator[SecuredPostgres]:
    """Another one, whose certificate has expired."""
    with _postgres(certificates, "expired") as secured:
        yield secured


@contextmanager
def _postgres(certificates: Certificates, name: str) -> Iterator[SecuredPostgres]:
    folder = certificates.folder
    rules = folder / "pg_hba.conf"
    rules.write_text(RULES)
    if os.geteuid() == 0:  # the server then runs as nobody, and insists that its key is its own
        os.chown(folder / f"{name}.key", pwd.getpwnam("nobody").pw_uid, -1)
    settings = {
        "ssl": "on",
        "ssl_cert_file": str(folder / f"{name}.crt"),
        "ssl_key_file": str(folder / f"{name}.key"),
        "ssl_ca_file": str(certificates.ca),
        "hba_file": str(rules),
        "password_encryption": "scram-sha-256",
    }
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PGSSLMODE", "disable")
            server = stack.enter_context(postgres(settings=settings))
            asyncio.run(_make(server.url))
        rungs.setdefault("postgres", server.rung)
        yield SecuredPostgres(server=server)


async def _make(url: str) -> None:
    admin = await asyncpg.connect(url)
    await admin.execute(f"CREATE USER {USER} PASSWORD '{PASSWORD}'")
    await admin.execute(f"CREATE USER {GUEST} PASSWORD '{SECRET_OF_GUEST}'")
    for database in ("bank", "mutual"):
        await admin.execute(f"CREATE DATABASE {database} OWNER {USER}")
    await admin.close()
