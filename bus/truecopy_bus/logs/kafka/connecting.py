"""Connecting to brokers through aiokafka: bounded, and with the reason when they do not let us in.

aiokafka tells why a connection failed to its own log alone, and raises that it failed. So a failure is tried once more, by
hand, with what the client was made with, until its cause shows; `refusal` says what it means. Nothing is retried here
otherwise: refusal and silence are a LogUnavailableError.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import Any

from truecopy_bus.errors import LogAccessError, LogUnavailableError
from truecopy_bus.logs.kafka.closing import closed
from truecopy_bus.logs.kafka.refusal import Attempt, forbidden, refusal
from truecopy_bus.logs.kafka.settings import KafkaSettings

try:
    from aiokafka import errors as kafka_errors
    from aiokafka.conn import AIOKafkaConnection, collect_hosts
    from aiokafka.protocol.metadata import MetadataRequest
except ImportError as error:
    raise ImportError(f"Kafka needs aiokafka ({error}); run: pip install 'truecopy[kafka]'") from error

__all__ = ["OutOfRangeError", "bounded", "explained", "started"]

GOODBYE_S = 1.0
"""Seconds that TLS may take to say goodbye. Who does not answer is left to the event loop."""
CONNECTION_OPTIONS = (
    *("client_id", "request_timeout_ms", "security_protocol", "ssl_context", "sasl_mechanism"),
    *("sasl_plain_username", "sasl_plain_password", "sasl_oauth_token_provider"),
)
"""What a single connection takes of a client's options."""
_FAILED = (OSError, kafka_errors.KafkaError, AssertionError, ValueError)
"""What a connection ends with: aiokafka asserts, and raises ValueError, where a server's side of a login is not right."""


class OutOfRangeError(Exception):
    """The broker does not store the offset that was asked for. Only the reader sees this; it asks for the bounds."""


@contextlib.asynccontextmanager
async def bounded(settings: KafkaSettings, doing: str, timeout_s: float | None) -> AsyncIterator[None]:
    """At most `timeout_s` seconds; whatever Kafka or the network objects becomes a LogUnavailableError."""
    try:
        async with asyncio.timeout(timeout_s) as bound:
            yield
    except TimeoutError as error:
        if not bound.expired():
            raise LogUnavailableError(log=settings.name, seen=f"{doing}: {error!r}") from error
        raise LogUnavailableError(log=settings.name, seen=f"{doing}: no answer in {timeout_s} s") from error
    except kafka_errors.OffsetOutOfRangeError as error:
        raise OutOfRangeError from error
    except (kafka_errors.KafkaError, OSError) as error:
        said = str(error) or repr(error)
        if (refused := forbidden(settings, doing, error)) is not None:
            raise refused from error
        raise LogUnavailableError(log=settings.name, seen=f"{doing}: {said}") from error


async def started(starting: Awaitable[None], stop: Any, settings: KafkaSettings) -> None:
    """Bounded; what could not be started is stopped, so that no task and no socket stays behind."""
    try:
        async with bounded(settings, "connecting", settings.connect_timeout_s):
            await starting
    except LogUnavailableError as fault:
        await closed(stop(), settings)
        raise await explained(settings, fault) from fault.__cause__
    except BaseException:
        await closed(stop(), settings)
        raise


async def explained(settings: KafkaSettings, fault: LogUnavailableError, brokers: Iterable[Any] = ()) -> LogUnavailableError:
    """What is to be raised for a connection that was not made: a LogAccessError if a broker refuses us, else the fault.

    Asks the servers of the settings and the `brokers` that they named, within the time of one connection in all. What gave
    no answer in time is not asked again.
    """
    if isinstance(fault, LogAccessError) or isinstance(fault.__cause__, TimeoutError):
        return fault
    places = [(host, port) for host, port, _ in collect_hosts(list(settings.servers))]
    places += [(each.host, each.port) for each in brokers]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.connect_timeout_s):
            for host, port in dict.fromkeys(places):
                attempt = await _attempt(settings, host, port)
                if attempt is not None and (refused := refusal(settings, attempt)) is not None:
                    return refused
    return fault


async def _attempt(settings: KafkaSettings, host: str, port: int) -> Attempt | None:
    """A connection as a client makes it, and a first question; None if all is well, or nobody is there."""
    options = settings.client_options()
    greeted = other_way = False
    try:
        async with _connected(host, port, **{name: options[name] for name in CONNECTION_OPTIONS}) as connection:
            greeted = True
            await connection.send(MetadataRequest([]))
    except (ConnectionRefusedError, TimeoutError):
        return None
    except _FAILED as error:
        if not greeted:
            speaking = _speaks_plainly(host, port, settings) if settings.with_tls else _speaks_tls(host, port)
            other_way = await speaking
        return Attempt(place=f"{host}:{port}", error=error, greeted=greeted, other_way=other_way)
    return None


@contextlib.asynccontextmanager
async def _connected(host: str, port: int, **options: Any) -> AsyncIterator[Any]:
    """A connection of the block's own, login included; it is gone, or was given time to go, when the block ends."""
    connection = AIOKafkaConnection(host, port, **options)
    try:
        await connection.connect()
        yield connection
    finally:
        connection.close()
        if connection._protocol is not None:  # else it was never made, and nothing tells of its end
            await asyncio.wait([connection._closed_fut], timeout=GOODBYE_S)


async def _speaks_plainly(host: str, port: int, settings: KafkaSettings) -> bool:
    """Whether the port answers a broker's first question without TLS. No login is tried, so no secret is sent."""
    try:
        async with _connected(host, port, request_timeout_ms=int(settings.request_timeout_s * 1000)):
            return True
    except _FAILED:
        return False


async def _speaks_tls(host: str, port: int) -> bool:
    """Whether the port completes a TLS handshake. Nobody is verified: nothing is sent afterwards."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    except OSError:
        return False
    writer.transport.abort()
    return True
