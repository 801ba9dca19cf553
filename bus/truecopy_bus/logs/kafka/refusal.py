"""Why a broker does not let us in, told from how a connection to it ended: pure, over what `connecting` has tried.

Brokers say little to whoever they refuse: most hang up. What was reached before, and whether the port speaks TLS at all,
tells the rest.
"""

from dataclasses import dataclass

from truecopy_bus.errors import LogAccessError
from truecopy_bus.logs.kafka.settings import KafkaSettings
from truecopy_bus.tls import Handshake, handshake

__all__ = ["Attempt", "forbidden", "refusal"]

# Error codes of brokers, https://kafka.apache.org/protocol#protocol_error_codes
UNKNOWN_MECHANISM, NO_LOGIN_HERE, LOGIN_FAILED = 33, 34, 58
NOT_ALLOWED = (29, 30, 31)
"""Of topic, group and cluster."""
REMEDIES = {
    Handshake.UNTRUSTED: "name its authority's certificate in TRUECOPY_KAFKA_CA",
    Handshake.OTHER_HOST: "use a name that it holds in TRUECOPY_LOG and advertised.listeners, or have one issued for this name",
    Handshake.EXPIRED: "renew the broker's certificate, or correct the clock here",
    Handshake.NEEDS_CERTIFICATE: "give one in TRUECOPY_KAFKA_CERT, and its key in TRUECOPY_KAFKA_KEY",
    Handshake.CERTIFICATE_REFUSED: "give one that the broker's ssl.truststore vouches for in TRUECOPY_KAFKA_CERT",
    Handshake.NO_TLS: "use a port of security_protocol SSL or SASL_SSL, or another security_protocol in TRUECOPY_LOG",
    Handshake.OTHER: "compare the broker's ssl settings with TRUECOPY_KAFKA_CA, _CERT and _KEY",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A connection that failed. `greeted`: the broker took it, login included, and hung up at the first question.

    `other_way` is whether the port answers where TLS is left out, for a client that uses it, or used, for one that does not.
    """

    place: str
    error: BaseException
    greeted: bool
    other_way: bool


def refusal(settings: KafkaSettings, attempt: Attempt) -> LogAccessError | None:
    """The error that says so, or None when the broker is merely away."""
    found = _login(settings, attempt.error) or _tls(settings, attempt) or _hung_up(settings, attempt)
    if found is None:
        return None
    seen, remedy = found
    return LogAccessError(log=settings.name, seen=f"{attempt.place}: {seen}", remedy=remedy)


def _login(settings: KafkaSettings, error: BaseException) -> tuple[str, str] | None:
    code = None if isinstance(error, OSError) else getattr(error, "errno", None)
    mechanism = settings.sasl_mechanism
    if code == LOGIN_FAILED:
        seen = f"it refuses user {settings.sasl_username!r} with this password by {mechanism}"
        return seen, "correct sasl_username in TRUECOPY_LOG or TRUECOPY_KAFKA_PASSWORD, or make the user for this mechanism"
    if code == UNKNOWN_MECHANISM:
        return f"it offers no login by {mechanism}", "use one of its sasl.enabled.mechanisms as sasl_mechanism in TRUECOPY_LOG"
    if code == NO_LOGIN_HERE:
        seen = f"the port takes no login, and security_protocol={settings.security_protocol} brings one"
        return seen, "use a port with SASL, or security_protocol PLAINTEXT or SSL in TRUECOPY_LOG"
    return None


def _tls(settings: KafkaSettings, attempt: Attempt) -> tuple[str, str] | None:
    if attempt.other_way and settings.with_tls:
        how = Handshake.NO_TLS
        return f"{how.value}, and security_protocol={settings.security_protocol} expects it", REMEDIES[how]
    if attempt.other_way:
        seen = f"it speaks TLS, and security_protocol={settings.security_protocol} does not"
        return seen, "use security_protocol SSL or SASL_SSL in TRUECOPY_LOG, or a port without TLS"
    if (found := handshake(attempt.error)) is None:
        return None
    how, words = found
    if how is Handshake.CERTIFICATE_REFUSED and not (settings.tls.cert or settings.ssl_context):
        how = Handshake.NEEDS_CERTIFICATE  # what Java answers to none is that it is bad
    expected = f", expected one of those in {settings.tls.ca}" if how is Handshake.UNTRUSTED and settings.tls.ca else ""
    return f"{how.value} ({words}){expected}", REMEDIES[how]


def _hung_up(settings: KafkaSettings, attempt: Attempt) -> tuple[str, str] | None:
    if attempt.greeted and not settings.with_login:
        seen = f"it hangs up on who has not logged in, and security_protocol={settings.security_protocol} brings no login"
        return seen, "use security_protocol SASL_SSL or SASL_PLAINTEXT in TRUECOPY_LOG, or a port without SASL"
    if settings.with_tls and not attempt.greeted and not isinstance(attempt.error, OSError):
        # The alert that says why can be lost with the connection, which then looks just broken.
        how = Handshake.CERTIFICATE_REFUSED if settings.tls.cert or settings.ssl_context else Handshake.NEEDS_CERTIFICATE
        return f"it hangs up after the TLS handshake, as where {how.value}", REMEDIES[how]
    return None


def forbidden(settings: KafkaSettings, doing: str, error: BaseException) -> LogAccessError | None:
    """The error of a broker that knows us and does not allow this, if it is one."""
    if isinstance(error, OSError) or getattr(error, "errno", None) not in NOT_ALLOWED:
        return None
    who = f"user {settings.sasl_username!r}" if settings.sasl_username else "our certificate's name"
    remedy = "grant it by an ACL of the broker (docs/security.md names those that are needed)"
    return LogAccessError(log=settings.name, seen=f"{doing} is not allowed to {who} ({error})", remedy=remedy)
