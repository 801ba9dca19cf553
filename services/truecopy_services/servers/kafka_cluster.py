"""Several Kafka brokers that are one cluster: each a process of its own, which can be killed and started again on its folder.

Apache Kafka's own jars, like one broker (`kafka.py`). Each process is broker and controller, so that a majority of them is a
quorum. The brokers talk to each other at a listener of their own: what is done to the way of their clients does not part them.
"""

import base64
import contextlib
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from truecopy_services.servers.kafka import (
    CLUSTER_ID,
    JAVA_OPTIONS,
    KAFKA_VERSION,
    SETTINGS,
    answers,
    fetch_kafka,
    java_command,
)
from truecopy_services.servers.process import Process, Server, ServerError, await_ready, free_ports

__all__ = ["kafka_cluster"]

COPIES_MAX = 3
"""Copies of each partition: a cluster that loses one broker still has a majority of them."""
HEAP = "-Xmx256m"
"""Enough for a broker with some dozens of partitions, and three of them fit beside a test run."""


@contextlib.contextmanager
def kafka_cluster(
    ports: Sequence[int],
    *,
    advertised: Sequence[int] = (),
    properties: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[Sequence[Server]]:
    """One broker for each of `ports`, at 127.0.0.1, until the block ends; all know each other by then.

    `advertised` are the ports that clients are told, where those differ: of proxies, which the caller puts in between.
    Topics without a wish get three copies, two of which must have a record that is acknowledged; with less brokers, as many
    as there are. `properties` override server.properties. Raises `ServerError`.
    """
    java, java_name = java_command()
    jars = fetch_kafka(say=say)
    inner = free_ports(2 * len(ports))
    quorum = ",".join(f"{node}@127.0.0.1:{inner[2 * node - 2]}" for node in range(1, len(ports) + 1))
    with contextlib.ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="truecopy-kafka-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        servers = []
        for node, port in enumerate(ports, start=1):
            controller, between = inner[2 * node - 2 : 2 * node]
            told = advertised[node - 1] if advertised else port
            settings = {
                **SETTINGS,
                **_copied(min(COPIES_MAX, len(ports))),
                "node.id": str(node),
                "controller.quorum.voters": quorum,
                "inter.broker.listener.name": "BETWEEN",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,BETWEEN:PLAINTEXT,CONTROLLER:PLAINTEXT",
                "listeners": f"PLAINTEXT://127.0.0.1:{port},BETWEEN://127.0.0.1:{between},CONTROLLER://127.0.0.1:{controller}",
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{told},BETWEEN://127.0.0.1:{between}",
                "log.dirs": str(home / str(node) / "data"),
                **(properties or {}),
            }
            process = _broker(home / str(node), jars, java, port, settings)
            stack.callback(process.kill)
            rung = f"Apache Kafka {KAFKA_VERSION} jars on {java_name}"
            url = f"kafka://127.0.0.1:{told}"
            servers.append(Server(kind="kafka", url=url, rung=rung, version=KAFKA_VERSION, machine=process))
        # All at once: none answers before a majority of them is there.
        with ThreadPoolExecutor(max_workers=len(servers)) as threads:
            list(threads.map(Server.restart, servers))
        for port in ports:
            _await_all(port, len(ports))
        yield servers


def _await_all(port: int, brokers: int) -> None:
    await_ready(
        lambda: answers("127.0.0.1", port, brokers_min=brokers),
        alive=lambda: True,
        log=lambda: "each broker's log tells more",
        what=f"a Kafka of {brokers} brokers at 127.0.0.1:{port}",
    )


def _copied(copies: int) -> dict[str, str]:
    """What all topics that ask for nothing else are made with, and the brokers' own."""
    acknowledging = str(copies // 2 + 1)
    return {
        "default.replication.factor": str(copies),
        "min.insync.replicas": acknowledging,
        "offsets.topic.replication.factor": str(copies),
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": acknowledging,
        "share.coordinator.state.topic.replication.factor": str(copies),
        "share.coordinator.state.topic.min.isr": acknowledging,
    }


def _broker(home: Path, jars: Path, java: Path, port: int, settings: Mapping[str, str]) -> Process:
    """A process that was not started yet, on a formatted folder of its own."""
    home.mkdir()
    shutil.copytree(jars / "formatted", home / "data")
    _name(home / "data" / "meta.properties", int(settings["node.id"]))
    (home / "server.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return Process(
        [java, *JAVA_OPTIONS, HEAP, "-Dorg.slf4j.simpleLogger.showDateTime=true", "-cp", f"{jars}/jars/*",
         "kafka.Kafka", home / "server.properties"],
        log=home / "server.log",
        ready=lambda: answers("127.0.0.1", port),
        stop_signal=signal.SIGTERM,
    )  # fmt: skip


def _name(properties: Path, node: int) -> None:
    """Make a copy of the formatted folder this node's: its number, and an id of the folder that no other has.

    Source: KIP-631 (meta.properties) and KIP-858 (directory.id).
    """
    found = dict(line.split("=", 1) for line in properties.read_text().splitlines() if not line.startswith("#"))
    if found.get("cluster.id") != CLUSTER_ID:
        raise ServerError(f"{properties} names cluster {found.get('cluster.id')}, expected {CLUSTER_ID}; clear the cache")
    directory = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    found |= {"node.id": str(node), "directory.id": directory}
    properties.write_text("".join(f"{name}={value}\n" for name, value in found.items()))
