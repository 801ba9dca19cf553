"""The whole way over encrypted connections, by users with no more rights than docs/security.md asks for."""

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from pydantic import SecretStr
from tests.security.conftest import Certificates, SecuredKafka, SecuredPostgres
from tests.services.bank import Deposited, app, balances

from truecopy_services import Settings, Truecopy, Verdict
from truecopy_services.working import work

OWNER, READER = "owner", "reader"
RIGHTS = {
    OWNER: {ResourceType.TOPIC: ("READ", "WRITE", "CREATE", "DESCRIBE_CONFIGS")},
    READER: {ResourceType.TOPIC: ("READ",), ResourceType.GROUP: ("READ",)},
}
PASSWORD = "Anoth3r/S3cret"
PROVEN_WITHIN_S = 40.0
QUICK: dict[str, Any] = {"lease_s": 1.5, "mark_writing_s": 0.2, "mark_idle_s": 0.5, "at_least_s": 20.0, "check_wait_s": 20.0}


def let_in(kafka: SecuredKafka, user: str, prefix: str) -> None:
    """Make the user, and grant what it needs for the topics and groups of this prefix."""
    admin = AdminClient({"bootstrap.servers": kafka.server.url.removeprefix("kafka://"), "log_level": 0})
    made = UserScramCredentialUpsertion(user, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), PASSWORD.encode())
    rules = [
        AclBinding(
            resource,
            prefix,
            ResourcePatternType.PREFIXED,
            f"User:{user}",
            "*",
            AclOperation[operation],
            AclPermissionType.ALLOW,
        )
        for resource, operations in RIGHTS[user].items()
        for operation in operations
    ]
    for answers in (admin.alter_user_scram_credentials([made]), admin.create_acls(rules)):
        for future in answers.values():
            future.result(10)


async def test_publish_run_check_over_tls_with_logins_of_few_rights(
    secured_kafka: SecuredKafka,
    secured_postgres: SecuredPostgres,
    certificates: Certificates,
    topic_namespace: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = "security_protocol=SASL_SSL&sasl_mechanism=SCRAM-SHA-512&sasl_username="
    trusted: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": certificates.ca}
    ours = {"sslcert": certificates.client, "sslkey": certificates.client_key}
    shared: dict[str, Any] = {
        **QUICK,
        "namespace": topic_namespace,
        "home": tmp_path,
        "kafka_password": SecretStr(PASSWORD),
        "kafka_ca": certificates.ca,
        "store": secured_postgres.url(**trusted),
        "replica": secured_postgres.url(database="mutual", **trusted, **ours),
    }
    for user in RIGHTS:
        await asyncio.to_thread(let_in, secured_kafka, user, f"{topic_namespace}.")
    log = f"kafka://127.0.0.1:{secured_kafka.ports['SASL_SSL']}?{options}"
    bank = app.at(Settings(**shared, log=f"{log}{OWNER}"))
    reports = Truecopy("reports", settings=Settings(**shared, log=f"{log}{READER}"))
    reports.add(balances)
    stop = asyncio.Event()
    caplog.set_level(logging.INFO)

    async with asyncio.timeout(PROVEN_WITHIN_S), AsyncExitStack() as stack:
        owner = await stack.enter_async_context(bank.open())
        reader = await stack.enter_async_context(reports.open(store=False))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work(owner, stop, relay=True, projections=[]))
            tasks.create_task(work(reader, stop, relay=False, projections=[balances]))
            for amount in range(20):
                token = await owner.publish("a1", Deposited(amount=amount))
            assert (await reader.get(balances, "a1", at_least=token)).amount == sum(range(20))
            (report,) = await reader.check(balances, deep=True)
            while report.delivered.verdict is Verdict.UNPROVEN:  # until the owner's mark of this count is there
                (report,) = await reader.check(balances, deep=True)
            stop.set()

    assert (report.verdict, report.count) == (Verdict.EQUAL, 20)
    assert "does not let us in" not in caplog.text, "reporting to lag tools is allowed too"
