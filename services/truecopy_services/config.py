"""The settings of a process: where log, store and replica are, and how long it waits for them.

Each is an environment variable with the prefix `TRUECOPY_`, a file in a folder of secrets, or a key of a file, see
`sources.py`; an argument of `Truecopy` or `Settings` wins over all. Nothing is read before an app is opened, so that importing
a module never fails for a setting.

Addresses may hold passwords: they are not part of `repr`, and no message quotes one.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from truecopy_bus.limits import (
    CONNECT_TIMEOUT_S,
    LEASE_S,
    MARK_EVENTS_MAX,
    MARK_IDLE_S,
    MARK_WRITING_S,
    READ_RECORDS_MAX,
    READ_WAIT_S,
    STATEMENT_TIMEOUT_S,
)
from truecopy_bus.schema_sources import OWN_LOG
from truecopy_projections.limits import CHECK_WAIT_S, READ_AT_LEAST_S
from truecopy_services import sources
from truecopy_services.errors import SettingError
from truecopy_services.logs import Format, Level
from truecopy_services.sources import PREFIX

__all__ = ["MEMORY", "NAMESPACE_CHARS_MAX", "Settings"]

MEMORY = "memory:"
NAMESPACE_CHARS_MAX = 60
"""Characters of a namespace: with the longest entity's it stays below the 249 that Kafka allows in the name of a topic."""
STUCK_S = 2 * STATEMENT_TIMEOUT_S
"""Seconds. The longest wait of a loop is one statement's; nothing that is well takes twice as long."""
_NAMESPACE = r"^([A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*)?$"


class Settings(BaseSettings):
    """See the module's text. Times are in seconds. Addresses that are not given are files under `home`.

    With `log = "memory:"` store and replica are in memory too unless they are given: a store that outlives its log would
    find another one at the next start.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    log: str = Field(default="", repr=False)
    """`sqlite:PATH`, `kafka://host:port[,host:port]` or `memory:`."""
    store: str = Field(default="", repr=False)
    """`sqlite:PATH`, `sqlite::memory:` or `postgresql://user:password@host:port/database`."""
    replica: str = Field(default="", repr=False)
    """`sqlite:PATH`, `memory:` or `postgresql://user:password@host:port/database`."""
    schemas: str = Field(default=OWN_LOG, repr=False)
    """Where the schemas of foreign topics are that name no source: `http(s)://user:password@host`, `folder:PATH` or `log:`."""
    kafka_password: SecretStr | None = None
    """Goes with `sasl_username` in the address of the log."""
    kafka_ca: Path | None = None
    """A file with the certificates of the authorities that vouch for the brokers; by default the machine's own are trusted."""
    kafka_cert: Path | None = None
    """A file with the client certificate that is shown to the brokers."""
    kafka_key: Path | None = None
    """Its key, if that is not in the same file."""
    kafka_key_password: SecretStr | None = None
    """If the key is encrypted."""
    namespace: str = Field(default="", pattern=_NAMESPACE, max_length=NAMESPACE_CHARS_MAX)
    """Stands before the topics, with a dot: what it separates shares a log without meeting."""
    home: Path = Path(".truecopy")
    """The folder of the files that are not named."""

    timeout_s: float = Field(default=CONNECT_TIMEOUT_S, gt=0)
    """Until something that does not answer is told as unreachable."""
    statement_timeout_s: float = Field(default=STATEMENT_TIMEOUT_S, gt=0)
    """For one statement of a database, and for its locks."""
    lease_s: float = Field(default=LEASE_S, gt=0)
    """Until a silent relay or worker is replaced."""
    read_wait_s: float = Field(default=READ_WAIT_S, gt=0)
    """For which a worker's read waits; also how late it notices a stop."""
    batch_records: int = Field(default=READ_RECORDS_MAX, ge=1, le=READ_RECORDS_MAX)
    """Records that a worker takes into one transaction."""
    at_least_s: float = Field(default=READ_AT_LEAST_S, gt=0)
    """For which a read waits until the replica has reached a token."""
    check_wait_s: float = Field(default=CHECK_WAIT_S, ge=0)
    """For which a check waits until the replica has reached where the log stood."""
    mark_events: int = Field(default=MARK_EVENTS_MAX, ge=1)
    """Events of a partition between marks at the most."""
    mark_writing_s: float = Field(default=MARK_WRITING_S, gt=0)
    """Between marks while a partition is written."""
    mark_idle_s: float = Field(default=MARK_IDLE_S, gt=0)
    """Between marks while it is not."""
    log_format: Format = "text"
    """`json` is one object a line."""
    log_level: Level = "WARNING"
    """Below which nothing is logged."""
    http: str = ""
    """`HOST:PORT`, or `PORT` on the loopback: where a process answers /metrics, /health and /ready. Empty: nowhere."""
    stuck_s: float = Field(default=STUCK_S, gt=0)
    """For which a loop may not come round before /health says that the process is stuck."""
    ready_lag_s: float | None = Field(default=None, gt=0)
    """Age of the oldest unapplied event, in a partition that this process holds, above which /ready says no. None: any."""
    durable: bool = True
    """Off: a PostgreSQL replica may acknowledge a commit before its flush; rows and position rewind together. A read at a
    token flushes first."""

    _given: frozenset[str] = PrivateAttr(default=frozenset())

    if not TYPE_CHECKING:

        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            self._given = frozenset(given)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, secrets, file: the first that has a setting wins."""
        files = (sources.secrets(cls.model_fields), sources.configured(cls.model_fields))
        return (init_settings, env_settings, *(InitSettingsSource(settings_cls, dict(found)) for found in files))

    @classmethod
    def load(cls, **given: Any) -> Self:
        """What all sources say, over which `given` win unless None. Raises SettingError, which names setting and source."""
        arguments = {name: value for name, value in given.items() if value is not None}
        try:
            return cls(**arguments)
        except ValidationError as fault:
            first = fault.errors(include_url=False, include_input=False)[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            origin = "argument" if name in arguments else sources.origin(name, cls.model_fields)
            setting = PREFIX + name.upper() if name else "settings"
            raise SettingError(setting=setting, origin=origin, seen=first["msg"], remedy="correct or unset it") from None

    def with_arguments(self, **given: Any) -> Self:
        """The same with these in place of others, unless None."""
        arguments = {name: value for name, value in given.items() if value is not None}
        other = self.model_copy(update=arguments)
        other._given |= arguments.keys()
        return other

    def refused(self, name: str, *, seen: str, remedy: str) -> SettingError:
        """The error that says of a setting, and where it came from, why it can't work."""
        origin = "argument" if name in self._given else sources.origin(name, type(self).model_fields)
        return SettingError(setting=PREFIX + name.upper(), origin=origin, seen=seen, remedy=remedy)

    @property
    def topic_prefix(self) -> str:
        """What the names of topics begin with."""
        return f"{self.namespace}." if self.namespace else ""

    def log_of(self) -> str:
        """The address of the log."""
        return self.log or f"sqlite:{self.home / 'log.db'}"

    def store_of(self, service: str) -> str:
        """The address of a service's event store."""
        return self.store or ("sqlite::memory:" if self.log == MEMORY else f"sqlite:{self.home / service}.store.db")

    def replica_of(self, service: str) -> str:
        """The address of a service's replica."""
        return self.replica or (MEMORY if self.log == MEMORY else f"sqlite:{self.home / service}.replica.db")
