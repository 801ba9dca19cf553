"""The settings of a process: where log, store and replica are, and how long it waits for them.

Each is an environment variable with the prefix `TRUECOPY_`; an argument of `Truecopy` or `Settings` wins over it. Nothing
is read before an app is opened, so that importing a module never fails for a setting.

Addresses may hold passwords: they are not part of `repr`, and no message quotes one.
"""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from truecopy_bus.limits import (
    LEASE_S,
    MARK_EVENTS_MAX,
    MARK_IDLE_S,
    MARK_WRITING_S,
    READ_RECORDS_MAX,
    READ_WAIT_S,
    STATEMENT_TIMEOUT_S,
)
from truecopy_projections.limits import CHECK_WAIT_S, READ_AT_LEAST_S
from truecopy_services.errors import SettingError

__all__ = ["MEMORY", "Settings"]

PREFIX = "TRUECOPY_"
MEMORY = "memory:"
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
    namespace: str = Field(default="", pattern=_NAMESPACE, max_length=60)
    """Stands before the topics, with a dot: what it separates shares a log without meeting."""
    home: Path = Path(".truecopy")
    """The folder of the files that are not named."""

    timeout_s: float = Field(default=10.0, gt=0)
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
    durable: bool = True
    """Off: a PostgreSQL replica may acknowledge a commit before its flush; rows and position rewind together. A read at a
    token flushes first."""

    @classmethod
    def load(cls, **given: Any) -> Self:
        """The environment's settings, over which `given` win unless None. Raises SettingError, which names the variable."""
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as fault:
            first = fault.errors(include_url=False, include_input=False)[0]
            name = PREFIX + "_".join(map(str, first["loc"])).upper()
            raise SettingError(setting=name, seen=first["msg"], remedy="correct or unset it") from None

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
