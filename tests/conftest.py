"""Real servers for tests, started when first asked for, and an honest account of which tests met one.

With TRUECOPY_REQUIRE_SERVERS=1, which `make test` sets, a whole run fails when no test ran on one of the
servers, or when a test was skipped. TRUECOPY_TEST_KAFKA and TRUECOPY_TEST_POSTGRES name servers to use in
place of our own; production's TRUECOPY_KAFKA and TRUECOPY_POSTGRES are never read here, on purpose.

`make test` spreads the files over processes (pytest-xdist); each has servers of its own and tells its account at its end.
"""

import os
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from truecopy_services.servers import Server, fetch_kafka, kafka, postgres

FIXTURES = {
    "kafka": {"kafka_server", "private_kafka", "secured_kafka", "one_broker", "three_brokers"},
    "postgres": {"postgres_server", "private_postgres", "secured_postgres", "expired_postgres"},
}
SKIPS_NAMED_MAX = 50
"""Skipped tests that are named at the end; one is already an error."""

NARROWING = ("keyword", "markexpr", "deselect", "lf")
"""Options that choose some of the tests. What they leave out is not told from one process to another."""

runs: Counter[str] = Counter()
rungs: dict[str, str] = {}
ran_key = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[Server]:
    """The session's Kafka. Don't kill it: ask for `private_kafka`."""
    with kafka(given=os.environ.get("TRUECOPY_TEST_KAFKA")) as server:
        rungs["kafka"] = server.rung
        yield server


@pytest.fixture
def kafka_url(kafka_server: Server) -> str:
    return kafka_server.url


@pytest.fixture
def private_kafka() -> Iterator[Server]:
    """A Kafka of the test's own, to kill and restart."""
    with kafka() as server:
        rungs.setdefault("kafka", server.rung)
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """The session's PostgreSQL. Don't kill it: ask for `private_postgres`."""
    with postgres(given=os.environ.get("TRUECOPY_TEST_POSTGRES")) as server:
        rungs["postgres"] = f"{server.rung}, {server.version}" if server.machine is None else server.rung
        yield server


@pytest.fixture
async def postgres_url(postgres_server: Server) -> AsyncIterator[str]:
    """The DSN of a database made for this test and dropped after it."""
    name = f"t{uuid.uuid4().hex[:8]}"
    admin = await asyncpg.connect(postgres_server.url)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        yield urlsplit(postgres_server.url)._replace(path=f"/{name}").geturl()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@pytest.fixture
def private_postgres() -> Iterator[Server]:
    """A PostgreSQL of the test's own, to kill and restart."""
    with postgres() as server:
        rungs.setdefault("postgres", server.rung)
        yield server


@pytest.fixture
def topic_namespace() -> str:
    """A prefix for topics that no other test uses."""
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture(autouse=True)
def _count_real_servers(request: pytest.FixtureRequest) -> Iterator[None]:
    # Read at teardown, when fixtures asked for by `getfixturevalue` are known too.
    yield
    if request.node.stash.get(ran_key, False):
        used = set(request.fixturenames)
        runs.update(kind for kind, fixtures in FIXTURES.items() if used & fixtures)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.stash[ran_key] = report.outcome != "skipped"
    return report


def pytest_collection_finish(session: pytest.Session) -> None:
    """Download Kafka before the tests, whose time limits it would exceed, and only if one of them may need it."""
    wanted = any(FIXTURES["kafka"] & set(getattr(item, "fixturenames", ())) for item in session.items)
    if wanted and not session.config.option.collectonly and "TRUECOPY_TEST_KAFKA" not in os.environ:
        terminal = session.config.pluginmanager.get_plugin("terminalreporter")
        fetch_kafka(say=terminal.write_line if terminal else print)


def _account() -> str:
    return ", ".join(f"{kind} {runs[kind]} tests ({rungs.get(kind, 'not started')})" for kind in FIXTURES)


def _faults(config: pytest.Config) -> list[str]:
    """What a whole run must not have; nothing is asked of a part of the tests."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    narrowed = any(map(config.getoption, NARROWING)) or config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    if narrowed or config.option.collectonly or os.environ.get("TRUECOPY_REQUIRE_SERVERS") != "1":
        return []
    faults = [f"no test ran on a real {kind}, expected some; see the errors above" for kind in FIXTURES if not runs[kind]]
    skipped = terminal.stats.get("skipped", [])
    faults += [f"skipped, expected to run: {report.nodeid}: {report.longrepr}" for report in skipped[:SKIPS_NAMED_MAX]]
    return faults


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    told: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if told is not None:  # one of several processes: the one that started it judges
        told["real servers"] = dict(runs), rungs
    elif exitstatus == pytest.ExitCode.OK and _faults(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take in the account of a process that ended; one that died has none, and its test has failed."""
    ran, met = getattr(node, "workeroutput", {}).get("real servers", ({}, {}))
    runs.update(ran)
    rungs.update(met)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for fault in _faults(config):
        terminalreporter.write_line(fault, red=True)
    terminalreporter.write_line(f"real servers: {_account()}")
    if report := os.environ.get("TRUECOPY_SERVERS_REPORT"):
        Path(report).write_text(f"real servers: {_account()}\n")
