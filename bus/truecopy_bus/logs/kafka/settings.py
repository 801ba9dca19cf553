"""How a Kafka is reached and how long each answer may take."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from truecopy_bus.limits import APPEND_TIMEOUT_S, CONNECT_TIMEOUT_S, RECORD_BYTES_MAX, REQUEST_TIMEOUT_S, STALL_TIMEOUT_S

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
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    """None with SSL or SASL_SSL: the machine's own trust store."""
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
        if "@" in parts.netloc:
            raise ValueError("the address holds credentials; give sasl_username and sasl_password by keyword")
        servers = tuple(_with_port(server) for server in parts.netloc.split(",") if server)
        return cls(servers=servers, **{**_options(dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))), **more})

    def client_options(self) -> dict[str, Any]:
        """What every aiokafka client is made with, by aiokafka's names."""
        context = self.ssl_context
        if context is None and self.security_protocol in ("SSL", "SASL_SSL"):
            context = ssl.create_default_context()
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
            raise ValueError(f"the address has an option {name!r}, expected one of {known}, replication")
    return options
