"""The servers that other tests stand on: they answer, they keep what they hold through a kill, they leave nothing."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from truecopy_services.servers import ForeignServerError, Server, ServerError, kafka, postgres
from truecopy_services.servers.cache import made_once
from truecopy_services.servers.process import Process, free_ports


async def send(server: Server, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=server.url.removeprefix("kafka://"), acks="all") as producer:
        await producer.send_and_wait(topic, value, partition=0)


async def first(server: Server, topic: str) -> bytes:
    partition = TopicPartition(topic, 0)
    async with AIOKafkaConsumer(bootstrap_servers=server.url.removeprefix("kafka://")) as consumer:
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        record = await consumer.getone(partition)
    return bytes(record.value)


async def query(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_a_killed_kafka_restarts_with_its_records(private_kafka: Server, topic_namespace: str) -> None:
    topic = f"{topic_namespace}.records"
    await send(private_kafka, topic, b"kept")

    private_kafka.kill()
    private_kafka.restart()

    assert await first(private_kafka, topic) == b"kept"


async def test_a_killed_postgres_restarts_with_its_rows(private_postgres: Server) -> None:
    await query(private_postgres.url, "CREATE TABLE kept AS SELECT 7 AS value")

    private_postgres.kill()
    private_postgres.restart()

    assert await query(private_postgres.url, "SELECT value FROM kept") == 7


async def test_the_session_kafka_answers(kafka_server: Server, kafka_url: str, topic_namespace: str) -> None:
    await send(kafka_server, f"{topic_namespace}.hello", b"hello")

    assert kafka_url == kafka_server.url
    assert await first(kafka_server, f"{topic_namespace}.hello") == b"hello"


async def test_each_test_has_a_database_of_its_own(postgres_server: Server, postgres_url: str) -> None:
    assert await query(postgres_url, "SELECT current_database()") != await query(
        postgres_server.url, "SELECT current_database()"
    )


async def test_postgres_allows_prepared_transactions(postgres_url: str) -> None:
    assert int(str(await query(postgres_url, "SHOW max_prepared_transactions"))) > 0


async def test_a_directory_keeps_the_data_from_one_server_to_the_next() -> None:
    # Not pytest's tmp_path: a root user's PostgreSQL runs as another user, who cannot enter it.
    with tempfile.TemporaryDirectory() as directory:
        with postgres(directory=Path(directory)) as server:
            await query(server.url, "CREATE TABLE kept AS SELECT 7 AS value")
        with postgres(directory=Path(directory)) as server:
            assert await query(server.url, "SELECT value FROM kept") == 7


def test_a_given_server_that_does_not_answer_is_an_error() -> None:
    [port] = free_ports(1)

    with pytest.raises(ServerError, match="no answer to Metadata"), kafka(given=f"kafka://127.0.0.1:{port}"):
        pass
    with pytest.raises(ServerError, match="does not answer"), postgres(given=f"postgresql://127.0.0.1:{port}/x"):
        pass


def test_a_given_server_is_not_ours_to_kill(postgres_server: Server) -> None:
    with postgres(given=postgres_server.url) as server, pytest.raises(ForeignServerError):
        server.kill()


def test_a_server_that_ends_at_its_start_shows_its_last_words(tmp_path: Path) -> None:
    process = Process(
        ["/bin/sh", "-c", "echo port taken; exit 1"],
        log=tmp_path / "server.log",
        ready=lambda: False,
        stop_signal=signal.SIGTERM,
    )

    with pytest.raises(ServerError, match="port taken"):
        process.start()


PARENT = """
import pathlib, signal, sys
from truecopy_services.servers.process import Process
process = Process(["sleep", "600"], log=pathlib.Path(sys.argv[1]), ready=lambda: True, stop_signal=signal.SIGTERM)
process.start()
print(process._child.pid, flush=True)
signal.pause()
"""


def test_a_server_ends_with_its_parent_even_when_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path / "log"], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()

    gone, _ = psutil.wait_procs([child], timeout=30)

    assert gone


def test_what_is_made_once_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUECOPY_CACHE", os.fspath(tmp_path))

    def fail(partial: Path) -> None:
        (partial / "half").touch()
        raise ServerError("cut off")

    with pytest.raises(ServerError):
        made_once("thing", fail)
    made = made_once("thing", lambda partial: (partial / "whole").touch())

    assert [path.name for path in made.iterdir()] == ["whole"]
    assert made_once("thing", fail) == made
