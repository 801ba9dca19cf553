"""The ways into a Kafka that asks who comes, and one clear sentence for each way to be left out, in bounded time."""

import asyncio
import logging
import time
from typing import Any

import pytest
from tests.security.conftest import (
    GUEST,
    KEY_PASSWORD,
    MECHANISMS,
    PASSWORD,
    SECRET_OF_GUEST,
    USER,
    Certificates,
    SecuredKafka,
)

from truecopy_bus.errors import LogAccessError, LogUnavailableError, TopicMissingError
from truecopy_bus.logs.kafka import KafkaLog, KafkaSettings
from truecopy_bus.record import Outgoing, TopicSpec
from truecopy_bus.tls import TlsFiles

# One loop for all: TLS says goodbye to who was left out after the test has ended.
pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT_S = 20.0
OURS = ("ca.pem", "client.crt", "client.key")
LOGIN = {"sasl_username": USER, "sasl_password": PASSWORD}
PLAINLY = {"security_protocol": "PLAINTEXT"}
TLS = {"security_protocol": "SSL"}


def options(**more: Any) -> dict[str, Any]:
    return {**LOGIN, **more}


WAYS_IN = [
    pytest.param("SSL", OURS[:1], {}, id="TLS"),
    pytest.param("MUTUAL", OURS, {}, id="mutual TLS"),
    pytest.param("MUTUAL", ("ca.pem", "client.crt", "locked.key"), {}, id="mutual TLS with a locked key"),
    *(
        pytest.param(listener, files, options(sasl_mechanism=mechanism), id=f"{mechanism} over {listener}")
        for listener, files in (("SASL_PLAINTEXT", ()), ("SASL_SSL", OURS[:1]))
        for mechanism in ("PLAIN", *MECHANISMS)
    ),
]
SCRAM = {"sasl_mechanism": "SCRAM-SHA-256"}
WRONG = {"sasl_password": "wr0ng/S3cret"}
# listener, files, options; then what is seen, and the setting that mends it
LEFT_OUT = [
    pytest.param("SSL", ("other_ca.pem",), {}, r"not vouched for.*other_ca\.pem", "TRUECOPY_KAFKA_CA", id="wrong authority"),
    pytest.param("SSL", (), {}, "not vouched for", "TRUECOPY_KAFKA_CA", id="no authority"),
    pytest.param("SSL", OURS[:1], {"host": "localhost"}, "not valid for 'localhost'", "TRUECOPY_LOG", id="another host"),
    pytest.param(
        "ELSEWHERE", OURS[:1], {"host": "localhost"}, r"127\.0\.0\.1.*not valid for '127\.0\.0\.1'", "advertised.listeners",
        id="another host than the one that is advertised",
    ),
    pytest.param("EXPIRED", OURS[:1], {}, "certificate has expired", "renew the broker's certificate", id="expired"),
    pytest.param("MUTUAL", OURS[:1], {}, "wants a client certificate", "TRUECOPY_KAFKA_CERT", id="no client certificate"),
    pytest.param(
        "MUTUAL", ("ca.pem", "stranger.crt", "stranger.key"), {}, "refuses our client certificate", "TRUECOPY_KAFKA_CERT",
        id="a client certificate of strangers",
    ),
    pytest.param("SSL", (), PLAINLY, "speaks TLS", "TRUECOPY_LOG", id="plain to TLS"),
    pytest.param("SASL_SSL", (), options(security_protocol="SASL_PLAINTEXT"), "speaks TLS", "TRUECOPY_LOG", id="login to TLS"),
    pytest.param("PLAINTEXT", OURS[:1], TLS, "does not speak TLS", "TRUECOPY_LOG", id="TLS to plain"),
    pytest.param(
        "SASL_PLAINTEXT", OURS[:1], options(security_protocol="SASL_SSL"), "does not speak TLS", "TRUECOPY_LOG",
        id="TLS and login to login without TLS",
    ),
    pytest.param("SASL_PLAINTEXT", (), PLAINLY, "has not logged in", "TRUECOPY_LOG", id="no login"),
    pytest.param("SASL_SSL", OURS[:1], TLS, "has not logged in", "TRUECOPY_LOG", id="no login over TLS"),
    pytest.param(
        "PLAINTEXT", (), options(security_protocol="SASL_PLAINTEXT"), "takes no login", "TRUECOPY_LOG", id="a login for nobody"
    ),
    pytest.param("SASL_SSL", OURS[:1], options(**WRONG), "refuses user 'bank'", "TRUECOPY_KAFKA_PASSWORD", id="PLAIN"),
    pytest.param(
        "SASL_SSL", OURS[:1], options(**SCRAM, **WRONG), "refuses user 'bank'", "TRUECOPY_KAFKA_PASSWORD", id="SCRAM"
    ),
    pytest.param(
        "SASL_SSL", OURS[:1], options(**SCRAM, sasl_username="nobody"), "refuses user 'nobody'", "sasl_username", id="no user"
    ),
]  # fmt: skip
UNUSABLE = [
    pytest.param({"security_protocol": "TLS"}, "'TLS', expected one of PLAINTEXT, SSL", id="no protocol"),
    pytest.param(options(security_protocol="SASL_SSL", sasl_mechanism="SCRAM"), "'SCRAM', expected one of", id="no mechanism"),
    pytest.param({"security_protocol": "SASL_SSL", "sasl_username": "u"}, "TRUECOPY_KAFKA_PASSWORD", id="no password"),
    pytest.param({"security_protocol": "SASL_SSL", "sasl_password": "S3cret"}, "no sasl_username", id="no user"),
    pytest.param(options(), "PLAINTEXT does not use it", id="a login that would not be used"),
    pytest.param({"tls": TlsFiles(key_password="S3cret")}, "PLAINTEXT does not use it", id="TLS that would not be used"),
]


def tls(certificates: Certificates, files: tuple[str, ...]) -> TlsFiles:
    paths = dict(zip(("ca", "cert", "key"), (certificates.folder / name for name in files), strict=False))
    return TlsFiles(**paths, key_password=KEY_PASSWORD if "locked.key" in files else None)


async def asked(log: KafkaLog, topic: str = "orders") -> None:
    async with asyncio.timeout(LIMIT_S):
        try:
            await log.describe(topic)
        finally:
            await log.close()


@pytest.mark.parametrize(("listener", "files", "more"), WAYS_IN)
async def test_who_may_enter_appends_and_reads(
    secured_kafka: SecuredKafka,
    certificates: Certificates,
    topic_namespace: str,
    listener: str,
    files: tuple[str, ...],
    more: dict[str, Any],
) -> None:
    log = secured_kafka.log(listener, tls=tls(certificates, files), **more)
    topic = f"{topic_namespace}.orders"
    await log.create(TopicSpec(name=topic, partitions=1))
    await log.append(topic, 0, [Outgoing(b"key", b"value", int(time.time() * 1000))])
    reader = log.reader(topic)
    async with asyncio.timeout(LIMIT_S):
        records = [*await reader.read({0: 0}, records_max=2, wait_s=1.0)]
        while len(records) < 2:
            records += await reader.read({0: len(records)}, records_max=2, wait_s=1.0)

    assert records[1].value == b"value"
    await reader.close()
    await log.close()


@pytest.mark.parametrize(("listener", "files", "more", "seen", "mended_by"), LEFT_OUT)
async def test_who_is_left_out_is_told_why_and_what_to_do(
    secured_kafka: SecuredKafka,
    certificates: Certificates,
    listener: str,
    files: tuple[str, ...],
    more: dict[str, Any],
    seen: str,
    mended_by: str,
) -> None:
    log = secured_kafka.log(listener, tls=tls(certificates, files), **more)

    with pytest.raises(LogAccessError, match=f"does not let us in: .*{seen}") as refused:
        await asked(log)

    assert mended_by in refused.value.remedy
    assert "S3cret" not in str(refused.value)


async def test_a_mechanism_that_is_not_offered_is_named(secured_kafka: SecuredKafka, certificates: Certificates) -> None:
    from aiokafka.abc import AbstractTokenProvider

    class Tokens(AbstractTokenProvider):
        async def token(self) -> str:
            return "S3cret"

    log = secured_kafka.log(
        "SASL_SSL", tls=tls(certificates, OURS[:1]), sasl_mechanism="OAUTHBEARER", sasl_token_provider=Tokens()
    )

    with pytest.raises(LogAccessError, match=r"offers no login by OAUTHBEARER.*sasl\.enabled\.mechanisms"):
        await asked(log)


async def test_what_a_user_is_not_allowed_is_told_with_the_user(secured_kafka: SecuredKafka) -> None:
    log = secured_kafka.log("SASL_PLAINTEXT", sasl_username=GUEST, sasl_password=SECRET_OF_GUEST)

    with pytest.raises(LogAccessError, match=r"asking for topic orders is not allowed to user 'guest'.*ACL"):
        await asked(log)


async def test_a_broker_that_is_merely_away_is_not_called_strict(certificates: Certificates) -> None:
    log = KafkaLog.from_url("kafka://127.0.0.1:1?security_protocol=SSL", tls=tls(certificates, OURS), connect_timeout_s=3.0)

    with pytest.raises(LogUnavailableError) as away:
        await asked(log)

    assert away.value.waiting_helps


async def test_a_file_that_breaks_later_is_told_and_a_mended_one_taken_up(
    secured_kafka: SecuredKafka, certificates: Certificates, tmp_path: Any
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("")
    log = secured_kafka.log("SSL", tls=TlsFiles(ca=ca))
    with pytest.raises(LogAccessError, match=r"ca\.pem holds no certificate.*TRUECOPY_KAFKA_CA"):
        await log.describe("orders")
    ca.write_bytes(certificates.ca.read_bytes())

    with pytest.raises(TopicMissingError):
        await asked(log)


@pytest.mark.parametrize(("more", "seen"), UNUSABLE)
async def test_settings_that_can_not_work_are_refused_before_anything_is_connected(more: dict[str, Any], seen: str) -> None:
    with pytest.raises(ValueError, match=seen) as refused:
        KafkaSettings.from_url("kafka://127.0.0.1", **more)

    assert "S3cret" not in str(refused.value)


@pytest.mark.parametrize("mechanism", ["PLAIN", *MECHANISMS])
async def test_no_password_is_in_what_the_client_logs(
    secured_kafka: SecuredKafka, caplog: pytest.LogCaptureFixture, mechanism: str
) -> None:
    # The command line silences this logger; a user's own process need not.
    client = logging.getLogger("aiokafka")
    level = client.level
    caplog.set_level(logging.DEBUG)
    client.setLevel(logging.DEBUG)
    try:
        with pytest.raises(TopicMissingError):
            await asked(secured_kafka.log("SASL_PLAINTEXT", **options(sasl_mechanism=mechanism)))
    finally:
        client.setLevel(level)

    assert any(record.name == "aiokafka.conn" for record in caplog.records), "it says something at this level"
    assert PASSWORD not in caplog.text
