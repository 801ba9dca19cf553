"""How a Kafka is reached and how long each answer may take."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from truecopy_bus.errors import LogAccessError
from truecopy_bus.limits import APPEND_TIMEOUT_S, CONNECT_TIMEOUT_S, RECORD_BYTES_MAX, REQUEST_TIMEOUT_S, STALL_TIMEOUT_S
from truecopy_bus.tls import TlsFileError, TlsFiles

__all__ = [
    "BATCH_BYTES_MAX",
    "FETCH_WAIT_MS",
    "PARTITION_FETCH_BYTES",
    "REQUEST_BYTES_MAX",
    "KafkaSettings",
]

SCHEME = "kafka"
DEFAULT_PORT = 9092
BATCH_BYTES_MAX: Final = RECORD_BYTES_MAX
"""Bytes of one record batch. The broker bounds the batch, not the record, by max.message.bytes."""
REQUEST_BYTES_MAX: Final = 1_048_588
"""Bytes of one produce request; what we set as max.message.bytes, and Kafka's default for it."""
PARTITION_FETCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one partition in one fetch: two reads' worth of small records, so that a fetch is not split needlessly."""
FETCH_WAIT_MS: Final = 250
"""Milliseconds that a broker holds a fetch when there is nothing. Also bounds how late a seek takes effect."""
RETRY_BACKOFF_MS: Final = 100
"""Milliseconds between aiokafka's own tries (leader changes)."""
METADATA_AGE_MS: Final = 60_000
"""Milliseconds until leaders are asked for again though nothing failed."""
IDLE_MS: Final = 540_000
"""Milliseconds until an unused connection is closed; below the broker's own ten minutes."""

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
URL_NUMBERS = ("connect_timeout_s", "request_timeout_s", "append_timeout_s", "stall_timeout_s")
URL_TEXTS = ("client_id", "compression", "security_protocol", "sasl_mechanism", "sasl_username")


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """Immutable. Secrets are neither shown by `repr` nor taken from an address, which ends up in process lists."""

    servers: tuple[str, ...]
    """`host:port` of the brokers that are asked first; the others are learned from them."""
    client_id: str = "truecopy"
    """Names us in the broker's own log and metrics."""

    connect_timeout_s: float = CONNECT_TIMEOUT_S
    """Seconds until the first answer of a broker, and for closing a connection."""
    request_timeout_s: float = REQUEST_TIMEOUT_S
    """Seconds for one answer of a broker we are connected to."""
    append_timeout_s: float = APPEND_TIMEOUT_S
    """Seconds for one append, connecting included."""
    stall_timeout_s: float = STALL_TIMEOUT_S
    """Seconds of fetching nothing although there is something, until a reader's connection is made anew."""

    replication: int = 1
    """The least number of copies of a topic that we create; a TopicSpec may ask for more."""
    compression: str | None = None
    """gzip, lz4, snappy or zstd; the last three need their packages. None costs the least CPU on small records."""

    security_protocol: str = "PLAINTEXT"
    """PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
    tls: TlsFiles = field(default_factory=TlsFiles)
    """For SSL and SASL_SSL: read anew for each client, so that renewed files are taken up."""
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    """In place of `tls`, for what files can't say."""
    sasl_mechanism: str = "PLAIN"
    """PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER."""
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    sasl_token_provider: Any = field(default=None, repr=False)
    """For OAUTHBEARER: an aiokafka `AbstractTokenProvider`."""

    def __post_init__(self) -> None:
        """Raises ValueError for settings that can't work, before anything is connected."""
        if not self.servers:
            raise ValueError("Kafka needs at least one server, as in kafka://127.0.0.1:9092")
        for name in URL_NUMBERS:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected seconds above zero")
        if self.replication < 1:
            raise ValueError(f"replication is {self.replication}, expected 1 or more")
        if self.security_protocol not in PROTOCOLS:
            raise ValueError(f"security_protocol is {self.security_protocol!r}, expected one of {', '.join(PROTOCOLS)}")
        self._expect_all_is_used()
        if self.with_login:
            if self.sasl_mechanism not in MECHANISMS:
                raise ValueError(f"sasl_mechanism is {self.sasl_mechanism!r}, expected one of {', '.join(MECHANISMS)}")
            if self.sasl_mechanism != "OAUTHBEARER" and not (self.sasl_username and self.sasl_password):
                lacking = "no password (TRUECOPY_KAFKA_PASSWORD)" if self.sasl_username else "no sasl_username"
                raise ValueError(f"{self.sasl_mechanism} has {lacking}, expected a user and a password")

    def _expect_all_is_used(self) -> None:
        """What is meant to protect a connection must not be left out in silence."""
        given = {
            "a certificate, key or authority": (self.tls or self.ssl_context, self.with_tls, "SSL or SASL_SSL"),
            "a user or password": (self.sasl_username or self.sasl_password, self.with_login, "SASL_SSL or SASL_PLAINTEXT"),
        }
        for what, (there, used, protocols) in given.items():
            if there and not used:
                seen = f"{what} is given, and security_protocol={self.security_protocol} does not use it"
                raise ValueError(f"{seen}; expected {protocols}")

    @property
    def with_tls(self) -> bool:
        return self.security_protocol in ("SSL", "SASL_SSL")

    @property
    def with_login(self) -> bool:
        return self.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    @property
    def name(self) -> str:
        """The address without secrets, for messages."""
        return f"{SCHEME}://{','.join(self.servers)}"

    @classmethod
    def from_url(cls, url: str, **more: Any) -> Self:
        """Settings from `kafka://host:port,host2:port?client_id=...&request_timeout_s=5`, with `more` by keyword.

        Raises ValueError for another scheme, an option that does not exist, or a user and password in the address.
        """
        parts = urlsplit(url)
        if parts.scheme != SCHEME:
            raise ValueError(f"the address starts with {parts.scheme or 'nothing'}://, expected {SCHEME}://host:port")
        if "@" in url.partition("?")[0] or "@" in parts.fragment:
            raise ValueError("the address holds credentials; give sasl_username as an option, and the password apart from it")
        servers = tuple(_with_port(server) for server in parts.netloc.split(",") if server)
        try:
            query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        except ValueError:  # what it quotes may be a part of a password
            raise ValueError("the options of the address can't be read; expected name=value&name=value") from None
        return cls(servers=servers, **{**_options(query), **more})

    def client_options(self) -> dict[str, Any]:
        """What every aiokafka client is made with, by aiokafka's names. Raises LogAccessError for files that can't be used."""
        context = self.ssl_context
        if context is None and self.with_tls:
            try:
                context = self.tls.context()
            except TlsFileError as fault:
                remedy = f"correct TRUECOPY_KAFKA_{fault.part.upper()} or what it names"
                raise LogAccessError(log=self.name, seen=str(fault), remedy=remedy) from None
        return {
            "bootstrap_servers": list(self.servers),
            "client_id": self.client_id,
            "request_timeout_ms": int(self.request_timeout_s * 1000),
            "retry_backoff_ms": RETRY_BACKOFF_MS,
            "metadata_max_age_ms": METADATA_AGE_MS,
            "connections_max_idle_ms": IDLE_MS,
            "security_protocol": self.security_protocol,
            "ssl_context": context,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.sasl_password,
            "sasl_oauth_token_provider": self.sasl_token_provider,
        }


def _with_port(server: str) -> str:
    bare = server.rpartition("]")[2] if server.startswith("[") else server
    return server if ":" in bare else f"{server}:{DEFAULT_PORT}"


def _options(query: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in query.items():
        if name in URL_NUMBERS:
            options[name] = float(value)
        elif name == "replication":
            options[name] = int(value)
        elif name in URL_TEXTS:
            options[name] = value
        else:
            known = ", ".join(each.name for each in fields(KafkaSettings) if each.name in (*URL_NUMBERS, *URL_TEXTS))
            # An @ here is the end of a password that held a question mark, and the name a part of it.
            shown = "unknown" if any("@" in each for each in (*query, *query.values())) else repr(name)
            raise ValueError(f"the address has an option {shown}, expected one of {known}, replication")
    return options
